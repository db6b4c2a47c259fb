"""Intensities: tissue standardised whatever the scanner's gain, odd voxels harmless or refused."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builders import ball, grid_of, isles22_volumes, spec_of
from head_images import DWI, GRID, brain, floats, prepared
from segsync.arrays import Array
from segsync.bundle import Fixed, ZScore
from segsync.errors import ChannelError
from segsync.geometry import Volume
from segsync.preprocess import MOST_UNDEFINED, normalise, prepare, tissue


def test_zscore_over_tissue_by_hand() -> None:
    """Air is left out of mean and deviation; what lies beyond the percentiles does not set the scale."""
    rng = np.random.default_rng(0)
    values = rng.normal(500, 50, 20000)
    image = np.concatenate([np.zeros(20000), values]).reshape(40, 40, 25).astype(np.float32)
    low, high = np.percentile(values, [0.5, 99.5])
    clipped = np.clip(values, low, high)
    expected = (np.clip(image, low, high) - clipped.mean()) / clipped.std()
    assert normalise(image, ZScore()) == pytest.approx(expected, abs=1e-3)
    assert np.array_equal(tissue(image, ZScore()), image > 0)


def test_fluid_is_tissue_and_noise_in_the_air_is_not() -> None:
    """CSF is dark on DWI and FLAIR: a fifth of the bright end, air a twentieth. One bright vessel is no bright end."""
    image = np.full((10, 10, 10), 50.0, dtype=np.float32)
    image[2:8, 2:8, 2:8] = 1000.0
    image[4:6, 4:6, 4:6] = 200.0
    image[2, 2, 2] = 20000.0
    assert np.array_equal(tissue(image, ZScore()), image > 50)


@pytest.mark.parametrize("scale", [0.01, 1.0, 37.0])
def test_the_scanners_gain_does_not_matter_for_contrasts_without_unit(scale: float) -> None:
    image = floats(brain()["dwi"])
    assert normalise(image * np.float32(scale), ZScore()) == pytest.approx(normalise(image, ZScore()), abs=1e-3)


def test_fixed_scale_by_hand() -> None:
    image = np.array([-1000.0, -5.0, 0.0, 40.0, 80.0, 3000.0], dtype=np.float32).reshape(1, 2, 3)
    found = normalise(image, Fixed(low=0, high=80, mean=30, std=20))
    assert found.ravel() == pytest.approx([-1.5, -1.5, -1.5, 0.5, 2.5, 2.5])


def test_skull_stripped_or_not_tissue_is_scaled_alike() -> None:
    """Air as exactly 0, as noise, or as a negative constant: the tissue's values stay within a tenth of a deviation."""
    image = floats(brain()["dwi"])
    head = ball(GRID, 11.0) > 0
    skull_stripped = np.where(head, image, np.float32(0))
    negative = np.where(head, image, np.float32(-1024))
    expected = normalise(image, ZScore())[head]
    for other in (skull_stripped, negative):
        assert np.abs(normalise(other, ZScore())[head] - expected).max() < 0.1
        assert np.array_equal(tissue(other, ZScore()), head)


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf, -30000.0])
def test_odd_voxels_change_nothing_elsewhere(odd: float) -> None:
    volumes = brain()
    expected = prepared(volumes)
    spoiled = volumes["dwi"].array.copy()
    spoiled[0, 0, :3] = odd  # in the air
    found = prepared({**volumes, "dwi": Volume(spoiled, GRID)})
    assert np.isfinite(found.array).all()
    assert found.array[:, 1:] == pytest.approx(expected.array[:, 1:], abs=1e-3)


@settings(max_examples=40)
@given(
    seed=st.integers(0, 999), fraction=st.floats(0, 0.9), odd=st.sampled_from([np.nan, np.inf, -np.inf, -1e30, 1e30])
)
def test_whatever_is_read_the_network_sees_numbers(seed: int, fraction: float, odd: float) -> None:
    rng = np.random.default_rng(seed)
    grid = grid_of((6, 7, 8))
    array = rng.normal(100, 30, grid.size_zyx).astype(np.float32)
    array[rng.random(grid.size_zyx) < fraction] = odd
    array[0, 0, 0], array[0, 0, 1] = 1.0, 2.0
    try:
        found = prepare(lambda name: Volume(array, grid), spec_of(DWI, spacing_zyx=(1.5, 1.2, 0.9)), "dwi")
    except ChannelError:
        damaged = np.mean(~np.isfinite(array)) > MOST_UNDEFINED
        assert damaged or odd == -1e30, "smoothing spreads an enormous negative number over all that is left"
        return
    assert np.isfinite(found.array).all()
    assert np.abs(found.array).max() < 100


def test_integers_and_floats_are_one() -> None:
    volumes = isles22_volumes(ball(GRID, 6.0), GRID)
    as_integers = {name: Volume(np.rint(v.array).astype(np.int16), GRID) for name, v in volumes.items()}
    as_floats = {name: Volume(v.array.astype(np.float64), GRID) for name, v in as_integers.items()}
    assert np.array_equal(prepared(as_integers).array, prepared(as_floats).array)


def half_of_it(array: Array) -> None:
    array[: len(array) // 2] = np.nan


def every_other_voxel(array: Array) -> None:
    array[..., ::2] = np.inf


@pytest.mark.parametrize("damage", [half_of_it, every_other_voxel])
@pytest.mark.parametrize("name", ["dwi", "adc", "flair"])
def test_a_channel_that_is_half_no_number_is_refused(name: str, damage: Callable[[Array], None]) -> None:
    """Read as 0 it would be a patient without a lesion there."""
    volumes = brain()
    array = floats(volumes[name]).copy()
    damage(array)
    with pytest.raises(ChannelError, match=r"expected numbers, found NaN or infinity in 50% of the voxels") as error:
        prepared({**volumes, name: Volume(array, GRID)})
    assert error.value.channel == name


def test_air_that_is_no_number_is_air() -> None:
    """As SPM writes what lies outside a brain: not a word, and the same array; a few such voxels elsewhere are said."""
    head = ball(GRID, 11.0) > 0
    stripped = {name: Volume(np.where(head, v.array, np.float32(0)), GRID) for name, v in brain().items()}
    undefined = {name: Volume(np.where(head, v.array, np.float32(np.nan)), GRID) for name, v in stripped.items()}
    found, expected = prepared(undefined), prepared(stripped)
    assert np.array_equal(found.array, expected.array)
    assert found.warnings == expected.warnings == ()
    spoiled = floats(stripped["adc"]).copy()
    spoiled[10, 15, 13:16] = np.nan
    warnings = prepared({**stripped, "adc": Volume(spoiled, GRID)}).warnings
    assert warnings == ("channel adc: 3 voxels are no number; taken as 0",)


def test_a_slab_amid_voxels_that_are_no_number_covers_what_it_shows() -> None:
    """A perfusion map brought to the whole head's grid, as SPM writes it: the slab's field of view is what counts."""
    volumes = brain()
    slab = np.full(GRID.size_zyx, np.nan, dtype=np.float32)
    slab[8:12] = volumes["flair"].array[8:12]
    warnings = prepared({**volumes, "flair": Volume(slab, GRID)}).warnings
    assert any(line.startswith("channel flair: covers ") for line in warnings)


def test_one_image_for_two_channels_is_said() -> None:
    volumes = brain()
    found = prepared({**volumes, "flair": volumes["dwi"]})
    assert "channels dwi and flair show the same values in every voxel; check the channels" in found.warnings
