"""What a reader hands over: voxels, and where they lie, as the file says it."""

import contextlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from segsync.errors import InputError, SegsyncError

Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Stored:
    """A file's content, not yet judged. Spacing, origin and direction are in (x, y, z).

    Attributes:
        array: (Z, Y, X), or (T, Z, Y, X) of several volumes, or of another number of axes where the file is no volume.
        spacing: Millimetres of the first three index axes.
        origin: LPS mm of voxel (0, 0, 0).
        direction: 3×3; columns are the directions of the X, Y and Z index axes in LPS.
        warnings: What of this the file leaves in doubt.
        bvalues: In s/mm², of each of the T volumes, where the file is a diffusion series that tells them.
    """

    array: npt.NDArray[np.generic]
    spacing: Matrix
    origin: Matrix
    direction: Matrix
    warnings: tuple[str, ...] = ()
    bvalues: tuple[float, ...] | None = None

    @classmethod
    def placed(
        cls, array: npt.NDArray[np.generic], affine: Matrix, said: tuple[str, ...], bvalues: tuple[float, ...] | None
    ) -> "Stored":
        """From a 4×4 matrix that brings indices (x, y, z, 1) to LPS millimetres."""
        spacing = np.linalg.norm(affine[:3, :3], axis=0)
        with np.errstate(all="ignore"):
            direction = affine[:3, :3] / spacing
        return cls(array, spacing, affine[:3, 3], direction, said, bvalues)


@contextlib.contextmanager
def understood(path: Path, kind: str) -> Iterator[None]:
    """Whatever a library of Python raises at a damaged file becomes InputError; its warnings are not passed on.

    These libraries raise what their parsing happens to run into: KeyError, struct.error, RecursionError and more.
    Raises InputError; SegsyncError, OSError and MemoryError pass.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (SegsyncError, OSError, MemoryError):
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(
            f"{path}: expected {kind}, found what cannot be read ({reason}); copy or convert it again"
        ) from error
