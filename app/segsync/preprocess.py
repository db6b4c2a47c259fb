"""From channels as scanners give them to one normalised array on the model's grid; training runs this very code."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from segsync.arrays import Array, Mask
from segsync.bundle import ChannelSpec, Fixed, ModelSpec, ZScore
from segsync.errors import ChannelError, WeightsError
from segsync.geometry import Grid, Volume, resample, respaced

#: Segments a region in an image: 1 inside, 0 outside, on the image's grid; None if it finds nothing.
RegionFinder = Callable[[Volume], Volume | None]

#: Tissue is brighter than this fraction of the image's bright end (its 98th percentile above zero); air and noise are
#: not.
TISSUE_FRACTION = 0.1
#: Below this fraction of the reference's tissue inside a channel's field of view, the channel lies elsewhere.
MIN_OVERLAP = 0.05
#: Below this fraction a person should look.
GOOD_OVERLAP = 0.8
#: Median ADC of brain tissue lies in this range whatever the field strength, in 10⁻⁶ mm²/s; wide enough for oedema.
ADC_MEDIAN = (300.0, 2500.0)
#: Channels in Hounsfield units. Bone and contrast medium lie above the first of these values, and little of them above
#: the second; with 1024 added to all, nearly everything above the first lies above the second.
CT = ("ncct", "cta")
DENSE_HU, DENSEST_FRACTION = (150.0, 900.0), 0.8


@dataclass(frozen=True)
class Prepared:
    """What the network sees.

    array: (C, Z, Y, X) float32, normalised; grid: the model's grid; tissue: (Z, Y, X) bool, where the reference channel
    shows the patient; warnings: what a person should know, one line each.
    """

    array: Array
    grid: Grid
    tissue: Mask
    warnings: tuple[str, ...]


def tissue(array: Array, how: ZScore | Fixed) -> Mask:
    """Where an image (Z, Y, X) shows the patient rather than air: with skull or without, in signal or in units."""
    if isinstance(how, Fixed):
        floor = how.low
    else:
        positive = array[array > 0]
        floor = TISSUE_FRACTION * float(np.percentile(positive, 98)) if positive.size else 0.0
    shown: Mask = array > floor
    return shown


def normalise(array: Array, how: ZScore | Fixed) -> Array:
    """One channel (Z, Y, X) in its own units, brought to the scale the network was trained on (float32)."""
    if isinstance(how, Fixed):
        scaled: Array = ((np.clip(array, how.low, how.high) - how.mean) / how.std).astype(np.float32)
        return scaled
    values = array[tissue(array, how)]
    if values.size == 0:
        return np.zeros_like(array)
    low, high = np.percentile(values, how.percentiles)
    values = np.clip(values, low, high)
    std = float(values.std())
    if std == 0.0:
        return np.zeros_like(array)
    standard: Array = ((np.clip(array, low, high) - values.mean()) / std).astype(np.float32)
    return standard


def adc_scale(array: Array) -> float | None:
    """The factor that brings an ADC map to 10⁻⁶ mm²/s (1, 10³ or 10⁶), or None where no unit makes it plausible."""
    positive = array[array > 0]
    if positive.size == 0:
        return None
    median = float(np.median(positive))
    return next((scale for scale in (1.0, 1e3, 1e6) if ADC_MEDIAN[0] <= median * scale <= ADC_MEDIAN[1]), None)


def looks_like_adc(array: Array) -> bool:
    """Whether an image has a plausible unit for ADC, and fluid far above tissue as diffusion coefficients have it."""
    positive = array[array > 0]
    return adc_scale(array) is not None and float(np.percentile(positive, 95)) > 2.0 * float(np.median(positive))


def prepare(
    load: Callable[[str], Volume | None], spec: ModelSpec, reference: str, region_model: RegionFinder | None = None
) -> Prepared:
    """Bring every channel of `spec` onto one grid, by physical space, and normalise it.

    load: gives a channel's volume by name, or None where the case has none; called once a channel, so that only one
    full-size image is in memory at a time. reference: the channel whose field of view the model's grid covers.
    region_model: what `spec.region_model` names, opened; outside of it all channels are 0, as in images whose
    skull was removed. None: nothing is blanked.
    Raises ChannelError where a needed channel is missing, empty, or lies elsewhere in space.
    """
    warnings: list[str] = []
    channels = {channel.name: channel for channel in spec.channels}
    if reference not in channels:
        raise WeightsError(
            f"model {spec.name!r}: expected it to read the channel {reference!r}, found {list(channels)}"
        )
    volume = _loaded(load, reference, warnings)
    if volume is None:
        raise ChannelError(reference, "expected an image, found none; give the image that the task measures on")
    grid = respaced(volume.grid, spec.spacing_zyx)
    kept = _inside(region_model, volume, grid, spec, reference, warnings) if region_model is not None else None
    raw: dict[str, Array] = {}
    here: Mask | None = None
    for name in (reference, *(name for name in channels if name != reference)):
        volume = volume if name == reference else _loaded(load, name, warnings)
        array = _on_grid(name, volume, grid, here, channels[name].optional, warnings)
        if array is not None:
            raw[name] = array if kept is None else np.where(kept, array, np.float32(0))
        if name == reference:
            here = _tissue_of(raw[name], channels[name])
        volume = None
    _check_diffusion(raw, warnings)
    _check_hounsfield(raw, warnings)
    assert here is not None
    stack = np.zeros((len(channels), *grid.size_zyx), dtype=np.float32)
    for index, (name, channel) in enumerate(channels.items()):
        if name in raw:
            stack[index] = normalise(raw.pop(name), channel.normalisation)
    return Prepared(stack, grid, here, tuple(warnings))


def _inside(
    region_model: RegionFinder, image: Volume, grid: Grid, spec: ModelSpec, reference: str, warnings: list[str]
) -> Mask | None:
    """Where to look, on the model's grid; None, the whole image, if the region model finds nothing."""
    found = region_model(image)
    if found is None:
        warnings.append(
            f"channel {reference}: the region model {spec.region_model} finds nothing in it; the whole image is used"
        )
        return None
    inside: Mask = resample(found, grid, antialias=True) >= 0.5
    return inside


def _tissue_of(array: Array, channel: ChannelSpec) -> Mask:
    here = tissue(array, channel.normalisation)
    if not here.any():
        raise ChannelError(
            channel.name,
            f"expected the patient, found nothing that is tissue (values of {array.min():g} to {array.max():g}); check "
            "the image and its unit",
        )
    return here


def _loaded(load: Callable[[str], Volume | None], name: str, warnings: list[str]) -> Volume | None:
    """The channel in float32, with voxels that are no number set to 0, as outside the field of view."""
    volume = load(name)
    if volume is None:
        return None
    warnings += [f"channel {name}: {line}" for line in volume.warnings]
    array = volume.array.astype(np.float32)
    np.nan_to_num(array, copy=False, nan=0.0, posinf=0.0, neginf=0.0)
    return Volume(array, volume.grid)


def _on_grid(
    name: str, volume: Volume | None, grid: Grid, here: Mask | None, optional: bool, warnings: list[str]
) -> Array | None:
    """The channel on the model's grid; None where it is missing or empty and the model can do without.

    here: where the reference shows the patient; None for the reference itself.
    """
    if volume is not None and volume.array.min() == volume.array.max():
        found = f"only the value {float(volume.array.flat[0]):g}"
    elif volume is None:
        found = "none"
    else:
        array = resample(volume, grid, outside=np.nan, antialias=True)
        inside = np.isfinite(array)
        if here is not None:
            _check_overlap(name, inside, here, warnings)
        return np.where(inside, array, np.float32(0))
    if not optional:
        raise ChannelError(name, f"expected the patient's image, found {found}; give that channel's image")
    warnings.append(f"channel {name}: expected an image, found {found}; the model goes on without it")
    return None


def _check_overlap(name: str, inside: Mask, here: Mask, warnings: list[str]) -> None:
    fraction = float(inside[here].mean())
    if fraction < MIN_OVERLAP:
        raise ChannelError(
            name,
            f"expected the region that the reference image shows, found {fraction:.0%} of it in the field of view; "
            "register the images or give those of one visit",
        )
    if fraction < GOOD_OVERLAP:
        warnings.append(f"channel {name}: covers {fraction:.0%} of the patient in the reference image; check the pair")


def _check_diffusion(raw: dict[str, Array], warnings: list[str]) -> None:
    """Bring ADC to 10⁻⁶ mm²/s in place, and say where DWI and ADC look exchanged."""
    if "adc" not in raw:
        return
    adc = raw["adc"]
    if "dwi" in raw and looks_like_adc(raw["dwi"]) and not looks_like_adc(adc):
        warnings.append("DWI and ADC look exchanged: the image given as dwi has ADC's values; check the channels")
    scale = adc_scale(adc)
    if scale is None:
        median = float(np.median(adc[adc > 0])) if (adc > 0).any() else 0.0
        warnings.append(f"channel adc: median {median:.3g} fits no unit of ADC; taken as 10⁻⁶ mm²/s as it is")
    elif scale != 1.0:
        warnings.append(f"channel adc: given in {'10⁻³ mm²/s' if scale == 1e3 else 'mm²/s'}, brought to 10⁻⁶ mm²/s")
        adc *= np.float32(scale)


def _check_hounsfield(raw: dict[str, Array], warnings: list[str]) -> None:
    """Say where a CT's rescale intercept is lost, so that everything lies 1024 HU too high."""
    for name in (name for name in CT if name in raw):
        dense = raw[name][raw[name] > DENSE_HU[0]]
        if dense.size and float((dense > DENSE_HU[1]).mean()) > DENSEST_FRACTION:
            warnings.append(
                f"channel {name}: nearly all of the patient lies above {DENSE_HU[1]:g} HU; give the image in "
                "Hounsfield units (is its rescale intercept lost?)"
            )
