"""Runs put together by setting and system, once it is certain that they can be.

A setting is a data set and what the systems were trained on: only within one are systems compared. Runs of one system
in one setting are its seeds or folds: a case's score is its mean over them.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from segsync.errors import InputError
from segsync_train.comparison.scores import MEAN, Run, Setting
from segsync_train.comparison.statistics import Flags, Values
from segsync_train.config.settings import differences
from segsync_train.evaluation.system import System

#: What the others are compared with where nothing else is asked for.
REFERENCE = "3D-SegSync"
#: Settings that seeds and folds of one system may differ in.
OWN = ("name", "seed", "device", "workers", "compile", "card", "log_every", "checkpoint_every")
OWN_DATA = ("folder", "sources", "cache", "fold")


def group_runs(runs: Sequence[Run], reference: str) -> list[Setting]:
    """Put runs together that were scored alike.

    Args:
        runs: All that were given.
        reference: The system that comes first.

    Returns:
        The settings of all runs, in their order; systems in theirs, the reference first.

    Raises:
        InputError: There are fewer than two systems, or those of a setting were not scored alike: other rules, labels
            or cases, or settings that differ in more than a seed.
    """
    folders = [run.folder.resolve() for run in runs]
    for place, folder in enumerate(folders):
        if folder in folders[:place]:
            raise InputError(f"{runs[place].folder}: expected every run once, found it twice; take one away")
    names = list(dict.fromkeys(run.name for run in runs))
    if len(names) < 2:
        raise InputError(
            f"expected scores of at least two systems, found {names[0] if names else 'none'} alone; give another run, "
            "or NAME=RUN where two systems have one name"
        )
    names.sort(key=lambda name: name != reference)
    settings = []
    for key in dict.fromkeys(run.key for run in runs):
        inside = [run for run in runs if run.key == key]
        by_name = {name: [run for run in inside if run.name == name] for name in names}
        settings.append(_setting(key, {name: own for name, own in by_name.items() if own}))
    return settings


def reference_of(names: Sequence[str], wanted: str | None) -> str:
    """The system that the others are tested against; raises InputError where the wanted one is not there."""
    if wanted is not None and wanted not in names:
        raise InputError(f"--reference: expected one of {', '.join(names)}, found {wanted!r}")
    return wanted or (REFERENCE if REFERENCE in names else names[0])


def _setting(key: tuple[str, str], runs: Mapping[str, Sequence[Run]]) -> Setting:
    every = [run for own in runs.values() for run in own]
    first = every[0]
    for run in every[1:]:
        for what, one, other in (
            ("the rules", first.system.rules, run.system.rules),
            ("the labels", _named(first.labels), _named(run.labels)),
        ):
            if one != other:
                raise InputError(f"{run.folder}: expected {what} of {first.folder} ({one}), found {other}")
    for own in runs.values():
        _check_alike(own)
    means = {name: _means(own) for name, own in runs.items()}
    cases = list(dict.fromkeys(case for case, _ in next(iter(means.values()))))
    for name, values in means.items():
        _check_cases(name, {case for case, _ in values}, next(iter(means)), set(cases), key[0])
    array = _array(list(means.values()), list(first.labels), cases)
    seeds = {name: _array(_seeds(own), list(first.labels), cases) for name, own in runs.items()}
    labels = dict(first.labels)
    if len(labels) > 1:
        labels = {MEAN: "mean of labels", **labels}
        # A label that every system's mean lacks is lacking for the seeds too.
        counted: Flags = np.asarray(np.isfinite(array).any(axis=1, keepdims=True))
        array, *parts = (
            np.concatenate([_mean_of_labels(values, counted)[:, :, None], values], axis=2)
            for values in (array, *seeds.values())
        )
        seeds = dict(zip(seeds, parts, strict=True))
    kept = {name: tuple(own) for name, own in runs.items()}
    return Setting(*key, tuple(runs), labels, tuple(cases), array, seeds, kept)


def _array(rows: Sequence[Mapping[tuple[str, int], Values]], labels: Sequence[int], cases: Sequence[str]) -> Values:
    """(metrics, rows, labels, cases) of rows that hold the metrics of every case and label."""
    array = np.array([[[values[case, label] for case in cases] for label in labels] for values in rows])
    return np.moveaxis(array, -1, 0)


def _seeds(runs: Sequence[Run]) -> list[dict[tuple[str, int], Values]]:
    """The runs that scored each case, the first of every case together, and so on: of folds, each seed's."""
    seeds: list[dict[tuple[str, int], Values]] = []
    for run in runs:
        for key, values in run.values.items():
            place = next((seed for seed in seeds if key not in seed), None)
            if place is None:
                place = {}
                seeds.append(place)
            place[key] = values
    return seeds


def _named(labels: Mapping[int, str]) -> str:
    return ", ".join(f"{value} {name}" for value, name in sorted(labels.items()))


def _check_alike(runs: Sequence[Run]) -> None:
    """Runs are averaged only where their settings differ in nothing that makes another system."""
    first = runs[0]
    for run in runs[1:]:
        for key, one, other in differences(_kept(first.system), _kept(run.system)):
            raise InputError(
                f"{run.folder}: expected a seed or fold of {first.folder} ({run.name}), found {key} {other!r} instead "
                f"of {one!r}; name one of them apart: NAME={run.folder}"
            )


def _kept(system: System) -> dict[str, Any]:
    """What makes a system: its settings without those that seeds may differ in, and how it was run."""
    kept = {key: value for key, value in (system.settings or {}).items() if key not in OWN}
    kept["--mirror"] = system.mirror
    for part, own in (("data", OWN_DATA), ("transfer", ("checkpoint",))):
        kept[part] = {key: value for key, value in kept.get(part, {}).items() if key not in own}
    return kept


def _means(runs: Sequence[Run]) -> dict[tuple[str, int], Values]:
    """Means over the runs that scored each case, which must be equally many for all; NaN where one of them is."""
    counts = {case: sum(case in run.cases for run in runs) for run in runs for case in run.cases}
    for case, count in counts.items():
        if count != max(counts.values()):
            raise InputError(
                f"{runs[0].name}: expected every case in {max(counts.values())} of its {len(runs)} runs, found case "
                f"{case} in {count}; evaluate them on the same cases"
            )
    keys = dict.fromkeys(key for run in runs for key in run.values)
    return {key: np.mean([run.values[key] for run in runs if key in run.values], axis=0) for key in keys}


def _check_cases(name: str, cases: set[str], first: str, expected: set[str], data: str) -> None:
    if cases == expected:
        return
    missing, extra = sorted(expected - cases), sorted(cases - expected)
    found = [f"no {missing[0]}"] if missing else []
    found += [f"{extra[0]} as well"] if extra else []
    raise InputError(
        f"{data}: expected the same cases of every system, found {len(expected)} of {first} and {len(cases)} of {name} "
        f"({', '.join(found)}); evaluate both on the same cases"
    )


def _mean_of_labels(values: Values, counted: Flags) -> Values:
    """Means over labels of (metrics, systems, labels, cases). counted: (metrics, 1, labels, cases), what is averaged.

    A label that is undefined for every system, as where the reference has none, is left out. What is undefined for one
    system alone, as the distance to a label that it missed, makes its mean NaN: whoever finds less must not gain by it.
    """
    total = np.where(counted, values, 0.0).sum(axis=2)
    count = np.broadcast_to(counted.sum(axis=2), total.shape)
    means: Values = np.divide(total, count, out=np.full(total.shape, math.nan), where=count > 0)
    return means
