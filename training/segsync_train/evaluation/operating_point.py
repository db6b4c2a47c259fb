"""Threshold, smallest component and least confidence of a network: tried on cases, ranked by a challenge's rules."""

import csv
import logging
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from segsync.arrays import Array, FloatArray, Mask
from segsync.atomic import whole_file, why_not
from segsync.bundle import Decisions, DecisionSpec
from segsync.errors import InputError, OutputError
from segsync.pipeline import Options
from segsync.postprocess import of_any_label
from segsync_train.config.data import SyntheticData
from segsync_train.config.labels import LabelSet
from segsync_train.config.ranges import Fraction
from segsync_train.data.cases import LabelledCase
from segsync_train.data.sources import open_data
from segsync_train.evaluation.candidates import CANDIDATES, TUNABLE, score_candidates
from segsync_train.evaluation.leaderboard import case_ranks
from segsync_train.evaluation.metrics import RULES, Rules
from segsync_train.evaluation.out_of_fold import OutOfFoldCase, is_crossval, read_out_of_fold
from segsync_train.runs.checkpoints import load_checkpoint
from segsync_train.runs.devices import Processes, training_device
from segsync_train.runs.folder import RunFolder
from segsync_train.trainer.predictor import torch_pipeline
from segsync_train.trainer.transfer import trained_network

log = logging.getLogger(__name__)

FILE = "operating_point.json"
#: Every candidate that was tried, so that the choice can be judged.
TABLE = "operating_points.csv"


class OperatingPoint(Decisions):
    """What was chosen, and how well it did: means over the cases, 0 cases where nothing was chosen.

    Of regions, each has its own; what is chosen on their union beside is what the scores are of.
    """

    dice: Fraction | None = None
    lesion_f1: Fraction | None = None
    cases: int = 0
    #: Name of the rules that ranked, and whether mirrored copies were averaged.
    rules: str | None = None
    mirror: bool = False

    @property
    def decision(self) -> Decisions:
        """What the runtime needs of it."""
        return Decisions(**{name: getattr(self, name) for name in Decisions.model_fields})


@dataclass(frozen=True)
class TuningCase:
    """What is there and what a network says, on one grid.

    Attributes:
        name: Of the case.
        reference: (Z, Y, X).
        probability: (Z, Y, X), of any label together, or of one region.
        voxel_ml: Volume of a voxel.
        region: The region's value; None: any label.
    """

    name: str
    reference: Mask
    probability: Array
    voxel_ml: float
    region: int | None = None


def choose_operating_point(
    run: Path,
    device: str = "auto",
    checkpoint: Path | None = None,
    cases: int | None = None,
    *,
    rules: str | None = None,
    mirror: bool = False,
) -> OperatingPoint:
    """Try every candidate on the validation cases of a run; keep all scores and the choice in its folder.

    Of a cross-validation, on all its out-of-fold predictions.

    Args:
        run: Folder of a fine-tuning run, or of a cross-validation, whose predictions are there already.
        device: Where the network runs.
        checkpoint: Another one than the run's best.
        cases: So many synthetic cases, in place of the run's number.
        rules: Name of the rules to rank by; None takes those of the run's task, else ISLES'22's.
        mirror: Average over mirrored copies, as `segsync` does with `--tta mirror`.

    Returns:
        The choice.

    Raises:
        WeightsError: The run has no weights.
        InputError: Its data are not there, or `cases` is given for a folder's; the rules are not known.
        OutputError: The run's folder cannot be written to.
    """
    if is_crossval(run):
        if checkpoint is not None or cases is not None or mirror:
            raise InputError(
                f"{run}: expected a cross-validation's own predictions, found --checkpoint, --cases or --mirror, which "
                "belong to a run; leave them out"
            )
        everything = read_out_of_fold(run)
        cases_of_all = (part for case in everything.cases for part in _out_of_fold(case))
        return tune_on(cases_of_all, rules_named(rules, everything.task), run)
    found = load_checkpoint(checkpoint or RunFolder(run).best)
    config, network = trained_network(found)
    chosen = rules_named(rules, config.task)
    if cases is not None:
        if not isinstance(config.data, SyntheticData):
            raise InputError(f"{run}: expected a run on synthetic data where cases are to be drawn; leave --cases out")
        config = config.model_copy(update={"data": config.data.model_copy(update={"validation_cases": cases})})
    place = training_device(device, Processes())
    network.to(place)
    pipeline = torch_pipeline(config.inference_spec(network.multiple_zyx), network, place, config.amp)

    def segmented() -> Iterator[TuningCase]:
        for case in open_data(config, run, Processes()).validation:
            options = Options(mirror=mirror)
            probabilities, _ = pipeline.predict(np.array(case.image), np.array(case.tissue), options)
            yield from tuning_cases(case, probabilities, config.label_set)

    return tune_on(segmented(), chosen, run, mirror=mirror)


def _out_of_fold(case: OutOfFoldCase) -> Iterator[TuningCase]:
    label, probabilities = case.read()
    labels = case.labels
    known = probabilities * ~labels.ignored(label.array)
    found = of_any_label(known, overlapping=bool(labels.regions))
    together = TuningCase(case.name, labels.labelled(label.array), found, label.grid.voxel_ml)
    return _and_regions(together, known, labels, lambda value: labels.within(label.array, value))


def tuning_cases(case: LabelledCase, probabilities: Array, labels: LabelSet) -> Iterator[TuningCase]:
    """What is chosen on in a prepared case: all labels together, then each region by itself.

    Args:
        case: Where nobody labelled it nothing is found.
        probabilities: (L, Z, Y, X), of the labels.
        labels: What they mean.
    """
    known = probabilities * ~case.ignored
    together = TuningCase(
        case.name, case.labelled, of_any_label(known, overlapping=bool(labels.regions)), case.voxel_ml
    )
    places = dict(zip(labels.labels, labels.places, strict=True))
    return _and_regions(together, known, labels, lambda value: np.isin(np.asarray(case.label), places[value]))


def _and_regions(
    together: TuningCase, probabilities: Array, labels: LabelSet, shown: Callable[[int], Mask]
) -> Iterator[TuningCase]:
    yield together
    if labels.regions:
        for value, probability in zip(labels.labels, probabilities, strict=True):
            yield replace(together, reference=shown(value), probability=probability, region=value)


def rules_named(name: str | None, task: str) -> Rules:
    """The rules of this name; None: of the task, else ISLES'22's. Raises InputError for an unknown name."""
    if name is not None and name not in RULES:
        raise InputError(f"--rules: expected one of {', '.join(RULES)}, found {name!r}")
    return RULES[name or (task if task in RULES else "isles22")]


@dataclass(frozen=True)
class Ranking:
    """Every candidate's place, and the one that was chosen.

    Attributes:
        point: The choice.
        means: Each metric's means over the cases, in the order of the candidates.
        ranks: Each candidate's mean rank.
        regions: The same of each region by itself.
    """

    point: OperatingPoint
    means: Mapping[str, FloatArray]
    ranks: FloatArray
    regions: Mapping[int, "Ranking"] = field(default_factory=dict)


def rank(
    cases: Iterator[TuningCase],
    rules: Rules,
    where: Path,
    *,
    mirror: bool = False,
    candidates: Sequence[DecisionSpec] = CANDIDATES,
) -> Ranking:
    """Rank every candidate in each case and metric, and choose by the mean of the ranks.

    Args:
        cases: What to choose on, one after the other in memory; of regions each by itself as well.
        rules: Whose metrics are ranked, of those that components alone decide (`candidates.TUNABLE`).
        where: What is tuned, for messages.
        mirror: Whether the probabilities are means over mirrored copies; for the record.
        candidates: What is tried; a single one is scored and taken.

    Returns:
        The choice, and what it was chosen from.

    Raises:
        InputError: There are no cases.
    """
    scored: dict[int | None, list[dict[str, FloatArray]]] = defaultdict(list)
    for case in cases:
        scores = score_candidates(case.reference, case.probability, case.voxel_ml, rules, candidates)
        scored[case.region].append(scores)
        if case.region is None:
            log.info("%s scored", case.name)
    if not scored:
        raise InputError(f"{where}: no cases to choose an operating point on")
    together = _rank(scored.pop(None), rules, mirror, candidates)
    regions = {value: _rank(own, rules, mirror, candidates) for value, own in scored.items() if value is not None}
    own_points = {value: ranking.point.decision_of(value) for value, ranking in regions.items()}
    return replace(together, point=together.point.model_copy(update={"region_decisions": own_points}), regions=regions)


def _rank(
    scored: Sequence[Mapping[str, FloatArray]], rules: Rules, mirror: bool, candidates: Sequence[DecisionSpec]
) -> Ranking:
    ranked = [metric for metric in rules.ranked if metric in TUNABLE]
    values = np.array([[case[metric] for case in scored] for metric in ranked])
    ranks = case_ranks(values.transpose(0, 2, 1), ranked).mean(axis=0)
    others = max(len(candidates) - 1, 1)
    chosen = choose((1 - (ranks.T - 1) / others), [candidate.threshold for candidate in candidates])
    means = {metric: np.mean([case[metric] for case in scored], axis=0) for metric in scored[0]}
    point = OperatingPoint(
        **dict(candidates[chosen]),
        dice=float(means["dice"][chosen]),
        lesion_f1=float(means["lesion_f1"][chosen]),
        cases=len(scored),
        rules=rules.name,
        mirror=mirror,
    )
    return Ranking(point, means, ranks.mean(axis=1))


def tune_on(cases: Iterator[TuningCase], rules: Rules, folder: Path, *, mirror: bool = False) -> OperatingPoint:
    """Choose as `rank` does, and write the choice and every candidate.

    Args:
        cases: As `rank` takes them.
        rules: As `rank` takes them.
        folder: Where FILE and TABLE are written.
        mirror: As `rank` takes it.

    Returns:
        The choice.

    Raises:
        InputError: There are no cases.
        OutputError: The folder cannot be written to.
    """
    ranking = rank(cases, rules, folder, mirror=mirror)
    _write(ranking, folder)
    return ranking.point


def _write(ranking: Ranking, folder: Path) -> None:
    path = folder / FILE
    try:
        with whole_file(folder / TABLE) as part, part.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["label", *DecisionSpec.model_fields, *ranking.means, "mean_rank"])
            for label, one in (("any", ranking), *ranking.regions.items()):
                for place, candidate in enumerate(CANDIDATES):
                    scores = [f"{values[place]:.4f}" for values in one.means.values()]
                    writer.writerow([label, *dict(candidate).values(), *scores, f"{one.ranks[place]:.2f}"])
        with whole_file(path) as part:
            part.write_text(ranking.point.model_dump_json(indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{path}: expected to write it, found {why_not(folder, error)}") from error


def choose(scores: Array, thresholds: Sequence[float]) -> int:
    """The candidate to take: of each threshold's best, the one nearest to 0.5 that cannot be told from the best of all.

    Not to be told apart is a mean difference within its own standard error, the rule of one standard error (Breiman et
    al. 1984) for paired scores. The best of a flat table is chance; 0.5 is what the loss was trained for.

    Args:
        scores: (cases, candidates).
        thresholds: Of each candidate.

    Returns:
        The candidate's index.
    """
    means = scores.mean(0)
    best_at = {at: max((p for p, t in enumerate(thresholds) if t == at), key=means.__getitem__) for at in thresholds}
    behind = scores[:, [int(means.argmax())]] - scores
    error = behind.std(0, ddof=1) / math.sqrt(len(scores)) if len(scores) > 1 else np.zeros(len(means))
    equal = [pair for pair in best_at.values() if behind[:, pair].mean() <= error[pair]]
    # Rounded: 0.55 is as near to 0.5 as 0.45 is.
    return min(equal, key=lambda pair: (round(abs(thresholds[pair] - 0.5), 6), -means[pair]))


def read_operating_point(run: Path) -> OperatingPoint:
    """What was chosen for a run; a threshold of 0.5 and no smallest component where nothing was."""
    path = run / FILE
    if not path.is_file():
        log.warning("%s: no operating point was chosen (segsync-train tune); the threshold is 0.5", run)
        return OperatingPoint()
    try:
        return OperatingPoint.model_validate_json(path.read_bytes())
    except ValueError as error:
        raise InputError(f"{path}: expected an operating point, found another file; run segsync-train tune") from error
