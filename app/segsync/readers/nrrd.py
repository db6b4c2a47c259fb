"""NRRD (.nrrd) with its voxels after the header, by pynrrd's header and the bytes that it promises.

Format: http://teem.sourceforge.net/nrrd/format.html.
"""

import io
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from segsync.errors import InputError
from segsync.readers.stored import Stored, understood
from segsync.readers.stream import opened, read_text, read_voxels

#: Bytes in which a header must end; copied DICOM tags make long ones.
HEADER = 1 << 20
#: What turns a named space into LPS; of others a file does not say where left is.
TO_LPS = {
    "left-posterior-superior": (1, 1, 1),
    "lps": (1, 1, 1),
    "right-anterior-superior": (-1, -1, 1),
    "ras": (-1, -1, 1),
    "left-anterior-superior": (1, -1, 1),
    "las": (1, -1, 1),
}
ENCODINGS = {"raw": "raw", "gzip": "gzip", "gz": "gzip"}
TEXT = ("ascii", "text", "txt")


def read(path: Path) -> Stored:
    """Read an NRRD; raises InputError where the header is damaged or promises other voxels than there are."""
    import nrrd  # its import takes time that a start without such a file need not spend

    with path.open("rb") as file, understood(path, "an .nrrd image"):
        start = io.BytesIO(file.read(HEADER))
        header: dict[str, Any] = dict(nrrd.read_header(start))
        file.seek(start.tell())
        if {"data file", "datafile", "byte skip", "byteskip", "line skip", "lineskip"} & header.keys():
            raise InputError(
                f"{path}: expected a .nrrd with its voxels after the header, found them elsewhere; convert it"
            )
        sizes = [int(side) for side in header["sizes"]]
        if len(sizes) != header["dimension"] or min(sizes) < 1:
            raise InputError(f"{path}: expected voxels along every axis, found {sizes}; convert the image again")
        kinds = header.get("kinds") or ["domain"] * len(sizes)
        if len(sizes) == 4 and kinds[0] not in ("domain", "space", "time"):
            raise InputError(
                f"{path}: expected one value a voxel, found {sizes[0]} (colour or vector); convert the image"
            )
        dtype = nrrd.reader._determine_datatype(header)
        if dtype.kind not in "iuf":
            raise InputError(f"{path}: expected a type of voxel that is a number, found {dtype}; convert the image")
        encoding = str(header["encoding"]).lower()
        if encoding in TEXT:
            array = read_text(path, file, dtype, sizes[::-1])
        elif encoding in ENCODINGS:
            stream, density = opened(file, ENCODINGS[encoding])
            array = read_voxels(path, stream, dtype, sizes[::-1], density=density)
        else:
            raise InputError(f"{path}: expected voxels as raw, gzip or text, found {encoding[:40]!r}; convert it")
        return _placed(path, header, array)


def _placed(path: Path, header: dict[str, Any], array: npt.NDArray[np.generic]) -> Stored:
    space = str(header.get("space", "")).lower().removesuffix("-time")
    said = []
    if space not in TO_LPS:
        said.append(f"the header names no space of the patient ({space or 'none'}): taken as left-posterior-superior")
    signs = np.array(TO_LPS.get(space, (1, 1, 1)), dtype=np.float64)
    origin = header.get("space origin")
    if "space directions" in header:
        affine = np.eye(4)
        affine[:3, :3] = (np.asarray(header["space directions"], dtype=np.float64)[:3] * signs).T
        affine[:3, 3] = 0 if origin is None else np.asarray(origin, dtype=np.float64) * signs
        return Stored.placed(array, affine, tuple(said), None)
    if "spacings" not in header:
        raise InputError(f"{path}: no voxel spacing in mm; correct the header")
    said.append("the header holds no directions: the image is taken to lie along the axes of LPS")
    spacing = np.asarray(header["spacings"], dtype=np.float64)[:3]
    place = np.zeros(3) if origin is None else np.asarray(origin, dtype=np.float64) * signs
    return Stored(array, spacing, place, np.eye(3), tuple(said))
