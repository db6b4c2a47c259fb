"""How far a case is: a bar on a terminal, a few plain lines elsewhere."""

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from segsync.console import TERMINAL

log = logging.getLogger(__name__)

#: Fractions of a case at which a line is logged where there is no terminal.
LINES_AT = (0.25, 0.5, 0.75, 1.0)


@contextmanager
def report_progress(title: str, quiet: bool = False) -> Iterator[Callable[[float], None]]:
    """Gives a function to call with the fraction done, 0 to 1."""
    if quiet:
        yield lambda fraction: None
    elif sys.stderr.isatty():
        columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
        with Progress(*columns, console=TERMINAL, transient=True) as bar:
            task = bar.add_task(title, total=1.0)
            yield lambda fraction: bar.update(task, completed=fraction)
    else:
        due = list(LINES_AT)

        def line(fraction: float) -> None:
            reached = [at for at in due if fraction >= at - 1e-9]
            if reached:
                log.info("%s: %.0f %%", title, 100 * reached[-1])
                del due[: len(reached)]

        yield line
