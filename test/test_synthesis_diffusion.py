"""DWI, ADC and FLAIR from label maps: what an acute infarct changes, and what it leaves alone."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage

from segsync_train.synthesis import (
    Anatomies,
    Generator,
    SynthesisConfig,
    SyntheticCase,
    diffusion,
    load_sources,
)
from segsync_train.synthesis.fields import Draw
from segsync_train.synthesis.scene import Scene, place
from synthesis_cases import write_sources

SPACING_MM = 4.0
#: All that imitates an infarct, in every brain.
CONFIG = SynthesisConfig.model_validate(
    {
        "lesions": {
            "none": 0.0,
            "kinds": [1, 0, 0],
            "several": [1],
            "chronic": 1.0,
            "white_matter": 1.0,
            "lacunes": 1.0,
            "microbleeds": 1.0,
        }
    }
)


@pytest.fixture(scope="module")
def anatomies(tmp_path_factory: pytest.TempPathFactory) -> Anatomies:
    """Coarse, to be quick."""
    return load_sources(write_sources(tmp_path_factory.mktemp("sources")), SPACING_MM)


def scene_of(draw: Draw, anatomies: Anatomies) -> Scene:
    return place(draw, anatomies.heads[0], CONFIG.anatomy, skull_stripped=True, spacing_mm=SPACING_MM)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_an_infarct_changes_nothing_far_from_it(anatomies: Anatomies, seed: int) -> None:
    """White matter disease keeps its raised ADC and microbleeds stay dark: patients have both beside an infarct."""
    draw = Draw(seed, torch.device("cpu"))
    scene = scene_of(draw, anatomies)
    change = diffusion._imitations(draw, scene, anatomies, CONFIG, 1.0)
    before = replace(change)
    outline, _ = diffusion._infarcts(draw, scene, anatomies, CONFIG, change, 1.0)
    far = torch.from_numpy(ndimage.distance_transform_edt(outline.numpy() == 0)) * SPACING_MM > 20.0
    assert bool(outline.any())
    assert float(before.attenuation[far].max()) > 0.05
    assert float(before.t2[far].min()) < -0.1
    for part in ("t2", "attenuation", "flair", "cavity"):
        assert torch.equal(getattr(change, part)[far], getattr(before, part)[far]), part


def test_inside_an_infarct_diffusion_falls_and_dwi_is_bright(anatomies: Anatomies) -> None:
    """b·ADC falls by 20 to 60 % in hours, and is nearly back after two weeks; DWI stays bright by then long T2."""
    falls, gains = [], []
    for seed in range(30):
        draw = Draw(seed, torch.device("cpu"))
        scene = scene_of(draw, anatomies)
        zero = torch.zeros(scene.size_zyx)
        change = diffusion._Change(zero, zero, zero, zero)
        outline, _ = diffusion._infarcts(draw, scene, anatomies, CONFIG, change, 1.0)
        inside = outline > 0.9
        if int(inside.sum()) < 5:
            continue
        falls.append(float(-change.attenuation[inside].mean()) / 0.78)
        gains.append(float((change.t2 - change.attenuation)[inside].mean()))
    assert len(falls) > 20
    assert min(falls) >= 0.0
    assert max(falls) < 0.8
    assert sum(0.15 < fall < 0.65 for fall in falls) > len(falls) / 2
    assert sum(gain > math.log(1.2) for gain in gains) > 0.8 * len(gains)


@pytest.fixture(scope="module")
def cases(anatomies: Anatomies) -> list[SyntheticCase]:
    """Whole heads and skull-stripped brains, with one young infarct of a real shape or more, and nothing else."""
    plain = {"none": 0.0, "kinds": [1, 0, 0], "chronic": 0.0, "white_matter": 0.0, "lacunes": 0.0, "microbleeds": 0.0}
    settings = SynthesisConfig.model_validate(
        {"lesions": plain, "acquisition": {"missing": 0.0, "skull_stripped": 0.5}}
    )
    drawn = [Generator("isles22", anatomies, settings)(seed) for seed in range(7)]
    return [case for case in drawn if int(case.target.sum()) > 20]


def test_adc_is_in_its_unit_and_falls_where_dwi_is_bright(cases: list[SyntheticCase]) -> None:
    """A middle of 800 in brain, of 3000 in the ventricles, and in infarcts less than in the brain around."""
    falls, gains = [], []
    for case in cases:
        assert case.channels == ("dwi", "adc", "flair")
        dwi, adc, _ = case.images.numpy()
        lesion = case.target.numpy() > 0
        around = ndimage.binary_dilation(lesion, iterations=3) & ~ndimage.binary_dilation(lesion) & (dwi > 0)
        brain = around & (adc < 1500)
        assert 550 < np.median(adc[brain]) < 1100
        assert 2300 < adc.max() <= 5000
        falls.append(np.median(adc[lesion]) / np.median(adc[brain]))
        gains.append(np.median(dwi[lesion]) / np.median(dwi[brain]))
    assert len(falls) >= 5
    assert np.median(falls) < 0.85
    assert np.median(gains) > 1.15
    assert min(gains) > 1


def test_dwi_is_the_image_without_weighting_times_exp_of_b_and_adc(
    anatomies: Anatomies, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One signal of 2 everywhere weakened to exp(-0.8) of it, without coil, noise or artefacts: ADC 800."""
    quiet = {
        "noise": [1e-5, 1e-5], "coil_exponent": [0, 0], "bias": [0, 0], "eddy_mm": [0, 0], "ghost": [0, 0],
        "undistorted": 1.0, "skull_stripped": 1.0,
    }  # fmt: skip
    settings = SynthesisConfig.model_validate({"acquisition": quiet})
    draw = Draw(0, torch.device("cpu"))
    scene = scene_of(draw, anatomies)
    plain, inside = torch.full(scene.size_zyx, 2.0), torch.ones(scene.size_zyx)
    shapes = torch.stack([torch.zeros_like(plain), inside, torch.zeros_like(plain)])
    dwi, adc, target = diffusion._echo_planar_pair(draw, scene, settings, plain, plain * math.exp(-0.8), shapes, 1.0)
    middle = tuple(slice(side // 4, -side // 4) for side in scene.size_zyx)
    assert adc[middle].numpy() == pytest.approx(800, rel=0.06)
    assert float(dwi[middle].std() / dwi[middle].mean()) < 0.06
    assert not target.any()


def test_a_channel_that_is_missing_is_zero_and_said_so(anatomies: Anatomies) -> None:
    settings = SynthesisConfig.model_validate({"acquisition": {"missing": 1.0}})
    case = Generator("isles22", anatomies, settings)(0)
    assert case.present == (True, True, False)
    assert [bool(image.any()) for image in case.images] == [True, True, False]


@pytest.mark.parametrize(
    ("peak", "noise", "outlined"),
    [(0.24, 0.01, 0), (0.26, 0.01, 7), (0.26, 0.064, 5), (0.26, 0.07, 0)],
    ids=["too faint", "noticed", "its rim in noise", "all in noise"],
)
def test_a_reader_outlines_the_faint_parts_of_an_infarct_that_is_noticed(
    peak: float, noise: float, outlined: int
) -> None:
    """A row of voxels of 5 mm: brightest in the middle; a faint spot four voxels away."""
    brighter = torch.zeros(3, 9, 15)
    brighter[1, 4, 3:8] = torch.tensor([0.125, 0.14, peak, 0.14, 0.125])
    brighter[1, 4, 11] = 0.14
    brighter[0, 4, 5] = brighter[2, 4, 5] = 0.14
    seen = diffusion.seen_by_a_reader(brighter, noise, spacing_mm=5.0, axis=-3)
    assert int(seen.sum()) == outlined
    assert not seen[1, 4, 11]
