"""Image files: what is whole is read as SimpleITK reads it, what is not gives one clear line, written whole or not."""

import gzip
import locale
import math
import os
import re
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from builders import IDENTITY, files_below, grid_of, itk_image, tissue_of, turned, write_dicom, write_image
from segsync.errors import InputError, OutputError, ResourceError, SegsyncError
from segsync.geometry import Grid, Volume
from segsync.images import read, stem_of, suffix_of, write

SKEWED = grid_of((5, 6, 7), (3.0, 1.25, 0.75), (-12.5, 40.0, 7.25), turned(IDENTITY, (20.0, -10.0, 35.0)))


def close(found: Grid, expected: Grid) -> bool:
    """Whether two grids agree to what NIfTI's float32 holds."""
    return found.size_zyx == expected.size_zyx and np.allclose(found.corners(), expected.corners(), atol=1e-3)


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


def test_an_ending_in_mixed_case_is_told(tmp_path: Path) -> None:
    path = write_image(tmp_path / "image.nii.gz", np.ones((4, 4, 4), np.float32)).rename(tmp_path / "image.Nii.gz")
    with pytest.raises(InputError, match=r"found the ending \.Nii\.gz; write it in lower case"):
        read(path)


def test_a_nifti_is_compressed_or_not_by_its_content(tmp_path: Path) -> None:
    """Files that were unpacked or packed and not renamed: the one is read, of the other the name to give is said."""
    array = np.arange(5 * 6 * 7, dtype=np.int16).reshape(5, 6, 7)
    unpacked = write_image(tmp_path / "image.nii", array).rename(tmp_path / "unpacked.nii.gz")
    assert np.array_equal(read(unpacked).array, array)
    unpacked.write_bytes(unpacked.read_bytes()[:-100])
    with pytest.raises(
        InputError, match=r"unpacked\.nii\.gz: expected the 420 bytes of voxels .* found 320; the file is cut"
    ):
        read(unpacked)
    packed = write_image(tmp_path / "image.nii.gz", array).rename(tmp_path / "packed.nii")
    with pytest.raises(InputError, match=r"packed\.nii: expected .* found a compressed file; name it \.nii\.gz"):
        read(packed)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.97])
@pytest.mark.parametrize("suffix", [".tif", ".nrrd", ".raw.nrrd"])
def test_cut_tiff_and_nrrd_are_refused(tmp_path: Path, suffix: str, share: float) -> None:
    """Of a TIFF libtiff gives the slices before the cut, of an NRRD teem what could be inflated."""
    array = np.random.default_rng(3).integers(0, 1000, (12, 20, 20)).astype(np.uint16)
    path = tmp_path / f"image{suffix}"
    sitk.WriteImage(sitk.GetImageFromArray(array), str(path), useCompression=suffix != ".raw.nrrd")
    assert np.array_equal(read(path).array, array)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(InputError, match=rf"image{re.escape(suffix)}: expected"):
        read(path)


def test_an_nrrd_with_a_changed_byte_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "image.nrrd"
    array = np.random.default_rng(3).integers(0, 1000, (12, 20, 20)).astype(np.uint16)
    sitk.WriteImage(sitk.GetImageFromArray(array), str(path), useCompression=True)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(InputError, match="expected a whole gzip file"):
        read(path)


@pytest.mark.parametrize("reverse", [False, True], ids=["ascending", "descending"])
def test_dicom_series(tmp_path: Path, reverse: bool) -> None:
    """Slices are ordered by their place in the patient, not by their file names; the geometry is theirs."""
    grid = grid_of((5, 12, 10), (4.0, 1.5, 1.25), (-20.0, 30.0, -5.0), turned(IDENTITY, (8.0, -5.0, 3.0)))
    array = np.random.default_rng(2).integers(0, 1000, grid.size_zyx).astype(np.int16)
    folder = write_dicom(tmp_path / "dwi", Volume(array, grid))
    if reverse:
        names = sorted(folder.iterdir())
        for number, path in enumerate(names):
            path.rename(folder / f"moved-{len(names) - number:03d}")
    volume = read(folder)
    assert np.array_equal(volume.array, array)
    assert close(volume.grid, grid)


def test_a_folder_with_two_series_or_none_is_refused(tmp_path: Path) -> None:
    grid = grid_of((3, 8, 8))
    first = write_dicom(tmp_path / "two", Volume(tissue_of(grid, 100), grid))
    write_dicom(tmp_path / "other", Volume(tissue_of(grid, 50), grid), series="1.2.826.0.1.3680043.2.1125.9")
    for path in (tmp_path / "other").iterdir():
        path.rename(first / f"second-{path.name}")
    with pytest.raises(InputError, match=r"two: expected the files of one DICOM series, found 2 series"):
        read(first)
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match=r"none: .* found no DICOM files"):
        read(tmp_path / "none")


def test_a_dicom_series_that_lacks_a_slice_is_refused(tmp_path: Path) -> None:
    """ITK would take the rest as evenly spaced: everything would lie elsewhere."""
    grid = grid_of((6, 8, 8), (4.0, 1.0, 1.0))
    folder = write_dicom(tmp_path / "dwi", Volume(tissue_of(grid, 100), grid))
    (folder / "002.dcm").unlink()
    with pytest.raises(InputError, match=r"dwi: expected .*even"):
        read(folder)


def test_a_dicom_series_of_a_tilted_gantry_is_refused(tmp_path: Path) -> None:
    """Even steps, but sheared: ITK would stack the slices upright, and the volume would be too large."""
    grid = grid_of((6, 8, 8), (5.0, 1.0, 1.0))
    folder = write_dicom(tmp_path / "ct", Volume(tissue_of(grid, 100), grid))
    for number, path in enumerate(sorted(folder.iterdir())):
        image = sitk.ReadImage(str(path))
        shifted = f"0\\{-number * 5.0 * math.tan(math.radians(20)):.6f}\\{number * 5.0:g}"
        rewrite_dicom(image, path, {"0020|0032": shifted})
    with pytest.raises(InputError, match=r"ct: expected slices .* gantry tilt of 20\.0 degrees; convert"):
        read(folder)


def test_dicom_slices_all_at_one_place_are_refused(tmp_path: Path) -> None:
    grid = grid_of((5, 8, 8), (5.0, 1.0, 1.0))
    folder = write_dicom(tmp_path / "ct", Volume(tissue_of(grid, 100), grid))
    for path in folder.iterdir():
        rewrite_dicom(sitk.ReadImage(str(path)), path, {"0020|0032": "0\\0\\0"})
    with pytest.raises(InputError, match=r"ct: expected evenly spaced slices, found steps of 0\.00"):
        read(folder)


def rewrite_dicom(image: sitk.Image, path: Path, changes: dict[str, str]) -> None:
    """The same slice with other tags."""
    kept = locale.setlocale(locale.LC_ALL)
    for tag, value in changes.items():
        image.SetMetaData(tag, value)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    writer.SetFileName(str(path))
    writer.Execute(image)
    locale.setlocale(locale.LC_ALL, kept)


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

    def execute(reader: object) -> None:
        raise RuntimeError("Exception thrown in SimpleITK\nITK ERROR: nifti_image_load failed for file: image")

    monkeypatch.setattr(sitk.ImageFileReader, "Execute", execute)
    with pytest.raises(ResourceError, match=r"image.nii.gz: expected memory for 4×4×4 voxels, found too little"):
        read(path)


def test_voxels_that_are_no_number(tmp_path: Path) -> None:
    """MetaImage keeps them for `preprocess` to deal with; ITK reads those of NIfTI as 0, which is the same."""
    array = np.array([np.nan, np.inf, -np.inf, -5.0, 0.0, 1.0, 2.0, 3.0], dtype=np.float32).reshape(2, 2, 2)
    assert np.array_equal(read(write_image(tmp_path / "odd.mha", array)).array, array, equal_nan=True)
    finite = np.where(np.isfinite(array), array, 0)
    assert np.array_equal(read(write_image(tmp_path / "odd.nii.gz", array)).array, finite)


# --- reading what is not ---------------------------------------------------------------------------------------------


def header_edit(path: Path, old: bytes, new: bytes) -> None:
    content = path.read_bytes()
    assert re.search(old, content)
    path.write_bytes(re.sub(old, new, content, count=1))


def _plain(folder: Path, suffix: str = ".mha") -> Path:
    return write_image(folder / f"image{suffix}", tissue_of(grid_of((6, 7, 8)), 100), compress=False)


def missing(folder: Path) -> Path:
    return folder / "image.mha"


def empty(folder: Path) -> Path:
    (folder / "image.mha").touch()
    return folder / "image.mha"


def text(folder: Path) -> Path:
    (folder / "image.mha").write_text("this is a letter, not an image\n" * 20)
    return folder / "image.mha"


def other_ending(folder: Path) -> Path:
    return _plain(folder).rename(folder / "image.png")


def flat(folder: Path) -> Path:
    sitk.WriteImage(sitk.Image(8, 9, sitk.sitkFloat32), str(folder / "image.mha"))
    return folder / "image.mha"


def frames(folder: Path) -> Path:
    one = sitk.Image(6, 7, 8, sitk.sitkInt16)
    sitk.WriteImage(sitk.JoinSeries([one, one, one]), str(folder / "image.nii.gz"))
    return folder / "image.nii.gz"


def colour(folder: Path) -> Path:
    sitk.WriteImage(sitk.Image([6, 7, 8], sitk.sitkVectorUInt8, 3), str(folder / "image.mha"))
    return folder / "image.mha"


def zero_spacing(folder: Path) -> Path:
    path = _plain(folder)
    header_edit(path, rb"ElementSpacing = [^\n]*", b"ElementSpacing = 1 0 1")
    return path


def negative_spacing(folder: Path) -> Path:
    path = _plain(folder)
    header_edit(path, rb"ElementSpacing = [^\n]*", b"ElementSpacing = 1 1 -2")
    return path


def sheared(folder: Path) -> Path:
    path = _plain(folder)
    header_edit(path, rb"TransformMatrix = [^\n]*", b"TransformMatrix = 1 0 0 0.3 1 0 0 0 1")
    return path


def no_direction(folder: Path) -> Path:
    path = _plain(folder)
    header_edit(path, rb"TransformMatrix = [^\n]*", b"TransformMatrix = 0 0 0 0 0 0 0 0 0")
    return path


def elsewhere(folder: Path) -> Path:
    path = _plain(folder)
    header_edit(path, rb"ElementDataFile = LOCAL", b"ElementDataFile = other.raw")
    (folder / "other.raw").write_bytes(bytes(6 * 7 * 8 * 4))
    return path


def bomb(folder: Path) -> Path:
    """A header that promises 4 TB."""
    path = _plain(folder, ".nii.gz")
    content = bytearray(gzip.decompress(path.read_bytes()))
    struct.pack_into("<3h", content, 42, 10000, 10000, 10000)
    path.write_bytes(gzip.compress(bytes(content)))
    return path


BAD = [
    (missing, "found none; check the path"),
    (empty, "empty file (0 bytes)"),
    (text, "expected a .mha image"),
    (other_ending, "expected one of .mha, .nii.gz, .nii"),
    (flat, "expected a 3D image, found 2D (8×9)"),
    (frames, "expected a 3D image, found 4D (6×7×8×3)"),
    (colour, "found 3 (colour or vector)"),
    (zero_spacing, "expected"),
    (negative_spacing, "expected"),
    (sheared, "expected orthonormal axis directions"),
    (no_direction, "expected"),
    (elsewhere, "a reference to a second file"),
    (bomb, "the file is cut"),
]


@pytest.mark.parametrize(("spoil", "said"), BAD, ids=[spoil.__name__ for spoil, _ in BAD])
def test_a_bad_file_gives_one_line_that_names_it(tmp_path: Path, spoil: Callable[[Path], Path], said: str) -> None:
    path = spoil(tmp_path)
    with pytest.raises(InputError) as error:
        read(path)
    message = str(error.value)
    assert message.startswith(f"{path}: expected")
    assert said in message
    assert "found" in message
    assert "\n" not in message


@pytest.mark.parametrize("suffix", [".mha", ".nii", ".nii.gz"])
@pytest.mark.parametrize("compress", [True, False], ids=["compressed", "plain"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.97])
def test_a_cut_file_is_never_filled_up(tmp_path: Path, suffix: str, compress: bool, share: float) -> None:
    """ITK fills what is missing of a cut NIfTI with zeros, without a word."""
    noise = np.random.default_rng(3).normal(size=(12, 16, 16)).astype(np.float32)
    path = write_image(tmp_path / f"cut{suffix}", noise, compress=compress)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(InputError, match=re.escape(str(path))):
        read(path)


@pytest.mark.parametrize("suffix", [".mha", ".nii.gz"])
def test_one_changed_byte_in_a_compressed_body_is_noticed(tmp_path: Path, suffix: str) -> None:
    noise = np.random.default_rng(4).normal(size=(12, 16, 16)).astype(np.float32)
    path = write_image(tmp_path / f"bad{suffix}", noise)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(InputError, match=re.escape(str(path))):
        read(path)


@pytest.fixture(scope="module")
def whole_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("whole")
    array = tissue_of(SKEWED, 100).astype(np.int16)
    return {
        name: write_image(folder / name, array, SKEWED, compress=compress).read_bytes()
        for name, compress in (("plain.mha", False), ("packed.mha", True), ("image.nii", False))
    }


def volume_or_line(path: Path) -> Volume | str:
    try:
        return read(path)
    except SegsyncError as error:
        return str(error)


@settings(max_examples=250, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(["plain.mha", "packed.mha", "image.nii", "image.nii.gz"]),
    flips=st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=6),
    cut=st.none() | st.integers(0, 2000),
    inserted=st.none() | st.tuples(st.integers(0, 400), st.binary(min_size=1, max_size=4)),
)
@example(kind="image.nii", flips=[(40, 7)], cut=None, inserted=None)
@example(kind="image.nii", flips=[(43, 127)], cut=None, inserted=None)
@example(kind="image.nii", flips=[(70, 0), (71, 0)], cut=None, inserted=None)
@example(kind="image.nii.gz", flips=[(43, 255)], cut=None, inserted=None)
def test_no_header_however_broken_gives_anything_but_an_image_or_one_line(
    tmp_path: Path,
    whole_files: dict[str, bytes],
    kind: str,
    flips: list[tuple[int, int]],
    cut: int | None,
    inserted: tuple[int, bytes] | None,
) -> None:
    content = bytearray(whole_files[kind.removesuffix(".gz")])
    header = 352 if ".nii" in kind else content.index(b"LOCAL") + 6
    for place, value in flips:
        content[place % header] = value
    if inserted is not None:
        content[inserted[0] % header : inserted[0] % header] = inserted[1]
    if cut is not None:
        del content[cut % len(content) :]
    path = tmp_path / kind
    path.write_bytes(gzip.compress(bytes(content), 1) if kind.endswith(".gz") else bytes(content))
    found = volume_or_line(path)
    if isinstance(found, str):
        assert str(path) in found
        assert "\n" not in found
    else:
        assert found.array.shape == found.grid.size_zyx
        assert found.array.ndim == 3
        assert min(found.grid.spacing_zyx) > 0
        assert np.isfinite(found.grid.corners()).all()


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
