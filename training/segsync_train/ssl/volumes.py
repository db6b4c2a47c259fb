"""The volumes of a pretraining: found in folders or drawn, preprocessed by the runtime's own code, divided.

Labels are never read.
"""

import logging
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from segsync.bundle import ChannelSpec, Fixed, ZScore
from segsync.errors import InputError
from segsync.images import stem_of
from segsync_train.config.run import CaseSpec
from segsync_train.data.cases import LabelledCase, StoredCases
from segsync_train.data.dataset import find_cases, try_cache
from segsync_train.data.formats import nnunet_description
from segsync_train.data.label_maps import label_maps
from segsync_train.data.layout import CaseFiles, image_files
from segsync_train.data.patches import CaseSource, FolderSource
from segsync_train.data.sources import open_synthetic
from segsync_train.runs.devices import Processes
from segsync_train.runs.progress import StepProgress
from segsync_train.ssl.config import FolderVolumes, HeldOutConfig, PretrainConfig, VolumeFolder

log = logging.getLogger(__name__)

#: First word of the seed that chooses the held-out volumes.
SPLIT = 21


@dataclass(frozen=True, kw_only=True)
class VolumeFiles(CaseFiles):
    """One volume's images, by the model's channels, and the part of the data that they are of."""

    part: VolumeFolder


Normalisation = ZScore | Fixed
Files = TypeVar("Files", bound=CaseFiles)


@dataclass(frozen=True)
class Volumes:
    """What a pretraining trains on, and the volumes that never train."""

    source: CaseSource
    held_out: Sequence[LabelledCase]


def open_volumes(config: PretrainConfig, folder: Path, group: Processes) -> Volumes:
    """Find, check and preprocess everything before the first step.

    Args:
        config: Of the run.
        folder: Of the run.
        group: The run's processes.

    Returns:
        Cases to train on and to hold out, background throughout: their labels are not read.

    Raises:
        InputError: Volumes are missing or not what they should be.
        OutputError: The volumes cannot be kept.
    """
    if not isinstance(config.data, FolderVolumes):
        data = open_synthetic(config.task, config.case_spec(), config.data, config.seed, folder, group)
        return Volumes(data.source, data.validation[: config.held_out.volumes])
    files = find_volumes(config.data, config.channels)
    cache = config.data.cache or folder / "cache"
    with group.first():
        images = without_label_maps(files, cache, threads=config.workers, main=group.main)
    with group.first(), StepProgress("preparing volumes", len(images), quiet=not group.main) as progress:
        folders = _prepared(images, config.case_spec, cache, config.workers, progress.advance)
    _check_readable(folders, config.data.unreadable, speaks=group.main)
    prepared = [(file, found) for file, found in zip(images, folders, strict=True) if isinstance(found, Path)]
    held_out, training = divide([file for file, _ in prepared], config.held_out, config.seed)
    place = {id(file): found for file, found in prepared}
    log.info("%d volumes to train on, %d held out", len(training), len(held_out))
    source = FolderSource(StoredCases([place[id(file)] for file in training]), config.seed)
    return Volumes(source, StoredCases([place[id(file)] for file in held_out]))


def _check_readable(folders: Sequence[Path | InputError], fraction: float, *, speaks: bool) -> None:
    """Name the volumes that could not be prepared; raises InputError of the first where they are more than `fraction`.

    speaks: whether this is the process that speaks.
    """
    failures = [found for found in folders if isinstance(found, InputError)]
    too_many = len(failures) > fraction * len(folders)
    for failure in failures[1:] if too_many else failures:
        log.log(logging.ERROR if speaks else logging.DEBUG, "%s", failure)
    if too_many:
        raise failures[0]
    if failures and speaks:
        log.warning("%d of %d volumes cannot be read and are left out", len(failures), len(folders))


def _prepared(
    files: Sequence[VolumeFiles],
    spec_of: Callable[[Normalisation | None], CaseSpec],
    cache: Path,
    threads: int,
    progress: Callable[[], None],
) -> list[Path | InputError]:
    """Folders of the preprocessed volumes, in their order, or the error of one; each normalised as its part says."""
    alike: dict[Normalisation | None, list[int]] = defaultdict(list)
    for number, file in enumerate(files):
        alike[file.part.normalisation].append(number)
    folders: dict[int, Path | InputError] = {}
    for normalisation, numbers in alike.items():
        some, spec = [files[number] for number in numbers], spec_of(normalisation)
        made = try_cache(some, spec, cache, threads=threads, progress=progress)
        folders.update(zip(numbers, made, strict=True))
    return [folders[number] for number in range(len(files))]


def without_label_maps(
    files: Sequence[VolumeFiles], cache: Path, *, threads: int = 1, main: bool = True
) -> list[VolumeFiles]:
    """Leave out label maps among the images of folders in the layout `files`; the log says how many.

    Args:
        files: The volumes of all folders.
        cache: Where what was found is kept.
        threads: Images that are read at once.
        main: Whether this is the process that speaks.

    Returns:
        The other volumes.
    """
    doubtful = [path for file in files if file.part.layout == "files" for path in file.images.values()]
    if not doubtful:
        return list(files)
    with StepProgress("looking for label maps", len(doubtful), quiet=not main) as progress:
        left_out = label_maps(doubtful, cache, threads=threads, progress=progress.advance)
    if left_out and main:
        log.warning(
            "%d of %d images are label maps or empty and are left out (%s …); data.folders.layout tells them apart",
            len(left_out), len(doubtful), next(path for path in doubtful if path in left_out),
        )  # fmt: skip
    return [file for file in files if left_out.isdisjoint(file.images.values())]


def find_volumes(data: FolderVolumes, channels: Sequence[ChannelSpec]) -> list[VolumeFiles]:
    """The images of every folder, without those that are excluded.

    Args:
        data: Folders, and the names to leave out.
        channels: Of the model.

    Returns:
        The volumes.

    Raises:
        InputError: A folder has none, a channel is missing, or a name to exclude does not exist.
    """
    names = [channel.name for channel in channels]
    found = [case for part in data.folders for case in _found(part, names)]
    unknown = sorted(set(data.exclude) - {case.name for case in found})
    if unknown:
        raise InputError(
            f"data.exclude: expected names of volumes, found {unknown[0]!r}, which no folder has; correct the name"
        )
    kept = [case for case in found if case.name not in data.exclude]
    for case in kept:
        for channel in channels:
            if not channel.optional and channel.name not in case.images:
                raise InputError(
                    f"case {case.name}: expected an image of the channel {channel.name!r}, found "
                    f"{', '.join(case.images) or 'none'}; add it, or mark the channel optional"
                )
    return kept


def _found(part: VolumeFolder, channels: Sequence[str]) -> list[VolumeFiles]:
    """One folder's images. In the layout `files` a volume's name is its path below the folder, without the ending."""
    if part.layout != "files":
        found = _laid_out(part, channels)
    elif len(channels) > 1:
        raise InputError(
            f"{part.folder}: expected one channel for the layout 'files', where every image is a volume of its own, "
            f"found {', '.join(channels)}; give another data.folders.layout"
        )
    elif not part.folder.is_dir():
        raise InputError(f"{part.folder}: no folder of images; check data.folders")
    else:
        paths = {path: path.relative_to(part.folder).with_name(stem_of(path)) for path in image_files(part.folder)}
        found = [("-".join(name.parts), {channels[0]: path}) for path, name in paths.items()]
    if not found:
        raise InputError(f"{part.folder}: no images; check data.folders and their layout")
    return [VolumeFiles(name, images, part=part) for name, images in found]


def _laid_out(part: VolumeFolder, channels: Sequence[str]) -> list[tuple[str, dict[str, Path]]]:
    """Names and images, by the model's channels, of a folder in a layout that knows channels."""
    theirs = part.channels or {name: name for name in channels}
    listed = list(dict.fromkeys(theirs.values()))
    if part.layout == "nnunet" and part.channels:
        # Numbers tell its channels apart, so that all of them have to be listed.
        listed = nnunet_description(part.folder)[0]
    cases = find_cases(part.layout, part.folder, listed)
    unknown = [name for name in theirs.values() if name not in listed]
    if unknown:
        raise InputError(
            f"{part.folder}: expected channels among {', '.join(listed)}, found {unknown[0]!r}; correct "
            "data.folders.channels"
        )
    taken = (
        (case.name, {own: case.images[their] for own, their in theirs.items() if their in case.images})
        for case in cases
    )
    return [(name, images) for name, images in taken if images]


def divide(files: Sequence[Files], config: HeldOutConfig, seed: int) -> tuple[tuple[Files, ...], tuple[Files, ...]]:
    """Hold volumes out, by the seed and the files' order alone; volumes of one name stay together.

    Args:
        files: All volumes.
        config: How many are held out.
        seed: Of the run.

    Returns:
        Held-out volumes, and those that train.

    Raises:
        InputError: There are fewer than four names.
    """
    names = list(dict.fromkeys(file.name for file in files))
    if len(names) < 4:
        raise InputError(
            f"data: expected volumes of four names or more, two of them held out, found {len(names)}; add volumes"
        )
    order = [names[i] for i in np.random.default_rng([SPLIT, seed]).permutation(len(names))]
    held_out = set(order[: min(config.volumes, len(names) - 2, max(2, round(len(names) * config.fraction)))])
    place = {name: number for number, name in enumerate(order)}
    files = sorted(files, key=lambda file: place[file.name])
    return tuple(f for f in files if f.name in held_out), tuple(f for f in files if f.name not in held_out)
