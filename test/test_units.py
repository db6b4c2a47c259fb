"""Units of ADC, perfusion maps and CT: recognised, converted, or said."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builders import ball, spec_of, tissue_of
from head_images import BRAIN, GRID, HEAD, brain, ct, floats, prepared, prepared_ct, scaled, windowed
from segsync.arrays import Array
from segsync.bundle import ChannelSpec, Fixed, ZScore
from segsync.geometry import Volume
from segsync.images import read
from segsync.preprocess import prepare
from segsync.units import QUANTITIES, adc_scale, looks_like_adc


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
    spec = spec_of(*BRAIN, spacing_zyx=(4.8, 1.8, 1.8))
    assert not [line for line in prepared(volumes, spec).warnings if "exchanged" in line]
    swapped = prepared({**volumes, "dwi": volumes["adc"], "adc": volumes["dwi"]}, spec)
    assert [line for line in swapped.warnings if "exchanged" in line]


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
