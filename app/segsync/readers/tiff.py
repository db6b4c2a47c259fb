"""TIFF (.tif, .tiff), a page a slice, by Pillow in a child process: it holds no place and no voxel size in mm."""

from pathlib import Path

import numpy as np

from segsync.errors import InputError
from segsync.readers.decoder import MOST_BYTES, decode
from segsync.readers.stored import Stored

#: How often smaller a compressed TIFF is expected to be than its pages.
DENSITY = 16


def read(path: Path) -> Stored:
    """Read the pages of a TIFF as slices; raises InputError where they are of several kinds or cannot be decoded."""
    with path.open("rb") as file:
        if file.read(2) not in (b"II", b"MM"):
            size = path.stat().st_size
            raise InputError(
                f"{path}: expected a TIFF image, found {size} bytes that cannot be decoded; copy or convert it"
            )
    array = decode("tiff", [path], min(path.stat().st_size * DENSITY, MOST_BYTES), path)
    said = "TIFF holds no patient geometry: neither place nor orientation, and a slice spacing of 1 mm"
    return Stored(array, np.ones(3), np.zeros(3), np.eye(3), (said,))
