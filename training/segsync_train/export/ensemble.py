"""What several networks must share to be averaged as one model, and what `model.json` says of each of them."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from segsync.arrays import SizeZYX
from segsync.bundle import MODEL_FILE
from segsync.errors import InputError

#: An ensemble sees one array and gives one set of labels.
ALIKE = (
    "task", "channels", "reference_channel", "region_model", "labels", "regions", "organ", "spacing_zyx", "patch_zyx",
)  # fmt: skip
#: What is kept of each network's own record; the first one's is kept whole.
KEPT = ("run", "commit", "hardware", "steps", "training_hours", "inherited", "validation_score", "agreement")


def check_alike(members: Sequence[tuple[Path, object]]) -> None:
    """Raise InputError where a member's settings differ from the first one's in what networks must share.

    Args:
        members: The folder of each, and its settings.
    """
    first, expected = members[0]
    for folder, settings in members[1:]:
        for what in ALIKE:
            one, other = getattr(expected, what), getattr(settings, what)
            if one != other:
                raise InputError(
                    f"{folder}: expected {what} of {first} ({one}) for an ensemble, found {other}; take networks "
                    "that were trained on the same channels, grid and windows"
                )


def network_files(count: int) -> list[str]:
    """File names of so many networks."""
    return [MODEL_FILE, *(f"model-{number}.onnx" for number in range(2, count + 1))]


def common_multiple(multiples: Sequence[SizeZYX]) -> SizeZYX:
    """What divides the windows of every network."""
    z, y, x = (math.lcm(*(multiple[axis] for multiple in multiples)) for axis in range(3))
    return z, y, x


def common_axes(learned: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """The axes along which every network learned mirrored copies."""
    return tuple(axis for axis in learned[0] if all(axis in other for other in learned))


def record(networks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The part of the provenance that names each network of an ensemble; empty for a single one."""
    if len(networks) == 1:
        return {}
    return {"networks": [{key: one[key] for key in KEPT if key in one} for one in networks]}
