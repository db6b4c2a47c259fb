"""Score segmentations: a folder of predictions, a run's network, or exported weights, on labelled cases.

Networks go through `segsync.pipeline` as users' cases do, and are scored on the reference image's grid. `metrics` says
what is measured, `summary` and `system` what is written.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from segsync.atomic import make_folder, write_texts
from segsync.bundle import MODEL_FILE, SPEC_FILE, Decisions, load_bundle
from segsync.errors import InputError
from segsync.geometry import Volume, resample
from segsync.images import read, write
from segsync.pipeline import Options, Pipeline, Segmentation
from segsync.predict import Model, task_of
from segsync.region_model import RegionModel
from segsync_train.config.data import FolderData
from segsync_train.config.labels import LabelSet
from segsync_train.config.run import RunConfig
from segsync_train.config.settings import check_settings
from segsync_train.data.dataset import (
    case_of,
    check_files,
    check_values,
    find_cases,
    on_grid,
    public,
    read_label,
)
from segsync_train.data.layout import CaseFiles
from segsync_train.data.splits import split_of_run
from segsync_train.evaluation.metrics import RULES, Rules
from segsync_train.evaluation.operating_point import OperatingPoint, read_operating_point
from segsync_train.evaluation.prediction_folders import (
    evaluate_folders,
    label_maps,
    score_case,
    submitted_maps,
)
from segsync_train.evaluation.summary import Group, Row, write_results
from segsync_train.evaluation.system import SYSTEM_FILE, Budget, System, budget_of, folder_name, resolved, system_of
from segsync_train.networks.build import build_network
from segsync_train.runs.checkpoints import load_checkpoint
from segsync_train.runs.devices import Processes, training_device
from segsync_train.runs.folder import CONFIG_FILE, RunFolder
from segsync_train.runs.progress import StepProgress
from segsync_train.trainer.predictor import torch_pipeline
from segsync_train.trainer.transfer import trained_network

log = logging.getLogger(__name__)

Part = Literal["validation", "training", "all"]


@dataclass(frozen=True)
class Weights:
    """Which weights were scored, and what of them was chosen on the validation cases of their run.

    Attributes:
        file: Their name.
        step: Of the training.
        best: Whether they are the best of its validations; None where that is not known, as of exported ones.
        threshold: Of the operating point.
        min_component_ml: Likewise.
        min_component_confidence: Likewise.
        region_decisions: Operating points of regions, by value.
        tuned_on: The number of cases that the operating point was chosen on, 0 where it was not chosen.
    """

    file: str
    step: int | None
    best: bool | None
    threshold: float
    min_component_ml: float
    min_component_confidence: float
    region_decisions: Mapping[int, Mapping[str, float]]
    tuned_on: int


@dataclass(frozen=True)
class EvaluatedModel:
    """A model with the pipeline that users run. config, budget: of its training, where known."""

    name: str
    task: str
    pipeline: Pipeline
    weights: Weights
    config: RunConfig | None = None
    budget: Budget | None = None
    #: The folder of the run, which says what cases it trained on; exported weights have none.
    run: Path | None = None

    @property
    def labels(self) -> LabelSet:
        """What the values of its label maps mean; what nobody labelled is known of a run alone."""
        spec, ignore = self.pipeline.spec, self.config.ignore if self.config else None
        return LabelSet(labels=spec.labels, regions=spec.regions, ignore=ignore)

    @property
    def data(self) -> FolderData | None:
        """The folder of cases that it was trained on."""
        return self.config.data if self.config and isinstance(self.config.data, FolderData) else None


# --- networks --------------------------------------------------------------------------------------------------------


def load_model(
    source: Path, device: str = "auto", checkpoint: Path | None = None, point: OperatingPoint | None = None
) -> EvaluatedModel:
    """A run's network, or exported weights.

    Args:
        source: The run's folder, or that of the weights.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        checkpoint: Another one than the run's best.
        point: Another operating point than the one that was chosen for the run.

    Returns:
        The model, with the pipeline that users run.

    Raises:
        WeightsError: The weights are missing or incomplete.
        InputError: Its settings are not what they should be.
        ResourceError: The device is missing.
    """
    if (source / SPEC_FILE).is_file():
        return _exported(source, device)
    return _of_run(source, device, checkpoint or RunFolder(source).best, point or read_operating_point(source))


def _of_run(run: Path, device: str, checkpoint: Path, point: OperatingPoint) -> EvaluatedModel:
    found = load_checkpoint(checkpoint)
    config, network = trained_network(found)
    budget = budget_of(network, config.patch_zyx, config.batch, found.state, run)
    place = training_device(device, Processes())
    network.to(place)
    region_model = None if config.region_model is None else RegionModel(load_bundle(config.region_model), device)
    spec = config.inference_spec(network.multiple_zyx, point.decision)
    pipeline = torch_pipeline(spec, network.eval(), place, config.amp, region_model=region_model)
    best = checkpoint.resolve() == RunFolder(run).best.resolve()
    weights = Weights(checkpoint.name, found.state["step"], best, **point.decision.model_dump(), tuned_on=point.cases)
    return EvaluatedModel(config.name, config.task, pipeline, weights, config, budget, run)


def _exported(folder: Path, device: str) -> EvaluatedModel:
    bundle = load_bundle(folder)
    spec, provenance = bundle.spec, bundle.spec.provenance
    pipeline = Model(bundle, task_of(spec), device=device).pipeline
    if pipeline.reference not in {channel.name for channel in spec.channels}:
        pipeline.reference = spec.reference_channel  # labelled cases hold the images that the network reads
    tuned_on = provenance.get("operating_point", {}).get("cases", 0)
    decision = Decisions(**{name: getattr(spec, name) for name in Decisions.model_fields}).model_dump()
    weights = Weights(MODEL_FILE, provenance.get("steps"), None, **decision, tuned_on=tuned_on)
    if "config" not in provenance:
        return EvaluatedModel(spec.name, spec.task, pipeline, weights)
    config = check_settings(RunConfig, provenance["config"], str(folder / SPEC_FILE))
    made = {**provenance, "step": provenance["steps"], "hours": provenance["training_hours"]}
    budget = budget_of(build_network(config), config.patch_zyx, config.batch, made)
    return EvaluatedModel(spec.name, spec.task, pipeline, weights, config, budget)


def labelled_cases(
    model: EvaluatedModel, data: FolderData | None, part: Part, channels: Mapping[str, str] | None = None
) -> list[CaseFiles]:
    """The cases to score.

    Args:
        model: The model.
        data: A folder whose cases are all taken; None: that of the model's run.
        part: Of the split of the model's run.
        channels: What the data call a channel of the model, where that is something else.

    Returns:
        The cases.

    Raises:
        InputError: There are no cases, or one lacks its label or a channel.
    """
    chosen = data or model.data
    if chosen is None:
        raise InputError("no labelled cases: the run's own are drawn; give --data FOLDER")
    own_channels = model.pipeline.spec.images
    theirs = {channel.name: channel.name for channel in own_channels} | dict(channels or {})
    if len(theirs) > len(own_channels):
        names = ", ".join(channel.name for channel in own_channels)
        raise InputError(f"--channel: expected a channel of the model ({names}), found {', '.join(channels or {})}")
    cases = [
        replace(case, images={own: case.images[their] for own, their in theirs.items() if their in case.images})
        for case in find_cases(chosen.layout, chosen.folder, list(theirs.values()))
    ]
    check_files(cases, own_channels, chosen.folder)
    if data is not None or part == "all":
        return public(cases)
    if model.run is None:
        raise InputError(
            "no labelled cases: weights do not say which cases they were trained on; give --data "
            "FOLDER, or the run in place of its weights"
        )
    split = split_of_run(model.run, cases, chosen, model.labels)
    return list(split.validation if part == "validation" else split.training)


def evaluate_model(
    model: EvaluatedModel, cases: Sequence[CaseFiles], rules: Rules, *, mirror: bool = False, masks: Path | None = None
) -> list[Row]:
    """Segment and score cases on the grid of their reference image.

    Args:
        model: The model.
        cases: With labels; these and reference images are looked at before the first is segmented.
        rules: Which metrics, and how.
        mirror: Whether mirrored copies are averaged.
        masks: A folder to keep what was found in.

    Returns:
        The scores of every case and label.

    Raises:
        InputError: A case is not what it should be.
    """
    pipeline, labels = model.pipeline, model.labels
    for files in cases:
        check_pair(files, pipeline.reference, labels)
    rows: list[Row] = []
    with StepProgress("segmenting", len(cases)) as progress:
        for files in cases:
            segmented = pipeline.segment(case_of(files, pipeline.spec), Options(mirror=mirror))
            predicted, label = Volume(segmented.mask, segmented.grid), read_label(files, labels.labels)
            label = on_grid(files.label_files[0], label, files.images[pipeline.reference], segmented.grid)
            maps = _maps(segmented, labels) if rules.probability_map else None
            rows += score_case(files.name, label, predicted, labels, rules, maps)
            if masks is not None:
                write(predicted.array, predicted.grid, masks / f"{files.name}.nii.gz")
            progress.advance(f"{files.name}: Dice {rows[-1].scores.dice:.3f}")
    return rows


def _maps(segmented: Segmentation, labels: LabelSet) -> dict[int, Volume]:
    """The probability maps that a challenge would be given."""
    grid, own = segmented.grid, segmented.model_grid
    maps = (resample(Volume(probability, own), grid) for probability in segmented.model_probabilities)
    return submitted_maps(labels.labels, maps, segmented.mask, grid)


def check_pair(files: CaseFiles, reference: str, labels: LabelSet) -> None:
    """Raise InputError where reference image and labels are on different grids or a label is not the model's."""
    image, path = files.images[reference], files.label_files[0]
    label = read_label(files, labels.labels)
    on_grid(path, label, image, read(image).grid)
    check_values(path, label, labels.known)


def warn_of_choices(source: Path, weights: Weights) -> None:
    """Say in one line that the validation cases of a run, which are to be scored, have chosen what is scored."""
    tuned = weights.tuned_on > 0
    chosen = [f"the best weights (step {weights.step})"] * bool(weights.best) + ["the threshold"] * tuned
    if chosen:
        log.warning(
            "%s: %s %s chosen on the validation cases that are scored, so that the scores flatter; give --data FOLDER "
            "for other cases%s", source, " and ".join(chosen), "were" if weights.best else "was",
            "" if tuned else f", or --checkpoint {RunFolder(source).last}",
        )  # fmt: skip


# --- the command -----------------------------------------------------------------------------------------------------


def evaluate(
    source: Path,
    output: Path,
    *,
    references: Path | None = None,
    probabilities: Path | None = None,
    labels: LabelSet | None = None,
    data: Path | None = None,
    layout: str = "nnunet",
    channels: Mapping[str, str] | None = None,
    part: Part = "validation",
    rules: str | None = None,
    device: str = "auto",
    checkpoint: Path | None = None,
    mirror: bool = False,
    masks: bool = False,
) -> tuple[list[Group], Rules]:
    """Score a run, a folder of weights or (with `references`) a folder of predictions, and write the results.

    Args:
        source: What is scored.
        output: Folder of the results.
        references: Folder of label maps, named as the predictions are.
        probabilities: Folder of probability maps, beside predictions.
        labels: What the values of the references mean; None takes those they hold.
        data: A folder of cases instead of the run's own.
        layout: Of `data`.
        channels: What `data` calls the model's channels.
        part: Which of the run's own cases.
        rules: A name of `metrics.RULES`; None takes those of the model's task.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        checkpoint: Another one than the run's best.
        mirror: Whether mirrored copies are averaged.
        masks: Whether what was found is kept.

    Returns:
        The summary and the rules.

    Raises:
        InputError: An option does not belong to what is scored, and would be passed over; or a case is not what it
            should be.
    """
    if rules is not None and rules not in RULES:
        raise InputError(f"--rules: expected one of {', '.join(RULES)}, found {rules!r}")
    if references is not None and data is not None:
        raise InputError("expected --references for a folder of predictions or --data for a network, found both")
    network = references is None
    own = network and not (source / SPEC_FILE).is_file()
    for option, given, belongs, what in (
        ("--checkpoint", checkpoint is not None, own, "a run"),
        ("--mirror", mirror, network, "a network"),
        ("--masks", masks, network, "a network"),
        ("--channel", bool(channels), network, "a network"),
        ("--label", labels is not None, not network, "--references"),
        ("--probabilities", probabilities is not None, not network, "--references"),
        ("--layout", layout != "nnunet", data is not None, "--data"),
        ("--part", part != "validation", network and data is None, "the cases of a run's own split"),
    ):
        if given and not belongs:
            raise InputError(f"{option} belongs to {what}, found with {source}; leave it out")
    make_folder(output)
    weights: Weights | None = None
    if references is not None:
        chosen = RULES[rules or "isles22"]
        rows = evaluate_folders(source, references, chosen, labels, probabilities)
        system = System(
            name=folder_name(source),
            data=folder_name(references),
            rules=chosen.name,
            cases=resolved([CaseFiles(name, {}, path) for name, path in label_maps(references).items()]),
            masks={name: path.resolve() for name, path in label_maps(source).items()},
        )
    elif (source / SPEC_FILE).is_file() or (source / CONFIG_FILE).is_file():
        model = load_model(source, device, checkpoint)
        chosen = RULES[rules or (model.task if model.task in RULES else "isles22")]
        other = FolderData(folder=data, layout=layout) if data else None
        cases = labelled_cases(model, other, part, channels)
        weights = model.weights
        if other is None and part != "training":
            warn_of_choices(source, weights)
        rows = evaluate_model(model, cases, chosen, mirror=mirror, masks=output / "masks" if masks else None)
        system = system_of(
            cases,
            name=model.name,
            task=model.task,
            reference=model.pipeline.reference,
            config=model.config,
            budget=model.budget,
            data=other,
            rules=chosen.name,
            mirror=mirror,
            masks=masks,
        )
    else:
        raise InputError(
            f"{source}: expected a run ({CONFIG_FILE}) or weights ({SPEC_FILE}), found neither; for a folder of "
            "predictions give --references as well"
        )
    groups = write_results(rows, chosen, output, {"weights": asdict(weights)} if weights else {})
    write_texts({SYSTEM_FILE: system.model_dump_json(indent=2) + "\n"}, output)
    return groups, chosen


def parse_labels(pairs: Sequence[str], ignore: int | None = None) -> LabelSet | None:
    """Labels of a command line.

    Args:
        pairs: `1=lesion`, value and name; `1,2,3=whole tumour`, a region and the values that it is the union of.
        ignore: The value of what nobody labelled.

    Returns:
        The labels; None for no pairs.

    Raises:
        InputError: A pair is malformed, or a value is both ignored and a label.
    """
    if not pairs:
        if ignore is not None:
            raise InputError("--ignore: expected --label as well, which says what the other values are")
        return None
    said = [pair.partition("=") for pair in pairs]
    for pair, (values, _, name) in zip(pairs, said, strict=True):
        if not name or not all(value.isdigit() and int(value) for value in values.split(",")):
            raise InputError(
                f"--label: expected VALUE=NAME, as in 1=lesion (or 1,2,3=tumour for a region), found {pair!r}"
            )
    unions = [tuple(int(value) for value in values.split(",")) for values, _, _ in said]
    # A region is known by one of its values, as masks are written with it: the smallest region chooses first.
    own: dict[int, int] = {}
    for place in sorted(range(len(unions)), key=lambda place: len(unions[place])):
        free = [value for value in unions[place] if value not in own.values()]
        if not free:
            raise InputError(f"--label: expected a value that other labels have not, found {pairs[place]!r}")
        own[place] = free[0]
    labels = {own[place]: said[place][2] for place in range(len(said))}
    regions = {own[place]: union for place, union in enumerate(unions)} if max(map(len, unions)) > 1 else {}
    return check_settings(LabelSet, {"labels": labels, "regions": regions, "ignore": ignore}, "--label")


def parse_channels(pairs: Sequence[str]) -> dict[str, str]:
    """`ct=mr` as the model's name of a channel and the data's. Raises InputError if one is malformed or given twice."""
    named: dict[str, str] = {}
    for pair in pairs:
        own, equals, their = pair.partition("=")
        if not (own and equals and their):
            raise InputError(f"--channel: expected MODEL=DATA, as in ct=mr, found {pair!r}")
        if own in named:
            raise InputError(f"--channel: expected {own} once, found {named[own]} and {their}; leave one")
        named[own] = their
    return named
