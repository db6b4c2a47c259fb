"""Score folders of predictions against folders of references, file by file: what other programs segmented, too."""

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from segsync.arrays import Array, LabelMap
from segsync.errors import InputError
from segsync.geometry import Grid, Volume
from segsync.images import read, stem_of, suffix_of
from segsync_train.config.labels import LabelSet
from segsync_train.data.dataset import check_values, on_grid, read_values
from segsync_train.evaluation.metrics import Rules, score
from segsync_train.evaluation.summary import Row
from segsync_train.runs.progress import StepProgress

log = logging.getLogger(__name__)

#: How far a probability may lie beyond 0 and 1 by rounding.
ROUNDING = 1e-4


def evaluate_folders(
    predictions: Path,
    references: Path,
    rules: Rules,
    labels: LabelSet | None = None,
    probabilities: Path | None = None,
) -> list[Row]:
    """Score every reference of a folder against the prediction of the same name.

    Args:
        predictions: Folder of label maps.
        references: Folder of label maps.
        rules: What a challenge counts.
        labels: What the values mean; None takes those that the references hold.
        probabilities: Folder of a probability map for each reference, for rules that score them: named as the
            reference with `_probability` behind it (with several labels `_probability-NAME`), as `segsync predict`
            writes them, or, in a folder of its own and with a single label, as the reference.

    Returns:
        A row for each case and label.

    Raises:
        InputError: A prediction or map is missing, on another grid than its reference, or holds a label that is not
            known or what is no probability; or the rules score no probability maps.
    """
    if probabilities is not None and not rules.probability_map:
        raise InputError(
            f"{probabilities}: expected rules that score probability maps (isles26) for --probabilities, found "
            f"{rules.name}; leave the maps out or give --rules isles26"
        )
    expected, found = label_maps(references), label_maps(predictions)
    maps = label_maps(probabilities) if probabilities is not None else {}
    _check_complete(predictions, references, list(expected), list(found))
    extra = sorted(found.keys() - expected.keys() - {stem_of(path) for path in maps.values()})
    if extra:
        log.warning("%s: %d predictions have no reference and are left out (%s …)", predictions, len(extra), extra[0])
    known = labels or _values_of(expected.values())
    names = known.labels
    places = _maps_of(maps, list(expected), names, own_folder=probabilities != predictions)
    if probabilities is not None:
        complete = [name for name in expected if all((name, value) in places for value in names)]
        _check_complete(probabilities, references, list(expected), complete)
    rows: list[Row] = []
    with StepProgress("scoring", len(expected)) as progress:
        for name, path in expected.items():
            reference = read_values(path)
            predicted = on_grid(found[name], read_values(found[name]), path, reference.grid)
            check_values(path, reference, known.known)
            check_values(found[name], predicted, known.known)
            own = {value: _read_map(places[name, value], path, reference) for value in names if places}
            rows += score_case(name, reference, predicted, known, rules, own)
            progress.advance(name)
    return rows


def _check_complete(folder: Path, references: Path, expected: list[str], found: list[str]) -> None:
    missing = sorted(set(expected) - set(found))
    if missing:
        raise InputError(
            f"{folder}: expected a prediction for each of the {len(expected)} references in {references}, found "
            f"none for {len(missing)} ({', '.join(missing[:5])}{', …' if len(missing) > 5 else ''}); predict them too"
        )


def label_maps(folder: Path) -> dict[str, Path]:
    """The images of a folder by name; raises InputError for a folder without images, or two of one name."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no folder of label maps; check the path")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.is_file() and suffix_of(path) and not path.name.startswith("."):
            first = found.setdefault(stem_of(path), path)
            if first != path:
                raise InputError(f"{path}: expected one label map of this name, found {first.name} as well; take one")
    if not found:
        raise InputError(f"{folder}: no label maps; give the folder that holds them itself")
    return found


def _maps_of(
    maps: Mapping[str, Path], names: list[str], labels: Mapping[int, str], *, own_folder: bool
) -> dict[tuple[str, int], Path]:
    """The probability map of each case and label, of those that are there."""
    found = {}
    for name in names:
        for value, label in labels.items():
            stems = [f"{name}_probability-{label.replace('/', '-')}"]
            if len(labels) == 1:
                stems += [f"{name}_probability", *([name] if own_folder else [])]
            there = [maps[stem] for stem in stems if stem in maps]
            if there:
                found[name, value] = there[0]
    return found


def _read_map(path: Path, reference_path: Path, reference: Volume) -> Volume:
    """A probability map on its reference's grid; raises InputError for another grid, or what is no probability."""
    volume = on_grid(path, read(path), reference_path, reference.grid)
    low, high = float(volume.array.min()), float(volume.array.max())
    if not (low >= -ROUNDING and high <= 1 + ROUNDING):
        raise InputError(
            f"{path}: expected probabilities of 0 to 1, found values of {low:g} to {high:g}; write it anew"
        )
    return volume


def _values_of(paths: Iterable[Path]) -> LabelSet:
    values: set[float] = set()
    for path in paths:
        values |= set(np.unique(read_values(path).array).tolist())
    labels = {int(value): str(int(value)) for value in sorted(values) if value > 0 and value == int(value)}
    if not labels:
        raise InputError("no reference holds a label; give --label VALUE=NAME")
    return LabelSet(labels=labels)


def submitted_maps(
    labels: Iterable[int], probabilities: Iterable[Array], mask: LabelMap, grid: Grid
) -> dict[int, Volume]:
    """The probability map of each label as the container writes it: 0 throughout where nothing was segmented.

    Args:
        labels: Values.
        probabilities: (Z, Y, X) of each label, on the mask's grid.
        mask: (Z, Y, X), what was segmented.
        grid: The grid of both.

    Returns:
        The maps by value.
    """
    any_found = mask.any()
    return {
        value: Volume(map_ if any_found else np.zeros_like(map_), grid)
        for value, map_ in zip(labels, probabilities, strict=True)
    }


def score_case(
    name: str,
    reference: Volume,
    predicted: Volume,
    labels: LabelSet,
    rules: Rules,
    probabilities: Mapping[int, Volume] | None = None,
) -> list[Row]:
    """A row for each label of two label maps, and of each label's probability map, on one grid.

    Where nobody labelled the reference nothing is found, whatever was predicted.
    """
    spacing, maps = reference.grid.spacing_zyx, probabilities or {}
    known = ~labels.ignored(reference.array)
    return [
        Row(
            name,
            value,
            label,
            score(
                labels.within(reference.array, value),
                labels.within(predicted.array, value) & known,
                spacing,
                rules,
                np.asarray(maps[value].array, np.float32) * known if value in maps else None,
            ),
        )
        for value, label in labels.labels.items()
    ]
