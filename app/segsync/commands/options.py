"""Options that several commands have in common, and how they set up the log."""

import logging
from pathlib import Path
from typing import Annotated

import typer

from segsync.console import show_logs
from segsync.jobs import OnFailure
from segsync.predict import MOST_OVERLAP, WEIGHTS_PLACES, Tta
from segsync.processor import MAX_THREADS, choose_threads
from segsync.tasks import TASKS

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
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, openvino, openvino:bf16, cuda or cuda:N.")]
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
        help="Time budget per case, seconds, without loading; mirroring, networks, then overlap give way.",
    ),
]
FailureOption = Annotated[
    OnFailure,
    typer.Option(
        "--on-failure", help="empty: a case that cannot be segmented gets an empty mask, and the log and report say so."
    ),
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


def set_up_logging(verbose: int = 0, quiet: bool = False) -> None:
    """-v shows every step, -q errors alone."""
    show_logs(logging.ERROR if quiet else logging.DEBUG if verbose else logging.INFO)
