"""MetaImage (.mha, .mhd): lines of text, then voxels in the same file or in one that the header names.

Format: https://itk.org/Wiki/ITK/MetaIO/Documentation. The name is whatever the sender wrote: only a .mhd gets another
file's bytes, and only those of a plain file in its own folder.
"""

import sys
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from segsync.errors import InputError
from segsync.readers.stored import Matrix, Stored, understood
from segsync.readers.stream import opened, read_text, read_voxels

#: Bytes in which a header must end; copied DICOM tags make long ones.
HEADER = 1 << 20
#: Further names of a field.
SYNONYMS = {
    "Position": "Offset",
    "Origin": "Offset",
    "Orientation": "TransformMatrix",
    "Rotation": "TransformMatrix",
    "BinaryDataByteOrderMSB": "ElementByteOrderMSB",
}
TYPES = {
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_LONG": "i4",
    "MET_ULONG": "u4",
    "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}


def read(path: Path) -> Stored:
    """Read a MetaImage; raises InputError where the header lacks a field or promises other voxels than there are."""
    with path.open("rb") as file, understood(path, f"a {path.suffix.lower()} image"):
        fields = _header(path, file)
        dimensions = int(fields["NDims"])
        size = [int(word) for word in fields["DimSize"].split()]
        if not (1 <= dimensions <= 4 and len(size) == dimensions and min(size) > 0):
            raise InputError(
                f"{path}: expected a 3D image, found {fields['NDims']} dimensions of sizes {fields['DimSize'][:80]!r}; "
                "convert the image again"
            )
        channels = int(fields.get("ElementNumberOfChannels", "1"))
        if channels != 1:
            raise InputError(
                f"{path}: expected one value a voxel, found {channels} (colour or vector); convert the image"
            )
        if fields["ElementType"] not in TYPES:
            raise InputError(
                f"{path}: expected a type of voxel that is a number, found {fields['ElementType'][:80]!r}; "
                "convert the image"
            )
        if int(fields.get("HeaderSize", "0")) != 0:
            raise InputError(f"{path}: expected voxels alone after the header, found another header; convert it")
        if fields["ElementDataFile"].lower() == "local":
            array = _voxels(path, file, fields, size[::-1])
        else:
            beside = _beside(path, fields["ElementDataFile"])
            with beside.open("rb") as second:
                array = _voxels(beside, second, fields, size[::-1])
        return _placed(path, fields, dimensions, array)


def _beside(path: Path, name: str) -> Path:
    """The file of that name in the header's folder; raises InputError if it is missing or leads out of it."""
    if path.suffix.lower() != ".mhd":
        raise InputError(
            f"{path}: expected a .mha with its voxels inside, found a reference to a second file; convert it"
        )
    beside = path.parent / name
    if Path(name).name != name or beside.is_symlink() or not beside.is_file():
        raise InputError(
            f"{path}: expected its voxels in a plain file of the same folder, found the name {name[:80]!r}; put that "
            "file beside it, or convert the image to .mha"
        )
    return beside


def _voxels(path: Path, file: BinaryIO, fields: dict[str, str], shape: list[int]) -> npt.NDArray[np.generic]:
    """The array from here on in a file, as the fields tell its type and encoding."""
    order = ">" if _true(fields, "ElementByteOrderMSB", sys.byteorder == "big") else "<"
    dtype = np.dtype(order + TYPES[fields["ElementType"]])
    if not _true(fields, "BinaryData", default=False):
        return read_text(path, file, dtype, shape)
    stream, density = opened(file, "zlib" if _true(fields, "CompressedData", default=False) else "raw")
    return read_voxels(path, stream, dtype, shape, density=density)


def _header(path: Path, file: BinaryIO) -> dict[str, str]:
    """The fields up to `ElementDataFile`, after which the voxels begin."""
    fields: dict[str, str] = {}
    left = HEADER
    while "ElementDataFile" not in fields and (line := file.readline(left)):
        left -= len(line)
        name, found, value = line.decode("utf-8", "replace").partition("=")
        name = SYNONYMS.get(name.strip(), name.strip())
        if found and fields.setdefault(name, value.strip()) != value.strip():
            raise InputError(f"{path}: expected the field {name} once, found two values; correct the header")
    missing = [name for name in ("NDims", "DimSize", "ElementType", "ElementDataFile") if name not in fields]
    if missing or fields.get("ObjectType", "Image") != "Image":
        raise InputError(
            f"{path}: expected a {path.suffix.lower()} image, found {path.stat().st_size} bytes that cannot be decoded "
            f"({'no field ' + missing[0] if missing else 'another object'}); copy or convert it again"
        )
    return fields


def _true(fields: dict[str, str], name: str, default: bool) -> bool:
    return fields[name][:1] in ("T", "t", "1") if name in fields else default


def _placed(path: Path, fields: dict[str, str], dimensions: int, array: npt.NDArray[np.generic]) -> Stored:
    spacing = fields.get("ElementSpacing", fields.get("ElementSize"))
    if spacing is None:
        raise InputError(f"{path}: expected a voxel spacing in mm, found no ElementSpacing; correct the header")
    unplaced = [name for name in ("Offset", "TransformMatrix") if name not in fields]
    offset = _numbers(path, fields.get("Offset", " ".join(["0"] * dimensions)), dimensions, "Offset")
    matrix = np.eye(dimensions)
    if "TransformMatrix" in fields:
        # The file lists one axis' direction after the other: those are our columns.
        listed = _numbers(path, fields["TransformMatrix"], dimensions**2, "TransformMatrix")
        matrix = listed.reshape(dimensions, dimensions).T
    said = f"the header holds no {' and no '.join(unplaced)}: the image is taken to lie along the axes of LPS"
    return Stored(
        array,
        _numbers(path, spacing, dimensions, "ElementSpacing")[:3],
        offset[:3],
        matrix[:3, :3],
        (said,) if unplaced else (),
    )


def _numbers(path: Path, text: str, count: int, name: str) -> Matrix:
    words = text.split()
    if len(words) != count:
        raise InputError(
            f"{path}: expected {count} numbers as {name}, found {len(words)} ({text[:80]!r}); correct the header"
        )
    return np.array([float(word) for word in words])
