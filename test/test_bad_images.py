"""Image files that are cut, damaged or no images: one clear line each, never a filled-up image."""

import gzip
import math
import re
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from builders import SKEWED, grid_of, tissue_of, write_image
from segsync.errors import InputError, SegsyncError
from segsync.geometry import Volume
from segsync.images import read


def _plain(folder: Path, suffix: str = ".mha") -> Path:
    return write_image(folder / f"image{suffix}", tissue_of(grid_of((6, 7, 8)), 100), compress=False)


def _with(folder: Path, field: bytes, value: bytes) -> Path:
    """A MetaImage of whose header one field is another."""
    path = _plain(folder)
    content, found = re.subn(rb"\n%s = [^\n]*" % field, rb"\n%s = %s" % (field, value), path.read_bytes(), count=1)
    assert found
    path.write_bytes(content)
    return path


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
    return _with(folder, b"ElementSpacing", b"1 0 1")


def negative_spacing(folder: Path) -> Path:
    return _with(folder, b"ElementSpacing", b"1 1 -2")


def sheared(folder: Path) -> Path:
    return _with(folder, b"TransformMatrix", b"1 0 0 0.3 1 0 0 0 1")


def no_origin(folder: Path) -> Path:
    return _with_origin(folder, math.nan)


def origin_far_away(folder: Path) -> Path:
    return _with_origin(folder, 3e38)


def _with_origin(folder: Path, x: float) -> Path:
    path = _plain(folder, ".nii")
    content = bytearray(path.read_bytes())
    for place in (268, 292):  # of the qform and of the sform
        struct.pack_into("<f", content, place, x)
    path.write_bytes(content)
    return path


def no_direction(folder: Path) -> Path:
    return _with(folder, b"TransformMatrix", b"0 0 0 0 0 0 0 0 0")


def elsewhere(folder: Path) -> Path:
    (folder / "other.raw").write_bytes(bytes(6 * 7 * 8 * 4))
    return _with(folder, b"ElementDataFile", b"other.raw")


def bomb(folder: Path) -> Path:
    """A header that promises 4 TB."""
    path = _plain(folder, ".nii.gz")
    content = bytearray(gzip.decompress(path.read_bytes()))
    struct.pack_into("<3h", content, 42, 10000, 10000, 10000)
    path.write_bytes(gzip.compress(bytes(content)))
    return path


BAD = [
    (missing, "no image file; check the path"),
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
    (no_origin, "expected an origin within a kilometre"),
    (origin_far_away, "expected an origin within a kilometre"),
    (elsewhere, "a reference to a second file"),
    (bomb, "the file is cut"),
]


@pytest.mark.parametrize(("spoil", "said"), BAD, ids=[spoil.__name__ for spoil, _ in BAD])
def test_a_bad_file_gives_one_line_that_names_it(tmp_path: Path, spoil: Callable[[Path], Path], said: str) -> None:
    path = spoil(tmp_path)
    with pytest.raises(InputError) as error:
        read(path)
    message = str(error.value)
    assert re.match(rf"{re.escape(str(path))}: (expected .* found |no image file; )", message)
    assert said in message
    assert "\n" not in message


@pytest.mark.parametrize("suffix", [".mha", ".nii", ".nii.gz"])
@pytest.mark.parametrize("compress", [True, False], ids=["compressed", "plain"])
@pytest.mark.parametrize("fraction", [0.02, 0.5, 0.97])
def test_a_cut_file_is_never_filled_up(tmp_path: Path, suffix: str, compress: bool, fraction: float) -> None:
    """ITK fills what is missing of a cut NIfTI with zeros, without a word."""
    noise = np.random.default_rng(3).normal(size=(12, 16, 16)).astype(np.float32)
    path = write_image(tmp_path / f"cut{suffix}", noise, compress=compress)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * fraction)])
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
