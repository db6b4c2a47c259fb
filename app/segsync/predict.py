"""What the commands, the server and Python call: a task's weights, found and loaded once, and a result to keep."""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from segsync.arrays import Array
from segsync.bundle import MODEL_FILE, SPEC_FILE, Bundle, ModelSpec, load_bundle
from segsync.engine import open_engines
from segsync.errors import InputError, UsageError, WeightsError, os_errors
from segsync.geometry import Volume, resample
from segsync.images import write
from segsync.memory import Budget, reset_peak
from segsync.pipeline import Case, Options, Pipeline, Segmentation, no_progress
from segsync.region_model import region_model_for
from segsync.shipped import WEIGHTS
from segsync.sliding_window import InferenceStatistics
from segsync.tasks import TASKS, Task, own_task, task_named

log = logging.getLogger(__name__)

#: Where weights are looked for when none are named: uploaded to the platform, then those that come with the software.
WEIGHTS_PLACES = (Path("/opt/ml/model"), WEIGHTS)

Tta = Literal["auto", "none", "mirror"]
#: The largest fraction of a window that neighbours may have in common: beyond it there are thousands of windows.
MOST_OVERLAP = 0.9


@dataclass(frozen=True)
class Settings:
    """How to predict: the same for every case of a run. Raises UsageError for a value that means nothing."""

    #: `auto` and `mirror` average over mirrored copies, as long as a deadline leaves time for them; `none` does not.
    tta: Tta = "auto"
    #: Fraction of a window that neighbours have in common.
    overlap: float = 0.5
    #: Time budget per case, seconds; mirroring, networks of an ensemble, then overlap give way. None: no limit.
    deadline_s: float | None = None

    def __post_init__(self) -> None:
        if self.tta not in get_args(Tta):
            raise UsageError(f"tta: expected {', '.join(get_args(Tta))}, found {self.tta!r}")
        if not 0 <= self.overlap <= MOST_OVERLAP:
            raise UsageError(f"overlap: expected a fraction of 0 to {MOST_OVERLAP}, found {self.overlap!r}")
        if self.deadline_s is not None and not self.deadline_s >= 0:
            raise UsageError(f"deadline_s: expected seconds, or None for no limit, found {self.deadline_s!r}")


@dataclass(frozen=True, kw_only=True)
class Result(Segmentation):
    """What was segmented in a case, and by which weights."""

    case: Case
    task: Task
    bundle: Bundle
    device: str
    #: Why the case failed, where its mask is empty for that reason (`--on-failure empty`).
    failure: str | None = None

    def probability(self, label: int = 1) -> Array:
        """The probability of a label.

        Args:
            label: A value of `bundle.spec.labels`.

        Returns:
            (Z, Y, X) float32 on the reference grid, an array of the caller's own.

        Raises:
            UsageError: The model has no such label.
        """
        labels = list(self.bundle.spec.labels)
        if label not in labels:
            raise UsageError(f"label: expected one of {', '.join(map(str, labels))}, found {label!r}")
        return self._on_reference(self.model_probabilities[labels.index(label)])

    def uncertainty(self) -> Array | None:
        """How far networks and mirrored copies differ: the standard deviation of the probability of any label.

        Returns:
            (Z, Y, X) float32 on the reference grid, 0 to 0.5, an array of the caller's own; None where there was a
            single pass.
        """
        spread = self.statistics.spread
        return None if spread is None else self._on_reference(spread)

    def _on_reference(self, values: Array) -> Array:
        """A map (Z, Y, X) from the model's grid, never a view of it."""
        resampled = resample(Volume(values, self.model_grid), self.grid)
        return resampled.copy() if np.shares_memory(resampled, values) else resampled

    def save(self, path: Path | str) -> None:
        """Write the mask; the ending chooses the format (.mha, .nii.gz, .nii)."""
        write(self.mask, self.grid, Path(path))


@os_errors(WeightsError)
def find_weights(task: str, weights: Path | None = None) -> Path:
    """Find the folder of a task's weights.

    Args:
        task: Its name.
        weights: That folder, or one that holds it; None: the first of WEIGHTS_PLACES that has them.

    Returns:
        The folder.

    Raises:
        WeightsError: None of the places, which it names, has them.
    """
    places = (weights,) if weights is not None else WEIGHTS_PLACES
    for place in places:
        # A single bundle may lie at the top, as it does when one task's folder alone is uploaded; a packed `weights`
        # keeps its own name.
        for folder in (place / task, place, place / "weights" / task):
            if (folder / SPEC_FILE).is_file() or (folder / MODEL_FILE).is_file():
                return folder
    looked = ", ".join(str(place) for place in places)
    raise WeightsError(f"no weights for the task {task} in one of {looked}; give --weights DIR")


class Model:
    """A task's network, loaded once and used for any number of cases."""

    def __init__(self, bundle: Bundle, task: Task, *, device: str = "auto", max_memory: int | None = None) -> None:
        """Open a verified bundle.

        Args:
            bundle: The weights.
            task: What they are used for.
            device: As `segsync.engine.choose_device` takes it: `auto`, `cpu`, `openvino`, `cuda`, `cuda:N` …
            max_memory: Bytes the process should stay below; windows give way, down to half their size. None: the
                container's own limit, if it has one.

        Raises:
            WeightsError: The network does not match its `model.json`.
            ResourceError: The device is missing, or memory has ended.
        """
        self.bundle = bundle
        self.task = task
        began = time.monotonic()
        self.engines = open_engines(bundle, device, memory_bytes=max_memory)
        self.engine = self.engines[0]
        spec, on_gpu = bundle.spec, self.engine.device.cuda is not None
        region_model = region_model_for(bundle, device, memory_bytes=max_memory)
        self._budget = Budget.measure(self.engine.warm_up, spec.patch_zyx, spec.multiple_zyx, max_memory, gpu=on_gpu)
        self.pipeline = Pipeline(
            spec,
            self.engines,
            reference=task.reference,
            region_model=region_model,
            largest_window=None if self._budget is None else self._budget.largest_window,
        )
        self.load_seconds = time.monotonic() - began
        log.info("%s on %s, loaded in %.2f s from %s", spec.name, self.engine.device, self.load_seconds, bundle.folder)

    def predict(
        self,
        images: Mapping[str, Path | str | Volume] | Case,
        settings: Settings | None = None,
        progress: Callable[[float], None] = no_progress,
        *,
        clinical: Mapping[str, object] | None = None,
    ) -> Result:
        """Segment one case.

        Args:
            images: A path or `Volume` for each channel of the task: `Volume.from_sitk` and `Volume.from_nibabel` make
                volumes of other libraries' images.
            settings: Mirroring, overlap and time limit; None takes the defaults.
            progress: Called with the fraction done, 0 to 1.
            clinical: What is known of the patient, for weights that read numbers (`{"age": 70, "NIHSS": 12}`).

        Returns:
            The mask on the reference image's grid, with all that belongs to it.

        Raises:
            InputError: The images are not what the task needs; UsageError for what is no image.
            ResourceError: Memory ends.
        """
        settings = settings or Settings()
        case = images if isinstance(images, Case) else _case(images)
        case = case if clinical is None else replace(case, metadata={**case.metadata, "clinical": clinical})
        for name in case.channels:
            self.task.channel(name)
        reset_peak()
        options = Options(settings.overlap, settings.tta != "none", settings.deadline_s)
        segmented = vars(self.pipeline.segment(case, options, progress))
        exceeded = self._budget.exceeded() if self._budget is not None else None
        if exceeded is not None:
            log.warning("%s: %s", case.name, exceeded)
            segmented = {**segmented, "warnings": (*segmented["warnings"], exceeded)}
        return Result(**segmented, case=case, task=self.task, bundle=self.bundle, device=str(self.engine.device))


def failed_result(model: Model, case: Case, failure: str) -> Result:
    """An empty mask in place of that of a case that failed, which says so in its warnings.

    Args:
        model: The model that the case was for.
        case: The case; of its images the reference alone is read.
        failure: Why it failed.

    Returns:
        A result without any lesion, on the reference image's grid.

    Raises:
        InputError: The reference image cannot be read either, so that there is no grid for a mask.
    """
    reference = case.load(model.task.reference)
    if reference is None:
        raise InputError(f"case {case.name}: no {model.task.reference} image; add it")
    line = f"the case failed and its mask is empty for that reason: {failure}"
    log.error("%s: %s", case.name, line)
    size = reference.grid.size_zyx
    return Result(
        reference=reference,
        mask=np.zeros(size, dtype=np.uint8),
        model_probabilities=np.broadcast_to(np.float32(0), (len(model.bundle.spec.labels), *size)),
        model_grid=reference.grid,
        statistics=InferenceStatistics(notes=[line]),
        warnings=(line,),
        seconds={},
        case=case,
        task=model.task,
        bundle=model.bundle,
        device=str(model.engine.device),
        failure=failure,
    )


def task_of(spec: ModelSpec) -> Task:
    """The task that weights serve: the challenge's of that name, else one that reads the channels of their training."""
    channels = {channel.name: not channel.optional for channel in spec.images}
    return TASKS.get(spec.task) or own_task(spec.task, spec.name, channels, spec.reference_channel)


def find_task(name: str, weights: Path | None = None) -> Task:
    """The challenge's task of this name, else that of the weights of this name.

    Args:
        name: A task's, or that of a folder of weights.
        weights: A folder to look in as well.

    Returns:
        The task.

    Raises:
        InputError: There is neither; it lists the challenges'.
    """
    if name in TASKS:
        return TASKS[name]
    try:
        folder = find_weights(name, weights)
    except WeightsError:
        return task_named(name)
    return task_of(load_bundle(folder, name).spec)


def load(task: str, *, weights: Path | str | None = None, device: str = "auto", max_memory: int | None = None) -> Model:
    """Load a task's network, once for any number of cases.

    Args:
        task: A name of `segsync.tasks.TASKS`, or the task that weights of one's own were trained for.
        weights: A folder; None looks where the platform unpacks them, then among those that come with segsync.
        device: `auto`, `cpu`, `openvino`, `openvino:bf16`, `cuda` or `cuda:N`.
        max_memory: Bytes that the process should stay below; None for no limit.

    Returns:
        The model; its `predict` segments a case.

    Raises:
        UsageError: The task or the device does not exist.
        WeightsError: The weights are missing, or are not as they should be.
        ResourceError: ONNX Runtime, the device or memory is missing.
    """
    if max_memory is not None and max_memory <= 0:
        raise UsageError(f"max_memory: expected bytes, or None for no limit, found {max_memory!r}")
    place = Path(weights) if weights is not None else None
    chosen = find_task(task, place)
    return Model(load_bundle(find_weights(task, place), task), chosen, device=device, max_memory=max_memory)


def _case(images: Mapping[str, Path | str | Volume]) -> Case:
    channels = {name: Path(source) if isinstance(source, str) else source for name, source in images.items()}
    for name, source in channels.items():
        if not isinstance(source, Path | Volume):
            raise UsageError(
                f"{name}: expected a path or a segsync.Volume, found {type(source).__name__}; give "
                "Volume(array, grid), Volume.from_sitk(image) or Volume.from_nibabel(image)"
            )
    return Case("case", channels)
