"""Signal equations of T1-weighted sequences, and the relaxation times of what they show."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from segsync.arrays import FloatArray
from segsync_train.synthesis.fields import Draw
from segsync_train.synthesis.tissues import Tissue


@dataclass(frozen=True)
class Matter:
    """What a signal follows from: proton density relative to water, T1 and T2* in ms (at 3 T)."""

    density: float
    t1: float
    t2_star: float


#: Values of the literature, rounded (Wansapura 1999 and Stanisz 2005 for T1, Peters 2007 for T2*); fat for skin and
#: marrow. Blood's signal is mostly inflow, which is drawn apart.
MATTER: dict[Tissue, Matter] = {
    Tissue.CORTEX: Matter(0.82, 1350.0, 55.0),
    Tissue.WHITE: Matter(0.70, 830.0, 48.0),
    Tissue.CEREBELLAR_CORTEX: Matter(0.82, 1300.0, 50.0),
    Tissue.CEREBELLAR_WHITE: Matter(0.72, 870.0, 47.0),
    Tissue.DEEP_GREY: Matter(0.79, 1180.0, 48.0),
    Tissue.IRON_GREY: Matter(0.75, 960.0, 28.0),
    Tissue.BRAINSTEM: Matter(0.73, 930.0, 47.0),
    Tissue.VENTRICLE: Matter(1.00, 4200.0, 900.0),
    Tissue.OUTER_CSF: Matter(1.00, 3900.0, 400.0),
    Tissue.ARTERY: Matter(0.75, 1650.0, 45.0),
    Tissue.VEIN: Matter(0.75, 1600.0, 20.0),
    Tissue.BONE: Matter(0.08, 900.0, 2.0),
    Tissue.MARROW: Matter(0.45, 420.0, 18.0),
    Tissue.SOFT: Matter(0.72, 1250.0, 28.0),
    Tissue.SKIN: Matter(0.80, 400.0, 25.0),
    Tissue.MUCOSA: Matter(0.80, 1500.0, 30.0),
    Tissue.EYE: Matter(1.00, 4000.0, 400.0),
}
#: T2 of a spin echo as a multiple of T2*.
T2_PER_T2_STAR = 1.5

#: Signals of matters, each without unit and positive.
SignalEquation = Callable[[Sequence[Matter]], FloatArray]


def draw_sequence(draw: Draw, weights: Sequence[float]) -> SignalEquation:
    """A sequence with its times and angles: magnetisation-prepared, spoiled gradient echo, or spin echo."""
    kind = draw.choice(weights)
    if kind == 0:
        pulses, spacing, centre = draw.integer(100, 190), draw.uniform((5.5, 9.0)), draw.uniform((0.1, 0.5))
        inversion = max(draw.uniform((650.0, 1100.0)), pulses * spacing * centre + 20.0)
        repetition = inversion + pulses * spacing * (1 - centre) + draw.uniform((0.0, 1200.0))
        angle, efficiency = math.radians(draw.uniform((6.0, 11.0))), draw.uniform((0.9, 1.0))
        echo = draw.uniform((1.8, 5.0))
        return lambda matter: mprage(matter, repetition, inversion, pulses, spacing, angle, echo, centre, efficiency)
    if kind == 1:
        repetition, angle = draw.uniform((8.0, 30.0)), math.radians(draw.uniform((15.0, 35.0)))
        echo = draw.uniform((2.0, 9.0))
        return lambda matter: spoiled_gradient_echo(matter, repetition, angle, echo)
    repetition, echo = draw.uniform((350.0, 650.0)), draw.uniform((8.0, 18.0))
    return lambda matter: spin_echo(matter, repetition, echo)


def mprage(
    matter: Sequence[Matter],
    repetition: float,
    inversion: float,
    pulses: int,
    spacing: float,
    angle: float,
    echo: float,
    centre: float = 0.5,
    efficiency: float = 1.0,
) -> FloatArray:
    """Magnitude at the middle of k-space of a magnetisation-prepared rapid gradient echo train in its steady state.

    Each part of the cycle takes longitudinal magnetisation m to a·m + b, so that the steady state is b / (1 - a) of the
    whole cycle (the sequence: Wang et al. 2014, doi:10.1371/journal.pone.0096899).

    Args:
        matter: The tissues.
        repetition: Of the whole cycle, ms.
        inversion: From the inversion pulse to the middle of k-space, ms.
        pulses: Of a train.
        spacing: Between pulses, ms.
        angle: Of a pulse, radians.
        echo: Time of the echo, ms.
        centre: The fraction of the pulses after which the middle of k-space is reached.
        efficiency: Of the inversion.

    Returns:
        Of each tissue.
    """
    density, t1, t2_star = _columns(matter)
    decay = np.exp(-spacing / t1)
    steady = (1 - decay) / (1 - math.cos(angle) * decay)
    before, after = round(pulses * centre), pulses - round(pulses * centre)

    def train(count: int) -> tuple[FloatArray, FloatArray]:
        kept = (math.cos(angle) * decay) ** count
        return kept, steady * (1 - kept)

    def wait(time: float) -> tuple[FloatArray, FloatArray]:
        kept = np.exp(-max(time, 0.0) / t1)
        return kept, 1 - kept

    inverted = (np.full_like(t1, -efficiency), np.zeros_like(t1))
    parts = [inverted, wait(inversion - before * spacing), train(before)]
    rest = [train(after), wait(repetition - inversion - after * spacing)]
    gain, offset = _chained(parts + rest)
    first_gain, first_offset = _chained(parts)
    at_centre = first_gain * offset / (1 - gain) + first_offset
    magnitude: FloatArray = density * np.abs(at_centre) * math.sin(angle) * np.exp(-echo / t2_star)
    return magnitude


def spoiled_gradient_echo(matter: Sequence[Matter], repetition: float, angle: float, echo: float) -> FloatArray:
    """Ernst's equation; times in ms, angle in radians."""
    density, t1, t2_star = _columns(matter)
    decay = np.exp(-repetition / t1)
    signal: FloatArray = (
        density * math.sin(angle) * (1 - decay) / (1 - math.cos(angle) * decay) * np.exp(-echo / t2_star)
    )
    return signal


def spin_echo(matter: Sequence[Matter], repetition: float, echo: float) -> FloatArray:
    """Saturation recovery; times in ms."""
    density, t1, t2_star = _columns(matter)
    signal: FloatArray = density * (1 - np.exp(-repetition / t1)) * np.exp(-echo / (T2_PER_T2_STAR * t2_star))
    return signal


def _columns(matter: Sequence[Matter]) -> tuple[FloatArray, FloatArray, FloatArray]:
    table = np.array([(one.density, one.t1, one.t2_star) for one in matter])
    return table[:, 0], table[:, 1], table[:, 2]


def _chained(parts: Sequence[tuple[FloatArray, FloatArray]]) -> tuple[FloatArray, FloatArray]:
    """Gain and offset of linear maps applied one after the other."""
    gain, offset = np.ones_like(parts[0][0]), np.zeros_like(parts[0][0])
    for next_gain, next_offset in parts:
        gain, offset = next_gain * gain, next_gain * offset + next_offset
    return gain, offset
