"""A head with a lesion, what the runtime would have segmented in it, and where a picture of that is coloured."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from segsync.bundle import Bundle, ChannelSpec, ModelSpec, ZScore
from segsync.geometry import Grid, Volume
from segsync.pipeline import Case
from segsync.predict import Result
from segsync.sliding_window import InferenceStatistics
from segsync.tasks import TASKS

ONE_LABEL = {1: "lesion"}
AXIAL = Grid((30, 60, 50), (3.0, 2.0, 2.0), (-49.0, -59.0, -40.0), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))
Array = npt.NDArray[np.generic]


def result_of(
    reference: Volume,
    mask: Array,
    *,
    labels: Mapping[int, str] = ONE_LABEL,
    name: str = "sub-01",
    source: Path | Volume | None = None,
    metadata: Mapping[str, object] | None = None,
    warnings: tuple[str, ...] = (),
) -> Result:
    """A result as the runtime gives it, for a mask that is known."""
    spec = ModelSpec(
        name="unet",
        task="isles26",
        channels=(ChannelSpec(name="t1", normalisation=ZScore()),),
        labels=dict(labels),
        spacing_zyx=reference.grid.spacing_zyx,
        patch_zyx=(32, 32, 32),
        multiple_zyx=(8, 8, 8),
        opset=18,
        sha256="0123456789abcdef" * 4,
        licence="Apache-2.0",
        threshold=0.35,
        min_component_ml=0.02,
        provenance={"data": "none"},
    )
    probabilities = np.stack([(mask == value).astype(np.float32) * np.float32(0.75) for value in labels])
    return Result(
        case=Case(name, {"t1": source if source is not None else reference}, metadata or {}),
        task=TASKS["isles26"],
        bundle=Bundle(Path("weights") / "isles26", spec),
        reference=reference,
        mask=mask.astype(np.uint8),
        model_probabilities=probabilities,
        model_grid=reference.grid,
        statistics=InferenceStatistics(6, 2, (16, 24, 32), 0.5, 2, ["deadline: 2 of 8 mirrored passes"]),
        device="cpu",
        warnings=warnings,
        seconds={"network": 1.25, "total": 1.5},
    )


def phantom(grid: Grid = AXIAL) -> tuple[Volume, Array]:
    """A grey ellipsoid with a bright cube at the patient's left front, outlined, and a dark one at the right back."""
    points = grid.points(np.stack(np.meshgrid(*(np.arange(n) for n in grid.size_zyx), indexing="ij"), axis=-1))
    centre = grid.points([(n - 1) / 2 for n in grid.size_zyx])
    x, y, z = np.moveaxis(points - centre, -1, 0)
    image = np.where((x / 40) ** 2 + (y / 50) ** 2 + (z / 42) ** 2 < 1, 100.0, 0.0)
    lesion = (abs(x - 20) < 7) & (abs(y + 20) < 7) & (abs(z) < 8)
    image[lesion] = 200.0
    image[(abs(x + 20) < 7) & (abs(y - 20) < 7) & (abs(z) < 8)] = 40.0
    return Volume(image.astype(np.float32), grid), lesion


def coloured(image: Image.Image, colour: tuple[int, int, int]) -> Array:
    here: Array = (np.asarray(image) == colour).all(axis=-1)
    return here
