"""What both command lines share: logs on standard error, errors as one line and a documented exit code."""

import logging
import sys
from collections.abc import Callable

from rich.console import Console
from rich.logging import RichHandler

from segsync.errors import SegsyncError

log = logging.getLogger(__name__)

#: Shows logs and bars alike: a line of the log is put above a bar by the console that draws it, else into it.
TERMINAL = Console(stderr=True)


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
