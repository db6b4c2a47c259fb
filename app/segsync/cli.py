"""The command line: `segsync predict | run | serve | info | verify`."""

import signal
import sys
import threading
from types import FrameType
from typing import Annotated

import typer

import segsync
from segsync.commands import installation, platform, predict
from segsync.console import guarded, show_result

EXIT_CODES = """Exit codes: 0 done; 1 unexpected error; 2 wrong usage; 3 input; 4 weights; 5 output; 6 memory or device;
7 some cases of a folder failed; 130 stopped by Ctrl-C; 143 by SIGTERM."""

app = typer.Typer(
    name="segsync",
    help=f"Stroke and brain-lesion segmentation with 3D-SegSync. For research, not for care.\n\n{EXIT_CODES}",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

for command in (predict.predict, platform.run, platform.serve, installation.info, installation.verify):
    app.command()(command)


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        show_result(f"segsync {segsync.__version__}")
        raise typer.Exit


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
