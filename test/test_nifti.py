"""NIfTI: one placement of the three that a header may hold; diffusion series with their b-values."""

from pathlib import Path

import nibabel
import numpy as np
import numpy.typing as npt
import pytest

from segsync.errors import InputError
from segsync.images import read, read_adc

ARRAY = np.random.default_rng(0).normal(100, 9, (8, 9, 10)).astype(np.float32)  # x, y, z, as nibabel has it
AFFINE = np.array([[-1.8, 0, 0, 90.0], [0, 1.8, 0, -80], [0, 0, 4.8, -40], [0, 0, 0, 1]])


def written(
    path: Path,
    *,
    sform: npt.NDArray[np.float64] | None = None,
    qform: npt.NDArray[np.float64] | None = None,
    codes: tuple[int, int] = (1, 1),
    pixdim: tuple[float, float, float] | None = None,
) -> Path:
    """ARRAY with these placements and codes (sform, qform)."""
    image = nibabel.Nifti1Image(ARRAY, AFFINE)
    image.header.set_qform(AFFINE if qform is None else qform, codes[1])
    image.header.set_sform(AFFINE if sform is None else sform, codes[0])
    if pixdim is not None:
        image.header["pixdim"][1:4] = pixdim
    header = image.header.copy()
    path.write_bytes(header.binaryblock + bytes(4) + ARRAY.tobytes(order="F"))
    raw = bytearray(path.read_bytes())
    raw[108:112] = np.float32(352).tobytes()
    raw[344:348] = b"n+1\0"
    path.write_bytes(raw)
    return path


def test_a_nifti_that_says_nothing_of_its_place_is_read_as_nibabel_does(tmp_path: Path) -> None:
    path = written(tmp_path / "t1.nii", codes=(0, 0))
    volume = read(path)
    affine = np.diag([-1, -1, 1, 1]) @ nibabel.load(path).affine
    assert volume.grid.matrix * volume.grid.spacing_xyz == pytest.approx(affine[:3, :3])
    assert volume.grid.origin == pytest.approx(affine[:3, 3])
    assert nibabel.aff2axcodes(nibabel.load(path).affine) == ("L", "A", "S")
    assert "left and right are a guess" in volume.warnings[0]


@pytest.mark.parametrize("handedness", [0.0, 3.0])
def test_a_handedness_that_was_never_set_is_1(tmp_path: Path, handedness: float) -> None:
    """`pixdim[0]`, as the NIfTI library reads it: below 0 or not."""
    path = written(tmp_path / "a.nii", codes=(0, 1))
    expected, raw = read(path).grid, bytearray(path.read_bytes())
    raw[76:80] = np.float32(handedness).tobytes()
    path.write_bytes(raw)
    affine = np.diag([-1, -1, 1, 1]) @ AFFINE
    assert expected.matrix * expected.spacing_xyz == pytest.approx(affine[:3, :3])
    assert read(path).grid.matrix == pytest.approx(expected.matrix * [1, 1, -1])


@pytest.mark.parametrize(
    ("sizes", "pixdim", "found"),
    [((1, 1, 1), (1.8, 1.8, 4.8), (1.8, 1.8, 4.8)), ((1.8, 1.8, 4.8), (1, 1, 1), (1.8, 1.8, 4.8))],
    ids=["default sform", "default pixdim"],
)
def test_of_two_voxel_sizes_the_one_that_is_no_default_counts(
    tmp_path: Path, sizes: tuple[float, ...], pixdim: tuple[float, float, float], found: tuple[float, ...]
) -> None:
    """ACDC's public files have a sform of 1 mm."""
    path = written(tmp_path / "a.nii", sform=np.diag([*sizes, 1.0]), codes=(2, 0), pixdim=pixdim)
    volume = read(path)
    assert volume.grid.spacing_xyz == pytest.approx(found)
    assert "two voxel sizes, " in volume.warnings[0]


def test_two_voxel_sizes_of_which_none_is_a_default_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "a.nii", sform=np.diag([2.0, 2, 2, 1]), codes=(1, 0))
    with pytest.raises(InputError, match=r"expected one voxel size, found 1\.8 × 1\.8 × 4\.8 mm as pixdim and 2 × 2"):
        read(path)
    path = written(tmp_path / "a.nii", sform=np.diag([2.0, 2, 2, 1]), codes=(1, 1))
    with pytest.raises(InputError, match="expected one voxel size"):
        read(path)


def test_of_an_image_brought_to_a_template_the_scanners_size_counts(tmp_path: Path) -> None:
    """sform codes 3 and 4 say that the sform is the template's."""
    path = written(tmp_path / "a.nii", sform=AFFINE @ np.diag([1.1, 1.2, 1.1, 1]), codes=(4, 1))
    volume = read(path)
    assert volume.grid.spacing_xyz == pytest.approx((1.8, 1.8, 4.8))
    assert "the qform is used" in volume.warnings[0]


def test_a_sheared_sform_is_set_upright_and_said(tmp_path: Path) -> None:
    """TotalSegmentator's public set has 140 such subjects; each voxel keeps its place in the array."""
    shear = np.eye(4)
    shear[0, 1] = 0.02
    path = written(tmp_path / "ct.nii", sform=shear @ AFFINE, codes=(1, 0))
    volume = read(path)
    assert np.array_equal(volume.array, ARRAY.T)
    assert np.allclose(volume.grid.matrix.T @ volume.grid.matrix, np.eye(3))
    [warning] = volume.warnings
    assert "the header shears the image" in warning
    corners = np.array([(k, j, i) for k in (0, 9) for j in (0, 8) for i in (0, 7)])
    affine = np.diag([-1, -1, 1, 1]) @ nibabel.load(path).affine
    apart = np.linalg.norm(volume.grid.corners() - (corners[:, ::-1] @ affine[:3, :3].T + affine[:3, 3]), axis=1).max()
    assert f"{apart:.1f} mm" in warning
    assert 0.05 < apart < 0.2


def test_a_sheared_sform_gives_way_to_a_qform(tmp_path: Path) -> None:
    shear = np.eye(4)
    shear[0, 1] = 0.1
    volume = read(written(tmp_path / "ct.nii", sform=shear @ AFFINE, codes=(1, 1)))
    assert volume.grid.matrix * volume.grid.spacing_xyz == pytest.approx(np.diag([-1, -1, 1]) @ AFFINE[:3, :3])
    assert "the qform is used" in volume.warnings[0]


def test_a_strongly_sheared_sform_is_refused_with_advice(tmp_path: Path) -> None:
    shear = np.eye(4)
    shear[0, 1] = 0.4
    with pytest.raises(InputError, match=r"found sheared ones .*; resample the image, for instance with mri_convert"):
        read(written(tmp_path / "ct.nii", sform=shear @ AFFINE, codes=(1, 0), pixdim=(1.8, 1.94, 4.8)))


# --- diffusion series ------------------------------------------------------------------------------------------------

BVALUES = (0.0, 5.0, 500.0, 1000.0, 990.0)


def series(folder: Path, bval: str | None) -> Path:
    """A tissue of 700·10⁻⁶ mm²/s at five b-values."""
    array = np.stack([ARRAY * np.exp(-b * 7e-4) for b in BVALUES], axis=-1).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(array, AFFINE), folder / "p_dwi.nii.gz")
    if bval is not None:
        (folder / "p_dwi.bval").write_text(bval)
    return folder / "p_dwi.nii.gz"


def test_a_diffusion_series_is_the_trace_of_its_highest_shell_and_gives_its_adc(tmp_path: Path) -> None:
    path = series(tmp_path, " ".join(map(str, BVALUES)))
    trace = read(path)
    expected = ARRAY.T * np.mean([np.exp(-0.7), np.exp(-0.693)])
    assert trace.array == pytest.approx(expected, rel=1e-5)
    adc = read_adc(path)
    assert adc is not None
    assert adc.array == pytest.approx(700, rel=1e-3)
    assert "fitted from the diffusion series' b-values 2 and 995 s/mm²" in adc.warnings[0]


def test_a_series_without_its_bvalues_is_refused_and_told_what_it_lacks(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected a 3D image, found 4D \(8×9×10×5\).* beside it as \.bval"):
        read(series(tmp_path, None))


def test_a_series_without_weighting_is_no_dwi(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"p_dwi\.nii\.gz: expected volumes weighted by diffusion, found .* up to 5 s"):
        read(series(tmp_path, "0 0 5 0 0"))
    with pytest.raises(InputError, match=r"p_dwi\.nii\.gz: expected volumes of two b-values to fit an ADC, found one"):
        read_adc(series(tmp_path, "1000 1000 990 1000 1000"))


@pytest.mark.parametrize("text", ["0 1000", "0 0 0 0 nan", "a b c d e", "0 0 0 0 -5"])
def test_bvalues_that_are_not_the_series_are_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(InputError, match=r"p_dwi\.bval: expected 5 b-values"):
        read(series(tmp_path, text))
