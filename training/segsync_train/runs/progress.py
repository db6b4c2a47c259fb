"""Progress with time left: a bar on a terminal, plain lines in the log elsewhere."""

import logging
import time
from collections.abc import Callable
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from segsync.console import TERMINAL

log = logging.getLogger(__name__)

#: Seconds between plain lines.
LINE_EVERY_S = 30.0


class StepProgress:
    """Steps of a run, shown on standard error while a `with` block lasts."""

    def __init__(
        self,
        title: str,
        total: int,
        done: int = 0,
        *,
        quiet: bool = False,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin a bar.

        Args:
            title: What is under way.
            total: Steps.
            done: Steps that are done already.
            quiet: Whether nothing is shown (processes other than the first).
            console: Where the bar is drawn, if it is a terminal.
            clock: Gives seconds.
        """
        self._title, self._total, self._first, self._done = title, total, done, done
        self._quiet, self._clock = quiet, clock
        console = console or TERMINAL
        self._bar: Progress | None = None
        if console.is_terminal and not quiet:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
                console=console,
            )
            self._task = self._bar.add_task(title, total=total, completed=done, note="")

    def __enter__(self) -> "StepProgress":
        self._began = self._said = self._clock()
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, note: str = "") -> None:
        """Count one more step.

        Args:
            note: The newest loss or score.
        """
        self._done += 1
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done, note=note)
        elif not self._quiet:
            now = self._clock()
            if now - self._said >= LINE_EVERY_S or self._done == self._total:
                self._said = now
                left = (now - self._began) / (self._done - self._first) * (self._total - self._done)
                log.info("%s: step %d of %d, %s left  %s", self._title, self._done, self._total, duration(left), note)


def duration(seconds: float) -> str:
    """Seconds for people: `42 s`, `3 min 05 s`, `2 h 07 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
