"""The platform's door: which task lies in `/input`, its images, and the files it expects in `/output`.

The contract is Grand Challenge's: one image a socket folder, `inputs.json` in newer runs, one image an output folder.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from segsync.arrays import Array
from segsync.atomic import write_texts
from segsync.errors import InputError, ResourceError, os_errors
from segsync.images import stem_of, suffix_of, write
from segsync.pipeline import Case
from segsync.predict import Result
from segsync.tasks import TASKS, Content, Task

log = logging.getLogger(__name__)

INPUTS_FILE = "inputs.json"


@dataclass(frozen=True)
class Inputs:
    """What a platform folder offers: a path (relative to it) for each image slug and each JSON slug, lower case."""

    folder: Path
    images: Mapping[str, Path]
    json_files: Mapping[str, Path]


def is_platform_folder(folder: Path) -> bool:
    """Whether a folder is laid out as `/input`: with `inputs.json`, or a known socket below `images`.

    A folder that may not be read does not count.
    """
    known = {socket.lower() for task in TASKS.values() for channel in task.channels for socket in channel.sockets}
    below = folder / "images"
    try:
        if (folder / INPUTS_FILE).is_file():
            return True
        return below.is_dir() and any(child.name.lower() in known for child in below.iterdir())
    except PermissionError:
        return False


@os_errors(InputError)
def read_inputs(folder: Path) -> Inputs:
    """What lies in a platform folder, by `inputs.json` where it is there, else by the folders below `images`.

    Args:
        folder: As the platform mounts it at `/input`.

    Returns:
        The sockets and what they hold.

    Raises:
        InputError: The path is not a folder, or `inputs.json` is malformed or leads outside the folder.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no folder with the case's inputs; mount it at /input")
    listing = folder / INPUTS_FILE
    if listing.is_file():
        return _listed(folder, listing)
    below = folder / "images"
    if not below.is_dir():
        raise InputError(f"{folder}: expected {INPUTS_FILE} or images/SOCKET/, found neither; see the README's layout")
    images: dict[str, Path] = {}
    files: dict[str, Path] = {}
    for child in _children(below):
        if child.is_dir() and _visible(child):
            _enter(images, child.name, child, f"{child}")
    for path in sorted(folder.glob("*.json")):
        _enter(files, path.stem, path, f"{path}")
    return Inputs(folder, images, files)


def _enter(found: dict[str, Path], slug: str, path: Path, where: str) -> None:
    """Note where a slug's input lies; raises InputError for the second of a slug, and for the second slug of a path."""
    first = found.get(slug.lower())
    if first is not None:
        raise InputError(f"{where}: expected each socket once, found {slug} at {first} as well; leave one")
    other = next((name for name, place in found.items() if place == path), None)
    if other is not None:
        raise InputError(f"{where}: expected an input for each socket, found {path} for {other} as well; correct one")
    found[slug.lower()] = path


def _listed(folder: Path, listing: Path) -> Inputs:
    try:
        items = json.loads(listing.read_bytes(), object_pairs_hook=_each_key_once)
    except (OSError, ValueError) as error:
        raise InputError(f"{listing}: expected a JSON list of sockets, found {error}; start the job again") from error
    images: dict[str, Path] = {}
    files: dict[str, Path] = {}
    if not isinstance(items, list):
        raise InputError(
            f"{listing}: expected a JSON list of sockets, found {type(items).__name__}; start the job again"
        )
    for number, item in enumerate(items):
        socket = _socket(item, f"{listing}: item {number}")
        slug, relative = socket.get("slug"), socket.get("relative_path")
        if not isinstance(slug, str) or not isinstance(relative, str):
            raise InputError(
                f"{listing}: item {number}: expected a socket with slug and relative_path, found {str(item)[:80]}; "
                "start the job again"
            )
        if PurePosixPath(relative).is_absolute() or ".." in PurePosixPath(relative).parts:
            raise InputError(f"{listing}: item {number}: expected a path inside {folder}, found {relative!r}")
        _enter(
            files if relative.lower().endswith(".json") else images,
            slug,
            folder / relative,
            f"{listing}: item {number}",
        )
    return Inputs(folder, images, files)


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """JSON's readers take the last of two values without a word."""
    held = dict(pairs)
    if len(held) < len(pairs):
        raise ValueError(f"the same key twice among {', '.join(key for key, _ in pairs)[:80]}")
    return held


def _socket(item: Any, where: str) -> dict[str, Any]:
    """The item's `socket` (2026), or its `interface` as it was called before; raises InputError where they differ."""
    if not isinstance(item, dict):
        return {}
    sockets = [held for held in (item.get("socket"), item.get("interface")) if isinstance(held, dict) and held]
    for key in ("slug", "relative_path"):
        named = {str(held[key]).lower() for held in sockets if key in held}
        if len(named) > 1:
            raise InputError(f"{where}: expected one {key}, found {' and '.join(sorted(named))}; start the job again")
    return sockets[0] if sockets else {}


def choose_task(inputs: Inputs) -> Task:
    """The task whose sockets these are; raises InputError that lists the slugs where no task fits."""
    fitting = [task for task in TASKS.values() if _fits(task, inputs)]
    if not fitting:
        found = ", ".join(sorted((*inputs.images, *inputs.json_files))) or "nothing"
        needs = "; ".join(
            f"{task.name}: {', '.join(c.sockets[0] for c in task.channels if c.required)}" for task in TASKS.values()
        )
        raise InputError(f"{inputs.folder}: expected the sockets of one task ({needs}), found {found}; give --task")
    chosen = max(fitting, key=lambda task: len(task.distinguishing_json))
    left_out = sorted(set(inputs.images) - _own_images(chosen, inputs))
    others = [task.name for task in TASKS.values() if _own_images(task, inputs).intersection(left_out)]
    if others:
        raise InputError(
            f"{inputs.folder}: expected the sockets of one task, found those of {chosen.name} and, of {others[0]}, "
            f"{', '.join(left_out)}; give --task"
        )
    if left_out:
        log.warning("%s: %s: no image of the task %s; left out", inputs.folder, ", ".join(left_out), chosen.name)
    return chosen


def _own_images(task: Task, inputs: Inputs) -> set[str]:
    """The image slugs that belong to a task."""
    sockets = (*(socket for channel in task.channels for socket in channel.sockets), *task.unread_sockets)
    return set(inputs.images) & {socket.lower() for socket in sockets}


def _fits(task: Task, inputs: Inputs) -> bool:
    complete = all(
        any(s.lower() in inputs.images for s in channel.sockets) for channel in task.channels if channel.required
    )
    distinguished = all(any(f"{slug}.json".endswith(n) for slug in inputs.json_files) for n in task.distinguishing_json)
    return complete and distinguished


@os_errors(InputError)
def read_case(inputs: Inputs, task: Task) -> Case:
    """The case in a platform folder; raises InputError for a socket with no image or several."""
    channels = {}
    for channel in task.channels:
        folders = [inputs.images[s.lower()] for s in channel.sockets if s.lower() in inputs.images]
        if folders:
            channels[channel.name] = only_image(folders[0])
        elif channel.required:
            expected = inputs.folder / "images" / channel.sockets[0]
            raise InputError(f"{expected}: no folder with one image for {task.name}; add it")
    return Case(stem_of(channels[task.reference]), channels, _metadata(inputs, task))


@os_errors(InputError)
def read_reference(inputs: Inputs, task: Task) -> Case:
    """The case with its reference image alone, whatever became of the others; raises InputError without it."""
    alone = replace(task, channels=(task.channel(task.reference),))
    return read_case(inputs, alone)


def only_image(folder: Path) -> Path:
    """The one image of a socket folder (or the path itself, a file); raises InputError for none or several."""
    if folder.is_file():
        return folder
    if not folder.is_dir():
        raise InputError(f"{folder}: no folder with one image; add the image")
    names = [path.name for path in _children(folder) if _visible(path)]
    found = [name for name in names if suffix_of(folder / name)]
    if len(found) != 1:
        listed = ", ".join(found or names) or "nothing"
        raise InputError(f"{folder}: expected exactly one image, found {len(found)} ({listed}); leave one")
    return folder / found[0]


def _visible(path: Path) -> bool:
    """Not what file browsers and editors leave behind: `._image.mha`, `.ipynb_checkpoints`."""
    return not path.name.startswith(".")


def _children(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise InputError(
            f"{folder}: expected a folder to read, found {error.strerror}; change its permissions"
        ) from error


def _metadata(inputs: Inputs, task: Task) -> dict[str, object]:
    """The task's JSON inputs, as they are. A broken one is left out: a model that needs its number says so."""
    metadata: dict[str, object] = {}
    for slug, path in inputs.json_files.items():
        if any(f"{slug}.json".endswith(name) or path.name.endswith(name) for name in task.json_inputs):
            try:
                metadata[slug] = json.loads(path.read_bytes())
            except (OSError, ValueError) as error:
                log.warning("%s: not read (%s)", path, error)
    return metadata


def output_files(case: Case, task: Task, output: Path) -> list[Path]:
    """The images that a case of the task leaves below `output`, in the order of `task.outputs`."""
    return [output / "images" / one.socket / f"{one.filename or case.name}.mha" for one in task.outputs]


def write_outputs(result: Result, output: Path) -> list[Path]:
    """Write a case as the platform expects it; all files or, where one fails, none. Returns their paths."""
    written: list[Path] = []
    try:
        files = output_files(result.case, result.task, output)
        for one, path in zip(result.task.outputs, files, strict=True):
            array = result.mask if one.content is Content.MASK else _probability_map(result)
            write(array, result.grid, path)
            written.append(path)
        if result.task.results_json:
            written.append(_write_json(output / "results.json", [_results_item(result)]))
        if result.task.presence_json is not None:
            written.append(_write_json(output / result.task.presence_json, bool(np.any(result.mask))))
    except BaseException as error:
        for path in written:
            path.unlink(missing_ok=True)
        if isinstance(error, MemoryError):
            raise ResourceError(
                f"{output}: expected memory to write the case, found too little; give the container more memory"
            ) from error
        raise
    return written


def _probability_map(result: Result) -> Array:
    """0 everywhere where nothing is segmented.

    ISLES'26 gives a case without a lesion 1 for a map that is the same everywhere, and 0 for any other.
    """
    if not result.mask.any():
        return np.zeros(result.grid.size_zyx, dtype=np.float32)
    return result.probability()


def _results_item(result: Result) -> dict[str, object]:
    task = result.task
    source = result.case.channels[task.reference]
    name = source.name if isinstance(source, Path) else f"{result.case.name}.mha"
    return {
        "outputs": [{"type": "Image", "slug": task.outputs[0].socket, "filename": f"{result.case.name}.mha"}],
        "inputs": [{"type": "Image", "slug": task.channel(task.reference).sockets[0], "filename": name}],
        "error_messages": [result.failure] if result.failure else [],
    }


def _write_json(path: Path, value: object) -> Path:
    write_texts({path.name: json.dumps(value, indent=2) + "\n"}, path.parent)
    return path
