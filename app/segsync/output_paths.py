"""Where the files of each case go, and that nothing there is overwritten."""

import re
import tempfile
from collections.abc import Mapping
from pathlib import Path

from segsync.errors import OutputError, os_errors
from segsync.images import WRITABLE, stem_of, suffix_of
from segsync.pipeline import Case
from segsync.tasks import Task

#: What ends a file's name (`.png`) and hardly a folder's: one that is meant to be a folder is made beforehand.
FILE_ENDING = re.compile(r"\.[a-z][a-z0-9]{0,5}", re.IGNORECASE)


@os_errors(OutputError)
def output_paths_of(output: Path, found: list[Case], task: Task) -> list[Path]:
    """The mask's file for each case: the one that was named, else one below a folder, in the reference's format.

    Args:
        output: A folder, or the mask's file.
        found: The cases.
        task: Of which they are.

    Returns:
        A path for each case, in their order.

    Raises:
        OutputError: The ending is not written, or one file is given for many cases.
    """
    if FILE_ENDING.fullmatch(output.suffix) and not output.is_dir():
        if suffix_of(output) not in WRITABLE:
            raise OutputError(
                f"{output}: expected an ending of {', '.join(WRITABLE)}, found another ({output.suffix}); choose one, "
                "or make the folder first if one is meant"
            )
        if len(found) > 1:
            raise OutputError(f"{output}: expected a folder for {len(found)} cases, found a file's name; give a folder")
        return [output]
    paths = []
    for case in found:
        reference = case.channels.get(task.reference)
        suffix = suffix_of(reference) if isinstance(reference, Path) else ""
        paths.append(output / f"{case.name}{suffix if suffix in WRITABLE else '.nii.gz'}")
    return paths


@os_errors(OutputError)
def check_folders(paths: list[Path]) -> None:
    """Before the weights are loaded: there is a folder to write to. Raises OutputError."""
    for target in paths:
        there = next(place for place in target.absolute().parents if place.exists())
        reason = "a folder of that name" if target.is_dir() else _why_unwritable(there)
        if reason is not None:
            raise OutputError(
                f"{target}: expected to write the image below {there}, found {reason}; choose another folder"
            )


def _why_unwritable(folder: Path) -> str | None:
    """Why no file can be written in a folder, by trying: permissions say nothing to root, nor of a full disk."""
    if not folder.is_dir():
        return "a file"
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(4096))
    except PermissionError:
        return "no permission to write there"
    except OSError as error:
        return error.strerror or str(error)
    return None


@os_errors(OutputError)
def check_output_paths(
    todo: list[tuple[Case, Path]],
    images: set[Path],
    source: Path,
    output: Path,
    labels: Mapping[int, str],
    *,
    uncertainty: bool = False,
) -> None:
    """Before anything is computed: nothing overwrites an image, or what another case writes.

    Nor does a mask whose name nobody gave replace a file that lies among the images.

    Args:
        todo: Cases and their masks' files.
        images: Of all cases, resolved.
        source: Where the cases were found.
        output: What was given to write to.
        labels: Those whose probability maps will be written.
        uncertainty: Whether its map will be, too.

    Raises:
        OutputError: A file would be overwritten.
    """
    folder = source.resolve()
    taken: dict[Path, str] = {}
    for case, target in todo:
        spread = [uncertainty_path(target)] if uncertainty else []
        for path in (target, *probability_paths(target, labels).values(), *spread):
            place = path.resolve()
            if place in images or (place.is_file() and folder in place.parents and path != output):
                kind = "an input image" if place in images else "a file beside the input images"
                raise OutputError(f"{path}: expected a place for the mask, found {kind}; give another folder")
            stem = place.with_name(stem_of(place))  # a report's files differ from the mask in the ending
            if stem in taken:
                raise OutputError(f"{path}: expected one case of that name, found {taken[stem]} as well; rename a case")
            taken[stem] = case.name


def uncertainty_path(target: Path) -> Path:
    """Where the map of the passes' spread goes, beside the mask."""
    return target.with_name(f"{stem_of(target)}_uncertainty{suffix_of(target)}")


def probability_paths(target: Path, labels: Mapping[int, str]) -> dict[int, Path]:
    """Where the probability map of each label goes, beside the mask."""
    stem, suffix = stem_of(target), suffix_of(target)
    ending = "_probability" if len(labels) == 1 else "_probability-{}"
    return {
        value: target.with_name(f"{stem}{ending.format(name.replace('/', '-'))}{suffix}")
        for value, name in labels.items()
    }
