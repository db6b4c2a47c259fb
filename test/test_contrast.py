"""Brains in three contrasts: the order of grey values that makes each what it is, equal bytes, and the whole script."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import cross_modality
import numpy as np
import numpy.typing as npt
import pytest
import SimpleITK as sitk
import torch

from segsync.errors import InputError
from segsync_train.data.validate import validate_folder
from segsync_train.synthesis.contrast import CONTRASTS, STRUCTURES, TISSUES, read_brain, render, structures
from segsync_train.synthesis.synthesize import render_brains
from segsync_train.synthesis.tissues import LABELS, Tissue

#: Half-axes in voxels of nested ellipsoids, from the outside in: label on the left, label on the right.
SHELLS = ((11, 24, 24), (10, 3, 42), (8, 2, 41), (5, 10, 49), (3, 4, 43))
#: Spacing of a map, and to which it is rendered, mm.
VOXEL, COARSE = 2.0, 3.0


def write_head(path: Path, seed: int) -> Path:
    """A head of a few voxels in the maps' own orientation: shells of fluid, cortex, white matter, thalamus, ventricle.

    Its cerebellum is a block of each label; a vessel of the neck lies apart.
    """
    stretch = 1 + 0.1 * np.random.default_rng(seed).standard_normal(3)
    index = np.indices((28, 28, 28)) - 13.5
    radius = np.linalg.norm(index * stretch[:, None, None, None], axis=0)
    labels = np.zeros(radius.shape, np.int16)
    for size, left, right in SHELLS:
        labels[radius < size] = np.where(index[2] < 0, left, right)[radius < size]
    for place, label in enumerate((7, 46, 8, 47)):
        labels[10 + 2 * place : 12 + 2 * place, 20:22, 12:16] = label
    labels[1, 1, 1] = 502
    image = sitk.DICOMOrient(sitk.GetImageFromArray(labels), "LIA")
    image.SetSpacing((VOXEL,) * 3)
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path))
    return path


def heads(folder: Path, count: int) -> Path:
    for number in range(count):
        write_head(folder / f"head{number}.nii.gz", number)
    return folder


def means(image: npt.NDArray[np.float32], label: npt.NDArray[np.uint8]) -> dict[str, float]:
    return {name: float(image[label == number].mean()) for number, name in enumerate(STRUCTURES, start=1)}


# The whole order is the textbook's; deep grey matter lies between cortex and white matter in MRI.
@pytest.mark.parametrize(
    ("contrast", "order"),
    [
        ("t1", ("white matter", "grey matter", "ventricles")),
        ("t2", ("ventricles", "grey matter", "white matter")),
        ("ct", ("grey matter", "white matter", "ventricles")),
    ],
)
@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_grey_values_is_the_contrasts(contrast: str, order: Sequence[str], seed: int) -> None:
    """A block of each structure, so that no border blurs it."""
    tissues = torch.zeros(len(TISSUES), 8, 8, 32)
    for place, parts in enumerate(STRUCTURES.values()):
        tissues[parts[0], :, :, 8 * place : 8 * place + 8] = 1
    case = render(tissues, CONTRASTS[contrast], 2.0, seed)
    found = means(case.images[0].numpy(), case.target.numpy())
    values = [found[name] for name in order]
    assert values == sorted(values, reverse=True)
    if contrast == "ct":
        assert 34 < found["grey matter"] < 41
        assert 26 < found["white matter"] < 33
    else:
        assert min(found["grey matter"], 1.0) * 0.8 < found["deep grey matter"] < max(found["grey matter"], 1.0) * 1.2


def test_signals_are_the_spin_echos() -> None:
    """White matter and cortex at TR 500 ms and TE 10 ms, by hand."""
    white, cortex = 0.71 * 0.45248 * 0.87672, 0.83 * 0.31335 * 0.90009
    assert CONTRASTS["t1"].means[Tissue.CORTEX] == pytest.approx(cortex / white, rel=1e-3)
    assert CONTRASTS["t2"].means[Tissue.WHITE] == 1.0


def test_a_voxel_belongs_to_what_fills_most_of_it() -> None:
    fractions = {Tissue.CORTEX: 0.3, Tissue.CEREBELLAR_CORTEX: 0.15, Tissue.WHITE: 0.4, Tissue.OUTER_CSF: 0.15}
    tissues = torch.zeros(len(TISSUES), 1, 1, 3)
    for tissue, fraction in fractions.items():
        tissues[tissue, ..., 0] = fraction
    tissues[Tissue.WHITE, ..., 1], tissues[Tissue.OUTER_CSF, ..., 1] = 0.49, 0.51
    tissues[Tissue.IRON_GREY, ..., 2] = 0.5
    assert structures(tissues).flatten().tolist() == [1, 0, 4]


def test_a_brain_keeps_its_volume_and_loses_what_lies_apart(tmp_path: Path) -> None:
    file = write_head(tmp_path / "head.nii.gz", 0)
    labels = sitk.GetArrayFromImage(sitk.ReadImage(str(file)))
    tissues = read_brain(file, COARSE)
    for tissue in (Tissue.CORTEX, Tissue.WHITE, Tissue.DEEP_GREY, Tissue.VENTRICLE):
        ml = np.isin(labels, LABELS[tissue]).sum() * VOXEL**3 / 1000
        assert float(tissues[tissue].sum()) * COARSE**3 / 1000 == pytest.approx(ml, rel=0.02)
    assert float(tissues[Tissue.ARTERY].sum()) == 0
    assert float(tissues.sum(0).max()) <= 1 + 6 / 255
    outline = tissues.sum(0) > 0
    assert not any(bool(outline.movedim(axis, 0)[[0, -1]].any()) for axis in range(3))


def test_the_folders_are_whole_and_a_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    maps = heads(tmp_path / "maps", 2)
    digests = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        render_brains(maps, tmp_path / name, COARSE, seed)
        files = sorted((tmp_path / name).glob("*/imagesTr/*.nii.gz"))
        assert len(files) == 6
        digests.append([hashlib.sha256(file.read_bytes()).hexdigest() for file in files])
    assert digests[0] == digests[1]
    assert not set(digests[0]) & set(digests[2])
    assert len(set(digests[0])) == 6
    for contrast in CONTRASTS:
        assert validate_folder("nnunet", tmp_path / "a" / contrast).problems == ()
        label = (tmp_path / "a" / contrast / "labelsTr" / "head1.nii.gz").read_bytes()
        assert label == (tmp_path / "c" / "t1" / "labelsTr" / "head1.nii.gz").read_bytes()
    description = json.loads((tmp_path / "a" / "ct" / "dataset.json").read_text())
    assert description["labels"] == {"background": 0, **{name: n for n, name in enumerate(STRUCTURES, start=1)}}


def test_a_file_that_is_no_head_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.nii.gz"
    sitk.WriteImage(sitk.GetImageFromArray(np.ones((4, 4, 4), np.int16)), str(path))
    with pytest.raises(InputError, match=r"a\.nii\.gz: expected FreeSurfer labels of a whole brain"):
        render_brains(tmp_path, tmp_path / "out")


# --- the script ------------------------------------------------------------------------------------------------------


def test_the_script_trains_tests_and_writes_its_page(tmp_path: Path) -> None:
    maps = heads(tmp_path / "maps", 6)
    small = [
        "steps=2",
        "spacing_zyx=[4, 4, 4]",
        "patch_zyx=[16, 16, 16]",
        "network={preset: tiny, overrides: {widths: [4, 8], strides_zyx: [[1, 1, 1], [2, 2, 2]], vil_stages: [1]}}",
        "batch=2",
        "workers=0",
        "device=cpu",
    ]
    arguments = ["--label-maps", str(maps), "--runs", str(tmp_path / "runs"), "--docs", str(tmp_path / "docs")]
    arguments += ["--training-heads", "4"]
    for value in small:
        arguments += ["--set", value, "--pretrain-set", value]
    arguments += ["--set", "validation.overlays=0"]
    cross_modality.main(arguments)
    page = (tmp_path / "docs" / "results" / "cross-modality.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith(("| T1-like", "| T2-like", "| CT-like"))]
    assert len(rows) == 6
    assert all(row.count("±") == 3 for row in rows)
    assert "nan" not in page
    assert (tmp_path / "docs" / "images" / "cross-modality.png").stat().st_size > 10_000
