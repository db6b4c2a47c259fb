"""Where synthetic heads and lesions lie: standard space, sides and volumes are those of the maps and masks."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from segsync_train.config.synthesis import LesionConfig
from segsync_train.synthesis import Anatomies, SynthesisConfig, SynthesisSources, lesions, load_sources
from segsync_train.synthesis.anatomy import read_head
from segsync_train.synthesis.fields import Draw
from segsync_train.synthesis.masks import MaskLibrary, read_masks
from segsync_train.synthesis.scene import Scene, place
from segsync_train.synthesis.tissues import Tissue
from synthesis_cases import write_sources

SPACING_MM = 4.0
#: Middles and half axes of the ellipsoids of `synthesis_cases`, LPS (z, y, x), mm.
ACUTE, ACUTE_MM = (20.0, 10.0, 38.0), (14, 20, 16)
BRAINSTEM = (-32.0, 30.0, 0.0)
#: Lesions as they were, but for their side.
AS_THEY_WERE = LesionConfig(scale=(1, 1), shift_mm=0, rotation_degrees=0, pieces=0, cortical=0)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> SynthesisSources:
    return write_sources(tmp_path_factory.mktemp("sources"))


@pytest.fixture(scope="module")
def anatomies(sources: SynthesisSources) -> Anatomies:
    return load_sources(sources, SPACING_MM)


@pytest.fixture(scope="module")
def scene(anatomies: Anatomies) -> Scene:
    return placed(anatomies, 0)


def draw_of(seed: int) -> Draw:
    return Draw(seed, torch.device("cpu"))


def placed(anatomies: Anatomies, seed: int, *, skull_stripped: bool = True, **anatomy: object) -> Scene:
    """A head rotated, scaled and perhaps mirrored."""
    config = SynthesisConfig.model_validate({"anatomy": {"cut": 0.0, "atrophy": (1, 1), **anatomy}}).anatomy
    return place(draw_of(seed), anatomies.heads[0], config, skull_stripped, SPACING_MM)


def ellipsoid_ml(half_axes_mm: tuple[int, int, int]) -> float:
    return float(4 / 3 * np.pi * np.prod(half_axes_mm) / 1000)


def middle_of(fraction: torch.Tensor, scene: Scene) -> list[float]:
    """The centre of mass in standard space."""
    found: list[float] = ((scene.standard_mm * fraction).sum((1, 2, 3)) / fraction.sum()).tolist()
    return found


@pytest.mark.parametrize("spacing_mm", [2.0, 4.0])
def test_a_mask_keeps_its_place_side_and_volume(sources: SynthesisSources, tmp_path: Path, spacing_mm: float) -> None:
    """Stored as the files are (RAS), left in the patient; an empty one is left out."""
    files = sorted(sources.acute_masks.iterdir())
    image = sitk.ReadImage(str(files[0]))
    sitk.WriteImage(image * 0, str(tmp_path / "empty.nii.gz"))
    found = MaskLibrary(spacing_mm=spacing_mm, **read_masks([tmp_path / "empty.nii.gz", *files], spacing_mm))  # type: ignore[arg-type]
    assert len(found) == 1
    assert found.centre_mm(0) == pytest.approx(ACUTE, abs=2)
    assert found.volumes_ml[0] == pytest.approx(ellipsoid_ml(ACUTE_MM), rel=0.03)
    assert found.voxels.sum() / 255 * spacing_mm**3 / 1000 == pytest.approx(found.volumes_ml[0], rel=0.01)
    fraction = torch.from_numpy(found.voxels.reshape(found.shapes[0]) / 255)
    at = np.stack(np.meshgrid(*(np.arange(side) for side in fraction.shape), indexing="ij")) * spacing_mm
    middle = (at * fraction.numpy()).sum((1, 2, 3)) / fraction.numpy().sum() + found.origins_mm[0]
    assert middle == pytest.approx(ACUTE, abs=1)


@pytest.mark.parametrize("size", [1.0, 0.7])
def test_a_head_is_brought_to_standard_space_the_right_way_round(size: float, tmp_path: Path) -> None:
    """The map stands upright in RAS: its axes are standard space's own, neither rotated nor mirrored, a small head's
    stretched.
    """
    sources = write_sources(tmp_path, size=size)
    head = read_head(sources.label_maps / "head.nii.gz", SPACING_MM)
    affine = np.asarray(head["standard_from_mm"], dtype=float)
    assert affine[:, :3] == pytest.approx(np.eye(3) / size, abs=0.1)
    brainstem = head["tissues"][Tissue.BRAINSTEM]
    middle = np.argwhere(brainstem > 127).mean(0) * SPACING_MM
    assert affine[:, :3] @ middle + affine[:, 3] == pytest.approx(BRAINSTEM, abs=4)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("skull_stripped", [True, False])
def test_a_head_however_it_lies_knows_its_places_in_standard_space(
    anatomies: Anatomies, seed: int, skull_stripped: bool
) -> None:
    scene = placed(anatomies, seed, skull_stripped=skull_stripped)
    assert middle_of(scene.tissues[Tissue.BRAINSTEM], scene) == pytest.approx(BRAINSTEM, abs=4)
    assert middle_of(scene.tissues[Tissue.VENTRICLE], scene)[0] == pytest.approx(16, abs=4)
    assert len(scene.tissues) == (11 if skull_stripped else 17)
    assert float(scene.tissues.sum(0).max()) < 1.02


def test_unbent_standard_space_is_affine(anatomies: Anatomies) -> None:
    scene = placed(anatomies, 0, elastic_std_mm=(0, 0), ventricle_mm=(0, 0))
    index = torch.stack(torch.meshgrid(*(torch.arange(side) for side in scene.size_zyx), indexing="ij")).double()
    affine = torch.from_numpy(scene.standard_from_index)
    expected = torch.einsum("ij,jzyx->izyx", affine[:, :3], index) + affine[:, 3].view(3, 1, 1, 1)
    assert float((scene.standard_mm - expected).abs().max()) < 0.02


def test_a_brain_has_the_size_that_was_drawn_and_either_side_of_it(anatomies: Anatomies) -> None:
    """Half of the heads are mirrored, so that no network learns a side."""
    fixed: dict[str, Any] = {
        "rotation_degrees": (0, 0, 0),
        "stretch": (1, 1),
        "elastic_std_mm": (0, 0),
        "ventricle_mm": (0, 0),
    }
    sizes, mirrored = [], set()
    for size in (0.9, 1.1):
        for seed in range(6):
            scene = placed(anatomies, seed, scale=(size, size), **fixed)
            z, y, x = np.diag(scene.standard_from_index).tolist()
            assert min(z, y) > 0
            mirrored.add(bool(x < 0))
        sizes.append(float(scene.parenchyma.sum()))
    assert sizes[1] / sizes[0] == pytest.approx((1.1 / 0.9) ** 3, rel=0.03)
    assert mirrored == {True, False}


def test_wide_sulci_take_from_the_brain_what_they_gain(anatomies: Anatomies) -> None:
    """Below 1 the exponent widens them, above it narrows them; the sum of a voxel stays, but for a few hundredths."""
    young, plain, old = (placed(anatomies, 1, atrophy=(exponent, exponent)) for exponent in (2.5, 1.0, 0.8))
    fluid = [float(scene.tissues[Tissue.OUTER_CSF].sum()) for scene in (young, plain, old)]
    assert fluid[0] < fluid[1] < fluid[2]
    for scene in (young, old):
        assert float((scene.tissues.sum(0) - plain.tissues.sum(0)).abs().max()) < 0.05


@pytest.mark.parametrize("seed", range(3))
def test_a_lesion_is_laid_where_its_patient_had_it(anatomies: Anatomies, seed: int) -> None:
    """On either side: half are mirrored."""
    scene = placed(anatomies, seed)
    scale = abs(np.linalg.det(scene.standard_from_index[:, :3])) / SPACING_MM**3
    sides = set()
    for number in range(6):
        fraction = lesions.real_shape(draw_of(number), scene, anatomies.acute, AS_THEY_WERE)
        z, y, x = middle_of(fraction, scene)
        assert (z, y, abs(x)) == pytest.approx(ACUTE, abs=5)
        assert float(fraction.sum()) * SPACING_MM**3 / 1000 * scale == pytest.approx(ellipsoid_ml(ACUTE_MM), rel=0.5)
        assert 0 <= float(fraction.min()) <= float(fraction.max()) <= 1
        sides.add(x > 0)
    assert sides == {True, False}


def test_lesions_move_grow_and_break_as_far_as_asked_for(anatomies: Anatomies, scene: Scene) -> None:
    moved = AS_THEY_WERE.model_copy(update={"shift_mm": 12.0})
    grown, shrunk = (AS_THEY_WERE.model_copy(update={"scale": (size, size)}) for size in (1.25, 0.5))
    broken = AS_THEY_WERE.model_copy(update={"pieces": 1.0})

    def all_of(config: LesionConfig) -> list[torch.Tensor]:
        return [lesions.real_shape(draw_of(seed), scene, anatomies.acute, config) for seed in range(12)]

    away = np.array([np.abs(np.abs(middle_of(fraction, scene)) - ACUTE) for fraction in all_of(moved)])
    assert (away.max(0) > 6).all()
    assert (away.max(0) < 12 + 5).all()
    plain, large, small, parts = (
        np.median([float(fraction.sum()) for fraction in all_of(config)])
        for config in (AS_THEY_WERE, grown, shrunk, broken)
    )
    assert large / plain == pytest.approx(1.25**3, rel=0.2)
    assert small / plain == pytest.approx(0.5**3, rel=0.5)
    assert parts < 0.9 * plain


def test_emboli_are_small_and_lie_in_the_brain(scene: Scene) -> None:
    config = LesionConfig(emboli=(5, 5), embolus_mm=(3.0, 6.0))
    for seed in range(3):
        fraction = lesions.emboli(draw_of(seed), scene, config)
        assert 0.1 < float(fraction.sum()) * SPACING_MM**3 / 1000 < 5 * ellipsoid_ml((9, 9, 9)) * 2
        assert bool((fraction > 0.3).any())
        assert float((scene.parenchyma * fraction).sum() / fraction.sum()) > 0.7


def test_what_is_picked_lies_where_weights_are() -> None:
    weights = torch.zeros(4, 5, 6)
    weights[1, 2, 3], weights[3, 0, 5] = 3.0, 1.0
    found = lesions.pick(draw_of(0), weights, 400)
    first = (found == torch.tensor([1, 2, 3])).all(1)
    assert bool((first | (found == torch.tensor([3, 0, 5])).all(1)).all())
    assert float(first.float().mean()) == pytest.approx(0.75, abs=0.07)
    assert lesions.pick(draw_of(0), 0 * weights, 5).shape == (0, 3)


def test_white_matter_disease_lies_in_white_matter_about_the_ventricles(scene: Scene) -> None:
    for seed in range(4):
        fraction = lesions.white_matter_hyperintensities(draw_of(seed), scene)
        assert float((scene.tissues[Tissue.WHITE] * fraction).sum() / fraction.sum()) > 0.8
        near, far = ((scene.ventricle_mm < 6) & (scene.tissues[Tissue.WHITE] > 0.95)), scene.ventricle_mm > 30
        assert float(fraction[near].mean()) > float(fraction[far].mean())


def test_an_outline_takes_no_ventricle(scene: Scene) -> None:
    found = lesions.outlined(torch.ones(scene.size_zyx), scene)
    assert not found[scene.tissues[Tissue.VENTRICLE] > 0.9].any()
    assert bool((found[scene.parenchyma > 0.5] == 1).all())
