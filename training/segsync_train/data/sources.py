"""From the settings' `data` to cases: labelled folders, or synthetic cases drawn as they are needed."""

import logging
import shutil
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np

from segsync.geometry import Grid, Volume
from segsync.preprocess import prepare
from segsync.region_model import RegionModel
from segsync_train.config.data import FolderData, SyntheticData
from segsync_train.config.run import CaseSpec
from segsync_train.data.cases import IDENTITY, LabelledCase, StoredCases, build_case, store_case
from segsync_train.data.dataset import build_cache, check_files, find_cases, labels_onto
from segsync_train.data.patches import CaseSource, FolderSource
from segsync_train.data.splits import Split, split_of_run
from segsync_train.runs.devices import Processes
from segsync_train.runs.folder import RunFolder
from segsync_train.runs.progress import StepProgress
from segsync_train.synthesis import Generator, SynthesisSources, SyntheticCase, load_sources

log = logging.getLogger(__name__)

#: First words of the seeds of synthetic cases: those that train are never those that validate.
TRAINING, VALIDATION, CHOICE = 11, 12, 13


class DataSettings(Protocol):
    """What of a run's settings its cases depend on."""

    @property
    def task(self) -> str:
        """What synthetic cases are drawn for."""

    @property
    def data(self) -> FolderData | SyntheticData:
        """Where the cases come from."""

    @property
    def case_spec(self) -> CaseSpec:
        """How they are prepared."""

    @property
    def seed(self) -> int:
        """What the split and synthetic cases are drawn by."""

    @property
    def workers(self) -> int:
        """Cases that are prepared at once."""


@dataclass(frozen=True)
class Data:
    """What a run trains and validates on.

    Attributes:
        source: Of cases to train on.
        validation: Cases that validate.
        optional: Numbers of the channels that augmentation may take away.
        split: Of labelled cases, for the run's folder.
    """

    source: CaseSource
    validation: Sequence[LabelledCase]
    optional: tuple[int, ...]
    split: Split | None = None


def open_data(config: DataSettings, folder: Path, group: Processes) -> Data:
    """Find, check and preprocess everything before the first step.

    Several processes find the same cases: the first makes them, the others wait and read.

    Args:
        config: The run's.
        folder: Of the run.
        group: The run's processes.

    Returns:
        The source of cases to train on, and the cases that validate.

    Raises:
        InputError: Cases are missing or not what they should be.
        OutputError: The cases cannot be kept.
    """
    spec = config.case_spec
    if isinstance(config.data, SyntheticData):
        return open_synthetic(config.task, spec, config.data, config.seed, folder, group)
    return _labelled(spec, config.data, config.seed, config.workers, folder, group)


def _labelled(spec: CaseSpec, data: FolderData, seed: int, threads: int, folder: Path, group: Processes) -> Data:
    names = [channel.name for channel in spec.images]
    cases = find_cases(data.layout, data.folder, names)
    check_files(cases, spec.images, data.folder)
    split = split_of_run(folder, cases, data, spec.label_set, threads=threads)
    both = (*split.training, *split.validation)
    with group.first(), StepProgress("preparing cases", len(both), quiet=not group.main) as progress:
        folders = build_cache(both, spec, data.cache or folder / "cache", threads=threads, progress=progress.advance)
    opened = StoredCases(folders)
    count = len(split.training)
    log.info("%d cases to train on, %d to validate", count, len(split.validation))
    optional = tuple(i for i, channel in enumerate(spec.channels) if channel.optional)
    return Data(FolderSource(opened[:count], seed), opened[count:], optional, split)


def open_synthetic(task: str, spec: CaseSpec, data: SyntheticData, seed: int, folder: Path, group: Processes) -> Data:
    """Draw the cases that validate, and prepare to draw those that train.

    Args:
        task: What is drawn.
        spec: What the cases depend on besides.
        data: The settings of the drawing.
        seed: Of the run.
        folder: Of the run.
        group: The run's processes; the first draws, the others wait and read.

    Returns:
        The source of cases to train on, and the cases that validate.

    Raises:
        InputError: The sources are missing or do not fit.
        OutputError: The cases cannot be kept.
    """
    kept = folder / "cache"
    source = SyntheticSource(task, spec, data, seed, data.cache or kept)
    names = [f"validation-{data.validation_seed}-{number}" for number in range(data.validation_cases)]
    with group.first(), StepProgress("drawing validation cases", len(names), quiet=not group.main) as progress:
        if group.main and not RunFolder(folder).begun:
            # A start that came to nothing leaves its cases, perhaps of settings that were corrected since.
            for left in kept.glob("validation-*"):
                shutil.rmtree(left)
        for number, name in enumerate(names):
            if not (kept / name).is_dir():
                store_case(source.draw(VALIDATION, data.validation_seed, number), kept / name)
            progress.advance()
    # The generator leaves out optional channels itself, as often as patients lack them.
    return Data(source, StoredCases([kept / name for name in names]), ())


class SyntheticSource:
    """Synthetic cases: a new one is drawn after so many patches, and patches are cut from the newest few.

    Each place in the batch, and each of `streams` within it, has cases of its own, so that processes that take turns
    at the steps draw no case twice. The case of a sample depends on (seed, step, place) alone.
    """

    def __init__(self, task: str, spec: CaseSpec, data: SyntheticData, seed: int, cache: Path) -> None:
        self.task, self.spec, self.data, self.seed, self.cache = task, spec, data, seed, cache
        self._cases: OrderedDict[tuple[int, ...], LabelledCase] = OrderedDict()

    def __getstate__(self) -> dict[str, object]:
        """Other processes read the sources themselves: anatomies are large, and reading them is quick."""
        kept = {name: getattr(self, name) for name in ("task", "spec", "data", "seed", "cache")}
        return {**kept, "_cases": OrderedDict()}

    @cached_property
    def generator(self) -> Generator:
        """The generator with its anatomies and lesions in memory."""
        anatomies = load_sources(
            SynthesisSources.below(self.data.sources),
            self.spec.spacing_zyx[0],
            cache=self.cache,
            scans=self.data.settings.t1.scans > 0,
        )
        return Generator(self.task, anatomies, self.data.settings)

    def case(self, step: int, place: int, places: int) -> LabelledCase:
        """See CaseSource."""
        stream, draw = step % self.data.streams, step // self.data.streams
        newest = draw // self.data.patches_per_case
        rng = np.random.default_rng([CHOICE, self.seed, step, place])
        number = int(rng.integers(max(0, newest - self.data.cases_in_memory + 1), newest + 1))
        key = (place, stream, number)
        if key not in self._cases:
            self._cases[key] = self.draw(TRAINING, self.seed, *key)
            while len(self._cases) > self.data.cases_in_memory * self.data.streams * places:
                self._cases.popitem(last=False)
        return self._cases[key]

    def draw(self, *words: int, region_model: RegionModel | None = None) -> LabelledCase:
        """The case of a seed made of these numbers, prepared as a patient's images are at inference."""
        seed = int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> 1)
        return prepare_synthetic(
            self.generator(seed, held_out=words[0] != TRAINING),
            self.spec,
            "-".join(str(word) for word in words),
            region_model,
        )


def prepare_synthetic(
    drawn: SyntheticCase, spec: CaseSpec, name: str, region_model: RegionModel | None = None
) -> LabelledCase:
    """A drawn case through the preprocessing that a patient's images go through.

    Args:
        drawn: Images and label map.
        spec: Channels, grid and labels.
        name: Of the case.
        region_model: As in `segsync.preprocess.prepare`.

    Returns:
        The case, on the model's grid.
    """
    spacing = (drawn.spacing_mm,) * 3
    z, y, x = drawn.target.shape
    grid = Grid((z, y, x), spacing, (0.0, 0.0, 0.0), IDENTITY)
    images = dict(zip(drawn.channels, zip(drawn.images.cpu().numpy(), drawn.present, strict=True), strict=True))
    target = drawn.target.cpu().numpy()

    def load(channel: str) -> Volume | None:
        image, present = images[channel]
        return Volume(image, grid) if present else None

    # What it warns of is drawn on purpose: a missing channel, ADC in another unit.
    prepared = prepare(load, spec, spec.reference_channel, region_model)
    label = labels_onto(Volume(target, grid), prepared.grid, spec.label_set.values)
    return build_case(name, prepared.array, label, prepared.tissue, spec.spacing_zyx)
