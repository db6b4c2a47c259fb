"""The whole way of a case, in one page: channels in, labels on the reference grid out."""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from segsync.arrays import Array, LabelMap
from segsync.bundle import MODEL_FILE, SPEC_FILE, Bundle, ModelSpec, load_bundle
from segsync.engine import open_engine
from segsync.errors import ChannelError, InputError, ResourceError, WeightsError, os_errors
from segsync.geometry import Grid, Volume, resample
from segsync.images import read, write
from segsync.memory import Footprint
from segsync.postprocess import BYTES_A_VOXEL, labels_on
from segsync.preprocess import prepare
from segsync.region_model import region_model_for
from segsync.shipped import WEIGHTS
from segsync.sliding_window import InferenceStatistics, Windows, all_flips, predict
from segsync.tasks import TASKS, Task, own_task, task_named

log = logging.getLogger(__name__)

#: Where weights are looked for when none are named: uploaded to the platform, then those that come with the software.
WEIGHTS_PLACES = (Path("/opt/ml/model"), WEIGHTS)

Tta = Literal["auto", "none", "mirror"]


@dataclass(frozen=True)
class Settings:
    """How to predict: the same for every case of a run."""

    #: `mirror` averages over mirrored copies, `none` does not; `auto` mirrors on a GPU.
    tta: Tta = "auto"
    #: Fraction of a window that neighbours have in common.
    overlap: float = 0.5
    #: Time budget per case, seconds; mirroring, then overlap, are reduced to keep it. None: no limit.
    deadline_s: float | None = None


@dataclass(frozen=True)
class Case:
    """One patient's images: a path (file, or folder of one DICOM series) or a volume for each channel."""

    name: str
    channels: Mapping[str, Path | Volume]
    #: What the JSON inputs said, for the report.
    metadata: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    """What was found in a case, on the grid of its reference image."""

    case: Case
    task: Task
    bundle: Bundle
    #: The image the task measures on, as read.
    reference: Volume
    #: (Z, Y, X) uint8: 0 is background, other values as in `bundle.spec.labels`.
    mask: LabelMap
    #: (L, Z, Y, X) float32 on `model_grid`, as the network gave them.
    model_probabilities: Array
    model_grid: Grid
    statistics: InferenceStatistics
    device: str
    warnings: tuple[str, ...]
    #: Seconds of each step.
    seconds: Mapping[str, float]

    @property
    def grid(self) -> Grid:
        """The grid of `mask`: size, spacing, origin and direction of the reference image."""
        return self.reference.grid

    @property
    def volume_ml(self) -> float:
        """Volume of everything that is not background, in millilitres."""
        return float((self.mask > 0).sum() * self.grid.voxel_ml)

    def probability(self, label: int = 1) -> Array:
        """The probability of one label (Z, Y, X) float32 on the reference grid."""
        index = list(self.bundle.spec.labels).index(label)
        return resample(Volume(self.model_probabilities[index], self.model_grid), self.grid)

    def save(self, path: Path | str) -> None:
        """Write the mask; the ending chooses the format (.mha, .nii.gz, .nii)."""
        write(self.mask, self.grid, Path(path))


@os_errors(WeightsError)
def find_weights(task: str, weights: Path | None = None) -> Path:
    """The folder of a task's weights: `weights` or a folder in it, else the first of WEIGHTS_PLACES that has them.

    Raises WeightsError that names the places looked in.
    """
    places = (weights,) if weights is not None else WEIGHTS_PLACES
    for place in places:
        # A single bundle may lie at the top, as it does when one task's folder alone is uploaded; a packed `weights`
        # keeps its own name.
        for folder in (place / task, place, place / "weights" / task):
            if (folder / SPEC_FILE).is_file() or (folder / MODEL_FILE).is_file():
                return folder
    looked = ", ".join(str(place) for place in places)
    raise WeightsError(f"expected weights for the task {task} in one of {looked}; found none; give --weights DIR")


class Model:
    """A task's network, loaded once and used for any number of cases."""

    def __init__(self, bundle: Bundle, task: Task, *, device: str = "auto", max_memory: int | None = None) -> None:
        """Open a verified bundle on a device (`auto`, `cpu`, `cuda`, `cuda:N`).

        max_memory: bytes the process should stay below; windows give way. None: no limit.
        """
        self.bundle = bundle
        self.task = task
        began = time.monotonic()
        self.engine = open_engine(bundle, device, memory_bytes=max_memory)
        self.region_model = region_model_for(bundle, device, memory_bytes=max_memory)
        spec = bundle.spec
        self._max_memory, self._footprint = max_memory, None
        if max_memory is not None:
            z, y, x = (max(m, p // 2 // m * m) for p, m in zip(spec.patch_zyx, spec.multiple_zyx, strict=True))
            self._footprint = Footprint.measure(self.engine.warm_up, (z, y, x))
        self.load_seconds = time.monotonic() - began
        log.info("%s on %s, loaded in %.2f s from %s", spec.name, self.engine.device, self.load_seconds, bundle.folder)

    def predict(
        self,
        images: Mapping[str, Path | str | Volume] | Case,
        settings: Settings | None = None,
        progress: Callable[[float], None] = lambda fraction: None,
    ) -> Result:
        """Segment one case.

        images: a path or Volume for each channel of the task. progress: called with the fraction done, 0 to 1.
        Raises InputError for images that are not what the task needs, ResourceError where memory ends.
        """
        settings = settings or Settings()
        case = images if isinstance(images, Case) else _case(images)
        for name in case.channels:
            self.task.channel(name)
        began = time.monotonic()
        spec, references = self.bundle.spec, {}

        def load(name: str) -> Volume | None:
            source = case.channels.get(name)
            volume = read(source) if isinstance(source, Path) else source
            if name == self.task.reference and volume is not None:
                references[name] = volume
            return volume

        try:
            prepared = prepare(load, spec, self.task.reference, self.region_model)
            for line in prepared.warnings:
                log.warning("%s: %s", case.name, line)
            reference = references[self.task.reference]
            ready = time.monotonic()
            windows = self._windows(settings, prepared.array.nbytes + BYTES_A_VOXEL * reference.array.size)
            deadline = None
            if settings.deadline_s is not None:
                # The way back takes about as long as the way there.
                deadline = began + settings.deadline_s - (ready - began)
            try:
                probabilities, statistics = predict(
                    prepared.array,
                    self.engine,
                    len(spec.labels),
                    windows,
                    tissue=prepared.tissue,
                    deadline=deadline,
                    progress=progress,
                )
            except ResourceError as error:
                raise ResourceError(f"case {case.name}: {error}") from error
            network = time.monotonic()
            mask, removed = labels_on(probabilities, prepared.grid, reference.grid, spec)
        except ChannelError as error:
            source = case.channels.get(error.channel)
            raise InputError(f"{source if isinstance(source, Path) else f'case {case.name}'}: {error}") from error
        except MemoryError as error:
            raise ResourceError(
                f"case {case.name}: expected memory for its images, found too little; give the container more memory"
            ) from error
        if removed:
            statistics.notes.append(f"{removed} components below {spec.min_component_ml:g} ml removed")
        seconds = {
            "read and prepare": ready - began,
            "network": network - ready,
            "put back": time.monotonic() - network,
            "total": time.monotonic() - began,
        }
        return Result(
            case=case,
            task=self.task,
            bundle=self.bundle,
            reference=reference,
            mask=mask,
            model_probabilities=probabilities,
            model_grid=prepared.grid,
            statistics=statistics,
            device=str(self.engine.device),
            warnings=prepared.warnings,
            seconds=seconds,
        )

    def _windows(self, settings: Settings, arrays: int) -> Windows:
        spec = self.bundle.spec
        mirror = settings.tta == "mirror" or (settings.tta == "auto" and self.engine.device.cuda is not None)
        patch = spec.patch_zyx
        if self._max_memory is not None and self._footprint is not None:
            patch = self._footprint.largest(patch, spec.multiple_zyx, arrays, self._max_memory)
        flips = all_flips(spec.mirror_axes) if mirror else ((),)
        return Windows(patch, spec.multiple_zyx, settings.overlap, flips)


def task_of(spec: ModelSpec) -> Task:
    """The task that weights serve: the challenge's of that name, else one that reads the channels of their training."""
    channels = {channel.name: not channel.optional for channel in spec.channels}
    return TASKS.get(spec.task) or own_task(spec.task, spec.name, channels, spec.reference_channel)


def find_task(name: str, weights: Path | None = None) -> Task:
    """The challenge's task of this name, else that of the weights of this name.

    Raises InputError that lists the challenges' where there is neither.
    """
    if name in TASKS:
        return TASKS[name]
    try:
        folder = find_weights(name, weights)
    except WeightsError:
        return task_named(name)
    return task_of(load_bundle(folder, name).spec)


def load(task: str, *, weights: Path | str | None = None, device: str = "auto", max_memory: int | None = None) -> Model:
    """Load a task's network.

    task: a name of `segsync.tasks.TASKS`, or the task that weights of one's own were trained for. weights: a folder;
    None looks where the container keeps them. device: `auto`, `cpu`, `cuda` or `cuda:N`. max_memory: bytes. Raises
    InputError for a task that is not known, WeightsError, ResourceError.
    """
    place = Path(weights) if weights is not None else None
    chosen = find_task(task, place)
    return Model(load_bundle(find_weights(task, place), task), chosen, device=device, max_memory=max_memory)


def _case(images: Mapping[str, Path | str | Volume]) -> Case:
    return Case("case", {name: Path(source) if isinstance(source, str) else source for name, source in images.items()})
