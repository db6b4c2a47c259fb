"""A job of the platform: one case read, segmented and written; where it is wished, a mask even of one that fails."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from segsync.console import unexpected
from segsync.errors import InputError, SegsyncError, WeightsError
from segsync.grand_challenge import Inputs, read_case, read_reference, write_outputs
from segsync.pipeline import Case
from segsync.predict import Model, Result, Settings, failed_result
from segsync.progress import report_progress
from segsync.tasks import Task

log = logging.getLogger(__name__)

#: What becomes of a case that fails: an error, or an empty mask that its report and the log explain.
OnFailure = Literal["fail", "empty"]


@dataclass(frozen=True)
class Job:
    """What lies in the platform's input.

    Attributes:
        case: The case.
        on_failure: What becomes of one that fails.
        failed: What is wrong with it, for an empty mask; None: nothing so far.
    """

    case: Case
    on_failure: OnFailure
    failed: InputError | None = None


def read_job(inputs: Inputs, task: Task, on_failure: OnFailure) -> Job:
    """Read a case.

    Args:
        inputs: The platform's folder.
        task: What it is for.
        on_failure: With `empty` the reference image alone will do.

    Returns:
        The job.

    Raises:
        InputError: An image is missing, or there are several.
    """
    try:
        return Job(read_case(inputs, task), on_failure)
    except InputError as error:
        if on_failure == "fail":
            raise
        return Job(read_reference(inputs, task), on_failure, error)


def run_job(job: Job, model: Model, output: Path, settings: Settings) -> None:
    """Segment and write a case.

    Args:
        job: The case.
        model: The task's network.
        output: The platform's output folder.
        settings: How to predict.

    Raises:
        SegsyncError: The case fails, and no empty mask is wished, or can be had without the reference image's grid;
            the network itself is at fault (WeightsError); nothing can be written.
    """
    try:
        if job.failed is not None:
            raise job.failed
        with report_progress(job.case.name) as progress:
            result = model.predict(job.case, settings, progress)
    except WeightsError:
        raise  # no case can do without the network
    except Exception as error:
        empty = empty_in_place(model, job.case, error) if job.on_failure == "empty" else None
        if empty is None:
            raise
        result = empty
    written = write_outputs(result, output)
    log.info("%s: %.2f ml; wrote %s", job.case.name, result.volume_ml, ", ".join(str(path) for path in written))


def empty_in_place(model: Model, case: Case, error: Exception) -> Result | None:
    """An empty mask for a case that failed; None where its reference image, and so a grid, cannot be had either."""
    log.debug("where it came from:", exc_info=error)
    try:
        return failed_result(model, case, str(error) if isinstance(error, SegsyncError) else unexpected(error))
    except (InputError, MemoryError):
        return None
