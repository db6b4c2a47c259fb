"""What a file's name says of the image in it: BIDS entities and suffix, and the words that converters add.

An image's last word names its kind (`_T1w`, `_adc`). In BIDS `_dwi` is a modality, which entities make precise
(`rec-ADC_dwi`, `param-adc_dwimap`), and `part-phase` says that it is not what a reader looks at; dcm2niix appends words
(`dwi_ADC`, `_TRACEW`, `_ph`, `_Tilt_1`).
"""

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

#: Channels by name, with the words that name each, lower case.
Words = Mapping[str, Collection[str]]


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


#: Keys of BIDS entities, by which an entity is told from a word with a hyphen in it.
KEYS = _words(
    "sub ses sample task tracksys acq nuc voi ce trc stain rec dir run mod echo flip inv mt part proc hemi space split "
    "recording chunk atlas seg scale res den label desc from to mode model subset param cohort"
)
ENTITY = re.compile(r"([a-z]+)-([a-z0-9+]+)", re.IGNORECASE)
#: Entities that say what an image shows, the most particular first.
PARTICULARS = ("param", "rec", "desc", "acq")
#: Words for a modality or for any map, which a particular word makes precise.
MODALITIES = _words("dwi dwimap diff dti ct perf ctp perfusion map maps mri mr image")
#: What dcm2niix appends to a CT whose gantry tilt or uneven steps it took out, with a number.
POSTFIXES = frozenset(("tilt", "eq", "moco"))
#: Words whose images no network is given, by what they are.
OTHERS = {
    "a phase image or one part of a complex image": _words("phase ph phasediff phase1 phase2 real imag imaginary"),
    "a mask or label map": _words("mask msk seg dseg aseg probseg roi label labels labelmap segmentation lesion"),
    "another map of diffusion": _words("fa colfa cfa rd ad eadc expadc exponential b0 s0 sbref tensor"),
}
#: Contrasts: an image named after one is not an image of another.
CONTRASTS = _words(
    "t1 t1w t2 t2w flair pd pdw swi t2star t2starw bold dwi adc trace tracew ct ncct cta asl tof mra ctp cbf cbv mtt "
    "tmax"
)


@dataclass(frozen=True)
class ImageName:
    """A file's name, read.

    Attributes:
        case: What stands before the words about the image; may be empty.
        channel: The channel that the name tells, or None.
        other: What the image is instead of a channel's (`a mask or label map`), or None.
        particular: Whether an entity names the channel (`rec-TRACE_dwi`), rather than the modality alone (`_dwi`).
    """

    case: str
    channel: str | None = None
    other: str | None = None
    particular: bool = False


@dataclass
class _Parts:
    """entities: by key, lower case; words: after the last entity, with their places in the name."""

    entities: dict[str, str] = field(default_factory=dict)
    words: list[tuple[str, int]] = field(default_factory=list)


def read_name(stem: str, channels: Words) -> ImageName:
    """Read a file's name.

    Args:
        stem: The name without the image's ending.
        channels: The words that name each channel.

    Returns:
        The name's case, and its channel or what else the image is.
    """
    parts = _parts(stem)
    words = parts.words
    while words and _is_postfix([word for word, _ in words]):
        words.pop()
    if not words:
        return ImageName(stem, other=_part(parts))
    last, start = words.pop()
    last = _without_map(last) if _called(_without_map(last), channels) or _other(_without_map(last), channels) else last
    before = words[-1][0] if words else ""
    other = _part(parts) or _other(last, channels)
    channel = _called(last, channels)
    particular = False
    if other is None and last in MODALITIES:
        for kind in _kinds(parts, before):
            named, other = _called(kind, channels), _other(kind, channels) or _foreign(kind, channels)
            if named is not None or other is not None:
                channel, particular = named, named is not None
                break
    elif other is None and before in ("exp", "exponential"):
        other = _other("expadc", channels)
    if other is not None:
        return ImageName(stem, other=other)
    if channel is None:
        return ImageName(stem, other=_foreign(last, channels))
    if len(channels) > 1:  # names that differ by the channel's words are one case
        while words and (words[-1][0] in MODALITIES | CONTRASTS or _called(words[-1][0], channels) is not None):
            _, start = words.pop()
    return ImageName(stem[:start].rstrip("_-. "), channel, particular=particular)


def _is_postfix(words: list[str]) -> bool:
    return words[-1] in POSTFIXES or (words[-1].isdigit() and len(words) > 1 and words[-2] in POSTFIXES)


def _parts(stem: str) -> _Parts:
    parts, start, bids = _Parts(), 0, stem.lower().startswith("sub-")
    for piece in stem.split("_"):
        entity = ENTITY.fullmatch(piece) if bids else None
        if entity and entity[1].lower() in KEYS:
            parts.entities[entity[1].lower()] = entity[2].lower()
            parts.words.clear()
        else:
            parts.words += [(found[0].lower(), start + found.start()) for found in re.finditer(r"[^-. ]+", piece)]
        start += len(piece) + 1
    return parts


def _part(parts: _Parts) -> str | None:
    """What a name's entities say without regard to its suffix."""
    phase, mask, _ = OTHERS
    if parts.entities.get("part", "mag") != "mag":
        return phase
    return mask if "label" in parts.entities else None


def _kinds(parts: _Parts, before: str) -> Iterator[str]:
    """The words that make a modality precise, without b-values, numbers and `map`: `b1000TRACE`, `ADCmap2`."""
    for value in (*(parts.entities.get(key, "") for key in PARTICULARS), before):
        yield value
        yield re.sub(r"^b?\d+|(map|image|img)?\d*$", "", value)


def _without_map(word: str) -> str:
    """`ADCmap` is a map of what `ADC` is."""
    return word.removesuffix("map")


def _called(word: str, channels: Words) -> str | None:
    return next((name for name, own in channels.items() if word in own), None)


def _other(word: str, channels: Words) -> str | None:
    """What an image of this word is, unless it is the word of a channel."""
    if _called(word, channels) is not None:
        return None
    return next((what for what, words in OTHERS.items() if word in words), None)


def _foreign(word: str, channels: Words) -> str | None:
    """That an image is of a contrast that no channel is; unless the channels have words of their own for theirs."""
    known = any(CONTRASTS.intersection(own) for own in channels.values())
    if not known or word not in CONTRASTS or _called(word, channels) is not None:
        return None
    return f"an image of another kind, {word}"
