"""Windows: MONAI's as judge, mirroring, what gives way when time or memory ends."""

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.inferers import SlidingWindowInferer

from segsync.arrays import Array, SizeZYX, bounding_box
from segsync.errors import ResourceError
from segsync.sliding_window import LESS_CONTEXT, Predictor, Windows, all_flips, gaussian, predict, starts


def position_dependent(window: Array) -> Array:
    """A network whose answer depends on where in the window a voxel lies, so that the blending shows."""
    z, y, x = window.shape[2:]
    ramp = np.linspace(0, 1, z)[:, None, None] + np.linspace(0, 2, y)[:, None] + np.linspace(0, 4, x)
    answer: Array = (window[:, :1] * ramp).astype(np.float32)
    return answer


def volume_of(size: SizeZYX, channels: int = 1, seed: int = 0) -> Array:
    return np.random.default_rng(seed).random((channels, *size)).astype(np.float32)


def blended_by_hand(array: Array, predictor: Predictor, patch: SizeZYX, overlap: float, weight: Array) -> Array:
    total, weights = np.zeros(array.shape[1:]), np.zeros(array.shape[1:])
    for z in starts(array.shape[1], patch[0], overlap):
        for y in starts(array.shape[2], patch[1], overlap):
            for x in starts(array.shape[3], patch[2], overlap):
                here = (slice(z, z + patch[0]), slice(y, y + patch[1]), slice(x, x + patch[2]))
                total[here] += predictor(array[(None, slice(None), *here)])[0, 0] * weight
                weights[here] += weight
    answer: Array = (total / weights).astype(np.float32)
    return answer


# --- against MONAI ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(15, 15, 15), (22, 29, 36), (36, 22, 15)])
@pytest.mark.parametrize("overlap", [0.0, 0.5])
def test_the_same_as_monai(size: SizeZYX, overlap: float) -> None:
    """Where both place windows alike: strides divide the volume.

    The side is odd, so that a voxel lies in the window's middle: MONAI's least weight is then the same fraction of it.
    """
    z, y, x = (15 + (n - 15) // 7 * (7 if overlap else 15) for n in size)
    array, patch = volume_of((z, y, x)), (15, 15, 15)

    def torch_predictor(window: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(position_dependent(window.numpy()))

    judge = SlidingWindowInferer(patch, sw_batch_size=1, overlap=overlap, mode="gaussian", sigma_scale=0.125)
    expected = judge(torch.from_numpy(array)[None], torch_predictor)
    assert isinstance(expected, torch.Tensor)
    found, done = predict(array, position_dependent, 1, Windows(patch, (5, 5, 5), overlap))
    assert found == pytest.approx(expected.numpy()[0], abs=1e-4)
    assert done.windows == int(np.prod([1 + (n - 15) // 7 for n in size]))


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.75])
def test_the_same_as_by_hand_where_strides_do_not_divide(overlap: float) -> None:
    array, patch = volume_of((19, 23, 29)), (8, 16, 12)
    found, _ = predict(array, position_dependent, 1, Windows(patch, (4, 4, 4), overlap))
    assert found[0] == pytest.approx(
        blended_by_hand(array, position_dependent, patch, overlap, gaussian(patch)), abs=1e-5
    )


# --- covering --------------------------------------------------------------------------------------------------------


@settings(max_examples=200)
@given(length=st.integers(1, 200), window=st.integers(1, 80), overlap=st.floats(0, 0.9))
def test_windows_cover_everything_and_share_what_was_asked(length: int, window: int, overlap: float) -> None:
    first = starts(length, window, overlap)
    assert first[0] == 0
    assert first[-1] == max(0, length - window)
    # One voxel of rounding, and never a gap.
    assert all(0 < b - a <= min(window, max(1, window * (1 - overlap) + 1)) for a, b in itertools.pairwise(first))


@settings(max_examples=40)
@given(
    size=st.tuples(st.integers(1, 20), st.integers(1, 30), st.integers(1, 20)),
    overlap=st.floats(0, 0.6),
    seed=st.integers(0, 99),
    mirrored=st.booleans(),
)
def test_a_network_that_copies_gives_the_volume_back(size: SizeZYX, overlap: float, seed: int, mirrored: bool) -> None:
    """Smaller than a window, odd, one slice: every voxel comes back in its place, mirrored or not."""
    array = volume_of(size, channels=2, seed=seed)
    shapes = []

    def copy(window: Array) -> Array:
        shapes.append(window.shape)
        return window

    flips = all_flips((0, 1, 2)) if mirrored else ((),)
    found, done = predict(array, copy, 2, Windows((8, 16, 8), (4, 8, 4), overlap, flips))
    assert np.allclose(found, array, atol=1e-4)
    assert all(z % 4 == 0 and y % 8 == 0 and x % 4 == 0 for _, _, z, y, x in shapes)
    assert len(shapes) == done.windows * done.flips


def test_weights_are_highest_in_the_middle_and_never_nothing() -> None:
    weight = gaussian((9, 17, 33))
    assert weight.max() == weight[4, 8, 16] == 1
    assert weight.min() > 0
    assert np.array_equal(weight, weight[::-1, ::-1, ::-1])
    # One standard deviation is an eighth of the side.
    assert gaussian((64, 1, 1))[40, 0, 0] / gaussian((64, 1, 1))[31, 0, 0] == pytest.approx(
        np.exp(-0.5 * (8.5 / 8) ** 2 + 0.5 * (0.5 / 8) ** 2)
    )


def test_windows_without_tissue_are_not_computed() -> None:
    array = volume_of((32, 32, 32))
    tissue = np.zeros((32, 32, 32), dtype=bool)
    tissue[:8, :8, :3] = tissue[25:, 25:, 25:] = True  # neither fills its window
    calls: list[int] = []

    def count(window: Array) -> Array:
        calls.append(1)
        return window

    found, done = predict(array, count, 1, Windows((8, 8, 8), (8, 8, 8), 0.0), tissue=tissue)
    assert (len(calls), done.windows, done.skipped) == (2, 2, 62)
    assert found[0][tissue] == pytest.approx(array[0][tissue], abs=1e-6)
    assert not found[0, 8:24].any()


def test_a_window_is_no_larger_than_the_volume_needs_and_no_smaller() -> None:
    _, done = predict(volume_of((9, 40, 3)), lambda w: w, 1, Windows((16, 16, 16), (4, 8, 4)))
    assert (done.patch_zyx, done.windows) == ((12, 16, 4), 4)


def test_windows_are_filled_up_with_each_channels_smallest_value() -> None:
    """As patches are in training: air, whatever its value after normalisation."""
    array, seen = volume_of((5, 6, 7), channels=2), []
    array[1] -= 3

    def first_channel(window: Array) -> Array:
        seen.append(window)
        return window[:, :1]

    predict(array, first_channel, 1, Windows((8, 8, 8), (8, 8, 8)))
    expected = np.empty((2, 8, 8, 8), dtype=np.float32)
    expected[:] = array.min(axis=(1, 2, 3), keepdims=True)
    expected[:, :5, :6, :7] = array
    [window] = seen
    assert np.array_equal(window[0], expected)


def test_a_volume_without_tissue_is_empty() -> None:
    def never(window: Array) -> Array:
        raise AssertionError("a window of air was computed")

    nowhere = np.zeros((4, 5, 6), dtype=bool)
    found, done = predict(volume_of((4, 5, 6)), never, 3, Windows((8, 8, 8), (8, 8, 8)), tissue=nowhere)
    assert found.shape == (3, 4, 5, 6)
    assert not found.any()
    assert done.windows == 0


def test_the_bounding_box_is_the_smallest() -> None:
    mask = np.zeros((9, 9, 9), dtype=bool)
    mask[2, 5, 7] = mask[4, 1, 7] = True
    assert bounding_box(mask) == (slice(2, 5), slice(1, 6), slice(7, 8))


def test_progress_runs_to_one() -> None:
    fractions: list[float] = []
    predict(volume_of((16, 16, 16)), lambda w: w, 1, Windows((8, 8, 8), (8, 8, 8)), progress=fractions.append)
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0


# --- mirroring -------------------------------------------------------------------------------------------------------


def test_all_flips_are_the_subsets_the_plain_one_first() -> None:
    assert all_flips(()) == ((),)
    assert all_flips((2, 0)) == ((), (0,), (2,), (0, 2))
    assert len(all_flips((0, 1, 2))) == 8


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_mirroring_averages_over_mirrored_copies(axis: int) -> None:
    """By hand for one window: the mean of the answer and of the answer to the mirrored copy, mirrored back."""
    array = volume_of((8, 8, 8))
    plain = position_dependent(array[None])
    mirrored = np.flip(position_dependent(np.flip(array[None], axis + 2)), axis + 2)
    found, done = predict(array, position_dependent, 1, Windows((8, 8, 8), (8, 8, 8), 0.5, all_flips((axis,))))
    assert found == pytest.approx((plain + mirrored)[0] / 2, abs=1e-5)
    assert done.flips == 2


def test_mirrored_along_all_axes_a_mirrored_volume_gives_the_mirrored_answer() -> None:
    array, windows = volume_of((12, 20, 16)), Windows((8, 8, 8), (4, 4, 4), 0.5, all_flips((0, 1, 2)))
    found, _ = predict(array, position_dependent, 1, windows)
    other, _ = predict(np.ascontiguousarray(array[:, ::-1, :, ::-1]), position_dependent, 1, windows)
    assert other[:, ::-1, :, ::-1] == pytest.approx(found, abs=1e-4)


# --- deadline --------------------------------------------------------------------------------------------------------


class Clock:
    """Time that passes when a window is computed, and at no other moment."""

    def __init__(self, seconds: float) -> None:
        self.now, self.seconds = 100.0, seconds

    def __call__(self) -> float:
        return self.now

    def predictor(self, window: Array) -> Array:
        self.now += self.seconds
        return window


SIZE = (32, 32, 32)  # 27 windows of 16³ at an overlap of one half, 8 at none


@pytest.mark.parametrize(
    ("allowed", "flips", "overlap"),
    [
        (math.inf, 8, 0.5),
        (1000.0, 8, 0.5),
        (27 * 8 / 0.9 + 0.5, 8, 0.5),
        (27 * 4 / 0.9 + 0.5, 4, 0.5),
        (27 * 2 / 0.9 + 0.5, 2, 0.5),
        (27 / 0.9 + 0.5, 1, 0.5),
        (27 / 0.9 - 3, 1, 0.0),
        (12.0, 1, 0.0),
    ],
)
def test_mirroring_then_overlap_give_way(allowed: float, flips: int, overlap: float) -> None:
    """At one second a window, planned with nine tenths of the time: the case ends in time, whole, and says how."""
    clock, array = Clock(1.0), volume_of(SIZE)
    windows = Windows((16, 16, 16), (8, 8, 8), 0.5, all_flips((0, 1, 2)))
    found, done = predict(array, clock.predictor, 1, windows, deadline=100.0 + allowed, clock=clock)
    assert (done.flips, done.overlap) == (flips, overlap)
    assert clock.now <= 100.0 + allowed
    assert found == pytest.approx(array, abs=1e-5)
    assert bool(done.notes) == (flips < 8)
    assert all(note.startswith("deadline: ") for note in done.notes)


def test_a_deadline_that_cannot_be_met_still_gives_a_whole_case() -> None:
    clock, array = Clock(1.0), volume_of(SIZE)
    windows = Windows((16, 16, 16), (8, 8, 8), 0.5, all_flips((2,)))
    found, done = predict(array, clock.predictor, 1, windows, deadline=99.0, clock=clock)
    assert (done.flips, done.overlap, done.windows) == (1, 0.0, 8)
    assert found == pytest.approx(array, abs=1e-5)


def test_a_slow_first_window_costs_nothing() -> None:
    """A GPU chooses its kernels at the first window: what the second takes is what the rest will take."""

    class Warming(Clock):
        def predictor(self, window: Array) -> Array:
            self.now += 30.0 if self.now == 100.0 else self.seconds
            return window

    clock, array = Warming(0.1), volume_of(SIZE)
    windows = Windows((16, 16, 16), (8, 8, 8), 0.5, all_flips((0, 1, 2)))
    _, done = predict(array, clock.predictor, 1, windows, deadline=160.0, clock=clock)
    assert (done.flips, done.overlap, done.notes) == (8, 0.5, [])
    assert clock.now <= 160.0


# --- memory ----------------------------------------------------------------------------------------------------------


def short_of_memory(most_voxels: int) -> Callable[[Array], Array]:
    def predictor(window: Array) -> Array:
        if window[0, 0].size > most_voxels:
            raise MemoryError
        return window

    return predictor


def test_windows_are_halved_until_they_fit() -> None:
    array = volume_of((40, 40, 40))
    found, done = predict(array, short_of_memory(16**3), 1, Windows((32, 32, 32), (8, 8, 8)))
    assert done.patch_zyx == (16, 16, 16)
    assert done.notes == ["out of memory with windows of 32×32×32; went on with 16×16×16"]
    assert found == pytest.approx(array, abs=1e-5)


def test_too_little_memory_for_the_smallest_window_is_said() -> None:
    """Below half of the training's windows too much context is lost for a mask to be of use."""
    for enough in (0, 8**3):
        with pytest.raises(ResourceError, match=r"memory for one window of 16×16×16 voxels, found too little"):
            predict(volume_of((40, 40, 40)), short_of_memory(enough), 1, Windows((32, 32, 32), (8, 8, 8)))


def test_windows_smaller_than_in_training_are_said_or_refused() -> None:
    array = volume_of((40, 40, 12))
    for patch, said in (
        ((32, 32, 32), []),
        ((32, 32, 16), []),  # all that the volume needs
        ((16, 16, 16), [f"memory: windows of 16×16×16 instead of 32×32×16; {LESS_CONTEXT}"]),
    ):
        _, statistics = predict(array, lambda w: w, 1, Windows(patch, (8, 8, 8), trained_zyx=(32, 32, 32)))
        assert statistics.warnings == statistics.notes == said
    with pytest.raises(ResourceError, match=r"expected windows of at least 16×16×8 voxels, half of those in training"):
        predict(array, lambda w: w, 1, Windows((8, 8, 8), (8, 8, 8), trained_zyx=(32, 32, 32)))


def test_halved_windows_stay_multiples() -> None:
    array = volume_of((20, 30, 30))
    _, done = predict(array, short_of_memory(8 * 16 * 16), 1, Windows((20, 48, 48), (4, 16, 16)))
    assert done.patch_zyx == (8, 16, 16)


def test_the_overlap_must_be_a_fraction() -> None:
    with pytest.raises(ValueError, match="overlap"):
        Windows((8, 8, 8), (8, 8, 8), overlap=1.0)
