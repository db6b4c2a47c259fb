"""Files made to kill, hang or swell the process that reads them: each is one line, at once, in little memory."""

import gzip
import resource
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from builders import grid_of, tissue_of, write_image
from dicom_files import classic, compressed, save
from segsync.errors import InputError, SegsyncError
from segsync.geometry import Volume
from segsync.images import read

HEADER = b"""ObjectType = Image
NDims = 3
BinaryData = True
DimSize = 8 8 8
ElementSpacing = 1 1 1
ElementType = MET_SHORT
ElementDataFile = LOCAL
"""
NRRD = """NRRD0004
type: short
dimension: 3
sizes: 8 8 8
space directions: (1,0,0) (0,1,0) (0,0,1)
space: left-posterior-superior
encoding: raw
endian: little
"""
VOXELS = b"\1" * 1024


def refused(path: Path) -> str:
    with pytest.raises(InputError) as error:
        read(path)
    line = str(error.value)
    assert line.startswith(str(path))
    assert "\n" not in line
    assert len(line) < 1000
    return line


def image_or_line(path: Path) -> Volume | str:
    try:
        return read(path)
    except SegsyncError as error:
        return str(error)


# --- MetaImage and NRRD ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dimensions", ["-1", "0", "10", "11", "30000", "2147483647", "9" * 20, "1e308", "3 3", ""])
def test_a_metaimage_of_absurd_dimensions(tmp_path: Path, dimensions: str) -> None:
    path = tmp_path / "image.mha"
    path.write_bytes(HEADER.replace(b"NDims = 3", b"NDims = " + dimensions.encode()) + VOXELS)
    refused(path)


@pytest.mark.parametrize("name", ["/etc/passwd", "../secret.raw", "secret.raw", "LIST", "%03d.raw 1 8 1"])
def test_a_metaimage_that_names_another_file_does_not_get_it(tmp_path: Path, name: str) -> None:
    (tmp_path / "secret.raw").write_bytes(VOXELS)
    path = tmp_path / "image.mha"
    path.write_bytes(HEADER.replace(b"LOCAL", name.encode()) + VOXELS)
    assert "a reference to a second file" in refused(path)


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../secret.raw", "inner/secret.raw", "LIST", "link.raw", ".", "gone.raw"]
)
def test_an_mhd_gets_no_bytes_but_those_of_a_plain_file_beside_it(tmp_path: Path, name: str) -> None:
    for secret in (tmp_path / "secret.raw", tmp_path / "case" / "inner" / "secret.raw"):
        secret.parent.mkdir(parents=True, exist_ok=True)
        secret.write_bytes(VOXELS)
    path = tmp_path / "case" / "image.mhd"
    (tmp_path / "case" / "link.raw").symlink_to(tmp_path / "secret.raw")
    path.write_bytes(HEADER.replace(b"LOCAL", name.encode()))
    assert "expected its voxels in a plain file of the same folder" in refused(path)


def test_a_metaimage_that_says_two_things_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "image.mha"
    path.write_bytes(HEADER.replace(b"NDims", b"ElementSpacing = 2 2 2\nNDims") + VOXELS)
    assert "expected the field ElementSpacing once, found two values" in refused(path)


def test_a_metaimage_without_spacing_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "image.mha"
    path.write_bytes(HEADER.replace(b"ElementSpacing = 1 1 1\n", b"") + VOXELS)
    assert "found no ElementSpacing" in refused(path)


@pytest.mark.parametrize("field", ["encoding: {}", "type: {}", "{}", "sizes: 8 8 8 {}", "k:={}", "space: {}"])
@pytest.mark.parametrize("length", [2000, 500_000])
def test_an_nrrd_with_an_endless_field(tmp_path: Path, field: str, length: int) -> None:
    path = tmp_path / "image.nrrd"
    line = field.format("A" * length)
    kept = [old for old in NRRD.splitlines() if old.split(":")[0] != line.split(":")[0]]
    path.write_bytes("\n".join([*kept, line, "", ""]).encode() + VOXELS)
    found = image_or_line(path)
    assert len(found) < 1000 if isinstance(found, str) else found.array.shape == (8, 8, 8)


# --- NIfTI -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, 3e38])
@pytest.mark.parametrize("place", [280, 284, 292, 316, 256, 260, 268, 80, 112])
def test_a_nifti_of_infinite_geometry(tmp_path: Path, value: float, place: int) -> None:
    """Rows of the sform, quaternion and offset of the qform, spacing, slope: ITK never returned from some."""
    path = write_image(tmp_path / "image.nii", tissue_of(grid_of((4, 5, 6)), 100))
    content = bytearray(path.read_bytes())
    struct.pack_into("<f", content, place, value)
    path.write_bytes(content)
    found = image_or_line(path)
    assert str(path) in found if isinstance(found, str) else np.isfinite(found.grid.corners()).all()


# --- sizes that are promised, and streams that hold more -------------------------------------------------------------

#: Reads a file in a process that has 768 MiB of address space beyond what its imports take, and 5 s.
LIMITED = """
import resource, sys
from pathlib import Path
import nibabel, nrrd, pydicom, pydicom.pixels
from segsync.errors import SegsyncError
from segsync.images import read
held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (held + (768 << 20),) * 2)
resource.setrlimit(resource.RLIMIT_CPU, (resource.getrusage(resource.RUSAGE_SELF).ru_utime.__ceil__() + 5,) * 2)
try:
    print("READ", read(Path(sys.argv[1])).array.shape)
except SegsyncError as error:
    print("LINE", error)
"""


def limited(path: Path) -> str:
    done = subprocess.run([sys.executable, "-c", LIMITED, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-500:]
    return done.stdout


def test_streams_of_zeros_and_promises_of_terabytes_take_no_memory(tmp_path: Path) -> None:
    zeros = b"".join(gzip.compress(bytes(1 << 26), 1) for _ in range(1)) * 64  # 4 GiB in 20 MB
    for name, start in (("a.nii.gz", _nifti()), ("b.nrrd", NRRD.replace("raw", "gzip").encode() + b"\n")):
        path = tmp_path / name
        path.write_bytes(gzip.compress(start) + zeros if name.endswith("gz") else start + zeros)
        assert "promises, found more" in limited(path)
    huge = bytearray(_nifti())
    struct.pack_into("<3h", huge, 42, 30000, 30000, 30000)
    (tmp_path / "c.nii.gz").write_bytes(gzip.compress(bytes(huge)) + zeros)
    assert "the file is cut" in limited(tmp_path / "c.nii.gz")


def _nifti() -> bytes:
    header = bytearray(352)
    struct.pack_into("<i", header, 0, 348)
    struct.pack_into("<8h", header, 40, 3, 8, 8, 8, 1, 1, 1, 1)
    struct.pack_into("<hh", header, 70, 4, 16)
    struct.pack_into("<8f", header, 76, 1, 2, 2, 2, 1, 1, 1, 1)
    struct.pack_into("<f", header, 108, 352)
    struct.pack_into("<12f", header, 280, 2, 0, 0, 0, 0, 2, 0, 0, 0, 0, 2, 0)
    struct.pack_into("<h", header, 254, 1)
    header[344:348] = b"n+1\0"
    return bytes(header)


def test_lengths_that_a_dicom_file_claims_take_no_memory(tmp_path: Path) -> None:
    folder = save(tmp_path / "mr", classic(np.ones((3, 16, 16), np.uint16), [0, 1, 2]))
    path = folder / "001.dcm"
    content = path.read_bytes()
    place = content.index(struct.pack("<HH", 0x7FE0, 0x0010)) + 8
    path.write_bytes(content[:place] + struct.pack("<I", 0xFFFFFFF0) + content[place + 4 : -1])
    assert "less than expected" in limited(folder)


def test_a_small_compressed_slice_that_promises_gigabytes(tmp_path: Path) -> None:
    [one] = [compressed(one) for one in classic(np.ones((1, 16, 16), np.uint16), [0])]
    one.Rows = one.Columns = 65535
    assert "the file is cut" in limited(save(tmp_path / "mr", [one]))


# --- TIFF ------------------------------------------------------------------------------------------------------------


def tiff(path: Path, pages: list[dict[str, int]], *, circle: bool = False) -> Path:
    """A classic TIFF of uncompressed grey pages; circle: the last is followed by the first."""
    out, link = bytearray(b"II*\0\0\0\0\0"), 4
    first = 0
    for page in pages:
        data = bytes(page["w"] * page["h"] * page["bits"] // 8)
        strip = len(out)
        out += data
        tags = [(254, 4, page.get("kind", 0)), (256, 4, page["w"]), (257, 4, page["h"]), (258, 3, page["bits"])]
        tags += [(259, 3, 1), (262, 3, 1), (273, 4, strip), (277, 3, 1), (278, 4, page["h"]), (279, 4, len(data))]
        struct.pack_into("<I", out, link, len(out))
        first = first or len(out)
        out += struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", tag, kind, 1, v) for tag, kind, v in tags)
        link = len(out)
        out += bytes(4)
    if circle:
        struct.pack_into("<I", out, link, first)
    path.write_bytes(out)
    return path


PAGE = {"w": 16, "h": 16, "bits": 16}


@pytest.mark.parametrize(
    "other", [{"w": 64, "h": 64}, {"bits": 8}, {"w": 4, "h": 4}], ids=["larger", "depth", "smaller"]
)
def test_pages_of_two_kinds_are_refused(tmp_path: Path, other: dict[str, int]) -> None:
    """ITK writes beyond its buffer."""
    assert "pages of two kinds" in refused(tiff(tmp_path / "image.tif", [PAGE] * 4 + [PAGE | other] + [PAGE] * 3))


def test_pages_in_a_circle_end(tmp_path: Path) -> None:
    began = time.monotonic()
    path = tiff(tmp_path / "image.tif", [PAGE] * 3, circle=True)
    found = image_or_line(path)
    assert str(path) in found if isinstance(found, str) else len(found.array) == 3
    assert time.monotonic() - began < 30


def test_the_decoder_has_limits(tmp_path: Path) -> None:
    """A page of 2 GiB that the file does not hold."""
    path = tiff(tmp_path / "image.tif", [PAGE])
    content = bytearray(path.read_bytes())
    for tag in (256, 257):
        place = content.index(struct.pack("<HHI", tag, 4, 1)) + 8
        struct.pack_into("<I", content, place, 1 << 15)
    path.write_bytes(content)
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    refused(path)
    assert max(0, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss - before) < 1 << 20


# --- pointers --------------------------------------------------------------------------------------------------------


def test_content_that_was_not_fetched_is_named(tmp_path: Path) -> None:
    """DataLad, git-annex, Git LFS: links to nowhere, and small texts in the image's place."""
    link = tmp_path / "link.nii.gz"
    link.symlink_to("../.git/annex/objects/x/y/MD5E-s1--z.nii.gz")
    assert "found a link to a missing file; fetch it (git annex get" in refused(link)
    for text in (
        "/annex/objects/MD5E-s4096--d41d8.nii.gz\n",
        "version https://git-lfs.github.com/spec/v1\noid sha256:4\n",
    ):
        path = tmp_path / "pointer.nii.gz"
        path.write_text(text)
        assert "the pointer to one that was not fetched; fetch it" in refused(path)
