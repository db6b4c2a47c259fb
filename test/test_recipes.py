"""The paper's seven data sets: each recipe trains a step on its set in miniature, and says what the paper says."""

from pathlib import Path

import pytest

from dataset_trees import TREES, build
from segsync_train.config.data import FolderData
from segsync_train.config.run import RunConfig
from segsync_train.config.settings import load_settings
from segsync_train.data.adapters import DATASETS
from segsync_train.data.validate import validate_folder
from segsync_train.runs.folder import read_log
from segsync_train.trainer.finetune import finetune

ROOT = Path(__file__).parents[1]
RECIPES = sorted((ROOT / "training" / "configs").glob("paper-*.yaml"))
#: Brings a recipe to the size of a miniature: nothing that says how its data are read.
SMALL = (
    "patch_zyx=[8, 8, 8]",
    "network={preset: tiny, overrides: {widths: [4, 8], strides_zyx: [[1, 1, 1], [2, 2, 2]], vil_stages: [1]}}",
    "transfer.mode=none",
    "steps=1",
    "workers=0",
    "device=cpu",
    # There are two cases.
    "data.folds=2",
)


def test_every_set_of_the_paper_has_a_recipe() -> None:
    layouts = {"hvsmr2", "mmwhs-ct", "mmwhs-mr", "whspp-ct", "whspp-mr", "aims-tbi", "isles24"}
    assert {path.stem.removeprefix("paper-") for path in RECIPES} == layouts
    text = (ROOT / "docs" / "datasets.md").read_text()
    assert [path.name for path in RECIPES if f"`{path.name}`" not in text] == []


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_the_papers_and_fits_its_set(path: Path) -> None:
    """Section 2.4: patch 128³, batch 2, Adam at 1e-5, 1000 epochs (of 250 steps), Dice + cross-entropy; 80 % train."""
    config = load_settings(RunConfig, path)
    assert isinstance(config.data, FolderData)
    dataset = DATASETS[config.data.layout]
    assert path.stem == config.name == f"paper-{dataset.name}"
    assert (config.patch_zyx, config.batch, config.steps) == ((128, 128, 128), 2, 1000 * 250)
    assert (config.optimiser.kind, config.optimiser.lr, config.optimiser.schedule) == ("adam", 1e-5, "constant")
    assert (config.loss.dice, config.loss.cross_entropy, config.transfer.mode) == (1, 1, "full")
    assert (config.data.folds, config.data.labelled, config.validation.patience) == (5, 1.0, None)
    assert config.labels == dict(dataset.labels)
    assert [channel.name for channel in config.channels] == list(dataset.channels)
    assert config.reference_channel == dataset.reference
    assert {channel.name for channel in config.channels if channel.optional} == set(dataset.optional)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_trains_on_its_set_in_miniature(path: Path, tmp_path: Path) -> None:
    layout = path.stem.removeprefix("paper-")
    folder = build(TREES[layout], tmp_path / "set")
    assert validate_folder(layout, folder).problems == ()
    config = load_settings(RunConfig, path, [*SMALL, f"data.folder={folder}"])
    assert finetune(config, tmp_path / "run").finished
    (cases,) = (line["validation/cases"] for line in read_log(tmp_path / "run") if "validation/cases" in line)
    (case,) = cases
    labelled = TREES[layout].labels
    assert case["name"] in labelled
    assert len(case["dice"]) == len(config.labels)
    # Eight voxels of 3 mm³.
    assert case["volume_ml"] == pytest.approx(0.024, rel=0.3)


@pytest.mark.parametrize(
    ("name", "layout", "channels"),
    [
        ("isles24-tmax", "isles24", ["tmax"]),
        ("isles24-maps", "isles24", ["cbf", "cbv", "mtt", "tmax", "cta"]),
        ("isles26-atlas", "atlas30-native", ["t1"]),
    ],
)
def test_a_challenge_recipe_trains_on_its_set_in_miniature(
    name: str, layout: str, channels: list[str], tmp_path: Path
) -> None:
    """Networks that do not read the image that the challenge measures on train as well."""
    folder = build(TREES[layout], tmp_path / "set")
    config = load_settings(RunConfig, ROOT / "training" / "configs" / f"{name}.yaml", [*SMALL, f"data.folder={folder}"])
    assert [channel.name for channel in config.channels] == channels
    assert finetune(config, tmp_path / "run").finished
