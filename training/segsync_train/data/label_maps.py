"""Label maps among images, told by their voxels where nothing else says what a file holds. Verdicts are kept."""

import contextlib
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt

from segsync.atomic import write_texts
from segsync.errors import InputError
from segsync.images import read

#: Label maps have at most so many values (TotalSegmentator 118, FreeSurfer's cortical atlases some 190).
MOST_VALUES = 256
#: Fraction of neighbours outside the background that are alike. Label maps reach 0.88 at the least (whole heads of 54
#: labels, with cortex two voxels thick); MRI has 0.09, reduced to 16 grey values 0.41, to 8 of them 0.60.
ALIKE = 0.8
#: Voxels that are looked at first: most images show there what they are.
SAMPLE = 100_000
VERDICTS_FILE = "label-maps.json"


def is_label_map(array: npt.NDArray[np.generic]) -> bool:
    """Whether an image (Z, Y, X) is whole numbers, few different ones, that fill regions; or one value throughout.

    All three have to hold, so that an image of few grey values stays one: its neighbours differ by noise.
    """
    flat = np.asarray(array).ravel()
    for voxels in (flat[:: max(1, flat.size // SAMPLE)], flat):
        if voxels.dtype.kind not in "biu" and not np.array_equal(voxels, np.rint(voxels)):
            return False
        values, counts = np.unique(voxels, return_counts=True)
        if len(values) > MOST_VALUES:
            return False
    shown = array != values[counts.argmax()]
    pairs = alike = 0
    for axis in range(array.ndim):
        along, inside = np.moveaxis(array, axis, 0), np.moveaxis(shown, axis, 0)
        both = inside[1:] & inside[:-1]
        pairs += int(np.count_nonzero(both))
        alike += int(np.count_nonzero(both & (along[1:] == along[:-1])))
    return alike >= ALIKE * pairs


def label_maps(
    paths: Sequence[Path], cache: Path, *, threads: int = 1, progress: Callable[[], None] = lambda: None
) -> set[Path]:
    """Those of the images that are label maps; one that cannot be read does not count, since reading it tells more.

    Args:
        paths: The images.
        cache: A folder in which verdicts are kept: a file is read again only when it has changed.
        threads: Images that are read at once.
        progress: Called after each.

    Returns:
        The label maps among them.

    Raises:
        OutputError: The cache cannot be written.
    """
    kept = _read_verdicts(cache / VERDICTS_FILE)
    names = {path: _identity(path) for path in paths}

    def judge(path: Path) -> bool | None:
        verdict = kept.get(names[path])
        if verdict is None:
            with contextlib.suppress(InputError):
                verdict = is_label_map(read(path).array)
        progress()
        return verdict

    with ThreadPoolExecutor(max_workers=max(1, threads)) as executor:
        found = dict(zip(names.values(), executor.map(judge, names), strict=True))
    verdicts = kept | {name: verdict for name, verdict in found.items() if verdict is not None}
    if verdicts != kept:
        write_texts({VERDICTS_FILE: json.dumps(verdicts, indent=1)}, cache)
    return {path for path in paths if verdicts.get(names[path], False)}


def _identity(path: Path) -> str:
    """A file as it is now: another size or time is another file."""
    about = path.stat()
    return f"{path.resolve()} {about.st_size} {about.st_mtime_ns}"


def _read_verdicts(path: Path) -> dict[str, bool]:
    """What is kept; nothing if the file is missing or damaged: it can be made again."""
    try:
        verdicts = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return verdicts if isinstance(verdicts, dict) else {}
