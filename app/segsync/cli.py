"""The command line: `segsync predict | run | serve | info | verify`."""

import contextlib
import json
import logging
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

import segsync
from segsync import cases, grand_challenge
from segsync.bundle import MANIFEST_FILE, MODEL_FILE, SPEC_FILE, load_bundle, load_manifest, verify_files
from segsync.console import guarded, show_logs, show_result, unexpected
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
from segsync.installation import as_table, folders_of_weights, installation
from segsync.jobs import OnFailure, empty_in_place, read_job, run_job
from segsync.lesions import measure
from segsync.output_paths import check_folders, check_output_paths, output_paths_of, probability_paths, uncertainty_path
from segsync.pipeline import Case
from segsync.predict import (
    MOST_OVERLAP,
    WEIGHTS_PLACES,
    Result,
    Settings,
    Tta,
    find_task,
    find_weights,
    load,
    task_of,
)
from segsync.processor import MAX_THREADS, choose_threads
from segsync.progress import report_progress
from segsync.server import HOST, PORT, make_server
from segsync.tasks import TASKS, Task, task_named

log = logging.getLogger(__name__)

GIB = 2**30
INPUT, OUTPUT = Path("/input"), Path("/output")

EXIT_CODES = """Exit codes: 0 done; 1 unexpected error; 2 wrong usage; 3 input; 4 weights; 5 output; 6 memory or device;
7 some cases of a folder failed; 130 stopped by Ctrl-C; 143 by SIGTERM."""

app = typer.Typer(
    name="segsync",
    help=f"Stroke and brain-lesion segmentation with 3D-SegSync. For research, not for care.\n\n{EXIT_CODES}",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

TaskOption = Annotated[
    str | None,
    typer.Option("--task", help=f"{', '.join(TASKS)}, brain, or that of your weights; else told by the files' names."),
]
PlatformTaskOption = Annotated[
    str | None, typer.Option("--task", help=f"{', '.join(TASKS)}; else told by the input's sockets.")
]
WeightsOption = Annotated[
    Path | None,
    typer.Option(
        "--weights",
        readable=False,
        help=f"Folder of weights; else {WEIGHTS_PLACES[0]}, then those that come with segsync.",
    ),
]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")]
TtaOption = Annotated[Tta, typer.Option("--tta", help="auto, mirror: average over mirrored copies; none: not.")]
OverlapOption = Annotated[
    float,
    typer.Option("--overlap", min=0.0, max=MOST_OVERLAP, help="Fraction of a window that its neighbour covers too."),
]
DeadlineOption = Annotated[
    float | None,
    typer.Option(
        "--deadline",
        min=0.0,
        help="Time budget per case, seconds, without loading; mirroring, then overlap, are reduced to keep it.",
    ),
]
FailureOption = Annotated[
    OnFailure,
    typer.Option("--on-failure", help="empty: a case that fails gets an empty mask, and the log and report say so."),
]
MemoryOption = Annotated[
    float | None,
    typer.Option("--max-memory", min=0.1, help="GB of memory to stay below; windows shrink, to half at most."),
]
ThreadsOption = Annotated[
    int | None,
    typer.Option(
        "--threads",
        min=1,
        max=MAX_THREADS,
        callback=choose_threads,
        help="Threads; else as many as processors are free.",
    ),
]
Verbose = Annotated[int, typer.Option("--verbose", "-v", count=True, help="Every step, and tracebacks.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Errors only.")]


def main() -> None:
    """Run the command line; errors are one line on stderr and a documented exit code."""
    if threading.current_thread() is not threading.main_thread():  # which alone may say what a signal does
        guarded(app)
        return
    before = signal.signal(signal.SIGTERM, _terminated)
    try:
        guarded(app)
    finally:
        signal.signal(signal.SIGTERM, before)


def _terminated(number: int, _: FrameType | None) -> None:
    """A cluster's or Docker's request to stop: as with Ctrl-C, half-written files are taken away."""
    sys.exit(128 + number)


def _logging(verbose: int = 0, quiet: bool = False) -> None:
    show_logs(logging.ERROR if quiet else logging.DEBUG if verbose else logging.INFO)


@app.command()
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
    _logging(verbose, quiet)
    arguments: dict[str, object] = {
        "input": str(source), "output": str(output), "task": task, "weights": str(weights) if weights else None,
        "channel": channel or [], "device": device, "tta": tta, "overlap": overlap, "deadline": deadline,
        "max_memory": max_memory, "save_probabilities": save_probabilities, "save_uncertainty": save_uncertainty,
        "on_failure": on_failure, "dicom_seg": dicom_seg,
    }  # fmt: skip
    if dicom_seg:
        check_highdicom()
    chosen = _task_for(source, task, weights)
    found, broken = cases.find_cases(source, chosen, _named_channels(channel or [], chosen))
    for line in broken:
        log.error("%s", line)
    targets = output_paths_of(output, found, chosen)
    check_folders(targets)
    todo = [(case, path) for case, path in zip(found, targets, strict=True) if not (resume and path.is_file())]
    if len(todo) < len(found):
        log.info("%d of %d cases are done already", len(found) - len(todo), len(found))
    if not todo and not broken:
        return
    memory = int(min(max_memory * GIB, sys.maxsize)) if max_memory is not None else None
    model = load(chosen.name, weights=weights, device=device, max_memory=memory)
    images = {image.resolve() for case in found for image in case.channels.values() if isinstance(image, Path)}
    written = model.bundle.spec.labels if save_probabilities else {}
    check_output_paths(todo, images, source, output, written, uncertainty=save_uncertainty)
    settings = Settings(tta, overlap, deadline)
    failed: list[Exception] = [*broken]
    for number, (case, path) in enumerate(todo, start=1):
        try:
            with report_progress(f"{case.name} ({number}/{len(todo)})", quiet) as progress, _memory_of(case):
                result = model.predict(case, settings, progress)
                lesions = measure(result.mask, result.grid, result.bundle.spec.labels)
                if dicom_seg:
                    write_segmentation(result, segmentation_path(path))
                _write(result, path, save_probabilities, save_uncertainty, arguments if report else None)
        except WeightsError:
            raise  # no case can do without the network
        except Exception as error:  # whatever it is, the other cases are still to be done
            empty = empty_in_place(model, case, error) if on_failure == "empty" else None
            if empty is not None:
                _write(empty, path, save_probabilities, save_uncertainty, arguments if report else None)
            if len(found) + len(broken) == 1:
                raise
            ours = isinstance(error, SegsyncError)
            log.error("%s", error if ours else f"case {case.name}: {unexpected(error)}")
            log.debug("where it came from:", exc_info=error)
            failed.append(error)
        else:
            lesions_found = f"{len(lesions)} lesion{'s' * (len(lesions) != 1)}"
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


@app.command()
def run(
    source: Annotated[Path, typer.Option("--input", readable=False, help="The platform's input folder.")] = INPUT,
    output: Annotated[Path, typer.Option("--output", readable=False, help="The platform's output folder.")] = OUTPUT,
    task: PlatformTaskOption = None,
    weights: WeightsOption = None,
    device: DeviceOption = "auto",
    tta: TtaOption = "auto",
    deadline: DeadlineOption = None,
    on_failure: FailureOption = "fail",
    threads: ThreadsOption = None,
    verbose: Verbose = 0,
) -> None:
    """One case as Grand Challenge runs it: /input to /output. The same as no command at all inside the container."""
    _logging(verbose)
    began = time.monotonic()
    inputs = grand_challenge.read_inputs(source)
    chosen = task_named(task) if task is not None else grand_challenge.choose_task(inputs)
    job = read_job(inputs, chosen, on_failure)
    check_folders(grand_challenge.output_files(job.case, chosen, output))
    model = load(chosen.name, weights=weights, device=device)
    run_job(job, model, output, Settings(tta, deadline_s=deadline))
    log.info("done in %.1f s", time.monotonic() - began)


@app.command()
def serve(
    source: Annotated[Path, typer.Option("--input", readable=False, help="The platform's input folder.")] = INPUT,
    output: Annotated[Path, typer.Option("--output", readable=False, help="The platform's output folder.")] = OUTPUT,
    task: PlatformTaskOption = None,
    weights: WeightsOption = None,
    device: DeviceOption = "auto",
    tta: TtaOption = "auto",
    deadline: DeadlineOption = None,
    on_failure: FailureOption = "fail",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="TCP port; the platform calls 4743.")] = PORT,
    host: Annotated[str, typer.Option("--host", help="Address to listen on; 127.0.0.1 for this machine alone.")] = HOST,
    threads: ThreadsOption = None,
    verbose: Verbose = 0,
) -> None:
    """Serve POST /invoke and GET /health as Grand Challenge calls them; models are loaded before the port opens."""
    _logging(verbose)
    names = [task_named(task).name] if task is not None else _tasks_with_weights(weights)
    models = {name: load(name, weights=weights, device=device) for name in names}
    for model in models.values():
        # A GPU's kernels are chosen at the first window; on a CPU it takes as long as any other.
        for engine in model.engines:
            if engine.device.cuda is not None:
                engine.warm_up(model.bundle.spec.patch_zyx)

    def invoke() -> None:
        inputs = grand_challenge.read_inputs(source)
        chosen = task_named(task) if task is not None else grand_challenge.choose_task(inputs)
        if chosen.name not in models:
            raise WeightsError(f"expected weights for the task {chosen.name}, found those for {', '.join(models)}")
        job = read_job(inputs, chosen, on_failure)
        check_folders(grand_challenge.output_files(job.case, chosen, output))
        run_job(job, models[chosen.name], output, Settings(tta, deadline_s=deadline))

    with make_server(invoke, port, host) as server:
        log.info("serving %s on port %d", ", ".join(models), server.server_port)
        server.serve_forever()


def _tasks_with_weights(weights: Path | None) -> list[str]:
    """The challenges' tasks whose weights are there; raises WeightsError for broken ones, and where there are none."""
    names, folders, missing = [], set(), None
    for name in TASKS:
        try:
            folder = find_weights(name, weights)
        except WeightsError as error:
            missing = error
        else:
            folders.add(folder)
            names += [name] if load_bundle(folder).spec.task == name else []
    if not names:
        raise missing or WeightsError(
            f"{', '.join(map(str, folders))}: expected weights of one of {', '.join(TASKS)}, found another task's"
        )
    return names


@app.command()
def info(
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
    weights: WeightsOption = None,
) -> None:
    """Tasks, weights, execution providers and versions, and what of them is missing."""
    _logging()
    facts = installation(weights)
    show_result(json.dumps(facts, indent=2) if as_json else as_table(facts))


@app.command()
def verify(weights: WeightsOption = None) -> None:
    """Compare the files of the weights with their sha256: in manifest.json, or in a single bundle's model.json."""
    _logging()
    places = [weights] if weights is not None else WEIGHTS_PLACES
    with os_errors(WeightsError):
        checked = [folder for place in places for folder in _verified(place)]
    if not checked:
        looked = ", ".join(map(str, places))
        raise WeightsError(f"expected {MANIFEST_FILE} or {SPEC_FILE} in one of {looked}, found none; give --weights")


def _verified(place: Path) -> Iterator[Path]:
    """Every folder of weights at this place that is as it should be; raises WeightsError at the first that is not."""
    if (place / MANIFEST_FILE).is_file():
        for name, entry in load_manifest(place / MANIFEST_FILE).tasks.items():
            verify_files(place / name, entry)
            show_result(f"{place / name}: {len(entry.files)} files as in {MANIFEST_FILE}")
            yield place / name
    else:
        for folder in folders_of_weights(place):
            load_bundle(folder)
            show_result(f"{folder}: {MODEL_FILE} as in {SPEC_FILE}")
            yield folder


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        show_result(f"segsync {segsync.__version__}")
        raise typer.Exit
