"""Synthetic CT and perfusion maps: physiology, ischaemia, what must not be labelled; in a head made of ellipsoids."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from segsync.tasks import TASKS
from segsync_train.config.data import SyntheticData
from segsync_train.config.run import RunConfig
from segsync_train.config.settings import load_settings
from segsync_train.data.sources import prepare_synthetic
from segsync_train.synthesis import (
    CHANNELS,
    Anatomies,
    Anatomy,
    Generator,
    SynthesisConfig,
    ischaemia,
    vessels,
)
from segsync_train.synthesis.fields import Draw
from segsync_train.synthesis.masks import MaskLibrary
from segsync_train.synthesis.perfusion import mean_transit_time, render
from segsync_train.synthesis.scene import Scene, place
from segsync_train.synthesis.tissues import INTRACRANIAL, MNI_OUTLINE_LPS_ZYX, Tissue
from segsync_train.synthesis.vessels import ARTERIES

SETTINGS = Path(__file__).parents[1] / "training" / "configs" / "isles24.yaml"
SPACING_MM = 4.0
#: Infarcts (LPS, ZYX, mm) and their half axes: three in the middle cerebral artery's territory, one in the posterior's.
INFARCTS = (((20, 0, 42), 20), ((10, 30, 48), 24), ((30, -20, -38), 18), ((5, 80, -20), 18))


def head() -> Anatomy:
    """A head upright and symmetric: skin, bone, fluid, cortex, white matter, deep grey matter, ventricles."""
    low, high = np.array(MNI_OUTLINE_LPS_ZYX)
    first = low - 24.0
    size = np.ceil((high - low + 48.0) / SPACING_MM).astype(int)
    at = np.indices(size) * SPACING_MM + first[:, None, None, None]

    def ellipsoid(centre: tuple[float, ...], half: tuple[float, ...]) -> npt.NDArray[np.bool_]:
        parts = [((at[axis] - centre[axis]) / half[axis]) ** 2 for axis in range(3)]
        return np.asarray(sum(parts) <= 1)

    centre, half = tuple((low + high) / 2), (high - low) / 2
    shells = [(18, Tissue.SKIN), (12, Tissue.BONE), (4, Tissue.OUTER_CSF), (0, Tissue.CORTEX), (-12, Tissue.WHITE)]
    label = np.full(size, -1)
    for more, tissue in shells:
        label[ellipsoid(centre, tuple(half + more))] = tissue
    ventricle = np.zeros(size, dtype=bool)
    for side in (-1, 1):
        label[ellipsoid((4, 0, side * 24), (12, 20, 8))] = Tissue.DEEP_GREY
        ventricle |= ellipsoid((14, 10, side * 9), (12, 30, 6))
    label[ventricle] = Tissue.VENTRICLE
    tissues = np.stack([np.where(label == tissue, 255, 0) for tissue in Tissue]).astype(np.uint8)
    distance = ndimage.distance_transform_edt(~ventricle, sampling=SPACING_MM)
    return Anatomy(
        tissues=torch.from_numpy(tissues),
        field_ppm=torch.zeros(1, *size, dtype=torch.float16),
        ventricle_mm=torch.from_numpy(np.minimum(distance, 255).astype(np.uint8)[None]),
        standard_from_mm=np.concatenate([np.eye(3), first[:, None]], axis=1),
    )


def library() -> MaskLibrary:
    """Balls in standard space."""
    voxels, shapes, origins, volumes = [], [], [], []
    for centre, radius in INFARCTS:
        side = 2 * int(radius / SPACING_MM) + 5
        at = (np.indices((side,) * 3) - side // 2) * SPACING_MM
        ball = np.linalg.norm(at, axis=0) <= radius
        voxels.append(ball.astype(np.uint8).ravel() * 255)
        shapes.append(ball.shape)
        origins.append(np.array(centre) - side // 2 * SPACING_MM)
        volumes.append(ball.sum() * SPACING_MM**3 / 1000)
    starts = np.concatenate([[0], np.cumsum([len(part) for part in voxels])])
    return MaskLibrary(
        torch.from_numpy(np.concatenate(voxels)),
        starts.astype(np.int64),
        np.array(shapes, dtype=np.int64),
        np.array(origins),
        np.array(volumes),
        SPACING_MM,
    )


@pytest.fixture(scope="module")
def anatomies() -> Anatomies:
    """One head, four infarcts."""
    return Anatomies((head(),), library(), library(), SPACING_MM)


def settings(none: float = 0.0, missing: float = 0.0) -> SynthesisConfig:
    """A head that is neither rotated nor bent, so that its mirror image is its other side; one infarct or none."""
    return SynthesisConfig.model_validate(
        {
            "anatomy": {
                "rotation_degrees": (0, 0, 0),
                "elastic_std_mm": (0, 0),
                "ventricle_mm": (0, 0),
                "margin_mm": (8, 8),
                "cut": 0,
            },
            "lesions": {
                "none": none,
                "kinds": (1, 0, 0),
                "several": (1,),
                "pieces": 0,
                "cortical": 0,
                "chronic": 0,
                "lacunes": 0,
            },
            "acquisition": {"missing": missing},
        }
    )


@dataclass(frozen=True)
class Drawn:
    """A case with the scene it was made of."""

    scene: Scene
    images: dict[str, Tensor]
    target: Tensor


def drawn(anatomies: Anatomies, seed: int, config: SynthesisConfig) -> Drawn:
    """One case, with a skull in every second."""
    draw = Draw(seed, torch.device("cpu"))
    scene = place(draw, anatomies.heads[0], config.anatomy, seed % 2 == 0, SPACING_MM)
    images, target, _ = render(draw, scene, anatomies, config)
    return Drawn(scene, dict(zip(CHANNELS["isles24"], images, strict=True)), target.bool())


@pytest.fixture(scope="module")
def strokes(anatomies: Anatomies) -> Iterator[list[Drawn]]:
    """Six patients whose infarct is the core that is seen, and whose other side is healthy."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ischaemia, "OUTCOME", (1.0, 0.0, 0.0))
        for rare in ("REPERFUSED", "STENOSIS", "SLOW"):
            patch.setattr(ischaemia, rare, 0.0)
        yield [drawn(anatomies, seed, settings()) for seed in range(6)]


def test_transit_time_follows_from_flow_and_volume() -> None:
    flow, volume = torch.tensor([60.0, 20.0, 0.0]), torch.tensor([4.0, 2.0, 1.0])
    assert mean_transit_time(flow, volume).tolist() == pytest.approx([4.0, 6.0, 0.0])


def test_maps_keep_the_central_volume_principle(strokes: list[Drawn]) -> None:
    for case in strokes:
        flow, volume, transit = (case.images[name] for name in ("cbf", "cbv", "mtt"))
        inside = (flow > 15) & (flow < 70) & (transit < 9) & (volume < 6)
        ratio = (transit * flow / (60 * volume.clamp(min=0.1)))[inside]
        middle = ratio.median()
        # Programs differ in scale, but one scale holds for the whole brain.
        assert 0.3 < float(middle) < 3.0
        assert float((ratio / middle - 1).abs().median()) < 0.12


def test_flow_falls_and_delay_rises_where_the_infarct_will_be(strokes: list[Drawn]) -> None:
    ratios, late, early = [], [], []
    for case in strokes:
        measured = case.images["cbf"] > 0
        seen, mirrored = case.target & measured, case.target.flip(2) & ~case.target & measured
        ratios.append(float(case.images["cbf"][seen].mean() / case.images["cbf"][mirrored].mean()))
        late.append(float((case.images["tmax"][seen] > 6).float().mean()))
        early.append(float((case.images["tmax"][mirrored] > 6).float().mean()))
    assert np.mean(np.array(ratios) < 0.7) >= 0.8
    assert np.median(late) > 0.7
    assert max(early) < 0.2


def test_early_infarcts_are_dark_on_ct_or_unseen(strokes: list[Drawn]) -> None:
    differences = []
    for case in strokes:
        grey_and_white = case.scene.parenchyma > 0.9
        here, there = case.target & grey_and_white, case.target.flip(2) & ~case.target & grey_and_white
        plain = case.images["ncct"]
        differences.append(float(plain[here].mean() - plain[there].mean()))
    assert -14 < min(differences) < -3
    assert np.median(differences) < 0


def test_attenuation_is_in_hounsfield_units(strokes: list[Drawn]) -> None:
    for case in strokes:
        plain, tissues = case.images["ncct"], case.scene.tissues
        white = plain[(tissues[Tissue.WHITE] > 0.99) & ~case.target].median()
        fluid = plain[tissues[Tissue.VENTRICLE] > 0.99].median()
        assert 22 < float(white) < 36
        assert float(fluid) < float(white) - 5
        if not case.scene.skull_stripped:
            assert float(plain.min()) < -900
            assert float(plain.max()) > 300


def test_no_ventricle_is_labelled_and_no_map_leaves_the_head(strokes: list[Drawn]) -> None:
    for case in strokes:
        assert case.target.any()
        assert not (case.target & (case.scene.tissues[Tissue.VENTRICLE] > 0.9)).any()
        inside = case.scene.tissues[INTRACRANIAL].sum(0) > 0.5
        # Half a thick slice, and the motion between two series.
        far = ndimage.distance_transform_edt(~inside.numpy(), sampling=SPACING_MM) > 16
        for name in ("tmax", "cbf", "cbv", "mtt"):
            assert float(case.images[name].min()) >= 0
            assert not case.images[name][torch.from_numpy(far)].any()


@pytest.mark.parametrize("saved", [True, False])
def test_without_infarct_nothing_is_labelled_whatever_the_delay(
    anatomies: Anatomies, monkeypatch: pytest.MonkeyPatch, saved: bool
) -> None:
    monkeypatch.setattr(ischaemia, "SAVED", float(saved))
    for rare in ("STENOSIS", "SLOW"):
        monkeypatch.setattr(ischaemia, rare, 0.0)
    cases = [drawn(anatomies, seed, settings(none=1.0)) for seed in range(2)]
    assert not any(case.target.any() for case in cases)
    late_ml = [float((case.images["tmax"] > 6).sum()) * SPACING_MM**3 / 1000 for case in cases]
    # An artery that was opened in time leaves a large delay and no infarct.
    assert all(volume > 20 if saved else volume < 5 for volume in late_ml)


def test_same_number_same_case_and_missing_channels_are_empty(anatomies: Anatomies) -> None:
    generator = Generator("isles24", anatomies, settings(missing=1.0))
    missing = 0
    for seed in range(3):
        case = generator(seed)
        assert case.channels == tuple(channel.name for channel in TASKS["isles24"].channels)
        assert case.present[0]
        assert not case.present[1]
        for image, present in zip(case.images, case.present, strict=True):
            assert present == bool(image.any())
        missing += case.present.count(False)
    assert missing > 3
    again = generator(2)
    assert torch.equal(again.images, case.images)
    assert torch.equal(again.target, case.target)


def test_settings_read_what_the_generator_draws(anatomies: Anatomies) -> None:
    config = load_settings(RunConfig, SETTINGS)
    assert isinstance(config.data, SyntheticData)
    assert tuple(channel.name for channel in config.channels) == CHANNELS["isles24"]
    assert config.reference_channel == TASKS["isles24"].reference
    assert "UNVALIDATED" in config.card.evaluated_on
    case = prepare_synthetic(Generator("isles24", anatomies, config.data.settings)(1), config.case_spec, "one")
    assert case.image.shape[0] == 6
    assert np.isfinite(case.image).all()


def test_what_dies_later_is_no_rim_of_the_core(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole parts of the penumbra become infarct, down to all of it; the infarct stays within what lacks flow."""
    monkeypatch.setattr(ischaemia, "OUTCOME", (0.0, 1.0, 0.0))
    infarct = torch.zeros(40, 40, 40)
    infarct[8:32, 8:32, 8:32] = 1.0
    cores = [ischaemia._core(Draw(seed, torch.device("cpu")), infarct) for seed in range(30)]
    fractions = [float((core > 0.5).sum() / infarct.sum()) for core in cores]
    assert min(fractions) < 0.05
    assert max(fractions) > 0.6
    deepest = [float((infarct.bool() & (core < 0.5))[16:24, 16:24, 16:24].float().mean()) for core in cores]
    assert sum(fraction > 0.5 for fraction in deepest) > 5


def test_behind_a_closed_carotid_all_branches_fill_by_collaterals(
    anatomies: Anatomies, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vessels, "_closing", lambda draw, occlusion: "carotid")
    for only in ("superior", "inferior"):
        monkeypatch.setattr(vessels, "ARTERIES", {only: ARTERIES[only]})
        draw = Draw(0, torch.device("cpu"))
        scene = place(draw, anatomies.heads[0], settings().anatomy, False, SPACING_MM)
        lumen, filled, _ = vessels.arteries(draw, scene, [ischaemia.Occlusion("deep", 0, whole=True)])
        left = scene.standard_mm[2] < 0
        assert float(filled[left].sum()) < 0.95 * float(lumen[left].sum())
        assert torch.equal(filled[~left], lumen[~left])


def test_the_basilar_artery_is_one(anatomies: Anatomies, monkeypatch: pytest.MonkeyPatch) -> None:
    volumes = []
    for name in ("basilar", "posterior"):
        monkeypatch.setattr(vessels, "ARTERIES", {name: ARTERIES[name]})
        laid: list[float] = []
        monkeypatch.setattr(vessels, "_lay", lambda fraction, scene, at, volume: laid.append(len(at)))  # noqa: B023
        vessels.arteries(
            Draw(0, torch.device("cpu")),
            place(Draw(0, torch.device("cpu")), anatomies.heads[0], settings().anatomy, False, SPACING_MM),
            [],
        )
        volumes.append(len(laid))
    assert volumes == [2, 4]  # lumen and medium, on one side and on two


@pytest.mark.parametrize("skull_stripped", [False, True])
def test_the_task_brain_ct_marks_what_the_skull_holds(anatomies: Anatomies, skull_stripped: bool) -> None:
    """A brain's volume in Hounsfield units; bone lies outside of it, and nothing else where the skull is removed."""
    chosen = SynthesisConfig.model_validate(
        {"acquisition": {"skull_stripped": float(skull_stripped)}, "anatomy": {"cut": 0.0}}
    )
    for seed in range(3):
        case = Generator("brain-ct", anatomies, chosen)(seed)
        assert (case.channels, case.present) == (("ct",), (True,))
        brain, hu = case.target.bool(), case.images[0]
        assert 1000 < float(brain.sum()) * SPACING_MM**3 / 1000 < 3200
        assert 15 < float(hu[brain].median()) < 80
        assert bool((hu[~brain] > 300).any()) != skull_stripped
