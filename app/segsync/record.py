"""What a report says: the schema of `PREFIX_report.json`, stable within a format number, and how a result fills it.

Read one back with `Report.model_validate_json(path.read_bytes())`; `Report.model_json_schema()` describes it to others.
"""

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, JsonValue

from segsync.arrays import Triple
from segsync.bundle import DecisionSpec
from segsync.lesions import Lesion, lesion_count
from segsync.predict import Result
from segsync.versions import versions

IntTriple = tuple[int, int, int]


#: Passes disagree on a voxel from this standard deviation of its probability on: where half of them say 0.5 more than
#: the others.
DOUBTFUL = 0.25


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class LabelRecord(_Frozen):
    """One label of the mask."""

    name: str
    volume_ml: float
    lesion_count: int
    #: Sum of the probabilities times the voxel's volume, over the whole image: the volume before any threshold.
    probability_volume_ml: float
    #: The highest probability anywhere, also where nothing was found.
    peak_probability: float


class ReferenceRecord(_Frozen):
    """The grid of the mask, which is that of the reference image; in (x, y, z), LPS, as SimpleITK and ITK-SNAP say."""

    channel: str
    size_xyz: IntTriple
    spacing_xyz_mm: Triple
    origin_lps_mm: Triple
    #: Row-major 3×3: columns are the directions of the index axes.
    direction: tuple[float, ...]


class RunRecord(_Frozen):
    """What was computed."""

    #: `cpu`, `cuda:N`, `openvino` or `openvino:bf16`.
    device: str
    windows: int
    #: Windows without tissue, which are not computed.
    skipped_windows: int
    window_size_xyz: IntTriple
    #: Fraction of a window that neighbours have in common.
    overlap: float
    #: Passes over mirrored copies, the plain one included: 1 is no mirroring.
    mirrored_passes: int
    #: Networks whose probabilities were averaged.
    networks: int
    #: What was done otherwise than asked for (deadline, memory), and after the network (small components removed).
    notes: tuple[str, ...]


class WeightsRecord(_Frozen):
    """Where the network comes from, and what of `model.json` decides on the mask."""

    name: str
    folder: str
    #: Of `model.onnx`.
    sha256: str
    licence: str
    threshold: float
    min_component_ml: float
    min_component_confidence: float
    #: By value in the mask, of regions that each have their own.
    region_decisions: dict[int, DecisionSpec] = Field(default_factory=dict)
    provenance: dict[str, JsonValue]


class Report(_Frozen):
    """Everything that is known of one case's segmentation."""

    format: Literal[1] = 1
    purpose: Literal["research, not care"] = "research, not care"
    case: str
    task: str
    task_title: str
    #: When this was written, UTC.
    written: datetime
    #: Everything that is not background.
    volume_ml: float
    lesion_count: int
    #: By value in the mask.
    labels: dict[int, LabelRecord]
    #: The largest first.
    lesions: tuple[Lesion, ...]
    reference: ReferenceRecord
    #: Path of each channel as it was given; null for an image that was handed over in memory.
    channels: dict[str, str | None]
    #: What the JSON inputs said.
    metadata: dict[str, JsonValue]
    warnings: tuple[str, ...]
    #: Where networks or mirrored copies disagree, in a sentence; null of a single pass.
    agreement: str | None
    run: RunRecord
    weights: WeightsRecord
    versions: dict[str, str]
    arguments: dict[str, JsonValue]
    #: Seconds of each step.
    seconds: dict[str, float]


def record(result: Result, lesions: Sequence[Lesion], arguments: Mapping[str, object]) -> Report:
    """The report of a result.

    Args:
        result: Of a case.
        lesions: As `lesions.measure` gives them.
        arguments: What the user asked for, by name.

    Returns:
        What the report's JSON holds.
    """
    case, task, spec, statistics = result.case, result.task, result.bundle.spec, result.statistics
    grid = result.grid
    return Report(
        case=_text(case.name),
        task=task.name,
        task_title=task.title,
        written=datetime.now(UTC).replace(microsecond=0),
        volume_ml=result.volume_ml,
        lesion_count=lesion_count(result.mask, lesions, spec.regions),
        labels=_labels(result, lesions),
        lesions=tuple(lesions),
        reference=ReferenceRecord(
            channel=task.reference,
            size_xyz=_reversed(grid.size_zyx),
            spacing_xyz_mm=grid.spacing_xyz,
            origin_lps_mm=grid.origin,
            direction=grid.direction,
        ),
        channels={
            name: _text(str(source)) if isinstance(source, Path) else None for name, source in case.channels.items()
        },
        metadata=_plain_dict(case.metadata),
        warnings=tuple(_text(line) for line in result.warnings),
        agreement=_agreement(result),
        run=RunRecord(
            device=result.device,
            windows=statistics.windows,
            skipped_windows=statistics.skipped,
            window_size_xyz=_reversed(statistics.patch_zyx),
            overlap=statistics.overlap,
            mirrored_passes=statistics.flips,
            networks=statistics.networks,
            notes=tuple(_text(line) for line in statistics.notes),
        ),
        weights=WeightsRecord(
            name=spec.name,
            folder=_text(str(result.bundle.folder)),
            sha256=spec.sha256,
            licence=spec.licence,
            threshold=spec.threshold,
            min_component_ml=spec.min_component_ml,
            min_component_confidence=spec.min_component_confidence,
            region_decisions=spec.region_decisions,
            provenance=_plain_dict(spec.provenance),
        ),
        versions=versions(),
        arguments=_plain_dict(arguments),
        seconds={name: round(float(seconds), 3) for name, seconds in result.seconds.items()},
    )


def _agreement(result: Result) -> str | None:
    """How far the passes agree, for who reads the mask."""
    spread = result.uncertainty()
    if spread is None:
        return None
    networks = result.statistics.networks
    who = f"The {networks} networks" if networks > 1 else f"The {result.statistics.flips} mirrored copies"
    doubtful, inside = spread >= DOUBTFUL, result.mask > 0
    within, beside = (float(where.sum() * result.grid.voxel_ml) for where in (doubtful & inside, doubtful & ~inside))
    if not within + beside:
        return f"{who} agree on every voxel."
    return f"{who} disagree on {within:.2f} ml of the mask, and on {beside:.2f} ml beside it that may be lesion too."


def _labels(result: Result, lesions: Sequence[Lesion]) -> dict[int, LabelRecord]:
    records = {}
    for (value, name), probability in zip(result.bundle.spec.labels.items(), result.model_probabilities, strict=True):
        own = [lesion for lesion in lesions if lesion.label == value]
        records[value] = LabelRecord(
            name=name,
            volume_ml=math.fsum(lesion.volume_ml for lesion in own),
            lesion_count=len(own),
            probability_volume_ml=float(probability.sum(dtype=np.float64)) * result.model_grid.voxel_ml,
            peak_probability=float(probability.max(initial=0.0)),
        )
    return records


def _reversed(zyx: IntTriple) -> IntTriple:
    z, y, x = zyx
    return x, y, z


def _text(text: str) -> str:
    """Text that any encoder takes: file names that are no UTF-8 reach Python as lone surrogates."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _plain_dict(values: Mapping[str, object]) -> dict[str, JsonValue]:
    return {_text(str(name)): _plain(value) for name, value in values.items()}


def _plain(value: object) -> JsonValue:
    """The value as strict JSON holds it: NaN and infinity become null, what JSON does not know becomes text."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return _plain_dict(value)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return _text(str(value))
