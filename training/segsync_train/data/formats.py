"""Folders in a general format: nnU-Net's and BIDS. Data sets with a layout of their own are in `adapters`."""

import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from segsync.errors import InputError
from segsync.images import stem_of, suffix_of
from segsync.names import OTHERS, read_name
from segsync.tasks import TASKS, words_of
from segsync_train.config.labels import LabelSet
from segsync_train.config.settings import check_settings
from segsync_train.data.layout import CaseFiles, below, image_files

#: Endings of a BIDS name that say that the file is a label map (`_mask`, `_dseg`; ISLES: `_msk`, `_lesion-msk`).
BIDS_LABEL = re.compile(r"mask|dseg|msk|lesion-msk|roi", re.IGNORECASE)
#: What nnU-Net calls the label of voxels that nobody labelled.
IGNORE = "ignore"
BIDS_NAME = re.compile(r"(sub-[^_/]+(?:_ses-[^_/]+)?)(?:_[a-z0-9]+-[^_/]+)*_([^_/]+)", re.IGNORECASE)


def nnunet_cases(folder: Path, channels: Sequence[str]) -> list[CaseFiles]:
    """Cases of a folder in nnU-Net's format: `imagesTr/NAME_0000.nii.gz`, …, `labelsTr/NAME.nii.gz`, `dataset.json`.

    Args:
        folder: The data set's.
        channels: Names, in the order of the numbers. With one channel the number may be missing (Medical Segmentation
            Decathlon).

    Returns:
        The cases; a label that is missing is None.

    Raises:
        InputError: The folder is of another layout.
    """
    return [case for case in nnunet_everything(folder, channels) if case.images]


def nnunet_everything(folder: Path, channels: Sequence[str]) -> list[CaseFiles]:
    """The same, with the cases that have a label map and no image."""
    images = folder / "imagesTr"
    if not images.is_dir():
        raise InputError(f"{folder}: no folder imagesTr, which nnU-Net's format has; check data.folder")
    _check_description(folder / "dataset.json", channels)
    label_of = _nnunet_labels(folder)
    found: dict[str, dict[str, Path]] = {name: {} for name in label_of}
    for path in _images_in(images):
        whole = stem_of(path)
        stem, _, number = whole.rpartition("_")
        numbered = len(number) == 4 and number.isdigit()
        if len(channels) == 1 and (whole in label_of or not numbered):
            found.setdefault(whole, {})[channels[0]] = path
        elif not numbered:
            raise InputError(f"{path}: the name does not end in the channel's number (_0000); rename it")
        elif int(number) < len(channels):
            found.setdefault(stem, {})[channels[int(number)]] = path
    return [CaseFiles(name, by_channel, label_of.get(name)) for name, by_channel in sorted(found.items())]


def _nnunet_labels(folder: Path) -> dict[str, Path]:
    """Label maps by their case's name."""
    labels = folder / "labelsTr"
    return {stem_of(path): path for path in _images_in(labels)} if labels.is_dir() else {}


def _images_in(folder: Path) -> list[Path]:
    """The images of one folder, in order; hidden files and others are passed over."""
    return [path for path in sorted(folder.iterdir()) if not path.name.startswith(".") and suffix_of(path)]


def _check_description(path: Path, channels: Sequence[str]) -> None:
    listed = _listed(_description(path))
    if listed and len(listed) != len(channels):
        raise InputError(
            f"{path}: expected {len(channels)} channels ({', '.join(channels)}), found {len(listed)} "
            f"({', '.join(listed)}); list as many in the settings"
        )
    theirs, ours = ([name.lower() for name in names] for names in (listed, channels))
    if theirs != ours and sorted(theirs) == sorted(ours):
        raise InputError(
            f"{path}: expected the channels {', '.join(channels)} by their numbers, found {', '.join(listed)}; list "
            "them in that order in the settings"
        )


def _listed(about: dict[str, Any]) -> list[str]:
    """The channels that `dataset.json` names, in the order of their numbers."""
    named = about.get("channel_names", about.get("modality", {}))
    return [str(named[key]) for key in sorted(named, key=lambda key: int(key) if key.isdigit() else 0)]


def _description(path: Path) -> dict[str, Any]:
    """What `dataset.json` holds; nothing without that file."""
    if not path.is_file():
        return {}
    try:
        about: dict[str, Any] = json.loads(path.read_bytes())
        for key in ("channel_names", "modality", "labels"):
            about.get(key, {}).items()
    except (ValueError, AttributeError) as error:
        raise InputError(f"{path}: expected the JSON of a data set, found {error}; correct the file") from error
    return about


def bids_cases(folder: Path, channels: Sequence[str]) -> list[CaseFiles]:
    """Cases of a BIDS folder: a case a subject, or a subject's session, `sub-01/ses-1/anat/sub-01_ses-1_T1w.nii.gz`.

    Images are those outside `derivatives`, label maps (`_mask`, `_dseg`, `_msk`, `_lesion-msk`) lie anywhere.

    Args:
        folder: The data set's.
        channels: Suffixes, capitals do not matter, and `t1` is also `T1w`; entities make `_dwi` precise (`rec-ADC_dwi`
            is `adc`), and `part-phase` is no image.

    Returns:
        The cases.

    Raises:
        InputError: Two files are the same image, or nothing has a BIDS name.
    """
    return [case for case in bids_everything(folder, channels) if case.images]


def bids_everything(folder: Path, channels: Sequence[str]) -> list[CaseFiles]:
    """The same, with the cases that have a label map and no image."""
    wanted = {name: {*words_of(name), f"{name.lower()}w"} for name in channels}
    found: dict[str, dict[str, list[tuple[bool, Path]]]] = {}
    labels: dict[str, list[tuple[bool, Path]]] = {}
    named = False
    for path in image_files(folder):
        parts = BIDS_NAME.fullmatch(stem_of(path))
        if parts is None:
            continue
        named = True
        told = read_name(stem_of(path), wanted)
        if BIDS_LABEL.fullmatch(parts[2]):
            labels.setdefault(parts[1], []).append((False, path))
        elif told.channel is not None and not below(folder, path).startswith("derivatives/"):
            found.setdefault(parts[1], {}).setdefault(told.channel, []).append((told.particular, path))
    if not named:
        raise InputError(f"{folder}: no name as in BIDS (sub-01_T1w.nii.gz); check data.layout")
    return [
        CaseFiles(
            case,
            {channel: _only(case, paths) for channel, paths in found.get(case, {}).items()},
            _only(case, labels[case]) if case in labels else None,
        )
        for case in sorted({*found, *labels})
    ]


def _only(case: str, paths: list[tuple[bool, Path]]) -> Path:
    """The one file of a kind: where an entity names it (`rec-TRACE_dwi`), the raw series beside it is another thing."""
    best = [path for particular, path in paths if particular == max(paths)[0]]
    if len(best) > 1:
        suffix = stem_of(best[1]).rpartition("_")[2]
        raise InputError(
            f"{best[1]}: expected one {suffix} for the case {case}, found {best[0]} as well; leave one in the folder"
        )
    return best[0]


def bids_channels(folder: Path) -> list[str]:
    """The suffixes of a BIDS folder's images that at least half of the cases have."""
    cases: dict[str, set[str]] = {}
    known = {channel.name: channel.words for task in TASKS.values() for channel in task.channels}
    for path in image_files(folder):
        found = BIDS_NAME.fullmatch(stem_of(path))
        if found and not BIDS_LABEL.fullmatch(found[2]) and not below(folder, path).startswith("derivatives/"):
            told = read_name(stem_of(path), known)
            if told.other not in OTHERS:
                suffix = told.channel if told.particular and told.channel else found[2].lower()
                cases.setdefault(found[1], set()).add(suffix)
    counts = Counter(suffix for suffixes in cases.values() for suffix in suffixes)
    return [suffix for suffix, count in sorted(counts.items()) if 2 * count >= len(cases)]


def nnunet_description(folder: Path) -> tuple[list[str], LabelSet]:
    """Channels and labels of a folder in nnU-Net's format, from its `dataset.json`.

    Labels that are lists of values are regions, written in `regions_class_order`; `ignore` names the value of what
    nobody labelled.

    Args:
        folder: The data set's.

    Returns:
        Channels, without the file those that the images are numbered with; labels, empty without the file.

    Raises:
        InputError: It is no JSON, or says something else of its labels.
    """
    path = folder / "dataset.json"
    about = _description(path)
    return _listed(about) or _numbered(folder), _label_set(path, about)


def _label_set(path: Path, about: dict[str, Any]) -> LabelSet:
    # nnU-Net 2 writes names to values, the Decathlon values to names.
    pairs = [(value, key) if str(key).isdigit() else (key, value) for key, value in about.get("labels", {}).items()]
    values: dict[str, tuple[int, ...]] = {}
    for name, said in pairs:
        union = said if isinstance(said, list) else [said]
        if not union or not all(str(value).isdigit() for value in union):
            raise InputError(
                f"{path}: labels.{name}: expected a value, or a list of values for a region, found {said!r}; correct it"
            )
        values[str(name)] = tuple(int(value) for value in union)
    ignore = values.pop(IGNORE, None)
    unions = {name: union for name, union in values.items() if max(union) > 0}
    if all(len(union) == 1 for union in unions.values()):
        said_so: dict[str, Any] = {"labels": {union[0]: name for name, union in unions.items()}}
    else:
        order = about.get("regions_class_order")
        if not isinstance(order, list) or len(order) != len(unions) or len(set(map(str, order))) < len(order):
            raise InputError(
                f"{path}: regions_class_order: expected a value for each of the {len(unions)} regions, which masks are "
                f"written with, found {order!r}; correct it"
            )
        by_value = dict(zip(order, unions.items(), strict=True))
        said_so = {
            "labels": {value: name for value, (name, _) in by_value.items()},
            "regions": {value: union for value, (_, union) in by_value.items()},
        }
    return check_settings(LabelSet, {**said_so, "ignore": ignore and ignore[0]}, str(path))


def _numbered(folder: Path) -> list[str]:
    """The channels by number, `0000`, `0001`, …, or one named `image`; the Decathlon's names may end in a number."""
    images = folder / "imagesTr"
    stems = {stem_of(path) for path in _images_in(images)} if images.is_dir() else set()
    numbers = {stem[-4:] for stem in stems - _nnunet_labels(folder).keys() if re.fullmatch(r".+_\d{4}", stem)}
    last = int(max(numbers)) if "0000" in numbers else 0
    return [f"{number:04d}" for number in range(last + 1)] if last else ["image"]
