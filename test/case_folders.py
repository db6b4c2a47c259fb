"""The three channels of isles22 in folders, as people and the platform keep them."""

from collections.abc import Mapping
from pathlib import Path

from builders import ball, grid_of, isles22_volumes, write_image, write_platform
from segsync.cases import find_cases
from segsync.pipeline import Case
from segsync.tasks import TASKS, Task

GRID = grid_of((10, 11, 12))
LESION = ball(GRID, 3.5)
ISLES22 = TASKS["isles22"]
VOLUMES = isles22_volumes(LESION, GRID)


def write_case(folder: Path, pattern: str, names: Mapping[str, str]) -> None:
    """The three channels as files whose names come of a pattern and each channel's word."""
    for channel, word in names.items():
        write_image(folder / pattern.format(word), VOLUMES[channel].array, GRID)


BIDS = {"dwi": "dwi", "adc": "adc", "flair": "FLAIR"}
SOCKETS = {name: f"{name}-brain-mri" for name in BIDS}


def bids(folder: Path) -> None:
    write_case(folder, "sub-01_{}.nii.gz", BIDS)


def platform(folder: Path) -> None:
    write_platform(folder, {SOCKETS[name]: volume for name, volume in VOLUMES.items()})


def whole_cases(source: Path, task: Task = ISLES22) -> list[Case]:
    """The cases of a folder in which nothing is wrong."""
    found, broken = find_cases(source, task, {})
    assert broken == []
    return found
