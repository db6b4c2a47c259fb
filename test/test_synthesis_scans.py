"""Real T1s as anatomies: drawn from a label map whose tissues are known, moved, shaded and noisy."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from segsync.errors import InputError
from segsync_train.synthesis import Anatomies, Generator, SynthesisConfig, load_sources
from segsync_train.synthesis.ageing import aged
from segsync_train.synthesis.anatomy import Anatomy, Scan
from segsync_train.synthesis.atlas import tissue_atlas
from segsync_train.synthesis.fields import Draw, gaussian
from segsync_train.synthesis.scans import read_scan
from segsync_train.synthesis.scene import place
from segsync_train.synthesis.tissue_classes import tissue_classes
from segsync_train.synthesis.tissues import INTRACRANIAL, PARENCHYMA, Tissue
from synthesis_cases import write_sources

SPACING_MM = 4.0
#: Signals of the drawn scan.
FLUID, GREY, WHITE = 250.0, 620.0, 1000.0


@pytest.fixture(scope="module")
def anatomies(tmp_path_factory: pytest.TempPathFactory) -> Anatomies:
    return load_sources(write_sources(tmp_path_factory.mktemp("sources")), SPACING_MM)


@pytest.fixture(scope="module")
def scan(anatomies: Anatomies, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The label map's brain as a T1 that is brighter on one side."""
    signals = np.full(Tissue.BONE, GREY)
    signals[[Tissue.WHITE, Tissue.CEREBELLAR_WHITE]] = WHITE
    signals[[Tissue.VENTRICLE, Tissue.OUTER_CSF]] = FLUID
    tissues = anatomies.heads[0].tissues[INTRACRANIAL].numpy() / 255
    brain = tissues[: Tissue.OUTER_CSF].sum(0) > 0.3
    shading = np.linspace(0.85, 1.15, brain.shape[2])
    noise = np.random.default_rng(0).normal(0, 15, brain.shape)
    image = sitk.GetImageFromArray(((np.tensordot(signals, tissues, 1) + noise) * shading * brain).astype(np.float32))
    image.SetSpacing([SPACING_MM] * 3)
    file = tmp_path_factory.mktemp("scan") / "sub-01_T1w.nii.gz"
    sitk.WriteImage(image, str(file))
    return file


def test_tissues_place_and_texture_of_a_scan(anatomies: Anatomies, scan: Path) -> None:
    head = anatomies.heads[0]
    found = read_scan(scan, SPACING_MM, tissue_atlas([head], SPACING_MM))
    known = head.tissues.numpy() / 255
    told = found["tissues"].astype(float) / 255
    brain = known[: Tissue.OUTER_CSF].sum(0) > 0.95
    for tissue in (Tissue.WHITE, Tissue.CORTEX, Tissue.VENTRICLE, Tissue.CEREBELLAR_CORTEX):
        a, b = told[tissue] > 0.5, known[tissue] > 0.5
        assert 2 * (a & b & brain).sum() / ((a & brain).sum() + (b & brain).sum()) > 0.75, tissue.name
    # Where the registration puts the brain: within half a voxel of the way that the label map knows.
    places = np.argwhere(brain) * SPACING_MM
    ways = [way[:, :3] @ places.T + way[:, 3:] for way in (found["standard_from_mm"], head.standard_from_mm)]
    assert np.linalg.norm(ways[0] - ways[1], axis=0).mean() < 3.0
    assert found["signals"][Tissue.VENTRICLE] == pytest.approx(FLUID / WHITE, abs=0.08)
    assert found["signals"][Tissue.CORTEX] == pytest.approx(GREY / WHITE, abs=0.08)
    # Mean signals and texture together are the scan, without its shading.
    image = np.tensordot(found["signals"], told[:11], 1) + found["texture"][0]
    left, right = (image[known[Tissue.WHITE] > 0.95][part] for part in (slice(None, None, 2), slice(1, None, 2)))
    assert left.mean() == pytest.approx(1.0, abs=0.05)
    assert right.mean() == pytest.approx(1.0, abs=0.05)


def test_what_is_no_skull_stripped_t1_is_refused() -> None:
    rng = np.random.default_rng(0)
    head = rng.uniform(1, 2, (20, 20, 20)).astype(np.float32)
    with pytest.raises(InputError, match="skull-stripped T1"):
        tissue_classes(head, (4.0, 4.0, 4.0), "head")
    uniform = np.pad(rng.normal(100, 1, (20, 20, 20)), 6).astype(np.float32)
    with pytest.raises(InputError, match="T1-weighted"):
        tissue_classes(uniform, (4.0, 4.0, 4.0), "uniform")


def test_people_who_validate_are_never_trained_on(anatomies: Anatomies) -> None:
    """Whatever the other person's scan shows, the images stay as they are."""
    head = anatomies.heads[0]

    def person(fluid: float) -> Anatomy:
        signals = torch.full((Tissue.BONE,), 0.6)
        signals[[Tissue.WHITE, Tissue.VENTRICLE]] = torch.tensor([1.0, fluid])
        return replace(head, scan=Scan(torch.zeros_like(head.field_ppm), signals))

    config = SynthesisConfig.model_validate({"t1": {"scans": 1.0, "held_out": ["sub-02"]}})
    scans = {"sub-01": person(0.1), "sub-02": person(0.2)}
    for held_out, own, other in ((False, "sub-01", "sub-02"), (True, "sub-02", "sub-01")):
        first, foreign, changed = (
            Generator("aims-tbi", replace(anatomies, scans=each), config)(4, held_out=held_out).images
            for each in (scans, {**scans, other: person(0.4)}, {**scans, own: person(0.4)})
        )
        assert torch.equal(first, foreign)
        assert not torch.equal(first, changed)


def test_people_that_are_not_there_are_named(anatomies: Anatomies) -> None:
    scans = {"sub-01": replace(anatomies.heads[0], scan=None)}
    for held_out, message in ((["sub-09"], "sub-09"), (["sub-01"], "no scan to train on")):
        config = SynthesisConfig.model_validate({"t1": {"scans": 0.5, "held_out": held_out}})
        with pytest.raises(InputError, match=message):
            Generator("isles26", replace(anatomies, scans=scans), config)


def test_fluid_fills_what_skull_stripping_took(anatomies: Anatomies) -> None:
    """A cleft between two gyri that was set to zero, as tight skull-stripping leaves it, holds fluid afterwards."""
    head = anatomies.heads[0]
    config = SynthesisConfig()
    bare = replace(head, scan=Scan(torch.zeros_like(head.field_ppm), torch.ones(Tissue.BONE)))
    draw = Draw(0, torch.device("cpu"))
    scene = place(draw, bare, config.anatomy, True, SPACING_MM)
    cleft = (scene.standard_mm[2].abs() < 2.5) & (gaussian(scene.parenchyma, 2.0) > 0.8)
    assert cleft.any()
    cut = replace(scene, tissues=scene.tissues * ~cleft)
    filled = aged(draw, cut, config.t1.ageing.model_copy(update={"filled": 1.0}))
    assert float(filled.tissues[Tissue.OUTER_CSF][cleft].mean()) > 0.8
    assert torch.equal(filled.tissues[PARENCHYMA], cut.tissues[PARENCHYMA])
    assert float(filled.tissues.sum(0).max()) <= 1.01
