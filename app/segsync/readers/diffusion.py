"""A diffusion series of several b-values: the trace image and the ADC that a scanner would have made of it."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from segsync.errors import InputError

#: Bytes of a file of b-values.
TEXT = 1 << 20
#: b-values of one shell differ by less than this share, or by this many s/mm².
SHELL_SHARE, SHELL_B = 0.05, 50.0


def bvalues_file(path: Path) -> Path | None:
    """The `.bval` file beside an image, None if it has no such file."""
    name = path.name.lower()
    stem = path.name[: -len(".nii.gz")] if name.endswith(".nii.gz") else path.stem
    places = (path.with_name(stem + ending) for ending in (".bval", ".bvals"))
    return next((place for place in places if place.is_file()), None)


def bvalues_beside(path: Path, count: int) -> tuple[float, ...] | None:
    """The b-values in the `.bval` file beside a four-dimensional image.

    Args:
        path: Of the image.
        count: Its volumes.

    Returns:
        In s/mm²; None if there is no such file.

    Raises:
        InputError: It holds other than one number for each volume.
    """
    beside = bvalues_file(path)
    if beside is None:
        return None
    with beside.open("rb") as file:
        words = file.read(TEXT).split()
    try:
        values = tuple(float(word) for word in words)
    except ValueError:
        values = ()
    if len(values) != count or not all(0 <= value < np.inf for value in values):
        raise InputError(f"{beside}: expected {count} b-values, one a volume, found {len(words)} words; correct it")
    return values


def _shell(bvalues: npt.NDArray[np.float64], b: float) -> npt.NDArray[np.bool_]:
    return np.abs(bvalues - b) <= max(SHELL_B, SHELL_SHARE * b)


def trace(path: Path, volumes: npt.NDArray[Any], bvalues: tuple[float, ...]) -> tuple[npt.NDArray[np.float32], str]:
    """The mean (Z, Y, X) of the volumes (T, Z, Y, X) of the highest b-value, and a line that says so.

    Raises InputError where no volume is weighted by diffusion.
    """
    b = np.array(bvalues)
    if b.max() <= SHELL_B:
        raise InputError(
            f"{path}: expected volumes weighted by diffusion, found b-values up to {b.max():.0f} s/mm²; give the DWI"
        )
    highest = _shell(b, float(b.max()))
    image: npt.NDArray[np.float32] = np.mean(volumes[highest], axis=0, dtype=np.float32)
    return image, (
        f"a diffusion series of {len(b)} volumes: the image is the mean of the {int(highest.sum())} of the highest "
        f"b-value ({b.max():.0f} s/mm²)"
    )


def fitted_adc(
    path: Path, volumes: npt.NDArray[Any], bvalues: tuple[float, ...]
) -> tuple[npt.NDArray[np.float32], str]:
    """The apparent diffusion coefficient from the lowest and the highest shell.

    ADC = ln(S_low / S_high) / (b_high − b_low) (Le Bihan et al. 1986), 0 where a signal is 0 or rises.

    Args:
        path: Of the series, for messages.
        volumes: (T, Z, Y, X).
        bvalues: Of each, s/mm².

    Returns:
        (Z, Y, X) in 10⁻⁶ mm²/s, and which shells it is from, in words.

    Raises:
        InputError: All b-values are one.
    """
    b = np.array(bvalues)
    low, high = _shell(b, float(b.min())), _shell(b, float(b.max()))
    if (low & high).any():
        raise InputError(f"{path}: expected volumes of two b-values to fit an ADC, found one; give the ADC")
    below: npt.NDArray[np.float32] = np.mean(volumes[low], axis=0, dtype=np.float32)
    above: npt.NDArray[np.float32] = np.mean(volumes[high], axis=0, dtype=np.float32)
    step = float(b[high].mean() - b[low].mean())
    adc = np.zeros_like(below)
    seen = (below > 0) & (above > 0)
    adc[seen] = np.maximum(0, np.log(below[seen] / above[seen])) / step * 1e6
    return adc, f"fitted from the diffusion series' b-values {b[low].mean():.0f} and {b[high].mean():.0f} s/mm²"
