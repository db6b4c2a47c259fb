"""Heads of air, tissue and fluid in memory, as DWI, ADC, FLAIR and CT, and the preprocessing that they go through."""

from collections.abc import Mapping

import numpy as np

from builders import ADC, ball, grid_of, spec_of
from segsync.arrays import Array
from segsync.bundle import ChannelSpec, Fixed, PreprocessingSpec, ZScore
from segsync.geometry import Grid, Volume
from segsync.preprocess import Prepared, prepare

GRID = grid_of((20, 30, 28))

BRAIN = DWI, ADC_CHANNEL, FLAIR = (
    ChannelSpec(name="dwi", normalisation=ZScore()),
    ChannelSpec(name="adc", normalisation=ADC),
    ChannelSpec(name="flair", normalisation=ZScore(), optional=True),
)


def prepared(volumes: Mapping[str, Volume], spec: PreprocessingSpec | None = None) -> Prepared:
    return prepare(volumes.get, spec or spec_of(*BRAIN), "dwi")


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


HEAD = ChannelSpec(name="ncct", normalisation=Fixed(low=0, high=80, mean=30, std=12))


def ct(offset: float) -> dict[str, Volume]:
    """Air, brain and a shell of bone, in HU plus an offset."""
    array = np.full(GRID.size_zyx, -1000.0, dtype=np.float32)
    array[ball(GRID, 11.0) > 0] = 700.0
    array[ball(GRID, 9.5) > 0] = 35.0
    return {"ncct": Volume(array + np.float32(offset), GRID)}


def prepared_ct(offset: float) -> Prepared:
    return prepare(ct(offset).get, spec_of(HEAD), "ncct")


def windowed(array: Array, low: float, high: float, top: float, bottom: float = 0.0) -> Array:
    """HU brought from a window to `bottom` to `top`, as pictures and data loaders do."""
    scaled_array: Array = (bottom + (top - bottom) * np.clip((array - low) / (high - low), 0, 1)).astype(np.float32)
    return scaled_array
