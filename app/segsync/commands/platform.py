"""`segsync run` and `segsync serve`: Grand Challenge's two doors."""

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from segsync import grand_challenge
from segsync.bundle import load_bundle
from segsync.commands.options import (
    DeadlineOption,
    DeviceOption,
    FailureOption,
    PlatformTaskOption,
    ThreadsOption,
    TtaOption,
    Verbose,
    WeightsOption,
    set_up_logging,
)
from segsync.errors import WeightsError
from segsync.jobs import OnFailure, read_job, run_job
from segsync.output_paths import check_folders
from segsync.predict import Model, Settings, find_weights, load
from segsync.server import HOST, PORT, make_server
from segsync.tasks import TASKS, Task, task_named

log = logging.getLogger(__name__)

INPUT, OUTPUT = Path("/input"), Path("/output")
InputOption = Annotated[Path, typer.Option("--input", readable=False, help="The platform's input folder.")]
OutputOption = Annotated[Path, typer.Option("--output", readable=False, help="The platform's output folder.")]


def run(
    source: InputOption = INPUT,
    output: OutputOption = OUTPUT,
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
    set_up_logging(verbose)
    began = time.monotonic()

    def model_of(chosen: Task) -> Model:
        return load(chosen.name, weights=weights, device=device)

    _run_case(source, output, task, on_failure, model_of, Settings(tta, deadline_s=deadline))
    log.info("done in %.1f s", time.monotonic() - began)


def serve(
    source: InputOption = INPUT,
    output: OutputOption = OUTPUT,
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
    set_up_logging(verbose)
    names = [task_named(task).name] if task is not None else _tasks_with_weights(weights)
    models = {name: load(name, weights=weights, device=device) for name in names}
    for model in models.values():
        # A GPU's kernels are chosen at the first window; on a CPU it takes as long as any other.
        for engine in model.engines:
            if engine.device.cuda is not None:
                engine.warm_up(model.bundle.spec.patch_zyx)

    def model_of(chosen: Task) -> Model:
        if chosen.name not in models:
            raise WeightsError(f"expected weights for the task {chosen.name}, found those for {', '.join(models)}")
        return models[chosen.name]

    def invoke() -> None:
        _run_case(source, output, task, on_failure, model_of, Settings(tta, deadline_s=deadline))

    with make_server(invoke, port, host) as server:
        log.info("serving %s on port %d", ", ".join(models), server.server_port)
        server.serve_forever()


def _run_case(
    source: Path,
    output: Path,
    task: str | None,
    on_failure: OnFailure,
    model_of: Callable[[Task], Model],
    settings: Settings,
) -> None:
    """From input to output; the network is asked for when all else that can be wrong has been looked at."""
    inputs = grand_challenge.read_inputs(source)
    chosen = task_named(task) if task is not None else grand_challenge.choose_task(inputs)
    job = read_job(inputs, chosen, on_failure)
    check_folders(grand_challenge.output_files(job.case, chosen, output))
    run_job(job, model_of(chosen), output, settings)


def _tasks_with_weights(weights: Path | None) -> list[str]:
    """The challenges' tasks whose weights are there; raises WeightsError for broken weights, and without any."""
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
