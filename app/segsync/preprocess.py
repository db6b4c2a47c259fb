"""From channels as scanners give them to one normalised array on the model's grid; training runs this very code."""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from segsync.arrays import Array, Mask
from segsync.bundle import ChannelSpec, Fixed, OrganSpec, PreprocessingSpec, ScalarSpec, ZScore
from segsync.clinical import value_of
from segsync.errors import ChannelError
from segsync.geometry import Grid, Volume, resample, respaced
from segsync.units import settle_units


class RegionFinder(Protocol):
    """Segments a region in an image: 1 inside, 0 outside, on the image's grid; None if it finds nothing.

    Attributes:
        name: Of the region.
        organ: What is known of it; None if it is no organ in one piece.
    """

    name: str
    organ: OrganSpec | None

    def __call__(self, image: Volume, /) -> Volume | None:
        """The region's mask."""


#: Tissue is brighter than this fraction of the image's bright end (its 98th percentile above zero); air and noise are
#: not.
TISSUE_FRACTION = 0.1
#: Below this fraction of the reference's tissue inside a channel's field of view, the channel lies elsewhere.
MIN_OVERLAP = 0.05
#: Below this fraction a person should look.
GOOD_OVERLAP = 0.8
#: Beyond this share of voxels that are no number an image is damaged, unless they are its air.
MOST_UNDEFINED = 0.25


@dataclass(frozen=True)
class Prepared:
    """What the network sees.

    Attributes:
        array: (C, Z, Y, X) float32, normalised.
        grid: The model's grid.
        tissue: (Z, Y, X) bool, where the reference channel shows the patient.
        warnings: What a person should know, one line each.
        region: (Z, Y, X) bool, outside of which the array was blanked, or None if all is shown.
    """

    array: Array
    grid: Grid
    tissue: Mask
    warnings: tuple[str, ...]
    region: Mask | None = None


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


def prepare(
    load: Callable[[str], Volume | None],
    spec: PreprocessingSpec,
    reference: str,
    region_model: RegionFinder | None = None,
    clinical: Mapping[str, object] | None = None,
) -> Prepared:
    """Bring every channel of a spec onto one grid, by physical space, and normalise it.

    Args:
        load: Gives a channel's volume by name, or None where the case lacks it; called once a channel, so that only one
            full-size image is in memory at a time.
        spec: Channels and grid.
        reference: The image whose field of view the model's grid covers. Where it is none of the channels, it gives the
            grid and the region alone, and the first channel that is always there says where the patient is.
        region_model: Outside of the region that it segments all channels are 0, as in images whose skull was removed.
            None: nothing is blanked.
        clinical: What is known of the patient, for channels that are numbers: each becomes the same everywhere.

    Returns:
        The array that the network sees, its grid, and what was noticed.

    Raises:
        ChannelError: A needed channel is missing, empty, or lies elsewhere in space.
    """
    warnings: list[str] = []
    channels = {channel.name: channel for channel in spec.images}
    first = reference if reference in channels else spec.reference_channel
    volume = _loaded(load, reference, warnings)
    if volume is None:
        raise ChannelError(reference, "no image; give the image that the task measures on")
    grid = respaced(volume.grid, spec.spacing_zyx)
    kept = _inside(region_model, volume, grid, reference, warnings) if region_model is not None else None
    raw: dict[str, Array] = {}
    here: Mask | None = None
    for name in (first, *(name for name in channels if name != first)):
        volume = volume if name == reference else _loaded(load, name, warnings)
        array = _on_grid(name, volume, grid, here, channels[name].optional, warnings)
        if array is not None:
            raw[name] = array if kept is None else np.where(kept, array, np.float32(0))
        if name == first:
            here = _tissue_of(raw[name], channels[name])
            here = here if kept is None else here & kept
        volume = None
    _check_copies(raw, warnings)
    settle_units(raw, channels, warnings)
    assert here is not None
    stack = np.zeros((len(spec.channels), *grid.size_zyx), dtype=np.float32)
    for index, channel in enumerate(spec.channels):
        if channel.name in raw:
            stack[index] = normalise(raw.pop(channel.name), channel.normalisation)
        elif channel.scalar is not None:
            stack[index] = _scalar(channel, channel.scalar, clinical or {}, warnings)
    return Prepared(stack, grid, here, tuple(warnings), kept)


def _scalar(
    channel: ChannelSpec, scalar: ScalarSpec, clinical: Mapping[str, object], warnings: list[str]
) -> np.float32:
    """A patient's number on the scale of the training; 0, which is the mean, where the model can do without it."""
    how = channel.normalisation
    assert isinstance(how, Fixed)
    try:
        value, told = value_of(scalar, clinical), f"no number called {' or '.join(scalar.names)} in the clinical data"
    except ValueError as error:
        value, told = None, f"expected a number called {' or '.join(scalar.names)} in the clinical data, found {error}"
    if value is None:
        if not channel.optional:
            raise ChannelError(channel.name, f"{told}; give it (--clinical)")
        warnings.append(f"channel {channel.name}: {told}; the model goes on with the mean ({how.mean:g})")
        return np.float32(0)
    if not how.low <= value <= how.high:
        warnings.append(
            f"channel {channel.name}: expected {how.low:g} to {how.high:g}, found {value:g}; the nearer end is taken"
        )
    return np.float32(normalise(np.full((1, 1, 1), value, dtype=np.float32), how).item())


def _inside(region_model: RegionFinder, image: Volume, grid: Grid, reference: str, warnings: list[str]) -> Mask | None:
    """Where to look, on the model's grid; None, the whole image, if the region model finds nothing."""
    found = region_model(image)
    if found is None:
        warnings.append(
            f"channel {reference}: the region model {region_model.name} finds nothing in it; the whole image is used"
        )
        return None
    doubt = region_model.organ and region_model.organ.doubt(float(found.array.sum()) * found.grid.voxel_ml)
    if doubt:
        warnings.append(f"channel {reference}: the region model {region_model.name} segments {doubt}")
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
    """The channel as integers, as its file may hold it, or in float32; voxels that are no number are NaN."""
    volume = load(name)
    if volume is None:
        return None
    warnings += [f"channel {name}: {line}" for line in volume.warnings]
    if volume.array.dtype.kind != "f":
        return volume  # resampling makes float32 of it, slab by slab
    with np.errstate(over="ignore"):  # what float32 does not hold becomes infinite, and is then no number
        array = volume.array.astype(np.float32, copy=False)
    undefined = ~np.isfinite(array)
    if undefined.any():
        array = np.where(undefined, np.float32(np.nan), array)
        _check_undefined(name, undefined, warnings)
    return Volume(array, volume.grid)


def _check_undefined(name: str, undefined: Mask, warnings: list[str]) -> None:
    """NaN is a usual value for the air about a head that was cut out, and elsewhere what damaged files hold."""
    share = float(undefined.mean())
    if undefined[np.ix_(*((0, side - 1) for side in undefined.shape))].all():
        return
    if share > MOST_UNDEFINED:
        raise ChannelError(
            name, f"expected numbers, found NaN or infinity in {share:.0%} of the voxels; make the image again"
        )
    warnings.append(f"channel {name}: {int(undefined.sum())} voxels are no number; taken as 0")


def _on_grid(
    name: str, volume: Volume | None, grid: Grid, here: Mask | None, optional: bool, warnings: list[str]
) -> Array | None:
    """The channel on the model's grid; None where it is missing or empty and the model can do without.

    here: where the reference shows the patient; None for the reference itself.
    """
    defined, volume = _filled(volume)
    if volume is not None and volume.array.min() == volume.array.max():
        problem = f"the image holds only the value {float(volume.array.flat[0]):g}"
    elif volume is None:
        problem = "no image"
    else:
        array = resample(volume, grid, outside=np.nan, antialias=True)
        inside = np.isfinite(array)
        if here is not None:
            covered = inside if defined is None else inside & (resample(defined, grid) >= 0.5)
            _check_overlap(name, covered, here, warnings)
        return np.where(inside, array, np.float32(0))
    if not optional:
        raise ChannelError(name, f"{problem}; give the patient's image of that channel")
    warnings.append(f"channel {name}: {problem}; the model goes on without it")
    return None


def _filled(volume: Volume | None) -> tuple[Volume | None, Volume | None]:
    """Where an image has numbers (None: everywhere), and the image with 0 elsewhere, as outside the field of view."""
    if volume is None or volume.array.dtype.kind != "f" or not np.isnan(volume.array).any():
        return None, volume
    defined = np.isfinite(volume.array)
    filled = np.where(defined, volume.array, np.float32(0))
    return Volume(defined.astype(np.float32), volume.grid), Volume(filled, volume.grid)


def _check_copies(raw: dict[str, Array], warnings: list[str]) -> None:
    """Say where one image was given for two channels: a map for another, or a file copied under a second name."""
    for first, second in itertools.combinations(raw, 2):
        corner = (slice(None, None, 7),) * 3
        if np.array_equal(raw[first][corner], raw[second][corner]) and np.array_equal(raw[first], raw[second]):
            warnings.append(f"channels {first} and {second} show the same values in every voxel; check the channels")


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
