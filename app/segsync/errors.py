"""The few ways a run can fail, each with the exit code the command line documents.

Every message is one line: which file, what was expected, what was found, what to do.
"""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

#: What runtimes, allocators and ITK say when memory ends, and torch of a worker process that the system ended for it.
OUT_OF_MEMORY = re.compile(
    r"out of memory|bad.?alloc|(?:failed to|can't|cannot|unable to) allocate|alloc.*fail|CUDNN_STATUS_ALLOC"
    r"|killed by signal: Killed",
    re.IGNORECASE,
)


@contextlib.contextmanager
def memory_errors() -> Iterator[None]:
    """RuntimeErrors of ITK and torch that say that memory ended become MemoryError, as NumPy's are."""
    try:
        yield
    except RuntimeError as error:
        said = next((line for line in str(error).splitlines() if OUT_OF_MEMORY.search(line)), None)
        if said is None:
            raise
        raise MemoryError(said.strip()) from error


class SegsyncError(Exception):
    """Base of all errors this package raises on purpose."""

    exit_code = 1


@contextlib.contextmanager
def os_errors(kind: type[SegsyncError], path: Path | None = None) -> Iterator[None]:
    """What the system refuses (a folder that may not be entered, a disk that does not answer) becomes `kind`.

    Args:
        kind: The error to raise.
        path: Named where the system names none.
    """
    try:
        yield
    except OSError as error:
        raise kind(
            f"{error.filename or path}: expected a file or folder to look into, found {error.strerror or error}; check "
            "the path and its permissions"
        ) from error


class InputError(SegsyncError):
    """The images or the folder given are not what the task needs."""

    exit_code = 3


class UsageError(InputError):
    """A name in the call that does not exist: of a task, a channel, a device."""

    exit_code = 2


class ChannelError(InputError):
    """One channel of a case is missing, empty, or lies elsewhere; `channel` is its name."""

    def __init__(self, channel: str, message: str) -> None:
        super().__init__(f"channel {channel}: {message}")
        self.channel = channel


class WeightsError(SegsyncError):
    """The weights are missing, altered, or not for this task or runtime."""

    exit_code = 4


class OutputError(SegsyncError):
    """The result could not be written: no permission, no room, no folder."""

    exit_code = 5


class ResourceError(SegsyncError):
    """The machine ran out of memory, or has not the device that was asked for."""

    exit_code = 6


class CasesFailedError(SegsyncError):
    """Some cases of a folder failed; the others were finished."""

    exit_code = 7
