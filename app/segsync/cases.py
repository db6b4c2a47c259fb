"""Which cases lie in a folder, and which file is which channel: BIDS suffixes, nnU-Net numbers, sockets, DICOM."""

import logging
import os
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from segsync.errors import InputError, os_errors
from segsync.grand_challenge import choose_task, is_platform_folder, read_case, read_inputs
from segsync.images import holds_dicom, may_be_series, stem_of, suffix_of
from segsync.names import ImageName, read_name
from segsync.pipeline import Case
from segsync.tasks import TASKS, Task

log = logging.getLogger(__name__)

#: Words of folders that tell what kind of image lies in them, not whose.
KINDS_OF_FOLDERS = {"anat", "ct", "data", "derivatives", "dwi", "images", "maps", "perf", "perfusion", "raw", "rawdata"}


@os_errors(InputError)
def find_task(source: Path) -> Task:
    """The task whose channels the source offers; raises InputError if no task fits, or several do."""
    if not source.exists():
        raise InputError(f"{source}: no file or folder with a case's images; check the path")
    platform = next(_platform_folders(source), None) if source.is_dir() else None
    if platform is not None:
        return choose_task(read_inputs(platform))
    fitting = [task for task in TASKS.values() if len(task.channels) > 1 and _complete(source, task)]
    closed = [] if fitting else _closed(source)
    if closed:
        raise closed[0]
    if len(fitting) != 1:
        found = " or ".join(task.name for task in fitting) or "file names that fit no task"
        raise InputError(f"{source}: expected the images of one task, found {found}; give --task")
    return fitting[0]


def _complete(source: Path, task: Task) -> bool:
    return source.is_dir() and any(_enough(channels, task) for channels in _grouped(source, task).cases.values())


def _enough(channels: Mapping[str, list[Path]], task: Task) -> bool:
    """Whether a case has what the task needs; of an ADC a diffusion series will do."""
    there = {*channels, *(["adc"] if any(may_be_series(path) for path in channels.get("dwi", [])) else [])}
    return all(channel.name in there for channel in task.channels if channel.required)


@os_errors(InputError)
def find_cases(source: Path, task: Task, named: Mapping[str, Path]) -> tuple[list[Case], list[InputError]]:
    """Find the cases in a source.

    Args:
        source: A file, one case's folder, a platform folder, or a folder of any of these.
        task: Whose channels are looked for.
        named: Channels given by name; they complete or replace what is found, and then there must be one case.

    Returns:
        The cases, and an error for each that is incomplete or ambiguous: two files claim a channel, a socket is empty.

    Raises:
        InputError: There is no case, or the only one is incomplete or ambiguous.
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
            Case(name, {channel: paths[0] for channel, paths in channels.items()})
            for name, channels in sorted(grouped.cases.items())
            if name not in grouped.clashes
        ]
        used = {path.resolve() for path in named.values()}
        _say_left_out(source, task, [path for path in grouped.others if path.resolve() not in used])
    elif source.is_file():
        cases = [Case(stem_of(source), {_channel_of_file(source, task): source})]
    else:
        raise InputError(f"{source}: no file or folder with a case's images; check the path")
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
            f"{source}: no images named {suffixes} (.nii.gz, .nii, .mha), *_0000 …, or in folders so "
            "named; rename them or give --channel NAME=FILE"
        )
    return cases, failed


def _say_left_out(source: Path, task: Task, others: list[Path]) -> None:
    """Count the images that are nobody's, by what their names say that they are."""
    kinds: dict[str | None, list[Path]] = {}
    for path in others:
        kinds.setdefault(_read_name(path, task).other, []).append(path)
    for kind, paths in kinds.items():
        what = f"whose names tell no channel of {task.name}" if kind is None else f"whose names tell {kind}"
        log.warning("%s: %d images %s are left out, %s first", source, len(paths), what, paths[0].relative_to(source))


def _channel_of_file(path: Path, task: Task) -> str:
    required = [channel.name for channel in task.channels if channel.required]
    told = _read_name(path, task)
    if told.other is not None:
        raise InputError(
            f"{path}: expected an image of the task {task.name}, found by its name {told.other}; give another, or this "
            f"one by --channel {task.reference}=FILE"
        )
    return told.channel or (required[0] if len(required) == 1 else task.reference)


def _platform_folders(source: Path) -> Iterator[Path]:
    for folder, _, is_platform in _walk(source):
        if is_platform:
            yield folder


@dataclass
class _Grouped:
    """What lies in a folder, without the platform's folders.

    Attributes:
        cases: Files by case, then channel; one each, except in clashes.
        clashes: Of cases where two files claim a channel, or that lie in pieces.
        closed: Folders that may not be read.
        others: Images whose names tell no channel.
    """

    cases: dict[str, dict[str, list[Path]]]
    clashes: dict[str, InputError]
    closed: list[InputError]
    others: list[Path]


@dataclass(frozen=True)
class _Key:
    """What the files of a case have in common: a name, and the folders they lie in, where those tell patients apart."""

    place: tuple[str, ...]
    name: str
    #: Whether an entity names the channel of the key's image: `rec-TRACE_dwi`, beside which `_dwi` is the raw series.
    particular: bool = False

    @property
    def patient(self) -> "_Key":
        """Without what BIDS names tell besides subject, session and run: `acq-`, `space-`, which differ by channel."""
        entities = self.name.split("_")
        if not entities[0].startswith("sub-"):
            return _Key(self.place, self.name)
        return _Key(self.place, "_".join(entity for entity in entities if entity.startswith(("sub-", "ses-", "run-"))))


def _grouped(source: Path, task: Task, named: Mapping[str, Path] | None = None) -> _Grouped:
    """The images below `source` by what their names tell; channels that are named need not be told apart."""
    given = {channel: [path] for channel, path in (named or {}).items()}
    grouped = _Grouped({}, {}, [], [])
    found = list(_found(source, task, grouped))
    if not found and len(task.channels) == 1:
        here = [path for path in grouped.others if path.parent == source and _read_name(path, task).other is None]
        found = [(task.reference, _Key((), stem_of(path)), path) for path in here]
        grouped.others = [path for path in grouped.others if path not in here]
    files: dict[_Key, dict[str, list[Path]]] = {}
    for channel, key, path in found:
        files.setdefault(key, {}).setdefault(channel, []).append(path)
    if len(task.channels) > 1:
        files = _joined(files, task)
    places: dict[str, list[_Key]] = {}
    for key in files:
        places.setdefault(key.name, []).append(key)
    for key, channels in files.items():
        others = [other for other in places[key.name] if other != key]
        name = "_".join((*key.place, key.name)) if others else key.name
        found_too = None
        if name in grouped.cases:
            found_too = f"expected one case named {name}, found others at {_first(grouped.cases[name])}; rename one"
        elif others and not _enough({**channels, **given}, task):
            found_too = (
                f"expected the images of the case {key.name} in one folder, found some at {_first(files[others[0]])}; "
                "bring one patient's images together, or give --channel"
            )
        if found_too is not None:
            grouped.clashes[name] = InputError(f"{_first(channels)}: {found_too}")
        for channel, (first, *more) in channels.items():
            if more and channel not in given:
                grouped.clashes[name] = InputError(
                    f"{more[0]}: expected one {channel} image for the case {name}, found {first} as well; "
                    "leave one, or give --channel"
                )
        grouped.cases[name] = channels
    return grouped


def _first(channels: Mapping[str, list[Path]]) -> Path:
    return next(iter(channels.values()))[0]


def _joined(files: Mapping[_Key, dict[str, list[Path]]], task: Task) -> dict[_Key, dict[str, list[Path]]]:
    """Names of one patient that differ by channel become one case, where no two of them are cases by themselves.

    Where a patient has a channel twice, the image of the whole name counts, else the one that an entity names
    (`rec-TRACE_dwi` beside the raw series `_dwi`), else the one brought to another's space.
    """
    patients: dict[_Key, list[_Key]] = {}
    for key in files:
        patients.setdefault(key.patient, []).append(key)
    joined: dict[_Key, dict[str, list[Path]]] = {}
    for patient, keys in patients.items():
        whole = [key for key in keys if _enough(files[key], task)]
        if len(keys) == 1 or len(whole) > 1:
            joined.update({key: files[key] for key in keys})
            continue

        def rank(key: _Key, whole: Collection[_Key] = whole) -> tuple[bool, bool, bool]:
            return key not in whole, not key.particular, "_space-" not in key.name

        channels: dict[str, list[Path]] = {}
        settled: dict[str, _Key] = {}
        for key in sorted(keys, key=rank):
            for channel, paths in files[key].items():
                first = settled.setdefault(channel, key)
                if rank(first) == rank(key):
                    channels.setdefault(channel, []).extend(paths)
        joined[whole[0] if whole else patient] = channels
    return joined


def _walk(source: Path, closed: list[InputError] | None = None) -> Iterator[tuple[Path, list[str], bool]]:
    """Every folder from `source` on, the visible files in it, and whether it is the platform's, which is not entered.

    closed: takes folders that may not be read.
    """

    def refused(error: OSError) -> None:
        if closed is not None:
            line = f"{error.filename}: expected a folder to read, found {error.strerror}; change its permissions"
            closed.append(InputError(line))

    seen = set()
    for parent, folders, files in os.walk(source, followlinks=True, onerror=refused):
        folder = Path(parent)
        there = folder.stat()
        if (there.st_dev, there.st_ino) in seen:  # by way of a link
            folders.clear()
            continue
        seen.add((there.st_dev, there.st_ino))
        is_platform = is_platform_folder(folder)
        folders[:] = [] if is_platform else sorted(name for name in folders if not name.startswith("."))
        yield folder, sorted(file for file in files if not file.startswith(".")), is_platform


def _closed(source: Path) -> list[InputError]:
    """The folders from `source` on that may not be read."""
    closed: list[InputError] = []
    for _ in _walk(source, closed):
        pass
    return closed


def _found(source: Path, task: Task, grouped: _Grouped) -> Iterator[tuple[str, _Key, Path]]:
    """(channel, case, path) of every image below `source` whose name or folder tells its channel."""
    for folder, files, is_platform in _walk(source, grouped.closed):
        if is_platform:
            continue
        images = [folder / file for file in files if suffix_of(Path(file))]
        folder_channel = _channel_called(folder.name, task) if folder != source else None
        holds_series = bool(files) and not images and holds_dicom(folder)
        # A folder of that name with anything in it is meant to be a series; a DICOMDIR lies above the series' folders.
        if folder_channel and files and not images and (holds_series or not any(map(Path.is_dir, folder.iterdir()))):
            yield folder_channel, _Key((), _name(folder.parent, source)), folder
        elif holds_series:
            above = _channel_called(folder.parent.name, task) if source in folder.parent.parents else None
            series = _read_name(folder, task) if folder != source else ImageName("")
            if series.other is not None:
                grouped.others.append(folder)
            elif len(task.channels) == 1:
                yield task.reference, _Key((), _name(folder, source)), folder
            elif series.channel:  # 5_ep2d_diff_TRACEW
                yield series.channel, _Key((), _name(folder.parent, source)), folder
            elif above:  # dwi/SERIES, as scanners export it
                yield above, _Key((), _name(folder.parent.parent, source)), folder
        names = {path: _read_name(path, task) for path in images}
        if len(task.channels) == 1 and any(int(number[2]) for path in images if (number := _numbered(path))):
            names = {
                path: ImageName(name.case) if _numbered(path) else name for path, name in names.items()
            }  # of cases
        # A folder's name speaks for files whose own names say nothing, not for those beside one that does.
        told = any(name.channel is not None and name.channel == folder_channel for name in names.values())
        for path, name in names.items():
            if name.channel is not None:
                place = _place(folder.relative_to(source).parts, task)
                key = (
                    _Key(place, name.case, name.particular)
                    if name.case
                    else _Key((), "_".join(place) or source.absolute().name)
                )
                yield name.channel, key, path
            elif folder_channel and not told and name.other is None:
                yield folder_channel, _Key((), _name(folder.parent, source)), path
            else:
                grouped.others.append(path)


def _place(parts: tuple[str, ...], task: Task) -> tuple[str, ...]:
    """The folders on the way to an image that may tell patients apart.

    Not `dwi`, `anat`, `DWI_images`, nor what lies between BIDS' `derivatives` and the subject.
    """
    lowered = [part.lower() for part in parts]
    subject = next((index for index, part in enumerate(lowered) if part.startswith("sub-")), 0)
    start = subject if "derivatives" in lowered[:subject] else 0
    known = KINDS_OF_FOLDERS | {word for channel in task.channels for word in channel.suffixes}
    return tuple(part for part in parts[start:] if not known.issuperset(re.split(r"[-_. ]", part.lower())))


def _name(folder: Path, source: Path) -> str:
    return "_".join(folder.relative_to(source).parts) or source.absolute().name


def _channel_called(name: str, task: Task) -> str | None:
    return next((channel.name for channel in task.channels if name.lower() in channel.words), None)


def _read_name(path: Path, task: Task) -> ImageName:
    """What a file's name tells: nnU-Net's number of a channel, or the words of one."""
    numbered = _numbered(path)
    if numbered and int(numbered[2]) < len(task.channels):
        return ImageName(numbered[1], task.channels[int(numbered[2])].name)
    return read_name(stem_of(path), {channel.name: channel.words for channel in task.channels})


def _numbered(path: Path) -> re.Match[str] | None:
    """nnU-Net's `case_0000`: the case, and the number of the channel."""
    return re.fullmatch(r"(.+)_(\d{4})", stem_of(path))
