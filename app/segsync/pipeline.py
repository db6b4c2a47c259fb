"""A case's whole way, in one page: channels → an array on the model's grid → windows → labels on the reference grid.

The commands, the server, evaluation, validation, tuning and region models go this way. Only the predictor differs: ONNX
Runtime, a network in torch, or any other function of windows.
"""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from segsync.arrays import Array, LabelMap, Mask, SizeZYX
from segsync.bundle import InferenceSpec
from segsync.errors import ChannelError, InputError, ResourceError
from segsync.geometry import Grid, Volume
from segsync.images import read, read_adc
from segsync.organ import in_one_piece, with_all_that_was_kept
from segsync.postprocess import BYTES_A_VOXEL, labels_on
from segsync.preprocess import Prepared, RegionFinder, prepare
from segsync.sliding_window import InferenceStatistics, Predictor, Windows, all_flips, predict

log = logging.getLogger(__name__)

#: Gives a channel's volume by its name, or None where the case has no such channel.
Loader = Callable[[str], Volume | None]


def no_progress(fraction: float) -> None:
    """Tell nobody."""


@dataclass(frozen=True)
class Case:
    """One patient's images: a path (file, or folder of one DICOM series) or a volume for each channel."""

    name: str
    channels: Mapping[str, Path | Volume]
    #: What the JSON inputs said: for the report, and for weights that read numbers of the patient.
    metadata: Mapping[str, object] = field(default_factory=dict)

    def load(self, channel: str) -> Volume | None:
        """Read a channel.

        Args:
            channel: Its name.

        Returns:
            The volume, or None if the case has no such channel. An ADC that is missing is fitted if the DWI is a
            diffusion series with its b-values; the volume's warnings say so.

        Raises:
            InputError: The file cannot be read.
        """
        source = self.channels.get(channel)
        if source is None and channel == "adc" and isinstance(series := self.channels.get("dwi"), Path):
            return read_adc(series)
        return read(source) if isinstance(source, Path) else source

    @contextlib.contextmanager
    def named_in_errors(self) -> Iterator[None]:
        """Name the file, or else the case, in what goes wrong with it.

        Raises:
            InputError: In place of ChannelError.
            ResourceError: In place of MemoryError.
        """
        try:
            yield
        except ChannelError as error:
            source = self.channels.get(error.channel)
            raise InputError(f"{source if isinstance(source, Path) else f'case {self.name}'}: {error}") from error
        except MemoryError as error:
            raise ResourceError(
                f"case {self.name}: expected memory for its images, found too little; give the container more memory"
            ) from error


@dataclass(frozen=True)
class Options:
    """How windows cover a case.

    Attributes:
        overlap: Fraction of a window that neighbours have in common.
        mirror: Whether mirrored copies are averaged, along the model's mirror axes.
        deadline_s: Seconds that the case may take; mirroring, networks of an ensemble, then overlap give way. None:
            as long as it takes.
    """

    overlap: float = 0.5
    mirror: bool = False
    deadline_s: float | None = None


@dataclass(frozen=True)
class Segmentation:
    """What was segmented in a case, on the grid of its reference image."""

    #: The image that the mask lies on, as read.
    reference: Volume
    #: (Z, Y, X) uint8: 0 is background, other values as in the model's `labels`.
    mask: LabelMap
    #: (L, Z, Y, X) float32 on `model_grid`, as the predictor gave them.
    model_probabilities: Array
    model_grid: Grid
    statistics: InferenceStatistics
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


class Pipeline:
    """A model's way from images to labels, with any predictor.

    Attributes:
        spec: What the model needs.
        predictor: Maps windows (1, C, z, y, x) float32 to the labels' probabilities (1, L, z, y, x) float32; several,
            whose probabilities are averaged, make an ensemble.
        reference: Name of the channel whose grid the mask lies on.
        region_model: Segments the region outside of which voxels are set to 0; None: the model sees the whole image.
    """

    def __init__(
        self,
        spec: InferenceSpec,
        predictor: Predictor | Sequence[Predictor],
        *,
        reference: str | None = None,
        region_model: RegionFinder | None = None,
        largest_window: Callable[[int, SizeZYX], SizeZYX] | None = None,
    ) -> None:
        """Put the way together; nothing is loaded here.

        Args:
            spec: What the model needs.
            predictor: As the attribute.
            reference: As the attribute; None: the one that `spec` names.
            region_model: As the attribute.
            largest_window: The largest window that fits into memory beside arrays of so many bytes, for a volume of a
                size; None: the one of `spec`.
        """
        self.spec, self.predictor, self.region_model = spec, predictor, region_model
        self.reference = reference or spec.reference_channel
        self._largest_window = largest_window

    def segment(
        self, case: Case, options: Options | None = None, progress: Callable[[float], None] = no_progress
    ) -> Segmentation:
        """Segment one case; its warnings go into the log as well.

        Args:
            case: The images.
            options: How windows cover it; None: the defaults.
            progress: Called with the fraction done, 0 to 1.

        Returns:
            The labels on the reference image's grid, and how they came about.

        Raises:
            InputError: The images are not what the model needs; names the file.
            ResourceError: Memory ends; names the case.
        """
        options = options or Options()
        began = time.monotonic()
        with case.named_in_errors():
            prepared, reference = self.prepare(case.load, case.metadata)
            for line in prepared.warnings:
                log.warning("%s: %s", case.name, line)
            ready = time.monotonic()
            deadline = None
            if options.deadline_s is not None:
                # The way back takes about as long as the way there.
                deadline = began + options.deadline_s - (ready - began)
            try:
                probabilities, statistics = self.predict(
                    prepared.array,
                    prepared.tissue,
                    options,
                    beside=BYTES_A_VOXEL * reference.array.size,
                    deadline=deadline,
                    progress=progress,
                )
            except ResourceError as error:
                raise ResourceError(f"case {case.name}: {error}") from error
            network = time.monotonic()
            if prepared.region is not None:
                # What a network makes of the blank around a brain is no lesion.
                probabilities *= prepared.region
            mask, removed = self.labels(probabilities, prepared.grid, reference.grid, image=reference)
        if removed:
            own = bool(self.spec.region_decisions)
            limits = "their regions' limits" if own else self.spec.component_limits
            statistics.notes.append(f"{removed} components below {limits} removed")
        warnings = [*prepared.warnings, *statistics.warnings]
        doubt = self.spec.organ and self.spec.organ.doubt(float((mask > 0).sum()) * reference.grid.voxel_ml)
        if doubt:
            warnings.append(f"{'/'.join(self.spec.labels.values())}: {doubt}")
            log.warning("%s: %s", case.name, warnings[-1])
        seconds = {
            "read and prepare": ready - began,
            "network": network - ready,
            "put back": time.monotonic() - network,
            "total": time.monotonic() - began,
        }
        return Segmentation(reference, mask, probabilities, prepared.grid, statistics, tuple(warnings), seconds)

    def prepare(self, load: Loader, clinical: Mapping[str, object] | None = None) -> tuple[Prepared, Volume]:
        """The first step: bring the channels onto the model's grid.

        Args:
            load: Gives each channel's volume; called once a channel.
            clinical: What is known of the patient, for channels that are numbers.

        Returns:
            What the predictor sees, and the reference image as read.

        Raises:
            ChannelError: A channel is missing, empty, or lies elsewhere.
        """
        references: list[Volume] = []

        def kept(name: str) -> Volume | None:
            volume = load(name)
            if name == self.reference and volume is not None:
                references.append(volume)
            return volume

        prepared = prepare(kept, self.spec, self.reference, self.region_model, clinical)
        return prepared, references[0]

    def predict(
        self,
        array: Array,
        tissue: Mask,
        options: Options | None = None,
        *,
        beside: int = 0,
        deadline: float | None = None,
        progress: Callable[[float], None] = no_progress,
    ) -> tuple[Array, InferenceStatistics]:
        """The second step: probabilities of a prepared case, window by window.

        Args:
            array: (C, Z, Y, X) on the model's grid, normalised.
            tissue: (Z, Y, X), outside of which windows are left out.
            options: How windows cover it; None: the defaults.
            beside: Bytes of other arrays that are in memory at the same time.
            deadline: Time of `time.monotonic` by which to have finished; None: as long as it takes.
            progress: Called with the fraction done, 0 to 1.

        Returns:
            The labels' probabilities (L, Z, Y, X) float32, and what was computed.

        Raises:
            ResourceError: Even the smallest window does not fit.
        """
        options, spec = options or Options(), self.spec
        largest = self._largest_window
        z, y, x = tissue.shape
        patch = spec.patch_zyx if largest is None else largest(array.nbytes + beside, (z, y, x))
        flips = all_flips(spec.mirror_axes) if options.mirror else ((),)
        windows = Windows(patch, spec.multiple_zyx, options.overlap, flips, trained_zyx=spec.patch_zyx)
        return predict(
            array, self._given(), len(spec.labels), windows,
            tissue=tissue, overlapping=bool(spec.regions), deadline=deadline, progress=progress,
        )  # fmt: skip

    def _given(self) -> tuple[Predictor, ...]:
        """The predictors, with numbers of the patient as they take them."""
        every = (self.predictor,) if callable(self.predictor) else tuple(self.predictor)
        return tuple(with_scalars(predictor, self.spec) for predictor in every)

    def labels(
        self, probabilities: Array, grid: Grid, reference: Grid, *, image: Volume | None = None
    ) -> tuple[LabelMap, int]:
        """The third step: labels from probabilities. An organ is brought into one piece.

        Args:
            probabilities: (L, Z, Y, X) on the model's grid.
            grid: The model's grid.
            reference: The grid that the labels are wanted on.
            image: The image on that grid, which may show the organ alone; None: not asked.

        Returns:
            The labels (Z, Y, X) on `reference`, and the number of components that were too small or unsure and removed.

        Raises:
            MemoryError: The arrays do not fit.
        """
        known = self.spec.organ
        if known is None:
            return labels_on(probabilities, grid, reference, self.spec)
        probabilities = in_one_piece(probabilities, grid, self.spec.threshold, known)
        labels, removed = labels_on(probabilities, grid, reference, self.spec)
        return (labels if image is None else with_all_that_was_kept(labels, image, known)), removed


def with_scalars(predictor: Predictor, spec: InferenceSpec) -> Predictor:
    """A predictor for windows in which a patient's numbers are channels that are the same everywhere.

    Networks normalise each channel over the window, so that they would not see what is the same everywhere. What they
    are given is the number times the reference image: their first filters become a function of the number.

    Args:
        predictor: What is called with the products.
        spec: Which channels are numbers.

    Returns:
        A predictor; the given one itself if no channel is a number.
    """
    places, reference = spec.scalar_places, spec.place_of(spec.reference_channel)
    if not places:
        return predictor

    def given(windows: Array) -> Array:
        multiplied = windows.copy()
        multiplied[:, places] *= windows[:, [reference]]
        return predictor(multiplied)

    return given
