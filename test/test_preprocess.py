"""Channels on one grid: what is missing, elsewhere or outside of the region."""

from dataclasses import replace

import numpy as np
import pytest

from builders import ball, grid_of, rotated, spec_of, tissue_of
from head_images import ADC_CHANNEL, BRAIN, DWI, GRID, brain, floats, prepared, prepared_ct
from segsync.arrays import Array
from segsync.bundle import ChannelSpec, Fixed, OrganSpec
from segsync.errors import ChannelError
from segsync.geometry import Grid, Volume
from segsync.preprocess import prepare


def test_an_optional_channel_may_be_missing_or_constant() -> None:
    volumes = brain()
    missing = prepared({name: v for name, v in volumes.items() if name != "flair"})
    constant = prepared({**volumes, "flair": Volume(np.full(GRID.size_zyx, 7, dtype=np.int16), GRID)})
    whole = prepared(volumes)
    for found, said in ((missing, "no image"), (constant, "the image holds only the value 7")):
        assert not found.array[2].any()
        assert np.array_equal(found.array[:2], whole.array[:2])
        assert found.warnings == (f"channel flair: {said}; the model goes on without it",)


@pytest.mark.parametrize("name", ["dwi", "adc"])
@pytest.mark.parametrize("value", [None, 0.0, 7.0, np.nan])
def test_a_needed_channel_may_not(name: str, value: float | None) -> None:
    volumes = brain()
    del volumes[name]
    if value is not None:
        volumes[name] = Volume(np.full(GRID.size_zyx, value, dtype=np.float32), GRID)
    with pytest.raises(
        ChannelError, match=f"channel {name}: (no image|the image holds only the value \\d|expected numbers)"
    ) as error:
        prepared(volumes)
    assert error.value.channel == name


def test_channels_of_another_place_are_refused() -> None:
    volumes = brain()
    far = Grid(GRID.size_zyx, GRID.spacing_zyx, (500.0, 0.0, 0.0), GRID.direction)
    with pytest.raises(ChannelError, match=r"channel adc: .* found 0% of it in the field of view"):
        prepared({**volumes, "adc": Volume(volumes["adc"].array, far)})


def test_a_channel_that_covers_half_is_said() -> None:
    volumes = brain()
    lower = Grid((10, 30, 28), GRID.spacing_zyx, GRID.origin, GRID.direction)
    found = prepared({**volumes, "flair": Volume(volumes["flair"].array[:10], lower)})
    assert any("covers 5" in line and "check the pair" in line for line in found.warnings)
    assert np.isfinite(found.array).all()


def test_noise_in_the_air_is_no_patient() -> None:
    """A field of view that holds the whole head and less of the air about it covers the patient."""
    volumes = brain()
    air = np.random.default_rng(0).rayleigh(1.0, GRID.size_zyx).astype(np.float32)
    head = floats(volumes["dwi"])
    dwi = np.where(head > 0, head, air)
    inside = np.argwhere(ball(GRID, 11.0) > 0)
    low, high = inside.min(0), inside.max(0) + 1
    z, y, x = (float(mm) for mm in GRID.points(low)[::-1])
    size = tuple(int(side) for side in high - low)
    tight = Grid((size[0], size[1], size[2]), GRID.spacing_zyx, (x, y, z), GRID.direction)
    flair = volumes["flair"].array[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
    found = prepared({**volumes, "dwi": Volume(dwi, GRID), "flair": Volume(flair, tight)})
    assert not any("covers" in line for line in found.warnings)


def test_a_reference_that_shows_no_patient_is_refused() -> None:
    """Not a mask without lesions: nothing was looked at."""
    with pytest.raises(ChannelError, match=r"channel ncct: expected the patient, found nothing .* -2024 to -324"):
        prepared_ct(-1024.0)


def test_channels_on_other_grids_come_to_the_same_place() -> None:
    """FLAIR on an oblique grid of other spacing: what shows one thing lies at one voxel."""
    volumes = brain()
    other = grid_of((60, 60, 60), (0.6, 0.7, 0.8), (-20.0, -2.0, -2.0), rotated(GRID.direction, (10.0, 5.0, -8.0)))
    middle = GRID.points([(n - 1) / 2 for n in GRID.size_zyx]) - other.points([29.5, 29.5, 29.5])
    x, y, z = np.asarray(other.origin) + middle
    other = Grid(other.size_zyx, other.spacing_zyx, (float(x), float(y), float(z)), other.direction)
    flair = Volume(100 + 100 * ball(other, 6.0), other)
    spec = spec_of(DWI, ADC_CHANNEL, ChannelSpec(name="flair", normalisation=Fixed(low=0, high=1e3, mean=100, std=100)))
    found = prepared({**volumes, "flair": flair}, spec).array[2]
    inside, outside = ball(GRID, 4.5) > 0, ball(GRID, 8.2) == 0
    assert found[inside] == pytest.approx(1.0, abs=1e-3)
    assert (found[outside & (ball(GRID, 10.0) > 0)] < 1e-3).all()


@pytest.mark.parametrize("name", ["dwi", "flair"])
def test_every_channel_is_averaged_to_the_models_resolution(name: str) -> None:
    """Noise of 0.5 mm voxels at 2 mm: smoothed to 7 % of its deviation, not picked (see `test_geometry`)."""
    grid = grid_of((40, 40, 40), (0.5, 0.5, 0.5))
    noise = np.random.default_rng(0).normal(size=grid.size_zyx).astype(np.float32)
    plain, wide = tissue_of(grid, 1), Fixed(low=-10, high=10, mean=0, std=1)
    channels = [ChannelSpec(name=one, normalisation=wide) for one in ("dwi", "flair")]
    volumes = {"dwi": Volume(plain, grid), "flair": Volume(plain, grid), name: Volume(noise, grid)}
    found = prepared(volumes, spec_of(*channels, spacing_zyx=(2.0, 2.0, 2.0)))
    assert found.array[["dwi", "flair"].index(name), 1:-1, 1:-1, 1:-1].std() < 0.1


class Organ:
    """A region model that knows the answer."""

    name = "organ"
    organ: OrganSpec | None = None

    def __call__(self, image: Volume) -> Volume:
        return Volume(ball(GRID, 8.0), image.grid)


def test_outside_of_the_region_every_channel_is_0() -> None:
    """As if the skull had been removed from each image before."""
    volumes, organ = brain(), ball(GRID, 8.0)
    found = prepare(volumes.get, spec_of(*BRAIN), "dwi", Organ())
    blanked = {name: Volume(floats(volume) * organ, GRID) for name, volume in volumes.items()}
    assert np.array_equal(found.array, prepared(blanked).array)
    assert np.array_equal(found.tissue, organ > 0)


def test_a_reference_that_the_model_does_not_read_gives_the_grid_alone() -> None:
    """The same array as from the channel itself, where that lies on the reference's grid; wider, where it does not."""
    volumes = brain()
    found = prepare(volumes.get, spec_of(ADC_CHANNEL), "dwi")
    assert np.array_equal(found.array, prepare(volumes.get, spec_of(ADC_CHANNEL), "adc").array)
    assert found.array.shape == (1, *GRID.size_zyx)
    slices = GRID.size_zyx[0] // 2
    half = Volume(floats(volumes["adc"])[:slices], replace(GRID, size_zyx=(slices, *GRID.size_zyx[1:])))
    narrow = prepare({**volumes, "adc": half}.get, spec_of(ADC_CHANNEL), "dwi")
    assert narrow.grid == found.grid
    del volumes["dwi"]
    with pytest.raises(ChannelError, match="give the image that the task measures on"):
        prepare(volumes.get, spec_of(ADC_CHANNEL), "dwi")


def test_tissue_is_where_the_reference_shows_the_patient() -> None:
    volumes = brain()
    found = prepared(volumes)
    assert np.array_equal(found.tissue, ball(GRID, 11.0) > 0)
    hounsfield = Fixed(low=-1000, high=1000, mean=0, std=500)
    spec = spec_of(ChannelSpec(name="dwi", normalisation=hounsfield))
    air: Array = np.where(ball(GRID, 11.0) > 0, np.float32(40), np.float32(-1000))
    assert np.array_equal(prepared({"dwi": Volume(air, GRID)}, spec).tissue, ball(GRID, 11.0) > 0)


def test_images_are_loaded_one_at_a_time_and_once() -> None:
    volumes, asked = {**brain(), "t1": Volume(tissue_of(GRID, 1), GRID)}, []

    def load(name: str) -> Volume:
        asked.append(name)
        return volumes[name]

    prepare(load, spec_of(*BRAIN), "dwi")
    assert asked == ["dwi", "adc", "flair"]
