"""Units of images that measure something: told by the values that tissue has, converted, and said.

A network that was trained on Hounsfield units, seconds or mm²/s takes its channels at their word. Files do not hold the
unit, and archives store each map in more than one.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from segsync.arrays import Array
from segsync.bundle import ChannelSpec, Fixed


@dataclass(frozen=True)
class Quantity:
    """What a map measures.

    Attributes:
        unit: The one that networks are trained on.
        median: Lowest and highest median of the voxels above 0 that a head has, whatever the scanner or the disease.
        others: Units that are converted, by the factor that does so.
    """

    unit: str
    median: tuple[float, float]
    others: Mapping[float, str] = field(default_factory=dict)

    def scale(self, array: Array) -> float | None:
        """The factor that brings a map to `unit`; None where no unit makes its values plausible."""
        positive = array[array > 0]
        if positive.size == 0:
            return None
        low, high = self.median
        median = float(np.median(positive))
        return next((scale for scale in (1.0, *self.others) if low <= median * scale <= high), None)

    def expected_by(self, channel: ChannelSpec) -> bool:
        """Whether a channel is normalised by constants in this unit, rather than in another or by its own values."""
        low, high = self.median
        how = channel.normalisation
        return isinstance(how, Fixed) and (low * high) ** 0.5 <= how.high <= 100 * high


#: ADC: the range leaves room for oedema. Tmax and MTT: of whole heads, most of which is healthy. CBF and CBV: of grey
#: and white matter together; software that divides by the tissue's mass in g stores a hundredth of them.
QUANTITIES = {
    "adc": Quantity("10⁻⁶ mm²/s", (300.0, 2500.0), {1e3: "10⁻³ mm²/s", 1e6: "mm²/s"}),
    "tmax": Quantity("s", (0.2, 20.0), {1e-3: "ms"}),
    "mtt": Quantity("s", (0.8, 25.0), {1e-3: "ms"}),
    "cbf": Quantity("ml/100 g/min", (5.0, 150.0), {100.0: "ml/g/min"}),
    "cbv": Quantity("ml/100 g", (0.5, 15.0), {100.0: "ml/g"}),
}

#: Channels in Hounsfield units.
CT = ("ncct", "cta")
#: Bone and contrast medium lie above the first of these values, and little of them above the second; with 1024 added to
#: all, nearly everything above the first lies above the second.
DENSE_HU, DENSEST_SHARE = (150.0, 900.0), 0.8
#: Median of the voxels above 0 HU, with skull or without, is that of brain and muscle: not below the first value; and
#: above the second only where bone or contrast medium make up half of the head, so never in an image without either.
SOFT_HU = (5.0, 80.0)
#: The largest value of a CT that was stored in eight bits.
EIGHT_BITS = 255.5
#: A network whose channel spans less than this many units was not trained on Hounsfield units.
LEAST_HU = 20.0


def settle_units(raw: dict[str, Array], channels: Mapping[str, ChannelSpec], warnings: list[str]) -> None:
    """Bring every channel that measures something to the network's unit, in place, and say what was done or is odd.

    Args:
        raw: Channels by name, (Z, Y, X), before normalisation.
        channels: What the network reads.
        warnings: Takes one line for each channel that was converted or fits no unit.
    """
    if "dwi" in raw and "adc" in raw and looks_like_adc(raw["dwi"]) and not looks_like_adc(raw["adc"]):
        warnings.append("DWI and ADC look exchanged: the image given as dwi has ADC's values; check the channels")
    for name in raw:
        quantity = QUANTITIES.get(name)
        if quantity is not None and quantity.expected_by(channels[name]):
            _settle(name, raw[name], quantity, warnings)
        elif name in CT:
            _settle_hounsfield(name, raw[name], channels[name], warnings)


def adc_scale(array: Array) -> float | None:
    """The factor that brings an ADC map to 10⁻⁶ mm²/s (1, 10³ or 10⁶), or None where no unit makes it plausible."""
    return QUANTITIES["adc"].scale(array)


def looks_like_adc(array: Array) -> bool:
    """Whether an image has a plausible unit for ADC, and fluid far above tissue as diffusion coefficients have it."""
    positive = array[array > 0]
    return adc_scale(array) is not None and float(np.percentile(positive, 95)) > 2.0 * float(np.median(positive))


def _settle(name: str, array: Array, quantity: Quantity, warnings: list[str]) -> None:
    scale = quantity.scale(array)
    if scale is None:
        median = float(np.median(array[array > 0])) if (array > 0).any() else 0.0
        warnings.append(
            f"channel {name}: median {median:.3g} fits no unit of {name.upper()}; taken as {quantity.unit} as it is"
        )
    elif scale != 1.0:
        warnings.append(f"channel {name}: given in {quantity.others[scale]}, brought to {quantity.unit}")
        array *= np.float32(scale)


def _settle_hounsfield(name: str, array: Array, channel: ChannelSpec, warnings: list[str]) -> None:
    """Say where a CT's rescale intercept is lost, so that all lies 1024 HU too high, or its values were scaled."""
    how = channel.normalisation
    positive = array[array > 0]
    if positive.size == 0 or not isinstance(how, Fixed) or how.high - how.low < LEAST_HU:
        return
    low, median, high = float(array.min()), float(np.median(positive)), float(array.max())
    if _in_thousands(array):
        warnings.append(f"channel {name}: given in thousands of Hounsfield units, brought to Hounsfield units")
        array *= np.float32(1000)
        return
    dense = array[array > DENSE_HU[0]]
    if dense.size and float((dense > DENSE_HU[1]).mean()) > DENSEST_SHARE:
        warnings.append(
            f"channel {name}: nearly all of the patient lies above {DENSE_HU[1]:g} HU; give the image in "
            "Hounsfield units (is its rescale intercept lost?)"
        )
    elif median < SOFT_HU[0] or (median > SOFT_HU[1] and low >= 0 and high <= EIGHT_BITS):
        warnings.append(
            f"channel {name}: values of {low:g} to {high:g} with a median of {median:.3g} are no Hounsfield units "
            "(were they scaled to a window?); the mask is not to be relied on: give the CT as it was reconstructed"
        )


def _in_thousands(array: Array) -> bool:
    """Whether air lies at -1, and the brain just above 0: a window scaled to -1 to 1 has most of it below 0."""
    brain, between = (array > 0) & (array <= 0.1), (array > -0.5) & (array < -0.02)
    extent = -1.1 <= float(array.min()) <= -0.9 and float(array.max()) <= 4.1
    return extent and int(brain.sum()) > 2 * int(between.sum())
