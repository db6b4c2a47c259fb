"""A folder of weights: `model.onnx` beside `model.json`, checked before anything is opened.

`model.json` is the only place that says what a model needs at inference; `segsync-train export` writes it. A folder may
lie below another with a `manifest.json` (the repository's `weights/`, or what `export.sh` packs for upload), which
repeats the sha256 of every file and its licence.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError, model_validator

from segsync.atomic import whole_file
from segsync.errors import WeightsError, os_errors

MODEL_FILE = "model.onnx"
SPEC_FILE = "model.json"
CARD_FILE = "MODEL_CARD.md"
MANIFEST_FILE = "manifest.json"
#: The newest operator set that the pinned ONNX Runtime is tested with here.
MAX_OPSET = 20

#: Labels are written as uint8.
Label = Annotated[int, Field(gt=0, le=255)]
#: Millimetres between voxel centres: what any scanner and network knows.
Spacing = Annotated[float, Field(ge=0.01, le=100)]
#: Voxels along a side of a window.
Side = Annotated[int, Field(gt=0, le=1024)]
#: A folder's name beside the weights', no path.
FolderName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$")]
#: A further network's file beside `model.onnx`.
NetworkFile = Annotated[str, Field(pattern=r"^model-[0-9]+\.onnx$")]
Percentile = Annotated[float, Field(ge=0, le=100)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ZScore(_Frozen):
    """Mean 0 and standard deviation 1 over the channel's own tissue: for contrasts without a unit (DWI, FLAIR, T1).

    Intensities are first clipped to the tissue's two percentiles, so that one bright vessel does not set the scale.
    """

    kind: Literal["zscore"] = "zscore"
    percentiles: tuple[Percentile, Percentile] = (0.5, 99.5)

    @model_validator(mode="after")
    def _ordered(self) -> "ZScore":
        if self.percentiles[0] >= self.percentiles[1]:
            raise ValueError(f"percentiles {self.percentiles} are not the lower first")
        return self


class Fixed(_Frozen):
    """`(clip(x, low, high) - mean) / std` with constants: for quantities with a unit (ADC, HU, Tmax, CBF)."""

    kind: Literal["fixed"] = "fixed"
    low: float
    high: float
    mean: float
    std: Annotated[float, Field(gt=0)]

    @model_validator(mode="after")
    def _ordered(self) -> "Fixed":
        if self.low >= self.high:
            raise ValueError(f"low {self.low:g} is not below high {self.high:g}")
        return self


class ScalarSpec(_Frozen):
    """A number of the patient (age, NIHSS), and what clinical data call it."""

    #: Capitals, spaces and signs do not matter.
    names: tuple[str, ...] = Field(min_length=1)
    #: Words as numbers, as {M: 0, F: 1}; yes and true are 1, no and false 0.
    words: dict[str, float] = Field(default_factory=dict)


class ChannelSpec(_Frozen):
    """One input channel of the network, by the name the task gives it."""

    name: str
    normalisation: Annotated[ZScore | Fixed, Field(discriminator="kind")]
    #: An optional channel that is missing or constant is given to the network as zeros (as in training).
    optional: bool = False
    #: A number in place of an image, the same everywhere: the network is given it times the reference image.
    scalar: ScalarSpec | None = None

    @model_validator(mode="after")
    def _scalars_are_fixed(self) -> Self:
        if self.scalar is not None and not isinstance(self.normalisation, Fixed):
            raise ValueError(f"{self.name}: a number needs the normalisation kind: fixed, its range, mean and std")
        return self


class OrganSpec(_Frozen):
    """What is known of an organ that lies in one piece, as the brain does."""

    #: Notches and holes narrower than twice this belong to it, as cavities that reach the brain's surface do.
    closing_mm: Annotated[float, Field(ge=0, le=50)] = 0.0
    #: Volumes that it can have; others are warned of.
    plausible_ml: tuple[Annotated[float, Field(ge=0)], Annotated[float, Field(gt=0)]]

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.plausible_ml[0] >= self.plausible_ml[1]:
            raise ValueError(f"plausible_ml {self.plausible_ml} is not the smaller first")
        return self

    def doubt(self, volume_ml: float) -> str | None:
        """What a person should know of an organ of this volume; None if it is plausible."""
        low, high = self.plausible_ml
        if low <= volume_ml <= high:
            return None
        return f"{volume_ml:.0f} ml, expected {low:g} to {high:g} ml; check that the image shows it whole, of an adult"


class PreprocessingSpec(_Frozen):
    """What preprocessing needs of a model. Sizes and spacings are in array order (Z, Y, X), here and below."""

    channels: tuple[ChannelSpec, ...] = Field(min_length=1)
    #: The channel whose grid the mask lies on, where no challenge's task says it; None takes the first.
    reference: str | None = None
    spacing_zyx: tuple[Spacing, Spacing, Spacing]

    @property
    def reference_channel(self) -> str:
        """Name of the channel that `reference` means."""
        return self.reference or self.channels[0].name

    @property
    def images(self) -> tuple[ChannelSpec, ...]:
        """The channels that are images."""
        return tuple(channel for channel in self.channels if channel.scalar is None)

    @property
    def scalar_places(self) -> list[int]:
        """Places of the channels that are numbers."""
        return [place for place, channel in enumerate(self.channels) if channel.scalar is not None]

    def place_of(self, name: str) -> int:
        """The place of a channel."""
        return [channel.name for channel in self.channels].index(name)

    @model_validator(mode="after")
    def _channels_once(self) -> Self:
        _each_once("channels", [channel.name for channel in self.channels])
        return self

    @model_validator(mode="after")
    def _reference_is_there(self) -> Self:
        if self.reference_channel not in {channel.name for channel in self.images if not channel.optional}:
            raise ValueError(f"reference {self.reference_channel!r} is not among the images that are always there")
        return self


class DecisionSpec(_Frozen):
    """What decides, once the probabilities are there, which voxels are foreground: the operating point."""

    #: A voxel takes its likeliest label where the sum of the foreground's probabilities reaches this.
    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.5
    #: Components (26-connected, on the reference grid) smaller than this are removed.
    min_component_ml: Annotated[float, Field(ge=0, le=10_000)] = 0.0
    #: Components whose highest probability (of any label) stays below this are removed: hysteresis, where it lies above
    #: `threshold`. 0: none are.
    min_component_confidence: Annotated[float, Field(ge=0, le=1)] = 0.0

    @property
    def component_limits(self) -> str:
        """What a component must reach to be kept, in words."""
        sure = self.min_component_confidence
        return f"{self.min_component_ml:g} ml{f' or a highest probability of {sure:g}' if sure else ''}"


class Decisions(DecisionSpec):
    """The operating point, and those of regions, which overlap and are therefore decided each by itself."""

    #: By value of the region. Regions that are not named here, and labels that are no regions, take the one above.
    region_decisions: dict[Label, DecisionSpec] = Field(default_factory=dict)

    def decision_of(self, label: int) -> DecisionSpec:
        """The operating point of a region."""
        shared = DecisionSpec(**{name: getattr(self, name) for name in DecisionSpec.model_fields})
        return self.region_decisions.get(label, shared)


class InferenceSpec(Decisions, PreprocessingSpec):
    """What the whole way from images to labels needs of a model.

    The network maps `(N, C, Z, Y, X)` float32 to the probabilities of the foreground labels, `(N, L, Z, Y, X)` float32
    with L = len(labels); background is what is left to one, unless the labels are `regions`.
    """

    #: Label values written to the mask, in the order of the network's output, with their names.
    labels: dict[Label, str] = Field(min_length=1)
    #: Where the labels overlap, as the regions of BraTS do: the values of a label map that each is the union of, its
    #: own among them. The network then gives each label's own probability (a sigmoid); where it reaches the threshold
    #: the label is written, later ones over earlier. Empty: a voxel has one label.
    regions: dict[Label, tuple[Label, ...]] = Field(default_factory=dict)
    patch_zyx: tuple[Side, Side, Side]
    #: Any window whose sides are multiples of these can be given to the network.
    multiple_zyx: tuple[Side, Side, Side]
    #: For weights that segment an organ in one piece: its largest component alone is kept, and closed. None: no organ.
    organ: OrganSpec | None = None
    #: Axes (0 = Z, 1 = Y, 2 = X) along which mirroring is part of the test-time augmentation.
    mirror_axes: tuple[Literal[0, 1, 2], ...] = (2,)

    @model_validator(mode="after")
    def _labels_and_axes_once(self) -> Self:
        _each_once("labels", [name.replace("/", "-") for name in self.labels.values()])  # as their files are called
        _each_once("mirror_axes", self.mirror_axes)
        return self

    @model_validator(mode="after")
    def _regions_fit(self) -> Self:
        check_regions(self.labels, self.regions)
        if extra := self.region_decisions.keys() - self.regions.keys():
            raise ValueError(f"region_decisions: expected regions ({[*self.regions]}), found {sorted(extra)}")
        return self

    @property
    def decision_in_words(self) -> str:
        """What a voxel and a component must reach, of each region where each has its own."""
        own = self.labels.items() if self.region_decisions else ()
        every = {name: self.decision_of(label) for label, name in own} or {"": self}
        return ". ".join(
            f"{name} {decision.threshold:g}; components below {decision.component_limits} are removed".lstrip()
            for name, decision in every.items()
        )

    @model_validator(mode="after")
    def _organ_is_the_label(self) -> Self:
        check_organ(self.labels, self.organ)
        return self

    @model_validator(mode="after")
    def _patch_fits(self) -> Self:
        if any(side % multiple for side, multiple in zip(self.patch_zyx, self.multiple_zyx, strict=True)):
            raise ValueError(f"patch_zyx {self.patch_zyx} is not a multiple of multiple_zyx {self.multiple_zyx}")
        return self


def check_regions(labels: Mapping[int, str], regions: Mapping[int, Sequence[int]]) -> None:
    """Raise ValueError where regions are not one for each label, with the label's own value in it."""
    if regions and regions.keys() != labels.keys():
        raise ValueError(f"regions: expected one for each label ({[*labels]}), found {[*regions]}")
    for value, union in regions.items():
        if value not in union or len(set(union)) < len(union):
            raise ValueError(f"regions.{value}: expected different values, {value} among them, found {[*union]}")


def check_organ(labels: Mapping[int, str], organ: OrganSpec | None) -> None:
    """Raise ValueError where an organ is given to a network of several labels."""
    if organ is not None and len(labels) > 1:
        raise ValueError(
            f"organ: expected a single label, that lies in one piece, found {', '.join(labels.values())}; leave it out"
        )


class ModelSpec(InferenceSpec):
    """What `model.json` holds: everything the runtime must know of a model, and where the model comes from."""

    format: Literal[1] = 1
    name: str
    task: str
    #: Name of the region model: weights in the folder beside these that segment a region (the brain) in the reference
    #: image. Voxels outside its mask are set to 0. None: the network sees the whole image.
    region_model: FolderName | None = None
    opset: PositiveInt
    #: Of the network in `model.onnx`.
    sha256: Sha256
    #: Further networks of an ensemble, files beside `model.onnx`, with the sha256 of each: probabilities are averaged.
    further_networks: dict[NetworkFile, Sha256] = Field(default_factory=dict)
    licence: str
    #: Free record of the training: configuration, commit, data, hours, hardware.
    provenance: dict[str, Any] = Field(default_factory=dict)


def _each_once(what: str, values: Sequence[object]) -> None:
    if len(set(values)) < len(values):
        raise ValueError(f"{what} {[*values]} are not each listed once")


class ManifestEntry(_Frozen):
    """One task's folder in `manifest.json`."""

    licence: str
    files: dict[str, Sha256]


class Manifest(_Frozen):
    """`weights/manifest.json`: what is shipped, with the sha256 of every file and its licence."""

    format: Literal[1] = 1
    tasks: dict[str, ManifestEntry]


@dataclass(frozen=True)
class Bundle:
    """A verified folder of weights, and which of its networks is meant: the first, or another of an ensemble."""

    folder: Path
    spec: ModelSpec
    file: str = MODEL_FILE

    @property
    def model(self) -> Path:
        """Path of the ONNX file."""
        return self.folder / self.file

    @property
    def sha256(self) -> str:
        """Of the ONNX file."""
        return self.spec.further_networks.get(self.file, self.spec.sha256)

    @property
    def networks(self) -> tuple["Bundle", ...]:
        """The same folder once for each of its networks, the first one first."""
        return tuple(replace(self, file=file) for file in (MODEL_FILE, *self.spec.further_networks))

    def read_model(self) -> bytes:
        """The bytes of the ONNX file; raises WeightsError where they are no longer those that were verified."""
        with os_errors(WeightsError, self.model):
            content = self.model.read_bytes()
        _check_sha256(self.model, hashlib.sha256(content).hexdigest(), self.sha256)
        return content


def sha256_of(path: Path) -> str:
    """The file's sha256 as 64 hexadecimal digits; raises WeightsError where it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror}); change its permissions") from error


def _check_sha256(path: Path, found: str, expected: str) -> None:
    if found != expected:
        raise WeightsError(f"{path}: expected sha256 {expected}, found {found}; the file is altered: copy it again")


def _read_json(path: Path, model: type[BaseModel]) -> Any:
    try:
        return model.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise WeightsError(
            f"{path}: {where}: {first['msg']}; found {str(first['input'])[:60]!r}; export the model again"
        ) from error
    except OSError as error:
        raise WeightsError(
            f"{path}: cannot be read ({error.strerror}); expected {path.name} beside the model"
        ) from error


@os_errors(WeightsError)
def load_bundle(folder: Path, task: str | None = None) -> Bundle:
    """Read and verify one folder of weights.

    Args:
        folder: With `model.onnx` and `model.json`.
        task: The task that the weights have to be of; None: any.

    Returns:
        The folder's files, their sha256 checked.

    Raises:
        WeightsError: A file is missing or altered, or the model is of another task or too new an opset.
    """
    folder = folder.absolute()  # of `.` neither name nor parent say anything
    if not folder.is_dir():
        raise WeightsError(f"{folder}: no folder with {MODEL_FILE} and {SPEC_FILE}; give --weights")
    spec: ModelSpec = _read_json(folder / SPEC_FILE, ModelSpec)
    manifest_path = folder.parent / MANIFEST_FILE
    if manifest_path.is_file():
        entry = load_manifest(manifest_path).tasks.get(folder.name)
        if entry is not None:
            verify_files(folder, entry)
    model = folder / MODEL_FILE
    for network in Bundle(folder, spec).networks:
        if not network.model.is_file():
            raise WeightsError(
                f"{network.model}: expected the network's weights, found no such file; copy the whole folder"
            )
        _check_sha256(network.model, sha256_of(network.model), network.sha256)
    if task is not None and spec.task != task:
        raise WeightsError(
            f"{folder}: expected weights for the task {task!r}, found {spec.task!r}; give other --weights"
        )
    if spec.opset > MAX_OPSET:
        raise WeightsError(
            f"{model}: expected opset {MAX_OPSET} or older, found {spec.opset}; export it with an older opset"
        )
    return Bundle(folder, spec)


def load_manifest(path: Path) -> Manifest:
    """Read `manifest.json`; raises WeightsError where it is missing or malformed."""
    manifest: Manifest = _read_json(path, Manifest)
    return manifest


@os_errors(WeightsError)
def verify_files(folder: Path, entry: ManifestEntry) -> None:
    """Compare every file of a task's folder with its manifest entry; raises WeightsError at the first difference."""
    for name, expected in entry.files.items():
        path = folder / name
        if not path.is_file():
            raise WeightsError(f"{path}: listed in {MANIFEST_FILE}, found no such file; copy the whole folder")
        _check_sha256(path, sha256_of(path), expected)


def write_manifest(weights: Path) -> Path:
    """Write `manifest.json` for every task's folder below `weights`; returns its path."""
    tasks = {}
    for spec_path in sorted(weights.glob(f"*/{SPEC_FILE}")):
        folder = spec_path.parent
        spec = load_bundle_spec(folder)
        names = (MODEL_FILE, *spec.further_networks, SPEC_FILE, CARD_FILE)
        files = {name: sha256_of(folder / name) for name in names if (folder / name).is_file()}
        tasks[folder.name] = ManifestEntry(licence=spec.licence, files=files)
    path = weights / MANIFEST_FILE
    with whole_file(path) as part:
        part.write_text(json.dumps(Manifest(tasks=tasks).model_dump(), indent=2) + "\n", encoding="utf-8")
    return path


def load_bundle_spec(folder: Path) -> ModelSpec:
    """`model.json` of a folder, without a look at the weights."""
    spec: ModelSpec = _read_json(folder / SPEC_FILE, ModelSpec)
    return spec
