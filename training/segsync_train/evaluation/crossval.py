"""Cross-validation: a run for each fold, its predictions for the cases that it never saw, and all of them pooled."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from segsync.atomic import whole_file, why_not
from segsync.errors import InputError, OutputError
from segsync.geometry import Volume, resample
from segsync.pipeline import Options
from segsync_train.config.data import FolderData
from segsync_train.config.run import RunConfig
from segsync_train.config.settings import dump_settings, load_settings
from segsync_train.data.dataset import case_of
from segsync_train.data.splits import SPLIT_FILE, read_split
from segsync_train.evaluation.evaluate import check_pair, labelled_cases, load_model
from segsync_train.evaluation.operating_point import OperatingPoint
from segsync_train.evaluation.out_of_fold import (
    SETTINGS_FILE,
    FoldPredictions,
    fold_folder,
    fold_numbers,
    is_crossval,
    read_fold,
    store_fold,
    store_probabilities,
)
from segsync_train.evaluation.pooling import Pooled, pool
from segsync_train.evaluation.system import resolved
from segsync_train.runs.devices import processes
from segsync_train.runs.folder import RunFolder
from segsync_train.runs.progress import StepProgress
from segsync_train.trainer.finetune import finetune

log = logging.getLogger(__name__)

FOLDS = 5


@dataclass(frozen=True)
class CrossvalOutcome:
    """How a cross-validation stands: the folds that are still to be done, and the table once all are done."""

    folder: Path
    missing: tuple[int, ...]
    table: tuple[Pooled, ...] = ()


def crossval_settings(output: Path, config: Path | None, overrides: Sequence[str], folds: int | None) -> RunConfig:
    """The settings of a cross-validation in `output`: the file's, or of one that goes on those that it began with.

    Args:
        output: The folder of the cross-validation.
        config: The settings' file; None: the folder's own.
        overrides: `--set`.
        folds: Their number; None: the settings', else five.

    Returns:
        The settings of fold 0.

    Raises:
        InputError: There are no settings, or they are not of labelled cases in a folder.
    """
    if config is None and not is_crossval(output):
        raise InputError("no settings of the runs; give --config FILE")
    settings = load_settings(RunConfig, config or output / SETTINGS_FILE, overrides)
    data = settings.data
    if not isinstance(data, FolderData):
        raise InputError("data: expected labelled cases in a folder for a cross-validation, found drawn ones")
    if data.training_cases:
        raise InputError("data.training_cases: expected none in a cross-validation, which divides the cases itself")
    count = folds or data.folds or FOLDS
    # All folds share what is prepared: no case is prepared twice.
    changed = {"folds": count, "fold": 0, "cache": data.cache or (output / "cache").resolve()}
    return settings.model_copy(update={"data": FolderData.model_validate({**data.model_dump(), **changed})})


def crossval(
    config: RunConfig,
    output: Path,
    *,
    fold: int | None = None,
    rules: str | None = None,
    mirror: bool = False,
    should_stop: Callable[[], bool] = lambda: False,
) -> CrossvalOutcome:
    """Train and predict every fold, or one, going on where it stood; pool when all are done.

    A fold's cases are predicted by its last weights: the best ones were chosen on these very cases.

    Args:
        config: Of `crossval_settings`.
        output: The folder of the cross-validation; several machines may share it.
        fold: The only one to do here; None: all.
        rules: To score by; None takes those of the task.
        mirror: Average over mirrored copies.
        should_stop: Asked after every step.

    Returns:
        How it stands.

    Raises:
        InputError: Bad cases or settings; a fold that does not exist.
        OutputError: A file cannot be written.
    """
    assert isinstance(config.data, FolderData)
    assert config.data.folds is not None
    if fold is not None and not 0 <= fold < config.data.folds:
        raise InputError(f"--fold: expected 0 to {config.data.folds - 1}, found {fold}")
    begun = [number for number in fold_numbers(output) if RunFolder(fold_folder(output, number)).begun]
    for number in begun:
        RunFolder(fold_folder(output, number)).check_unchanged(_of_fold(config, number))
    if not begun:  # settings that no fold could begin with are replaced
        _keep(config, output / SETTINGS_FILE)
    for number in range(config.data.folds) if fold is None else (fold,):
        if not _fold(_of_fold(config, number), output, number, mirror, should_stop):
            break
    missing = tuple(number for number in range(config.data.folds) if read_fold(output, number) is None)
    if missing:
        log.info("%s: folds %s are still to be done", output, ", ".join(map(str, missing)))
        return CrossvalOutcome(output, missing)
    return CrossvalOutcome(output, (), tuple(pool(output, config, rules)))


def _of_fold(config: RunConfig, number: int) -> RunConfig:
    return config.model_copy(update={"data": config.data.model_copy(update={"fold": number})})


def _keep(config: RunConfig, path: Path) -> None:
    try:
        with whole_file(path) as part:
            part.write_text(dump_settings(config), encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{path}: expected to write it, found {why_not(path.parent, error)}") from error


def _fold(config: RunConfig, output: Path, number: int, mirror: bool, should_stop: Callable[[], bool]) -> bool:
    """Train and predict one fold; whether it is done."""
    run = RunFolder(fold_folder(output, number))
    done = read_fold(output, number)
    if done is not None and done.step >= config.steps:
        log.info("fold %d: done before", number)
        return True
    outcome = finetune(config, run.folder, resume=run.begun, should_stop=should_stop)
    if not outcome.finished:
        return False
    if done is None or done.step != outcome.step:
        with processes(config.device) as group, group.first():
            if group.main:
                _predict(config, output, number, mirror)
    return True


def _predict(config: RunConfig, output: Path, number: int, mirror: bool) -> None:
    """Write the probabilities of a fold's validation cases on the grid of their reference images."""
    assert isinstance(config.data, FolderData)
    run = RunFolder(fold_folder(output, number))
    model = load_model(run.folder, config.device, run.last, OperatingPoint())
    cases = labelled_cases(model, None, "validation")
    for files in cases:
        check_pair(files, model.pipeline.reference, model.labels)
    with StepProgress(f"predicting fold {number}", len(cases)) as progress:
        for files in cases:
            found = model.pipeline.segment(case_of(files, model.pipeline.spec), Options(mirror=mirror))
            maps = [resample(Volume(map_, found.model_grid), found.grid) for map_ in found.model_probabilities]
            store_probabilities(output, number, files.name, np.stack(maps))
            progress.advance(files.name)
    split = read_split(run.folder / SPLIT_FILE)
    store_fold(
        output,
        FoldPredictions(
            fold=number,
            folds=config.data.folds or 0,
            task=config.task,
            reference=model.pipeline.reference,
            labels=config.labels,
            regions=config.regions,
            ignore=config.ignore,
            step=model.weights.step or 0,
            cases=resolved(cases),
            groups={files.name: split.groups.get(files.name, files.subject_name) for files in cases},
        ),
    )
