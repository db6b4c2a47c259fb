"""Image files: what is whole is read as SimpleITK reads it, and written whole or not."""

import gzip
import math
import os
import re
import shutil
import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import SimpleITK as sitk

from builders import SKEWED, close, files_below, grid_of, itk_image, write_image
from segsync.errors import InputError, OutputError, ResourceError
from segsync.geometry import Grid
from segsync.images import read, stem_of, suffix_of, write

# --- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "suffix", "stem"),
    [
        ("a.nii.gz", ".nii.gz", "a"),
        ("A.B.NII.GZ", ".nii.gz", "A.B"),
        ("a.mha", ".mha", "a"),
        ("a.tiff", ".tiff", "a"),
        ("a.gz", "", "a.gz"),
        ("mha", "", "mha"),
    ],
)
def test_suffix_and_stem(name: str, suffix: str, stem: str) -> None:
    assert (suffix_of(Path(name)), stem_of(Path(name))) == (suffix, stem)


# --- reading what is whole -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".mha", ".nii", ".nii.gz"])
@pytest.mark.parametrize("compress", [True, False], ids=["compressed", "plain"])
@pytest.mark.parametrize("kind", ["uint8", "int16", "uint16", "int32", "float32", "float64"])
def test_formats_and_voxel_types(tmp_path: Path, suffix: str, compress: bool, kind: str) -> None:
    array = np.random.default_rng(0).integers(0, 100, SKEWED.size_zyx).astype(kind)
    volume = read(write_image(tmp_path / f"image{suffix}", array, SKEWED, compress=compress))
    assert volume.array.dtype == array.dtype
    assert np.array_equal(volume.array, array)
    assert close(volume.grid, SKEWED)


def test_nifti_scaling_is_applied(tmp_path: Path) -> None:
    """Scanners and converters store integers with `scl_slope` and `scl_inter`."""
    path = write_image(tmp_path / "scaled.nii", np.full((3, 4, 5), 10, dtype=np.int16))
    content = bytearray(path.read_bytes())
    struct.pack_into("<ff", content, 112, 0.5, 2.0)
    path.write_bytes(content)
    assert read(path).array == pytest.approx(10 * 0.5 + 2.0)


@pytest.mark.parametrize("compress", [True, False], ids=["compressed", "plain"])
def test_every_voxel_type_of_itk_that_is_a_number(tmp_path: Path, compress: bool) -> None:
    kinds = [np.int8, np.uint32, np.int64, np.uint64]
    for kind in kinds:
        array = np.arange(60).reshape(3, 4, 5).astype(kind)
        assert np.array_equal(read(write_image(tmp_path / "image.mha", array, compress=compress)).array, array)


def test_one_frame_of_four_dimensions_is_three(tmp_path: Path) -> None:
    array = np.random.default_rng(1).normal(size=SKEWED.size_zyx).astype(np.float32)
    image = sitk.JoinSeries([itk_image(array, SKEWED)])
    for suffix in (".mha", ".nii.gz"):
        path = tmp_path / f"frame{suffix}"
        sitk.WriteImage(image, str(path))
        volume = read(path)
        assert np.array_equal(volume.array, array)
        assert close(volume.grid, SKEWED)


def test_tiff_is_read_with_a_warning(tmp_path: Path) -> None:
    array = np.arange(60, dtype=np.uint8).reshape(3, 4, 5)
    path = tmp_path / "image.tif"
    sitk.WriteImage(sitk.GetImageFromArray(array), str(path))
    volume = read(path)
    assert np.array_equal(volume.array, array)
    assert "no patient geometry" in volume.warnings[0]


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("IMAGE.MHA", {}),
        ("image.mha", {b"= LOCAL": b"= local", b"CompressedData = True": b"CompressedData = 1"}),
        (
            "image.mha",
            {
                b"NDims = 3": b"NDims = 3"
                + b"".join(b"\n0008|%04d = a DICOM tag and what it says" % n for n in range(300))
            },
        ),
    ],
    ids=["upper case", "other words", "long header"],
)
def test_metaimage_as_others_write_it(tmp_path: Path, name: str, changes: dict[bytes, bytes]) -> None:
    array = np.random.default_rng(0).integers(0, 9, (5, 6, 7)).astype(np.int16)
    content = write_image(tmp_path / "itk.mha", array, compress=True).read_bytes()
    for old, new in changes.items():
        assert old in content
        content = content.replace(old, new)
    (tmp_path / name).write_bytes(content)
    assert np.array_equal(read(tmp_path / name).array, array)


@pytest.mark.parametrize("compress", [False, True])
def test_an_mhd_with_its_voxels_beside_it_is_the_image_that_itk_wrote(tmp_path: Path, compress: bool) -> None:
    image = sitk.GetImageFromArray(np.random.default_rng(0).integers(-9, 900, (5, 6, 7)).astype(np.int16))
    image.SetSpacing((1.5, 1.25, 5.0))
    image.SetOrigin((-20.0, -10.0, 3.0))
    sitk.WriteImage(image, str(tmp_path / "scan.mhd"), useCompression=compress)
    assert len(list(tmp_path.iterdir())) == 2
    volume = read(tmp_path / "scan.mhd")
    assert np.array_equal(volume.array, sitk.GetArrayFromImage(image))
    assert volume.grid.spacing_zyx == (5.0, 1.25, 1.5)
    assert volume.grid.origin == (-20.0, -10.0, 3.0)


def test_a_header_that_promises_a_slice_less_than_there_is_is_refused(tmp_path: Path) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(np.ones((5, 6, 7), np.int16)), str(tmp_path / "scan.mhd"))
    text = (tmp_path / "scan.mhd").read_text()
    (tmp_path / "scan.mhd").write_text(text.replace("DimSize = 7 6 5", "DimSize = 7 6 4"))
    with pytest.raises(InputError, match="that its header promises, found more; the header is not this image's"):
        read(tmp_path / "scan.mhd")


def test_two_placements_of_a_nifti_are_told(tmp_path: Path) -> None:
    """ITK goes by the qform and most viewers by the sform: the mask would lie beside the image, and nobody would know
    why.
    """
    path = write_image(tmp_path / "moved.nii", np.ones((4, 5, 6), np.float32), grid_of((4, 5, 6), (2.0, 2.0, 2.0)))
    assert read(path).warnings == ()
    content = bytearray(path.read_bytes())
    (offset,) = struct.unpack_from("<f", content, 292)
    struct.pack_into("<f", content, 292, offset + 30)
    struct.pack_into("<2h", content, 252, 1, 2)  # from the scanner; aligned to another image
    path.write_bytes(content)
    [warning] = read(path).warnings
    assert "up to 30 mm apart" in warning


def test_a_nifti_without_spacing_is_refused(tmp_path: Path) -> None:
    """ITK would take it for voxels of 1 mm."""
    path = write_image(tmp_path / "flat.nii.gz", np.ones((4, 5, 6), np.float32))
    content = bytearray(gzip.decompress(path.read_bytes()))
    struct.pack_into("<3f", content, 80, 0, math.nan, 4.8)
    path.write_bytes(gzip.compress(bytes(content)))
    with pytest.raises(InputError, match=r"flat.nii.gz: expected a positive voxel spacing in mm, found \(0.0, nan"):
        read(path)


@pytest.mark.parametrize("mm", [0.001, 1000.0])
def test_a_spacing_in_another_unit_is_refused(tmp_path: Path, mm: float) -> None:
    """As memory that ends, or as air alone, nobody would find it."""
    path = write_image(tmp_path / "image.mha", np.ones((10, 10, 10), np.float32), grid_of((10, 10, 10), (mm, mm, mm)))
    with pytest.raises(
        InputError, match=rf"expected a voxel spacing in mm, found .* which makes {re.escape(f'{10 * mm:.3g}')} mm"
    ):
        read(path)


def test_an_ending_in_mixed_case_is_read(tmp_path: Path) -> None:
    path = write_image(tmp_path / "image.nii.gz", np.ones((4, 4, 4), np.float32)).rename(tmp_path / "image.Nii.gz")
    assert read(path).array.shape == (4, 4, 4)


def test_a_nifti_is_compressed_or_not_by_its_content(tmp_path: Path) -> None:
    """Files that were unpacked or packed and not renamed."""
    array = np.arange(5 * 6 * 7, dtype=np.int16).reshape(5, 6, 7)
    unpacked = write_image(tmp_path / "image.nii", array).rename(tmp_path / "unpacked.nii.gz")
    assert np.array_equal(read(unpacked).array, array)
    unpacked.write_bytes(unpacked.read_bytes()[:-100])
    with pytest.raises(
        InputError, match=r"unpacked\.nii\.gz: expected the 420 bytes of voxels .* found 320; the file is cut"
    ):
        read(unpacked)
    packed = write_image(tmp_path / "image.nii.gz", array).rename(tmp_path / "packed.nii")
    assert np.array_equal(read(packed).array, array)


@pytest.mark.parametrize("fraction", [0.3, 0.6, 0.97])
@pytest.mark.parametrize("suffix", [".tif", ".nrrd", ".raw.nrrd"])
def test_cut_tiff_and_nrrd_are_refused(tmp_path: Path, suffix: str, fraction: float) -> None:
    """Of a TIFF libtiff gives the slices before the cut, of an NRRD teem what could be inflated."""
    array = np.random.default_rng(3).integers(0, 1000, (12, 20, 20)).astype(np.uint16)
    path = tmp_path / f"image{suffix}"
    sitk.WriteImage(sitk.GetImageFromArray(array), str(path), useCompression=suffix != ".raw.nrrd")
    assert np.array_equal(read(path).array, array)
    content = path.read_bytes()
    path.write_bytes(content[: int(fraction * len(content))])
    with pytest.raises(InputError, match=rf"image{re.escape(suffix)}: expected"):
        read(path)


def test_an_nrrd_with_a_changed_byte_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "image.nrrd"
    array = np.random.default_rng(3).integers(0, 1000, (12, 20, 20)).astype(np.uint16)
    sitk.WriteImage(sitk.GetImageFromArray(array), str(path), useCompression=True)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(InputError, match="expected whole compressed voxels"):
        read(path)


def test_a_name_that_is_no_utf8_is_one_line(tmp_path: Path) -> None:
    """ITK would end the process, and with it every case that comes after."""
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/m\xfcller.nii.gz"))
    shutil.copy(write_image(tmp_path / "image.nii.gz", np.ones((4, 4, 4), np.float32)), path)
    with pytest.raises(InputError, match="expected a name in UTF-8"):
        read(path)
    with pytest.raises(OutputError, match="expected a name in UTF-8"):
        write(np.ones((4, 4, 4), np.uint8), grid_of((4, 4, 4)), path)


def test_memory_that_ends_while_reading_is_no_fault_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_image(tmp_path / "image.nii.gz", np.ones((4, 4, 4), np.float32))

    def empty(*arguments: object, **options: object) -> None:
        raise MemoryError

    monkeypatch.setattr("segsync.readers.stream.np.empty", empty)
    with pytest.raises(ResourceError, match=r"image.nii.gz: expected memory for its voxels, found too little"):
        read(path)


def test_voxels_that_are_no_number(tmp_path: Path) -> None:
    """They are kept for `preprocess` to deal with."""
    array = np.array([np.nan, np.inf, -np.inf, -5.0, 0.0, 1.0, 2.0, 3.0], dtype=np.float32).reshape(2, 2, 2)
    for name in ("odd.mha", "odd.nii.gz"):
        assert np.array_equal(read(write_image(tmp_path / name, array)).array, array, equal_nan=True)


# --- writing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".mha", ".nii", ".nii.gz"])
@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_what_is_written_is_read_by_simpleitk(tmp_path: Path, suffix: str, kind: type[np.generic]) -> None:
    array = np.random.default_rng(5).integers(0, 3, SKEWED.size_zyx).astype(kind)
    path = tmp_path / "new" / f"mask{suffix}"
    write(array, SKEWED, path)
    image = sitk.ReadImage(str(path))
    assert np.array_equal(sitk.GetArrayFromImage(image), array)
    assert sitk.GetArrayFromImage(image).dtype == array.dtype
    assert close(Grid.of(image), SKEWED)
    if suffix == ".mha":
        assert Grid.of(image) == SKEWED
    assert files_below(tmp_path) == [f"new/mask{suffix}"]


def test_a_map_with_nan_is_written(tmp_path: Path) -> None:
    array = np.full((2, 3, 4), np.nan, dtype=np.float32)
    write(array, grid_of((2, 3, 4)), tmp_path / "map.mha")
    assert np.isnan(sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "map.mha")))).all()


def test_an_ending_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"mask\.tif: expected an ending of \.mha"):
        write(np.zeros((2, 3, 4), dtype=np.uint8), grid_of((2, 3, 4)), tmp_path / "mask.tif")


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match=r"mask\.mha: expected to write the image, found"):
        write(np.zeros((2, 3, 4), dtype=np.uint8), grid_of((2, 3, 4)), tmp_path / "file" / "mask.mha")
    assert files_below(tmp_path) == ["file"]


def test_a_file_that_reads_back_differently_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk is not always an error of the image library; the old mask stays."""
    path = tmp_path / "mask.mha"
    old = np.ones((2, 3, 4), dtype=np.uint8)
    write(old, grid_of((2, 3, 4)), path)
    whole = sitk.WriteImage

    def lossy(image: sitk.Image, name: str, **options: bool) -> None:
        whole(image * 0, name, **options)

    monkeypatch.setattr("segsync.images.sitk.WriteImage", lossy)
    with pytest.raises(OutputError, match="reads back differently"):
        write(2 * old, grid_of((2, 3, 4)), path)
    assert files_below(tmp_path) == ["mask.mha"]
    kept: npt.NDArray[np.uint8] = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    assert np.array_equal(kept, old)


def test_reading_leaves_itks_warnings_as_they_were(tmp_path: Path) -> None:
    """They belong to the whole process: a notebook's own ITK filters are to be heard after the first image, too."""
    path = write_image(tmp_path / "image.mha", np.zeros((3, 4, 5), dtype=np.int16))
    before = sitk.ProcessObject.GetGlobalWarningDisplay()
    try:
        for shown in (True, False):
            sitk.ProcessObject.SetGlobalWarningDisplay(shown)
            read(path)
            assert sitk.ProcessObject.GetGlobalWarningDisplay() is shown
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(before)
