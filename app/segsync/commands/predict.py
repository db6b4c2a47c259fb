"""`segsync predict`: a case or a folder of cases, with all that may be written beside the masks."""

import contextlib
import functools
import logging
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from segsync import cases
from segsync.bundle import SPEC_FILE, load_bundle
from segsync.clinical import read_clinical
from segsync.commands.options import (
    DeadlineOption,
    DeviceOption,
    FailureOption,
    MemoryOption,
    OverlapOption,
    Quiet,
    TaskOption,
    ThreadsOption,
    TtaOption,
    Verbose,
    WeightsOption,
    set_up_logging,
)
from segsync.console import show_result, unexpected
from segsync.dicom_seg import check_installed as check_highdicom
from segsync.dicom_seg import segmentation_path, write_segmentation
from segsync.errors import (
    CasesFailedError,
    ResourceError,
    SegsyncError,
    UsageError,
    WeightsError,
    memory_errors,
    os_errors,
)
from segsync.images import stem_of, write
from segsync.jobs import empty_in_place
from segsync.lesions import lesion_count, measure
from segsync.output_paths import check_folders, check_output_paths, output_paths_of, probability_paths, uncertainty_path
from segsync.pipeline import Case
from segsync.predict import Result, Settings, find_task, load, task_of
from segsync.progress import report_progress
from segsync.tasks import Task

log = logging.getLogger(__name__)

GIB = 2**30


def predict(
    source: Annotated[
        Path, typer.Option("--input", "-i", readable=False, help="A case's file or folder, or a folder of cases.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", readable=False, help="A folder, or the mask's file (.mha .nii.gz .nii).")
    ],
    task: TaskOption = None,
    weights: WeightsOption = None,
    channel: Annotated[
        list[str] | None,
        typer.Option("--channel", metavar="NAME=FILE", help="Which file a channel is; once per channel."),
    ] = None,
    clinical: Annotated[
        Path | None,
        typer.Option(
            "--clinical", readable=False, help="Numbers of the patients, for weights that read them: JSON, CSV or TSV."
        ),
    ] = None,
    device: DeviceOption = "auto",
    tta: TtaOption = "auto",
    overlap: OverlapOption = 0.5,
    deadline: DeadlineOption = None,
    max_memory: MemoryOption = None,
    threads: ThreadsOption = None,
    save_probabilities: Annotated[
        bool, typer.Option("--save-probabilities", help="A map per label beside the mask.")
    ] = False,
    save_uncertainty: Annotated[
        bool, typer.Option("--save-uncertainty", help="How far networks and mirrored copies differ, beside the mask.")
    ] = False,
    report: Annotated[
        bool, typer.Option("--report", help="JSON, CSV of lesions, PNG and HTML beside the mask.")
    ] = False,
    on_failure: FailureOption = "fail",
    dicom_seg: Annotated[
        bool, typer.Option("--dicom-seg", help="A DICOM Segmentation of the source series beside the mask.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Skip cases whose mask exists.")] = False,
    verbose: Verbose = 0,
    quiet: Quiet = False,
) -> None:
    """Segment one case or a folder of cases; the model is loaded once."""
    set_up_logging(verbose, quiet)
    arguments: dict[str, object] = {
        "input": str(source), "output": str(output), "task": task, "weights": str(weights) if weights else None,
        "channel": channel or [], "clinical": str(clinical) if clinical else None, "device": device, "tta": tta,
        "overlap": overlap, "deadline": deadline, "max_memory": max_memory, "save_probabilities": save_probabilities,
        "save_uncertainty": save_uncertainty, "on_failure": on_failure, "dicom_seg": dicom_seg,
    }  # fmt: skip
    if dicom_seg:
        check_highdicom()
    chosen = _task_for(source, task, weights)
    found, broken = cases.find_cases(source, chosen, _named_channels(channel or [], chosen))
    for line in broken:
        log.error("%s", line)
    if clinical is not None:
        alone = len(found) + len(broken) == 1
        found = [replace(case, metadata={**case.metadata, **_clinical(clinical, case, alone)}) for case in found]
    paths = output_paths_of(output, found, chosen)
    check_folders(paths)
    todo = [(case, path) for case, path in zip(found, paths, strict=True) if not (resume and path.is_file())]
    if len(todo) < len(found):
        log.info("%d of %d cases are done already", len(found) - len(todo), len(found))
    if not todo and not broken:
        return
    memory = int(min(max_memory * GIB, sys.maxsize)) if max_memory is not None else None
    model = load(chosen.name, weights=weights, device=device, max_memory=memory)
    images = {image.resolve() for case in found for image in case.channels.values() if isinstance(image, Path)}
    spec = model.bundle.spec
    written = spec.labels if save_probabilities else {}
    check_output_paths(todo, images, source, output, written, uncertainty=save_uncertainty)
    settings = Settings(tta, overlap, deadline)
    failed: list[Exception] = [*broken]
    for number, (case, path) in enumerate(todo, start=1):
        keep = functools.partial(
            _write, path=path, probabilities=save_probabilities, uncertainty=save_uncertainty,
            arguments=arguments if report else None,
        )  # fmt: skip
        try:
            with report_progress(f"{case.name} ({number}/{len(todo)})", quiet) as progress, _memory_of(case):
                try:
                    result = model.predict(case, settings, progress)
                except WeightsError:
                    raise
                except Exception as error:
                    empty = empty_in_place(model, case, error) if on_failure == "empty" else None
                    if empty is not None:
                        keep(empty)
                    raise
                lesions = measure(result.mask, result.grid, spec.labels, spec.regions)
                if dicom_seg:
                    write_segmentation(result, segmentation_path(path))
                keep(result)
        except WeightsError:
            raise  # no case can do without the network
        except Exception as error:  # whatever it is, the other cases are still to be done
            if len(found) + len(broken) == 1:
                raise
            ours = isinstance(error, SegsyncError)
            log.error("%s", error if ours else f"case {case.name}: {unexpected(error)}")
            log.debug("where it came from:", exc_info=error)
            failed.append(error)
        else:
            number_of_lesions = lesion_count(result.mask, lesions, spec.regions)
            lesions_found = f"{number_of_lesions} lesion{'s' * (number_of_lesions != 1)}"
            show_result(f"{case.name}\t{result.volume_ml:.2f} ml\t{lesions_found}\t{path}")
    if failed:
        count = len(todo) + len(broken)
        others = ", the others are written" if len(failed) < count else ""
        raise CasesFailedError(f"{len(failed)} of {count} cases failed{others}; see the lines above")


@os_errors(WeightsError)
def _task_for(source: Path, task: str | None, weights: Path | None) -> Task:
    if task is not None:
        return find_task(task, weights)
    if weights is not None and (weights / SPEC_FILE).is_file():
        return task_of(load_bundle(weights).spec)
    return cases.find_task(source)


def _named_channels(pairs: list[str], task: Task) -> dict[str, Path]:
    named: dict[str, Path] = {}
    for pair in pairs:
        name, equals, path = pair.partition("=")
        if not equals or not path:
            raise UsageError(f"--channel: expected NAME=FILE, found {pair!r}")
        channel = task.channel(name).name
        if channel in named:
            raise UsageError(f"--channel: expected {channel} once, found {named[channel]} and {path}; leave one")
        for other, file in named.items():
            if file.resolve() == Path(path).resolve():
                raise UsageError(
                    f"--channel: expected an image for each channel, found {path} for {other} and {channel}"
                )
        named[channel] = Path(path)
    return named


def _clinical(path: Path, case: Case, alone: bool) -> dict[str, object]:
    """What a file says of a case's patient: a row that names the case, or its subject with `sub-` or without."""
    subject = case.name.partition("_")[0]
    return {path.name: read_clinical(path, (case.name, subject, subject.removeprefix("sub-")), alone=alone)}


@contextlib.contextmanager
def _memory_of(case: Case) -> Iterator[None]:
    """Memory that ends costs the case, not the run."""
    try:
        with memory_errors():
            yield
    except MemoryError as error:
        raise ResourceError(
            f"case {case.name}: expected memory for its results, found too little; give the container more memory"
        ) from error


def _write(
    result: Result, path: Path, probabilities: bool, uncertainty: bool, arguments: dict[str, object] | None
) -> None:
    """Everything that belongs to a case; the mask last, since its being there says that the case is done."""
    if probabilities:
        for value, place in probability_paths(path, result.bundle.spec.labels).items():
            write(result.probability(value), result.grid, place)
    spread = result.uncertainty() if uncertainty else None
    if spread is not None:
        write(spread, result.grid, uncertainty_path(path))
    elif uncertainty:
        log.warning("%s: a single pass was made, which has no spread; no uncertainty is written", result.case.name)
    if arguments is not None:
        from segsync.report import write_report  # needs Pillow, which no other command does

        write_report(result, path.with_name(stem_of(path)), arguments)
    result.save(path)
