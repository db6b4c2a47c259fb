"""Whether an image file holds all the voxels that its header promises: of a cut file ITK reads what is left of it."""

import gzip
import math
import re
import struct
import zlib
from pathlib import Path
from typing import BinaryIO

import SimpleITK as sitk

from segsync.errors import InputError

#: No deflate stream is denser: a header that promises more voxels than this is wrong.
DEFLATE_LIMIT = 1032
#: Bytes at the start of a .mha or .nrrd in which its header must end; copied DICOM tags make long ones.
TEXT_HEADER = 1 << 20
#: What a NIfTI header begins with, its own length, in the byte order of all that follows.
NIFTI_HEADER = 348
#: What a gzip file begins with, whatever its name ends with.
GZIP_MAGIC = b"\x1f\x8b"
#: By a TIFF's magic number: letters of `struct` for the count and the offset of a directory, and an entry's bytes.
TIFF_DIRECTORIES = {42: ("H", "I", 12), 43: ("Q", "Q", 20)}


def check_whole(path: Path, suffix: str, reader: sitk.ImageFileReader) -> None:
    """Compare the header, read by `reader`, with the bytes that are there; raises InputError where some are missing."""
    voxels, size = math.prod(reader.GetSize()), path.stat().st_size
    if suffix in (".tif", ".tiff"):
        _check_tiff(path)
        return
    if suffix in (".nii", ".nii.gz"):
        # As stored: what a slope scales is read as float32 or float64, whatever lies in the file.
        needed = voxels * int(reader.GetMetaData("bitpix")) // 8
        whole = not is_gzip(path) or needed > size * DEFLATE_LIMIT
        with path.open("rb") as file:
            held = (size if whole else _inflated(path, file)) - int(float(reader.GetMetaData("vox_offset")))
    else:
        needed = voxels * reader.GetNumberOfComponents() * _bytes_per_voxel(reader.GetPixelID())
        held = _body_of_mha(path, needed) if suffix == ".mha" else _body_of_nrrd(path, needed)
    if held < needed:
        raise InputError(
            f"{path}: expected the {needed} bytes of voxels that its header promises, found {max(0, held)}; "
            "the file is cut: copy it again"
        )


def is_gzip(path: Path) -> bool:
    """Whether a file is compressed, by its content: ITK reads a .nii.gz that is not, and no .nii that is."""
    with path.open("rb") as file:
        return file.read(len(GZIP_MAGIC)) == GZIP_MAGIC


def nifti_spacing(path: Path) -> tuple[float, float, float]:
    """The three numbers that a NIfTI header, which ITK could read, gives as spacing: `pixdim[1]` to `pixdim[3]`."""
    opened = gzip.open if is_gzip(path) else open
    with opened(path, "rb") as file:
        header = file.read(92)
    order = "<" if struct.unpack_from("<i", header)[0] == NIFTI_HEADER else ">"
    x, y, z = struct.unpack_from(f"{order}3f", header, 80)
    return x, y, z


def _bytes_per_voxel(pixel_id: int) -> int:
    wide = {sitk.sitkInt16: 2, sitk.sitkUInt16: 2, sitk.sitkInt32: 4, sitk.sitkUInt32: 4, sitk.sitkFloat32: 4}
    return wide.get(pixel_id, 8 if pixel_id in (sitk.sitkFloat64, sitk.sitkInt64, sitk.sitkUInt64) else 1)


def _body_of_mha(path: Path, needed: int) -> int:
    """Bytes of voxels, inflated where they are compressed: ITK takes a broken stream for an image."""
    with path.open("rb") as file:
        start = file.read(TEXT_HEADER)
        end = re.search(rb"ElementDataFile *= *(LOCAL|Local|local) *\r?\n", start)
        if end is None:
            raise InputError(
                f"{path}: expected a .mha with its voxels inside, found a reference to a second file; convert it"
            )
        body = path.stat().st_size - end.end()
        if not re.search(rb"CompressedData *= *[Tt1]", start[: end.start()]) or needed > body * DEFLATE_LIMIT:
            return body
        file.seek(end.end())
        inflate, total = zlib.decompressobj(zlib.MAX_WBITS | 32), 0
        try:
            while not inflate.eof and (block := file.read(1 << 16)):
                total += len(inflate.decompress(block))
        except zlib.error as error:
            raise InputError(f"{path}: expected whole compressed voxels, found {error}; copy it again") from error
        return total


def _body_of_nrrd(path: Path, needed: int) -> int:
    """Bytes of voxels, inflated where they are compressed; bzip2 and text, in which ITK finds faults itself, count as
    whole.
    """
    with path.open("rb") as file:
        start = file.read(TEXT_HEADER)
        end = re.search(rb"\r?\n\r?\n", start)
        encoding = re.search(rb"(?im)^encoding: *(\w+)", start[: end.start()] if end else b"")
        if end is None or encoding is None or re.search(rb"(?im)^(data ?file|byte ?skip):", start[: end.start()]):
            raise InputError(
                f"{path}: expected a .nrrd with its voxels after the header, found them elsewhere; convert it"
            )
        file.seek(end.end())
        body = path.stat().st_size - end.end()
        kind = encoding[1].lower()
        if kind in (b"gzip", b"gz") and needed <= body * DEFLATE_LIMIT:
            return _inflated(path, file)
        return body if kind in (b"raw", b"gzip", b"gz") else needed


def _inflated(path: Path, file: BinaryIO) -> int:
    """Bytes of the gzip stream from here on, whose checksum must be right."""
    total = 0
    try:
        with gzip.GzipFile(fileobj=file) as stream:
            while block := stream.read(1 << 22):
                total += len(block)
    except (EOFError, OSError, zlib.error) as error:
        raise InputError(f"{path}: expected a whole gzip file, found {error}; copy it again") from error
    return total


def _check_tiff(path: Path) -> None:
    """Follow the chain of slices to its end: libtiff takes the slices before a cut for all there are."""
    with path.open("rb") as file:
        try:
            order = {b"II": "<", b"MM": ">"}[file.read(2)]
            magic = _number(file, f"{order}H")
            count, offset, entry = TIFF_DIRECTORIES[magic]
            file.seek(4 if magic == 42 else 8)
            while place := _number(file, order + offset):
                file.seek(place)
                file.seek(_number(file, order + count) * entry, 1)
        except (KeyError, struct.error) as error:
            raise InputError(
                f"{path}: expected a TIFF with all its slices, found its end before; the file is cut: copy it again"
            ) from error


def _number(file: BinaryIO, layout: str) -> int:
    (value,) = struct.unpack(layout, file.read(struct.calcsize(layout)))
    return int(value)
