"""What both command lines share: logs on standard error, errors as one line and a documented exit code."""

import contextlib
import io
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from rich.console import Console
from rich.logging import RichHandler

from segsync.errors import SegsyncError

log = logging.getLogger(__name__)

#: Shows logs and bars alike: a line of the log is put above a bar by the console that draws it, else into it.
TERMINAL = Console(stderr=True)


def mend_streams() -> None:
    """Give the process standard streams that take every line.

    A stream that the shell closed (`>&-`) is None in Python, and one whose encoding lacks a letter of a patient's name
    raises an error at it: the first goes nowhere, the second is given the letter's number.
    """
    sys.stdout, sys.stderr = _mended(sys.stdout), _mended(sys.stderr)


def _mended(stream: TextIO | None) -> TextIO:
    if stream is None:
        return _nowhere()
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")
    return stream


def _nowhere() -> TextIO:
    return Path(os.devnull).open("w", encoding="utf-8")


def show_result(line: str) -> None:
    """Write a line to standard output; where nobody reads it any more (`| head -1`, a full disk) the work goes on."""
    try:
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
    except (OSError, ValueError) as error:
        log.warning("standard output takes no more lines (%s); results are written to their files alone", error)
        with contextlib.suppress(OSError, ValueError):
            # What its buffer still holds would be an error at the end of the process.
            with _nowhere() as nowhere:
                os.dup2(nowhere.fileno(), sys.stdout.fileno())
            return
        sys.stdout = _nowhere()


def show_logs(level: int) -> None:
    """Logs from `level` on: coloured on a terminal, `LEVEL: line` elsewhere."""
    if sys.stderr.isatty():
        handler: logging.Handler = RichHandler(console=TERMINAL, show_path=False, markup=False)
        handler.setFormatter(logging.Formatter("%(message)s", "%X"))
    else:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    logging.basicConfig(level=level, handlers=[handler], force=True)


def guarded(command: Callable[[], object]) -> None:
    """Run a command; whatever it raises is one line of the log and the process's exit code."""
    mend_streams()
    try:
        command()
    except SegsyncError as error:
        log.error("%s", error)
        log.debug("where it came from:", exc_info=error)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        log.error("%s", unexpected(error))
        log.debug("where it came from:", exc_info=error)
        sys.exit(1)


def unexpected(error: Exception) -> str:
    """The line for an error that nobody foresaw."""
    return f"unexpected {type(error).__name__}: {error}; run again with -v and report it"
