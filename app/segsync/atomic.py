"""Files and folders that appear whole under their names or not at all: written beside them, then renamed."""

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from uuid import uuid4

from segsync.errors import OutputError

#: Names of files under way begin with a dot, then the final name, and end in this (before a suffix that is needed).
PART = ".part"


def part_of(path: Path, suffix: str = "") -> Path:
    """The name of a file or folder while it is being written.

    Args:
        path: The final name.
        suffix: What the name must end in, where a library tells the format by it.

    Returns:
        A hidden name in the same folder, different for each call: process numbers are the same in two containers.
    """
    return path.with_name(f".{path.name}.{uuid4().hex[:8]}{PART}{suffix}")


@contextlib.contextmanager
def whole_file(path: Path, *, suffix: str = "", durable: bool = False) -> Iterator[Path]:
    """Write a file that replaces an older one only once it is complete.

    Args:
        path: The final name; its folder is made.
        suffix: As in `part_of`.
        durable: Flush to the disk before and after the renaming, so that a power cut leaves the old file or the new.

    Yields:
        The name to write to. After an error that file is removed and `path` is as it was.

    Raises:
        OSError: The folder cannot be made, or the file not renamed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = part_of(path, suffix)
    try:
        yield part
        if durable:
            with part.open("rb+") as file:
                os.fsync(file.fileno())
        part.replace(path)
        if durable:
            _sync_folder(path.parent)
    finally:
        with contextlib.suppress(OSError):
            part.unlink()


@contextlib.contextmanager
def whole_folder(path: Path, *, replace: bool) -> Iterator[Path]:
    """Write a folder that appears under its name only once it is complete.

    Args:
        path: The final name.
        replace: Put it in the place of an older folder; False: the older folder stays, as when another process that
            writes the same was faster.

    Yields:
        The folder to write to. After an error `path` is as it was.

    Raises:
        OSError: The folder cannot be made or renamed.
    """
    part, old = part_of(path), part_of(path)
    try:
        part.mkdir(parents=True)
        yield part
        if replace and path.exists():
            path.rename(old)
        if not path.exists():
            try:
                part.rename(path)
            except OSError:
                if not path.is_dir():
                    raise
    finally:
        if old.is_dir() and not path.exists():  # the new one could not take its place
            old.rename(path)
        shutil.rmtree(part, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def write_texts(texts: Mapping[str, str], folder: Path) -> None:
    """Write text files into a folder, which is made where it is missing.

    Args:
        texts: Contents by file name.
        folder: Where they go.

    Raises:
        OutputError: A file cannot be written.
    """
    make_folder(folder)
    for name, text in texts.items():
        try:
            with whole_file(folder / name) as part:
                part.write_text(text, encoding="utf-8")
        except OSError as error:
            raise OutputError(f"{folder / name}: expected to write it, found {why_not(folder, error)}") from error


def make_folder(folder: Path) -> None:
    """Make a folder for results; raises OutputError if that fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: expected to make the folder, found {why_not(folder, error)}") from error


def why_not(folder: Path, error: Exception) -> str:
    """Say why something could not be written into a folder, and what to do.

    Args:
        folder: Where it should have gone; it need not exist.
        error: What the system or a library said.

    Returns:
        The end of a message, after "found": a full disk by name, with the room that is left.
    """
    full = (isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)) or "No space left" in str(error)
    if full:
        existing = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
        free = shutil.disk_usage(existing).free / 2**20
        return f"a full disk ({free:.0f} MiB free); free some space and run again"
    return f"{(error.strerror if isinstance(error, OSError) else None) or error}; choose another folder"


def _sync_folder(folder: Path) -> None:
    """A rename survives a power cut only once the folder's entry is on the disk as well."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
