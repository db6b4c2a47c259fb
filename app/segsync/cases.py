"""Which cases lie in a folder, and which file is which channel: BIDS suffixes, nnU-Net numbers, sockets, DICOM."""

import logging
import os
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from segsync.errors import InputError
from segsync.grand_challenge import choose_task, is_platform_folder, read_case, read_inputs
from segsync.images import stem_of, suffix_of
from segsync.predict import Case
from segsync.tasks import TASKS, Task

log = logging.getLogger(__name__)


def find_task(source: Path) -> Task:
    """The only task whose channels the source offers; raises InputError where there is none or more than one."""
    if not source.exists():
        raise InputError(f"{source}: expected a file or folder with a case's images, found none; check the path")
    platform = next(_platform_folders(source), None) if source.is_dir() else None
    if platform is not None:
        return choose_task(read_inputs(platform))
    fitting = [task for task in TASKS.values() if len(task.channels) > 1 and _complete(source, task)]
    if len(fitting) != 1:
        found = " or ".join(task.name for task in fitting) or "no task's images told by their names"
        raise InputError(f"{source}: expected the images of one task, found {found}; give --task")
    return fitting[0]


def _complete(source: Path, task: Task) -> bool:
    if not source.is_dir():
        return False
    required = {channel.name for channel in task.channels if channel.required}
    return any(required <= set(channels) for channels in _grouped(source, task).cases.values())


def find_cases(source: Path, task: Task, named: Mapping[str, Path]) -> tuple[list[Case], list[InputError]]:
    """The cases in `source` (a file, one case's folder, a platform folder, or a folder of any of these).

    named: channels given by name; they complete or replace what is found, and then there must be one case.
    Returns the cases, and why others in the folder are none: two files claim a channel, a socket is not filled.
    Raises InputError where there is no case, or only one that is none.
    """
    cases, failed = [], []
    if source.is_dir():
        for folder in _platform_folders(source):
            try:
                case = read_case(read_inputs(folder), task)
            except InputError as error:
                failed.append(error)
            else:
                cases.append(case if folder == source else replace(case, name=_name(folder, source)))
        grouped = _grouped(source, task, named)
        failed += (*grouped.clashes.values(), *grouped.closed)
        cases += [
            Case(name, channels) for name, channels in sorted(grouped.cases.items()) if name not in grouped.clashes
        ]
        if grouped.others:
            log.warning(
                "%s: %d images whose names tell no channel of %s are left out, %s first",
                source, len(grouped.others), task.name, grouped.others[0].relative_to(source),
            )  # fmt: skip
    elif source.is_file():
        cases = [Case(stem_of(source), {_channel_of_file(source, task): source})]
    else:
        raise InputError(f"{source}: expected a file or folder with a case's images, found none; check the path")
    if len(failed) == 1 and not cases:
        raise failed[0]
    if named and len(cases) + len(failed) <= 1:
        base = cases[0] if cases else Case(source.absolute().name, {})
        cases = [Case(base.name, {**base.channels, **named}, base.metadata)]
    elif named:
        count = len(cases) + len(failed)
        raise InputError(f"{source}: expected one case for --channel, found {count}; give that case's folder")
    if not cases and not failed:
        suffixes = ", ".join(f"*_{channel.suffixes[0]}" for channel in task.channels)
        raise InputError(
            f"{source}: expected images named {suffixes} (.nii.gz, .nii, .mha), *_0000 …, or in folders so "
            "named, found none; rename them or give --channel NAME=FILE"
        )
    return cases, failed


def _channel_of_file(path: Path, task: Task) -> str:
    required = [channel.name for channel in task.channels if channel.required]
    label = _labelled(path, task)
    return label[0] if label else required[0] if len(required) == 1 else task.reference


def _platform_folders(source: Path) -> Iterator[Path]:
    for folder, _, is_platform in _walk(source):
        if is_platform:
            yield folder


@dataclass
class _Grouped:
    """What lies in a folder, without the platform's folders.

    cases: files by case, then channel. clashes: of cases where two files claim a channel. closed: folders that may not
    be read. others: images whose names tell no channel.
    """

    cases: dict[str, dict[str, Path]]
    clashes: dict[str, InputError]
    closed: list[InputError]
    others: list[Path]


def _grouped(source: Path, task: Task, named: Collection[str] = ()) -> _Grouped:
    """The images below `source` by what their names tell; channels that are named need not be told apart."""
    grouped = _Grouped({}, {}, [], [])
    found = list(_found(source, task, grouped))
    if not found and len(task.channels) == 1:
        found = [(task.reference, stem_of(path), path) for path in grouped.others if path.parent == source]
        grouped.others = [path for path in grouped.others if path.parent != source]
    for channel, name, path in found:
        first = grouped.cases.setdefault(name, {}).setdefault(channel, path)
        if first != path and channel not in named:
            grouped.clashes[name] = InputError(
                f"{path}: expected one {channel} image for the case {name}, found {first} as well; "
                "leave one, or give --channel"
            )
    return grouped


def _walk(source: Path, closed: list[InputError] | None = None) -> Iterator[tuple[Path, list[str], bool]]:
    """Every folder from `source` on, the visible files in it, and whether it is the platform's, which is not entered.

    closed: takes folders that may not be read.
    """

    def refused(error: OSError) -> None:
        if closed is not None:
            line = f"{error.filename}: expected a folder to read, found {error.strerror}; change its permissions"
            closed.append(InputError(line))

    for parent, folders, files in os.walk(source, followlinks=True, onerror=refused):
        folder = Path(parent)
        is_platform = is_platform_folder(folder)
        folders[:] = [] if is_platform else sorted(name for name in folders if not name.startswith("."))
        yield folder, sorted(file for file in files if not file.startswith(".")), is_platform


def _found(source: Path, task: Task, grouped: _Grouped) -> Iterator[tuple[str, str, Path]]:
    """(channel, case name, path) of every image below `source` whose name or folder tells its channel."""
    for folder, files, is_platform in _walk(source, grouped.closed):
        if is_platform:
            continue
        images = [folder / file for file in files if suffix_of(Path(file))]
        folder_channel = _channel_called(folder.name, task) if folder != source else None
        if folder_channel and files and not images:
            yield folder_channel, _name(folder.parent, source), folder  # a DICOM series
        labels = {path: _labelled(path, task) for path in images}
        # A folder's name speaks for files whose own names say nothing, not for those beside one that does.
        told = any(label is not None and label[0] == folder_channel for label in labels.values())
        for path, label in labels.items():
            if label is not None:
                yield label[0], label[1] or _name(folder, source), path
            elif folder_channel and not told:
                yield folder_channel, _name(folder.parent, source), path
            else:
                grouped.others.append(path)


def _name(folder: Path, source: Path) -> str:
    relative = folder.relative_to(source)
    return "_".join(relative.parts) or source.absolute().name


def _channel_called(name: str, task: Task) -> str | None:
    lowered = name.lower()
    for channel in task.channels:
        if lowered in channel.suffixes or lowered in (socket.lower() for socket in channel.sockets):
            return channel.name
    return None


def _labelled(path: Path, task: Task) -> tuple[str, str] | None:
    """The channel that a file's name tells and the case's name before it (may be empty), or None."""
    stem = stem_of(path)
    numbered = re.fullmatch(r"(.+)_(\d{4})", stem)
    if numbered and int(numbered[2]) < len(task.channels):
        return task.channels[int(numbered[2])].name, numbered[1]
    head, _, last = stem.replace("-", "_").replace(".", "_").rpartition("_")
    channel = _channel_called(last, task)
    return (channel, stem[: len(head)]) if channel is not None else None
