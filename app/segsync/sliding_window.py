"""Windows over a volume: Gaussian weights, mirroring, stitching. Knows nothing of engines.

A predictor is any function from `(1, C, z, y, x)` float32 to `(1, L, z, y, x)` float32 of the same sides.
"""

import itertools
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from segsync.arrays import Array, Mask, SizeZYX, bounding_box
from segsync.errors import ResourceError

log = logging.getLogger(__name__)

Predictor = Callable[[Array], Array]
Flip = tuple[int, ...]

#: Standard deviation of the window's weight as a fraction of its side, as in nnU-Net (Isensee et al. 2021).
GAUSSIAN_SIGMA = 1 / 8
#: Weights never fall below this fraction of the centre's, so that a corner covered once is still a number.
MIN_WEIGHT = 1e-3
#: Overlaps to fall back to when there is no time for the one asked for.
COARSER_OVERLAPS = (0.25, 0.0)
#: What windows smaller than in training mean.
LESS_CONTEXT = "the network sees less context than in training, and large lesions may be missed"
#: Part of the time left that is planned with: the last window may be slower than the first.
SAFE_FRACTION = 0.9


@dataclass(frozen=True)
class Windows:
    """How a volume is covered.

    Attributes:
        patch_zyx: Voxels of a window.
        multiple_zyx: What divides its sides.
        overlap: Fraction of a window that neighbours have in common.
        flips: Sets of mirrored axes (0 = Z, 1 = Y, 2 = X), () first.
        trained_zyx: The windows that the network was trained on, where `patch_zyx` had to be smaller.
    """

    patch_zyx: SizeZYX
    multiple_zyx: SizeZYX
    overlap: float = 0.5
    flips: tuple[Flip, ...] = ((),)
    trained_zyx: SizeZYX | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.overlap < 1:
            raise ValueError(f"overlap must be in [0, 1), found {self.overlap}")


@dataclass
class InferenceStatistics:
    """What was computed: for the report."""

    windows: int = 0
    skipped: int = 0
    patch_zyx: SizeZYX = (0, 0, 0)
    overlap: float = 0.0
    flips: int = 0
    notes: list[str] = field(default_factory=list)
    #: Those notes that a reader of the mask should know: windows smaller than in training.
    warnings: list[str] = field(default_factory=list)
    #: How many networks were averaged, each of them `flips` times but for those that a deadline left out.
    networks: int = 1
    #: (Z, Y, X) on the model's grid: standard deviation of the probability of any label (of regions the likeliest) over
    #: all passes, networks and mirrored copies; None of a single pass.
    spread: Array | None = None

    def warn(self, line: str) -> None:
        """Note what matters for the mask, and log it."""
        self.notes.append(line)
        self.warnings.append(line)
        log.warning(line)


def all_flips(axes: Sequence[int]) -> tuple[Flip, ...]:
    """Every subset of the axes, the empty one first, fewer axes before more."""
    return tuple(subset for n in range(len(axes) + 1) for subset in itertools.combinations(sorted(axes), n))


def starts(length: int, window: int, overlap: float) -> list[int]:
    """First voxels of windows that cover `length` evenly, neighbours sharing at least `overlap` of a window."""
    if length <= window:
        return [0]
    step = max(1, math.floor(window * (1 - overlap)))
    count = math.ceil((length - window) / step) + 1
    return [round(i * (length - window) / (count - 1)) for i in range(count)]


def gaussian(window: SizeZYX) -> Array:
    """Weight of every voxel of a window: a separable Gaussian, 1 at the centre, at least MIN_WEIGHT."""
    axes = [np.exp(-0.5 * ((np.arange(n) - (n - 1) / 2) / (n * GAUSSIAN_SIGMA)) ** 2) for n in window]
    weight = axes[0][:, None, None] * axes[1][None, :, None] * axes[2][None, None, :]
    clipped: Array = np.maximum(weight / weight.max(), MIN_WEIGHT).astype(np.float32)
    return clipped


def predict(
    array: Array,
    predictor: Predictor | Sequence[Predictor],
    outputs: int,
    windows: Windows,
    *,
    tissue: Mask | None = None,
    overlapping: bool = False,
    deadline: float | None = None,
    clock: Callable[[], float] = time.monotonic,
    progress: Callable[[float], None] = lambda fraction: None,
) -> tuple[Array, InferenceStatistics]:
    """Probabilities of a volume, window by window.

    A window for which the predictor raises MemoryError is halved.

    Args:
        array: (C, Z, Y, X) float32.
        predictor: One network, or several whose probabilities are averaged.
        outputs: L, the labels without background.
        windows: Their size, overlap and mirroring.
        tissue: (Z, Y, X); windows without any are not computed, and their voxels are 0.
        overlapping: Whether a voxel may be of several labels (regions).
        deadline: A time of `clock` by which to have finished; the second window's time decides how much mirroring, then
            how many networks, then how much overlap there is time for.
        clock: Gives seconds.
        progress: Called with the fraction done.

    Returns:
        (L, Z, Y, X) float32, and what was done.

    Raises:
        ResourceError: Even the smallest window does not fit into memory.
    """
    shape = (array.shape[1], array.shape[2], array.shape[3])
    here = np.ones(shape, dtype=bool) if tissue is None else tissue
    statistics = InferenceStatistics()
    if not here.any():
        return np.zeros((outputs, *shape), dtype=np.float32), statistics
    box = bounding_box(here)
    networks = (predictor,) if callable(predictor) else tuple(predictor)
    run = _Run(
        array[(slice(None), *box)], here[box], networks, outputs, overlapping, windows, deadline, clock, progress,
        statistics,
    )  # fmt: skip
    inner = run.all_windows()
    if inner.shape[1:] == shape:
        return inner, statistics
    result = np.zeros((outputs, *shape), dtype=np.float32)
    result[(slice(None), *box)] = inner
    if statistics.spread is not None:
        whole = np.zeros(shape, dtype=np.float32)
        whole[box] = statistics.spread
        statistics.spread = whole
    return result, statistics


@dataclass
class _Run:
    """One volume under way: shrinks its windows when memory ends, its passes when time does."""

    array: Array
    tissue: Mask
    networks: tuple[Predictor, ...]
    outputs: int
    overlapping: bool
    windows: Windows
    deadline: float | None
    clock: Callable[[], float]
    progress: Callable[[float], None]
    statistics: InferenceStatistics

    def all_windows(self) -> Array:
        z, y, x = self.array.shape[1:]
        shape, multiple = (z, y, x), self.windows.multiple_zyx
        patch = fitted(self.windows.patch_zyx, multiple, shape)
        trained = fitted(self.windows.trained_zyx or self.windows.patch_zyx, multiple, shape)
        smallest = halved(trained, multiple)
        if any(side < least for side, least in zip(patch, smallest, strict=True)):
            raise ResourceError(
                f"expected windows of at least {voxels_of(smallest)} voxels, half of those in training, found "
                f"{voxels_of(patch)}; give more memory"
            )
        if patch != trained:
            self.statistics.warn(
                f"memory: windows of {voxels_of(patch)} instead of {voxels_of(trained)}; {LESS_CONTEXT}"
            )
        while True:
            try:
                return self._stitched(patch, self.windows.overlap, self.windows.flips)
            except MemoryError as error:
                if patch == smallest:
                    raise ResourceError(
                        f"expected memory for one window of {voxels_of(patch)} voxels, found too little even for that; "
                        "give the container more memory or choose another device"
                    ) from error
                self.statistics.notes.append(
                    f"out of memory with windows of {voxels_of(patch)}; went on with {voxels_of(smallest)}"
                )
                self.statistics.warnings.append(f"{self.statistics.notes[-1]}; {LESS_CONTEXT}")
                log.warning(self.statistics.warnings[-1])
                patch = smallest

    def _stitched(self, patch: SizeZYX, overlap: float, flips: tuple[Flip, ...]) -> Array:
        padded, tissue = _padded(self.array, patch), _padded(self.tissue[None], patch)[0]
        places = _places(tissue, patch, overlap)
        corners = [at for at in places if tissue[_window(at, patch)].any()]
        weight = gaussian(patch)
        total = np.zeros((self.outputs, *tissue.shape), dtype=np.float32)
        weights = np.zeros(tissue.shape, dtype=np.float32)
        for at in corners:
            weights[_window(at, patch)] += weight
        weights = np.maximum(weights, MIN_WEIGHT**2)
        every = tuple((network, flip) for flip in flips for network in self.networks)
        began, passes, steps = self.clock(), every, 0
        spread = _Spread(tissue.shape) if len(every) > 1 else None
        for number, (network, flip) in enumerate(every):
            if number >= len(passes):
                break
            axes = tuple(axis + 2 for axis in flip)
            for at in corners:
                inside = _window(at, patch)
                window = np.ascontiguousarray(np.flip(padded[(slice(None), *inside)][None], axes))
                found = np.flip(network(window), axes)[0] * weight
                total[(slice(None), *inside)] += found
                if spread is not None:
                    spread.of_pass[inside] += found.max(axis=0) if self.overlapping else found.sum(axis=0)
                steps += 1
                self.progress(steps / (len(corners) * len(passes)))
                if steps == 1 and len(corners) > 1:
                    began = self.clock()  # the first window pays for warming up
                elif steps == min(2, len(corners)) and number == 0 and self.deadline is not None:
                    seconds = self.clock() - began
                    fit = self._passes_in_time(seconds, len(corners), steps)
                    if fit < 1 and (coarser := self._coarser(overlap, seconds, tissue, patch)) is not None:
                        return self._stitched(patch, coarser, flips[:1])
                    passes = every[: max(1, fit)]
                    self._note_passes(len(passes), len(flips))
            if spread is not None:
                spread.end_pass(weights)
        total /= weights * len(passes)
        z, y, x = self.array.shape[1:]
        if spread is not None and len(passes) > 1:
            self.statistics.spread = spread.deviation(len(passes))[:z, :y, :x]
        self.statistics.windows, self.statistics.skipped = len(corners), len(places) - len(corners)
        self.statistics.patch_zyx, self.statistics.overlap = patch, overlap
        self.statistics.flips = math.ceil(len(passes) / len(self.networks))
        self.statistics.networks = min(len(passes), len(self.networks))
        return total[:, :z, :y, :x]

    def _passes_in_time(self, seconds: float, windows: int, steps: int) -> int:
        assert self.deadline is not None
        left = (self.deadline - self.clock()) * SAFE_FRACTION
        passes = (left / max(seconds, 1e-9) + steps) / windows
        most = len(self.windows.flips) * len(self.networks)
        return math.floor(min(passes, most))  # a deadline may be infinite

    def _coarser(self, overlap: float, seconds: float, tissue: Mask, patch: SizeZYX) -> float | None:
        """The first coarser overlap that ends in time, or the coarsest; None at the coarsest."""
        coarser = [value for value in COARSER_OVERLAPS if value < overlap]
        for value in coarser:
            count = sum(1 for at in _places(tissue, patch, value) if tissue[_window(at, patch)].any())
            if self._passes_in_time(seconds, count, 0) >= 1 or value == coarser[-1]:
                self.statistics.notes.append(
                    f"deadline: windows overlap by {value:.0%} instead of {overlap:.0%}, no mirroring"
                )
                log.warning(self.statistics.notes[-1])
                return value
        return None

    def _note_passes(self, chosen: int, flips: int) -> None:
        networks = len(self.networks)
        if chosen < networks:
            self.statistics.notes.append(f"deadline: {chosen} of {networks} networks, no mirroring")
        elif chosen < networks * flips:
            passes = f"{chosen} of {networks * flips}"
            self.statistics.notes.append(f"deadline: {passes} mirrored passes{' of all networks' * (networks > 1)}")
        else:
            return
        log.warning(self.statistics.notes[-1])


class _Spread:
    """Sums from which the standard deviation over passes follows; of_pass: of the pass under way, weighted."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.of_pass = np.zeros(shape, dtype=np.float32)
        self._sum, self._squares = np.zeros_like(self.of_pass), np.zeros_like(self.of_pass)

    def end_pass(self, weights: Array) -> None:
        self.of_pass /= weights
        self._sum += self.of_pass
        self._squares += self.of_pass**2
        self.of_pass[:] = 0

    def deviation(self, passes: int) -> Array:
        variance = self._squares / passes - (self._sum / passes) ** 2
        deviation: Array = np.sqrt(np.maximum(variance, 0), dtype=np.float32)
        return deviation


def fitted(patch: SizeZYX, multiple: SizeZYX, shape: SizeZYX) -> SizeZYX:
    """The patch, no larger than the volume needs: an axis shorter than it takes the next multiple."""
    z, y, x = (min(p, math.ceil(n / m) * m) for p, m, n in zip(patch, multiple, shape, strict=True))
    return z, y, x


def halved(patch: SizeZYX, multiple: SizeZYX) -> SizeZYX:
    """Half of a patch: the smallest window that a network is given, which has lost much of its context."""
    z, y, x = (max(m, p // 2 // m * m) for p, m in zip(patch, multiple, strict=True))
    return z, y, x


def _padded(array: npt.NDArray[np.generic], patch: SizeZYX) -> npt.NDArray[np.generic]:
    """(C, Z, Y, X) filled up at the far ends to at least one window, with each channel's smallest value."""
    short = [max(0, p - n) for p, n in zip(patch, array.shape[1:], strict=True)]
    if not any(short):
        return array
    grown = np.empty((array.shape[0], *(n + s for n, s in zip(array.shape[1:], short, strict=True))), dtype=array.dtype)
    grown[:] = array.min(axis=(1, 2, 3), keepdims=True)
    grown[:, : array.shape[1], : array.shape[2], : array.shape[3]] = array
    return grown


def _places(tissue: npt.NDArray[np.generic], patch: SizeZYX, overlap: float) -> list[SizeZYX]:
    axes = [starts(length, window, overlap) for length, window in zip(tissue.shape, patch, strict=True)]
    return [(z, y, x) for z in axes[0] for y in axes[1] for x in axes[2]]


def _window(at: SizeZYX, patch: SizeZYX) -> tuple[slice, slice, slice]:
    z, y, x = (slice(start, start + side) for start, side in zip(at, patch, strict=True))
    return z, y, x


def voxels_of(patch: SizeZYX) -> str:
    """A window's sides for people: `64×64×64`."""
    return "×".join(str(side) for side in patch)
