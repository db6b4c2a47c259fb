"""Settings of a training run: files, overrides, and what a person is told about a mistake."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from segsync.errors import InputError
from segsync_train.config.data import FolderData, SyntheticData
from segsync_train.config.run import RunConfig
from segsync_train.config.settings import check_settings, dump_settings, load_settings

CONFIGS = Path(__file__).parents[1] / "training" / "configs"


def plain(**changes: Any) -> dict[str, Any]:
    """The least that a run needs, as YAML gives it."""
    settings: dict[str, Any] = {
        "name": "run",
        "task": "custom",
        "data": {"kind": "folder", "folder": "cases"},
        "channels": [
            {"name": "t1", "normalisation": {"kind": "zscore"}},
            {"name": "flair", "normalisation": {"kind": "zscore"}, "optional": True},
        ],
        "labels": {1: "lesion"},
        "spacing_zyx": [1, 1, 1],
        "patch_zyx": [32, 32, 32],
        "steps": 10,
    }
    return settings | changes


def written(folder: Path, settings: dict[str, Any]) -> Path:
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


@pytest.mark.parametrize(
    "name",
    [
        "isles22.yaml",
        "isles22-easy.yaml",
        "aims-tbi.yaml",
        "aims-tbi-easy.yaml",
        "finetune-paper.yaml",
        "finetune-fast.yaml",
    ],
)
def test_committed_settings_are_valid_and_survive_the_run_folder(name: str, tmp_path: Path) -> None:
    config = load_settings(RunConfig, CONFIGS / name)
    kept = tmp_path / "config.yaml"
    kept.write_text(dump_settings(config))
    assert load_settings(RunConfig, kept) == config


def test_the_papers_settings_are_the_papers() -> None:
    config = load_settings(RunConfig, CONFIGS / "finetune-paper.yaml")
    assert config.patch_zyx == (128, 128, 128)
    assert config.batch == 2
    assert (config.optimiser.kind, config.optimiser.lr) == ("adam", 1e-5)


def test_overrides_reach_every_depth(tmp_path: Path) -> None:
    path = written(tmp_path, plain())
    overrides = [
        "steps=25",
        "optimiser.lr=3e-4",
        "optimiser.kind=sgd",
        "channels.1.optional=false",
        "data.labelled=0.05",
        "labels.2=edema",
        "validation.patience=null",
        "patch_zyx=[16, 32, 48]",
    ]
    config = load_settings(RunConfig, path, overrides)
    assert config.steps == 25
    assert config.optimiser.lr == 3e-4
    assert not config.channels[1].optional
    assert isinstance(config.data, FolderData)
    assert config.data.labelled == 0.05
    assert config.labels == {1: "lesion", 2: "edema"}
    assert config.patch_zyx == (16, 32, 48)


def test_the_kind_of_data_follows_from_its_keys(tmp_path: Path) -> None:
    path = written(tmp_path, plain())
    assert isinstance(load_settings(RunConfig, path, ["data={folder: x}"]).data, FolderData)
    assert isinstance(
        load_settings(RunConfig, path, ["data={sources: x}", "spacing_zyx=[1, 1, 1]"]).data, SyntheticData
    )


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("stpes=5", "unknown key 'stpes'; did you mean 'steps'?"),
        ("optimiser.weigth_decay=0", "optimiser: unknown key 'weigth_decay'; did you mean 'weight_decay'?"),
        ("data.foldr=x", "unknown key 'foldr'; did you mean 'folder'?"),
        ("channels.0.optinal=true", "channels.0.optinal"),
        ("data.kind=dicom", "'folder', 'synthetic'"),
        ("steps=many", "steps: Input should be a valid integer"),
        ("steps=-1", "steps: Input should be greater than 0; found -1"),
        ("seed=-1", "seed: Input should be greater than or equal to 0; found -1"),
        ("data.split_seed=-1", "split_seed: Input should be greater than or equal to 0; found -1"),
        ("channels.7.optional=true", "channels.7 does not exist"),
        ("name.first=a", "holds a single value"),
        ("steps", "expected key=value, as in --set steps=100"),
        ("reference=adc", "reference 'adc' is not among the channels t1, flair"),
        ("reference=flair", "the reference channel 'flair' cannot be optional"),
        ("channels.1.name=t1", "expected different names"),
        ("transfer.mode=full", "mode 'full' needs a checkpoint"),
        ("data.fold=5", "found 5"),
        ("data.fold=2", "fold 2 needs folds, their number"),
        (
            "data={kind: folder, folder: x, folds: 5, training_cases: [a], validation_cases: [b]}",
            "folds and training_cases both divide the cases; give one of them",
        ),
        ("augmentation.zoom=[2, 0]", "augmentation.zoom.1: Input should be greater than 0; found 0"),
        ("augmentation.zoom=[1.25, 0.8]", "zoom: expected the smaller value first; found [1.25, 0.8]"),
        ("augmentation.smooth_sigma=[1, 0.5]", "smooth_sigma: expected the smaller value first; found [1, 0.5]"),
        (
            "augmentation.smooth_sigma=[-1, 0.5]",
            "augmentation.smooth_sigma.0: Input should be greater than or equal to",
        ),
        ("augmentation.strength=[0.2, -0.2]", "strength: expected the smaller value first"),
        ("augmentation.gamma_range=[-1, 1]", "augmentation.gamma_range.0: Input should be greater than 0"),
        ("optimiser.betas=[1.5, 2]", "optimiser.betas.0: Input should be less than 1; found 1.5"),
        ("labels.300=large", "1 to 255"),
        ("loss.dice=0", "at least one"),
        (
            "data={layout: bids}",
            "data: expected a folder of cases, or the sources of synthetic ones (kind: synthetic), ",
        ),
        ("data={sources: x, settings: {acquisition: {noise: [-1, 0.01]}}}", "noise.0: Input should be greater than or"),
        ("data={sources: x, settings: {lesions: {emboli: [9, 1]}}}", "emboli: expected the smaller value first"),
        ("data={sources: x, settings: {lesions: {kinds: [0, 0, 0]}}}", "kinds: expected a weight above 0"),
        ("data={sources: x, settings: {lesions: {kinds: [1, 1]}}}", "kinds: Value should have at least 3 items"),
        ("data={sources: x, settings: {t1: {trauma: {axonal_mm: [0, 3]}}}}", "axonal_mm.0: Input should be greater"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_key(override: str, said: str, tmp_path: Path) -> None:
    overrides = [override]
    if override.startswith("loss"):
        overrides.append("loss.cross_entropy=0")
    if override == "data.fold=5":
        overrides.append("data.folds=5")
        said = "fold 5 does not exist, there are 5"
    with pytest.raises(InputError) as caught:
        load_settings(RunConfig, written(tmp_path, plain()), overrides)
    message = str(caught.value)
    assert said in message
    assert "\n" not in message
    assert str(tmp_path / "run.yaml") in message or "--set" in message


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("steps: [1, 2", "expected YAML"),
        ("- a\n- b", "expected keys with values, found list"),
        ("", "expected keys with values"),
    ],
)
def test_a_file_that_is_no_settings_file_is_said_so(content: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(content)
    with pytest.raises(InputError, match=said) as caught:
        load_settings(RunConfig, path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.yaml: expected a settings file"):
        load_settings(RunConfig, tmp_path / "none.yaml")


def test_off_is_a_word_and_no_truth_value(tmp_path: Path) -> None:
    """What a loss that is no number asks for, as a person writes it."""
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(plain()) + "amp: off\n")
    assert load_settings(RunConfig, path).amp == "off"
    assert load_settings(RunConfig, path, ["amp=bf16", "amp=off"]).amp == "off"
    assert load_settings(RunConfig, path, ["compile=yes", "channels.1.optional=true"]).compile


def test_settings_are_frozen() -> None:
    config = check_settings(RunConfig, plain(), "test")
    with pytest.raises(ValueError, match="frozen"):
        config.steps = 3


# --- a file that stands on another -----------------------------------------------------------------------------------


def test_a_base_gives_what_the_file_does_not(tmp_path: Path) -> None:
    """Tables are joined at every depth; lists and tables of labels, whose keys are numbers, are replaced whole."""
    written(
        tmp_path,
        plain(labels={1: "core", 2: "penumbra"}, data={"kind": "folder", "folder": "cases", "validation": 0.4}),
    )
    upper = tmp_path / "below" / "upper.yaml"
    upper.parent.mkdir()
    upper.write_text(
        "base: ../run.yaml\nsteps: 7\ndata: {folder: other}\nlabels: {1: lesion}\n"
        "channels: [{name: ct, normalisation: {kind: zscore}}]\n"
    )
    config = load_settings(RunConfig, upper, ["batch=3"])
    assert (config.name, config.steps, config.batch, config.labels) == ("run", 7, 3, {1: "lesion"})
    assert isinstance(config.data, FolderData)
    assert (config.data.folder, config.data.validation) == (Path("other"), 0.4)
    assert [channel.name for channel in config.channels] == ["ct"]


@pytest.mark.parametrize(
    ("upper", "said"),
    [
        ("base: none.yaml", r"upper.yaml: base: expected a settings file at .*none.yaml, found No such file"),
        ("base: upper.yaml", "upper.yaml: base: expected a file that does not stand on this one, found upper.yaml"),
        ("base: round.yaml", "round.yaml: base: expected a file that does not stand on this one, found upper.yaml"),
        ("base: [run.yaml]", "base: expected a settings file"),
        ("base: broken.yaml", "broken.yaml: expected YAML"),
        ("base: run.yaml\nstpes: 5", "upper.yaml: settings: unknown key 'stpes'; did you mean 'steps'"),
    ],
)
def test_a_base_that_is_none_is_told(upper: str, said: str, tmp_path: Path) -> None:
    written(tmp_path, plain())
    (tmp_path / "upper.yaml").write_text(upper)
    (tmp_path / "round.yaml").write_text("base: upper.yaml")
    (tmp_path / "broken.yaml").write_text("steps: [1")
    with pytest.raises(InputError, match=said):
        load_settings(RunConfig, tmp_path / "upper.yaml")
