"""Intensities: units recognised, odd voxels harmless, what is missing or mixed up said."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builders import ADC, ball, grid_of, isles22_volumes, rotated, tissue_of
from segsync.arrays import Array, Triple
from segsync.bundle import ChannelSpec, Fixed, ModelSpec, OrganSpec, ZScore
from segsync.errors import ChannelError
from segsync.geometry import Grid, Volume
from segsync.images import read
from segsync.preprocess import MOST_UNDEFINED, Prepared, normalise, prepare, tissue
from segsync.units import QUANTITIES, adc_scale, looks_like_adc

GRID = grid_of((20, 30, 28))
DWI, ADC_CHANNEL, FLAIR = (
    ChannelSpec(name="dwi", normalisation=ZScore()),
    ChannelSpec(name="adc", normalisation=ADC),
    ChannelSpec(name="flair", normalisation=ZScore(), optional=True),
)


def spec_of(*channels: ChannelSpec, spacing_zyx: Triple = (1.0, 1.0, 1.0)) -> ModelSpec:
    return ModelSpec(
        name="net",
        task="isles22",
        channels=channels or (DWI, ADC_CHANNEL, FLAIR),
        labels={1: "lesion"},
        spacing_zyx=spacing_zyx,
        patch_zyx=(8, 8, 8),
        multiple_zyx=(8, 8, 8),
        opset=17,
        sha256="0" * 64,
        licence="none",
    )


def prepared(volumes: Mapping[str, Volume], spec: ModelSpec | None = None) -> Prepared:
    return prepare(volumes.get, spec or spec_of(), "dwi")


def floats(volume: Volume) -> Array:
    return volume.array.astype(np.float32)


def scaled(volume: Volume, factor: float) -> Volume:
    return Volume(floats(volume) * np.float32(factor), volume.grid)


def brain(grid: Grid = GRID) -> dict[str, Volume]:
    """A head of air, tissue, ventricles and an infarct, in DWI, ADC (10⁻⁶ mm²/s) and FLAIR."""
    head, fluid = ball(grid, 11.0) > 0, ball(grid, 5.2) > 0
    infarct = ball(grid, 2.5, (7.0, 0.0, 0.0)) > 0
    rng = np.random.default_rng(0)

    def image(air: float, tissue_value: float, fluid_value: float, infarct_value: float) -> Volume:
        values = np.where(head, tissue_value, air)
        values[fluid] = fluid_value
        values[infarct] = infarct_value
        noisy = values * (1 + 0.05 * rng.normal(size=values.shape))
        return Volume(noisy.astype(np.float32), grid)

    return {"dwi": image(4, 200, 90, 600), "adc": image(0, 800, 2900, 450), "flair": image(3, 300, 60, 500)}


# --- ADC -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("unit", "said"), [(1.0, None), (1e-3, "10⁻³ mm²/s"), (1e-6, "mm²/s")])
def test_adc_in_any_unit_gives_the_same_network_input(unit: float, said: str | None) -> None:
    volumes = brain()
    expected = prepared(volumes)
    given_unit = {**volumes, "adc": scaled(volumes["adc"], unit)}
    found = prepared(given_unit)
    assert found.array == pytest.approx(expected.array, abs=1e-4)
    assert expected.warnings == ()
    assert found.warnings == ((f"channel adc: given in {said}, brought to 10⁻⁶ mm²/s",) if said else ())
    assert np.array_equal(given_unit["adc"].array, scaled(volumes["adc"], unit).array)  # the caller's own


@settings(max_examples=50)
@given(median=st.floats(310, 2400), unit=st.sampled_from([1.0, 1e-3, 1e-6]), seed=st.integers(0, 99))
def test_every_plausible_adc_map_is_recognised(median: float, unit: float, seed: int) -> None:
    values = np.random.default_rng(seed).normal(median, median / 10, (8, 8, 8))
    values *= median / np.median(values)
    assert adc_scale(np.asarray(values * unit, dtype=np.float32)) == 1 / unit


def test_an_implausible_adc_map_is_left_as_it_is_and_said() -> None:
    volumes = brain()
    odd = prepared({**volumes, "adc": scaled(volumes["adc"], 50)})
    assert any("fits no unit of ADC" in line for line in odd.warnings)
    assert adc_scale(np.zeros((2, 2, 2), dtype=np.float32)) is None


def test_exchanged_dwi_and_adc_are_noticed() -> None:
    volumes = brain()
    exchanged = {**volumes, "dwi": volumes["adc"], "adc": volumes["dwi"]}
    assert any("DWI and ADC look exchanged" in line for line in prepared(exchanged).warnings)
    both_alike = {**volumes, "dwi": volumes["adc"]}
    assert not any("exchanged" in line for line in prepared(both_alike).warnings)
    assert looks_like_adc(floats(volumes["adc"]))
    assert not looks_like_adc(floats(volumes["dwi"]))
    # Nor where its values are those of ADC by chance, without a skull: its fluid is dark.
    assert not looks_like_adc(4 * floats(volumes["dwi"]) * ball(GRID, 11.0))


def test_the_bundled_case_is_not_taken_for_exchanged() -> None:
    folder = Path(__file__).parent / "input" / "images"
    volumes = {name: read(next((folder / f"{name}-brain-mri").glob("*.mha"))) for name in ("dwi", "adc", "flair")}
    spec = spec_of(spacing_zyx=(4.8, 1.8, 1.8))
    assert not [line for line in prepared(volumes, spec).warnings if "exchanged" in line]
    swapped = prepared({**volumes, "dwi": volumes["adc"], "adc": volumes["dwi"]}, spec)
    assert [line for line in swapped.warnings if "exchanged" in line]


# --- intensities -----------------------------------------------------------------------------------------------------


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


# --- units -----------------------------------------------------------------------------------------------------------

#: Of whole heads, as published for healthy people and for large infarcts.
MAPS = {"tmax": (1.5, 20.0), "mtt": (4.5, 20.0), "cbf": (40.0, 120.0), "cbv": (3.0, 12.0)}


@pytest.mark.parametrize(
    ("name", "factor", "said"),
    [
        *((name, 1.0, None) for name in MAPS),
        ("tmax", 1e3, "given in ms, brought to s"),
        ("mtt", 1e3, "given in ms, brought to s"),
        ("cbf", 1e-2, "given in ml/g/min, brought to ml/100 g/min"),
        ("cbv", 1e-2, "given in ml/g, brought to ml/100 g"),
        ("tmax", 50.0, "fits no unit of TMAX; taken as s as it is"),
        ("cbf", 1e3, "fits no unit of CBF"),
    ],
)
def test_a_perfusion_map_in_any_unit_gives_the_same_network_input(name: str, factor: float, said: str | None) -> None:
    """1306 ml instead of 164, where milliseconds were taken for seconds; and what fits no unit is said."""
    median, high = MAPS[name]
    channel = ChannelSpec(name=name, normalisation=Fixed(low=0, high=high, mean=median, std=median))
    head = Volume(ball(GRID, 11.0), GRID)
    plain = Volume(tissue_of(GRID, median) * floats(head), GRID)
    spec = spec_of(ChannelSpec(name="dwi", normalisation=ZScore()), channel)
    expected = prepare({"dwi": brain()["dwi"], name: plain}.get, spec, "dwi")
    found = prepare({"dwi": brain()["dwi"], name: scaled(plain, factor)}.get, spec, "dwi")
    assert expected.warnings == ()
    assert [line for line in found.warnings if said and said in line] == list(found.warnings)
    assert bool(found.warnings) == (said is not None)
    if said is None or "brought" in said:
        assert found.array == pytest.approx(expected.array, abs=1e-4)


def test_weights_that_were_trained_on_another_unit_take_the_map_as_it_is() -> None:
    """Of a network for milliseconds, or for contrasts without a unit, nothing is converted."""
    in_ms = Fixed(low=0, high=20_000, mean=2500, std=3000)
    volumes = {"dwi": brain()["dwi"], "tmax": Volume(tissue_of(GRID, 1500), GRID)}
    for how in (in_ms, ZScore()):
        spec = spec_of(ChannelSpec(name="dwi", normalisation=ZScore()), ChannelSpec(name="tmax", normalisation=how))
        assert prepare(volumes.get, spec, "dwi").warnings == ()
    assert not QUANTITIES["tmax"].expected_by(ChannelSpec(name="tmax", normalisation=in_ms))


def windowed(array: Array, low: float, high: float, top: float, bottom: float = 0.0) -> Array:
    """HU brought from a window to `bottom` to `top`, as pictures and data loaders do."""
    scaled_array: Array = (bottom + (top - bottom) * np.clip((array - low) / (high - low), 0, 1)).astype(np.float32)
    return scaled_array


@pytest.mark.parametrize(
    "change",
    [
        lambda array: windowed(array, 0, 80, 1),
        lambda array: windowed(array, -1024, 3071, 1),
        lambda array: windowed(array, 0, 80, 255),
        lambda array: np.rint(windowed(array, 0, 100, 255)),
        lambda array: windowed(array, 0, 80, 1, -1),
    ],
    ids=["0 to 1", "all HU in 0 to 1", "0 to 255", "eight bits", "-1 to 1"],
)
@pytest.mark.parametrize("stripped", [False, True])
def test_a_ct_that_was_scaled_is_noticed(change: Callable[[Array], Array], stripped: bool) -> None:
    array = floats(ct(0.0)["ncct"]) + np.random.default_rng(0).normal(0, 4, GRID.size_zyx).astype(np.float32)
    if stripped:
        array = np.where(ball(GRID, 9.5) > 0, array, np.float32(0))
    assert prepare({"ncct": Volume(array, GRID)}.get, spec_of(HEAD), "ncct").warnings == ()
    [line] = prepare({"ncct": Volume(change(array), GRID)}.get, spec_of(HEAD), "ncct").warnings
    assert "are no Hounsfield units" in line


def test_a_ct_in_thousands_is_recognised() -> None:
    expected = prepared_ct(0.0)
    found = prepare({"ncct": scaled(ct(0.0)["ncct"], 1e-3)}.get, spec_of(HEAD), "ncct")
    assert found.array == pytest.approx(expected.array, abs=1e-4)
    assert found.warnings == ("channel ncct: given in thousands of Hounsfield units, brought to Hounsfield units",)


def test_weights_for_a_ct_of_0_to_1_take_it_as_it_is() -> None:
    scaled_ct = ChannelSpec(name="ncct", normalisation=Fixed(low=0, high=1, mean=0.4, std=0.2))
    image = Volume(windowed(floats(ct(0.0)["ncct"]), 0, 80, 1), GRID)
    assert prepare({"ncct": image}.get, spec_of(scaled_ct), "ncct").warnings == ()


# --- channels --------------------------------------------------------------------------------------------------------


def test_an_optional_channel_may_be_missing_or_constant() -> None:
    volumes = brain()
    missing = prepared({name: v for name, v in volumes.items() if name != "flair"})
    constant = prepared({**volumes, "flair": Volume(np.full(GRID.size_zyx, 7, dtype=np.int16), GRID)})
    whole = prepared(volumes)
    for found, said in ((missing, "found none"), (constant, "found only the value 7")):
        assert not found.array[2].any()
        assert np.array_equal(found.array[:2], whole.array[:2])
        assert found.warnings == (f"channel flair: expected an image, {said}; the model goes on without it",)


@pytest.mark.parametrize("name", ["dwi", "adc"])
@pytest.mark.parametrize("value", [None, 0.0, 7.0, np.nan])
def test_a_needed_channel_may_not(name: str, value: float | None) -> None:
    volumes = brain()
    del volumes[name]
    if value is not None:
        volumes[name] = Volume(np.full(GRID.size_zyx, value, dtype=np.float32), GRID)
    with pytest.raises(ChannelError, match=f"channel {name}: expected") as error:
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


HEAD = ChannelSpec(name="ncct", normalisation=Fixed(low=0, high=80, mean=30, std=12))


def ct(offset: float) -> dict[str, Volume]:
    """Air, brain and a shell of bone, in HU plus an offset."""
    array = np.full(GRID.size_zyx, -1000.0, dtype=np.float32)
    array[ball(GRID, 11.0) > 0] = 700.0
    array[ball(GRID, 9.5) > 0] = 35.0
    return {"ncct": Volume(array + np.float32(offset), GRID)}


def prepared_ct(offset: float) -> Prepared:
    return prepare(ct(offset).get, spec_of(HEAD), "ncct")


@pytest.mark.parametrize("name", ["ncct", "cta"])
def test_a_ct_without_its_rescale_intercept_is_noticed(name: str) -> None:
    channel = HEAD.model_copy(update={"name": name})
    for offset, said in ((0.0, ()), (1024.0, (f"channel {name}: nearly all of the patient lies above 900 HU",))):
        warnings = prepare({name: ct(offset)["ncct"]}.get, spec_of(channel), name).warnings
        assert tuple(line.partition(";")[0] for line in warnings) == said


def test_dense_bone_is_no_lost_intercept() -> None:
    [head] = ct(0.0).values()
    teeth = head.array.copy()
    teeth[(teeth == 700) & (np.indices(GRID.size_zyx)[0] % 2 == 0)] = 1500
    assert prepare({"ncct": Volume(teeth, GRID)}.get, spec_of(HEAD), "ncct").warnings == ()


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
    found = prepare(volumes.get, spec_of(), "dwi", Organ())
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

    prepare(load, spec_of(), "dwi")
    assert asked == ["dwi", "adc", "flair"]
