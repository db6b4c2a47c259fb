"""What several commands have in common: their options, and how a result is said."""

import logging
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from segsync.console import show_logs
from segsync.processor import choose_threads

if TYPE_CHECKING:
    from segsync_train.evaluation.operating_point import OperatingPoint
    from segsync_train.trainer.loop import Outcome

log = logging.getLogger(__name__)

ConfigOption = Annotated[
    Path | None, typer.Option("--config", "-c", help="Settings of the run, YAML, or a recipe's name.")
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one setting: --set seed=1.")
]
OutputOption = Annotated[Path, typer.Option("--output", "-o", help="The run's folder.")]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Continue the run in this folder.")]
MinutesOption = Annotated[
    float | None, typer.Option("--minutes", min=0.0, help="Stop with a checkpoint after this time; --resume continues.")
]
RunArgument = Annotated[Path, typer.Argument(help="The folder of a fine-tuning run.")]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")]
CheckpointOption = Annotated[
    Path | None, typer.Option("--checkpoint", help="A file other than the run's best checkpoint.")
]
RulesOption = Annotated[
    str | None, typer.Option("--rules", help="isles22, isles24, isles26, atlas or aims-tbi; else the task's.")
]
ThreadsOption = Annotated[
    int | None,
    typer.Option("--threads", min=1, callback=choose_threads, help="Threads on a CPU; else as many as are free."),
]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Every step, and tracebacks.")]


def set_up_logging(*, verbose: bool) -> None:
    """-v speaks of this project alone, not of the libraries below it."""
    show_logs(logging.INFO)
    for name in ("segsync", "segsync_train"):
        logging.getLogger(name).setLevel(logging.DEBUG if verbose else logging.INFO)


def stop_after(minutes: float | None) -> Callable[[], bool]:
    """Whether the time is up, or the system has asked the program to end (SIGTERM, as clusters send it)."""
    asked = False

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        asked = True

    signal.signal(signal.SIGTERM, ask)
    end = None if minutes is None else time.monotonic() + 60 * minutes
    return lambda: asked or (end is not None and time.monotonic() >= end)


def say_outcome(outcome: "Outcome", steps: int, criterion: str) -> None:
    """One line on standard output: the run's folder, its last step, and what its best weights reached."""
    if not outcome.finished:
        log.info("stopped after step %d of %d; go on with --resume", outcome.step, steps)
    reached = "no best weights yet" if outcome.best is None else f"{criterion} {outcome.best:.4f}"
    sys.stdout.write(f"{outcome.folder}\tstep {outcome.step}\t{reached}\n")


def say_operating_point(folder: Path, point: "OperatingPoint") -> None:
    """On standard output: the chosen operating point with what it scores, and a line more for each region."""
    for of, chosen in ((f"{folder}", point), *((f"{folder}: {n}", one) for n, one in point.region_decisions.items())):
        scores = f"\tDice {point.dice:.4f}\tlesion F1 {point.lesion_f1:.4f}" if chosen is point else ""
        sys.stdout.write(
            f"{of}\tthreshold {chosen.threshold:g}\tsmallest component {chosen.min_component_ml:g} ml\t"
            f"least confidence {chosen.min_component_confidence:g}\t{point.rules}{scores}\n"
        )


def on_stdout() -> Console:
    """A console on standard output; wide where it is no terminal, so that lines of a table stay lines in a file."""
    console = Console()
    return console if console.is_terminal else Console(width=200)
