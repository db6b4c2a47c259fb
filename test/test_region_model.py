"""Weights with a region model: a lesion in the region counts, its like outside does not."""

from pathlib import Path

import numpy as np
import pytest

import segsync
from builders import AS_IT_IS, Cli, ball, constant, grid_of, orientations, rotated, write_bundle, write_image
from segsync.arrays import Array
from segsync.bundle import SPEC_FILE, ChannelSpec, Fixed, OrganSpec, load_bundle, sha256_of, write_manifest
from segsync.errors import WeightsError
from segsync.geometry import Grid, Volume
from segsync.images import read
from segsync.organ import in_one_piece, with_all_that_was_kept
from segsync.region_model import RegionModel, region_model_for
from segsync_train.config.data import FolderData
from segsync_train.data.cases import StoredCases
from segsync_train.data.dataset import build_cache
from segsync_train.data.layout import CaseFiles
from segsync_train.evaluation.evaluate import evaluate_model, labelled_cases, load_model
from segsync_train.evaluation.metrics import RULES
from segsync_train.export.export import export
from segsync_train.trainer.finetune import finetune
from training_cases import run_config, write_cases

WEIGHTS = Path(__file__).parents[1] / "weights"
#: The organ is 1, a lesion 2; the network of lesions sees nothing but what is above 1.
T1 = ChannelSpec(name="t1", normalisation=Fixed(low=1, high=2, mean=1, std=1))
AS_IT_IS_T1 = {"name": "t1", "normalisation": AS_IT_IS.model_dump()}
IN_ORGAN, OUTSIDE = (2.0, -3.0, 1.0), (-10.0, 9.0, 9.0)


def image_of(grid: Grid) -> Array:
    """An organ with a lesion, and something as bright outside."""
    image: Array = np.maximum(ball(grid, 8.0), 2 * ball(grid, 2.5, IN_ORGAN))
    return np.maximum(image, 2 * ball(grid, 2.0, OUTSIDE))


def write_organ(folder: Path, threshold: float = 0.5, organ: OrganSpec | None = None) -> Path:
    """Weights that take what is bright and large for the organ."""
    channels = (ChannelSpec(name="t1", normalisation=AS_IT_IS),)
    known = organ and organ.model_dump(mode="json")
    return write_bundle(folder, "organ", channels=channels, min_component_ml=0.2, threshold=threshold, organ=known)


@pytest.fixture
def with_region(tmp_path: Path) -> Path:
    """A folder with weights of a lesion, and their region model."""
    write_organ(tmp_path / "weights" / "organ")
    write_bundle(tmp_path / "weights" / "aims-tbi", "aims-tbi", channels=(T1,), region_model="organ")
    write_manifest(tmp_path / "weights")
    return tmp_path / "weights"


@pytest.mark.parametrize("direction", orientations()[::7])
def test_only_what_lies_in_the_region_is_found(with_region: Path, direction: tuple[float, ...]) -> None:
    grid = grid_of((30, 31, 29), (1.0, 1.0, 1.0), (4.0, -50.0, 12.0), rotated(direction, (5.0, 9.0, -4.0)))
    image = Volume(image_of(grid), grid)
    result = segsync.load("aims-tbi", weights=with_region, device="cpu").predict({"t1": image})
    assert np.array_equal(result.mask, ball(grid, 2.5, IN_ORGAN))
    write_bundle(with_region / "aims-tbi", "aims-tbi", channels=(T1,))
    write_manifest(with_region)
    result = segsync.load("aims-tbi", weights=with_region, device="cpu").predict({"t1": image})
    assert np.array_equal(result.mask, np.maximum(ball(grid, 2.5, IN_ORGAN), ball(grid, 2.0, OUTSIDE)))


def test_networks_of_an_ensemble_find_the_region_together(tmp_path: Path) -> None:
    """One finds the organ, the other nothing: their mean of 0.5 stays below the threshold."""
    folder = write_organ(tmp_path / "organ", threshold=0.6)
    grid = grid_of((24, 24, 24))
    image = Volume(image_of(grid), grid)
    assert RegionModel(load_bundle(folder), "cpu")(image) is not None
    second = folder / "model-2.onnx"
    second.write_bytes(constant(0.0))
    spec = load_bundle(folder).spec.model_copy(update={"further_networks": {second.name: sha256_of(second)}})
    (folder / SPEC_FILE).write_text(spec.model_dump_json())
    assert RegionModel(load_bundle(folder), "cpu")(image) is None


def test_nothing_is_marked_outside_whatever_a_network_makes_of_the_blank(with_region: Path) -> None:
    everywhere = ChannelSpec(name="t1", normalisation=Fixed(low=0, high=1, mean=-1, std=1))
    write_bundle(with_region / "aims-tbi", "aims-tbi", channels=(everywhere,), region_model="organ")
    write_manifest(with_region)
    grid = grid_of((30, 31, 29))
    result = segsync.load("aims-tbi", weights=with_region, device="cpu").predict({"t1": Volume(image_of(grid), grid)})
    assert np.array_equal(result.mask, ball(grid, 8.0))


def test_an_organ_of_another_volume_is_said_of_itself_and_of_what_lies_in_it(with_region: Path, tmp_path: Path) -> None:
    """A ball of 8 mm has 2.1 ml."""
    grid = grid_of((30, 31, 29))
    image = Volume(image_of(grid), grid)
    for plausible, said in (((2.0, 3.0), False), ((3.0, 4.0), True)):
        write_organ(with_region / "organ", organ=OrganSpec(plausible_ml=plausible))
        write_manifest(with_region)
        lesion, organ = (
            segsync.load(task, weights=with_region, device="cpu").predict({"t1": image})
            for task in ("aims-tbi", "organ")
        )
        assert any("region model organ segments 2 ml, expected 3 to 4 ml" in line for line in lesion.warnings) == said
        assert any("lesion: 2 ml, expected 3 to 4 ml" in line for line in organ.warnings) == said


def test_an_organ_is_one_piece_with_its_notches_filled() -> None:
    """A cube with a notch of 3 voxels and a hole, and a smaller piece beside it."""
    grid = grid_of((20, 20, 30))
    given = np.zeros((1, 20, 20, 30), np.float32)
    given[0, 4:16, 4:16, 4:16] = 0.8
    given[0, 8:11, 8:11, 10:16] = 0.1
    given[0, 6, 6, 6] = 0.0
    given[0, 4:12, 4:12, 22:28] = 0.9
    whole = np.zeros((20, 20, 30), bool)
    whole[4:16, 4:16, 4:16] = True
    piece = in_one_piece(given, grid, 0.5, OrganSpec(closing_mm=3.0, plausible_ml=(0, 1)))[0] >= 0.5
    # A ball dips a little into the notch's mouth.
    assert np.array_equal(piece[:, :, :14], whole[:, :, :14])
    assert not (piece & ~whole).any()
    open_notch = in_one_piece(given, grid, 0.5, OrganSpec(plausible_ml=(0, 1)))[0] >= 0.5
    assert not open_notch[9, 9, 15]
    assert open_notch[6, 6, 6]
    empty = np.zeros_like(given)
    assert np.array_equal(in_one_piece(empty, grid, 0.5, OrganSpec(plausible_ml=(0, 1))), empty)


def test_of_a_brain_without_its_skull_all_is_kept() -> None:
    """The network lost a rim of the brain, a surface cavity that stripping took, and not the eye that it left."""
    grid = grid_of((40, 40, 40))
    brain = ball(grid, 15.0)
    eye = ball(grid, 2.0, (0.0, -18.0, 0.0)) > brain
    cavity = ball(grid, 2.0, (15.0, 0.0, 0.0)) > 0
    image = np.where(cavity, 0, 800 * brain + 500 * eye).astype(np.int16)
    image[2, 2, 2] = 3  # a trace of interpolation
    found = ball(grid, 14.0).astype(np.uint8)
    whole = with_all_that_was_kept(found, Volume(image, grid), OrganSpec(closing_mm=4.0, plausible_ml=(0, 30)))
    assert whole[(brain > 0) & ~cavity].all()
    assert whole[cavity & (brain > 0)].mean() > 0.6
    assert not whole[eye].any()
    assert whole.sum() < 1.02 * brain.sum()
    # In a head the network's own border stays.
    head = np.where(image > 0, image, 300 * ball(grid, 19.0)).astype(np.int16)
    organ = OrganSpec(closing_mm=4.0, plausible_ml=(0, 30))
    assert with_all_that_was_kept(found, Volume(head, grid), organ) is found


def test_where_no_organ_is_found_all_is_looked_at_and_said(with_region: Path) -> None:
    grid = grid_of((30, 31, 29))
    image = Volume(2 * ball(grid, 2.0, OUTSIDE), grid)
    result = segsync.load("aims-tbi", weights=with_region, device="cpu").predict({"t1": image})
    assert np.array_equal(result.mask, ball(grid, 2.0, OUTSIDE))
    assert result.warnings == ("channel t1: the region model organ finds nothing in it; the whole image is used",)


def test_a_region_model_is_a_task_of_its_own(with_region: Path, tmp_path: Path, cli: Cli) -> None:
    grid = grid_of((30, 31, 29))
    path = write_image(tmp_path / "head_t1.nii.gz", image_of(grid), grid)
    arguments = ("--task", "organ", "--weights", str(with_region), "--device", "cpu")
    assert cli("predict", "-i", str(path), "-o", str(tmp_path / "mask.nii.gz"), *arguments).code == 0
    assert np.array_equal(read(tmp_path / "mask.nii.gz").array, ball(grid, 8.0))


def test_weights_without_their_region_model_are_refused(with_region: Path, tmp_path: Path, cli: Cli) -> None:
    path = write_image(tmp_path / "head_t1.nii.gz", image_of(grid_of((30, 31, 29))))
    alone = tmp_path / "alone"
    (with_region / "aims-tbi").rename(alone)
    outcome = cli(
        "predict", "-i", str(path), "-o", str(tmp_path / "m.nii.gz"), "--task", "aims-tbi", "--weights", alone
    )
    assert outcome.code == 4
    assert f"{tmp_path / 'organ'}: expected the region model 'organ' of the weights 'copy', found" in outcome.err
    assert not (tmp_path / "m.nii.gz").exists()


def test_a_region_model_reads_one_image_and_needs_no_other(tmp_path: Path) -> None:
    two = write_bundle(tmp_path / "two", "organ", channels=(T1, T1.model_copy(update={"name": "t2"})))
    nested = write_bundle(tmp_path / "nested", "organ", channels=(T1,), region_model="other")
    for folder, found in ((two, "read t1, t2"), (nested, "read t1 and need the region model other")):
        with pytest.raises(WeightsError, match=f"expected a region model, .* {found};"):
            RegionModel(load_bundle(folder), "cpu")
    assert region_model_for(load_bundle(write_bundle(tmp_path / "all", "aims-tbi"))) is None


def test_training_sees_what_inference_sees(with_region: Path, tmp_path: Path) -> None:
    """What lies outside is 0 before normalisation; another region model is another cache."""
    grid = grid_of((30, 31, 29))
    case = CaseFiles("case", {"t1": write_image(tmp_path / "case_0000.nii.gz", image_of(grid), grid)})
    found = {}
    for region_model in (None, with_region / "organ", write_organ(tmp_path / "other", threshold=0.9)):
        config = run_config(tmp_path, channels=[AS_IT_IS_T1], region_model=region_model)
        (folder,) = build_cache([case], config.case_spec, tmp_path / "cache")
        found[region_model] = np.array(StoredCases([folder])[0].image[0])
    everything, kept, _ = found.values()
    assert np.array_equal(everything, np.minimum(image_of(grid), 1))
    assert np.array_equal(kept, ball(grid, 8.0))
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_a_run_and_its_export_use_the_region_model(tmp_path: Path) -> None:
    """Both open the region model, the run's by its settings and the export's beside it, and find the same."""
    folder = write_cases(tmp_path / "set")
    bright = {"name": "t1", "normalisation": Fixed(low=100, high=180, mean=100, std=80).model_dump()}
    channels = (ChannelSpec.model_validate(bright),)
    organ = write_bundle(tmp_path / "weights" / "organ", "organ", channels=channels, min_component_ml=0.05)
    config = run_config(folder, region_model=organ, steps=60, foreground=0.8, channels=[bright])
    finetune(config, tmp_path / "run")
    export(tmp_path / "run", tmp_path / "weights")
    exported = tmp_path / "weights" / "custom"
    assert str(tmp_path) not in (exported / "model.json").read_text(), "a path of this machine"
    of_run, of_export = load_model(tmp_path / "run", "cpu"), load_model(exported, "cpu")
    assert load_bundle(exported).spec.region_model == "organ"
    assert isinstance(config.data, FolderData)
    cases = labelled_cases(of_run, config.data, "all")[:1]
    found = []
    for model in (of_run, of_export):
        assert isinstance(model.pipeline.region_model, RegionModel)
        assert model.pipeline.region_model.bundle.folder == organ
        evaluate_model(model, cases, RULES["isles22"], masks=tmp_path)
        found.append(read(tmp_path / f"{cases[0].name}.nii.gz").array)
    assert found[0].any()
    assert np.array_equal(found[0], found[1])


def test_the_shipped_weights_have_their_region_models() -> None:
    shipped = [load_bundle(file.parent) for file in sorted(WEIGHTS.glob("*/model.json"))]
    looking = {bundle.spec.task: region_model_for(bundle, "cpu") for bundle in shipped if bundle.spec.region_model}
    assert {task: region.bundle.spec.task for task, region in looking.items() if region} == {
        "aims-tbi": "brain",
        "isles26": "brain",
    }
