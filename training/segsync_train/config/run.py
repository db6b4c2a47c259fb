"""What a supervised run is: data, channels, network, optimisation. Written whole into the run folder.

Sizes and spacings are in array order (Z, Y, X), as in `segsync.bundle.ModelSpec`, which `export` fills from here.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

from pydantic import (
    BeforeValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from segsync.bundle import ChannelSpec, DecisionSpec, InferenceSpec, OrganSpec, PreprocessingSpec
from segsync_train.config.ranges import Fraction, NonNegativeRange, PositiveRange, Range
from segsync_train.config.recipes import WeightsPath
from segsync_train.config.settings import Frozen
from segsync_train.config.synthesis import SynthesisConfig

Decay = Annotated[float, Field(ge=0, lt=1)]
#: What NumPy's and torch's generators take alike.
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Triple = tuple[PositiveFloat, PositiveFloat, PositiveFloat]
SizeZYX = tuple[PositiveInt, PositiveInt, PositiveInt]


class NetworkConfig(Frozen):
    """A preset of the xLSTM-UNet and what is changed in it (keys of `XLSTMUNetConfig`), or another network by name.

    `published-enc` and `published-bot` are the xLSTM-UNet as published (`PublishedConfig`); `resenc-m`, `resenc-l` and
    `plainconv` nnU-Net's own networks (`ResEncConfig`). The transformers' overrides are the keys of `SwinUNETRConfig`
    and `UNETRConfig`; nnunet, resunet and unet, which are MONAI's by nnU-Net's plan, have none.
    """

    preset: Literal[
        "tiny", "compact", "small", "default", "enc", "bot", "published-enc", "published-bot", "nnunet", "resunet",
        "unet", "resenc-m", "resenc-l", "plainconv", "swinunetr", "unetr",
    ] = "default"  # fmt: skip
    overrides: dict[str, Any] = Field(default_factory=dict)


class FolderData(Frozen):
    """Labelled cases from a folder, divided into a fixed seeded split or k folds."""

    kind: Literal["folder"] = "folder"
    folder: Path
    #: How the folder is laid out: `nnunet`, `bids`, or the name of a data set (`segsync-train datasets`).
    layout: str = "nnunet"
    #: Fraction of the cases kept for validation, where there are no folds.
    validation: Annotated[float, Field(gt=0, lt=1)] = 0.2
    #: Number of folds of a cross-validation, and which of them validates this run.
    folds: Annotated[int, Field(ge=2)] | None = None
    fold: NonNegativeInt = 0
    #: What stays on one side of the split: the cases of a `subject` always, with `site` those of a hospital as well, or
    #: any column of `participants.tsv`.
    group: str = "subject"
    #: Seed of the split and of the choice of labelled cases: the same for every run that is to be compared.
    split_seed: Seed = 0
    #: Fraction of the training cases whose labels are used, at least one case; the smaller is part of the larger.
    labelled: Annotated[float, Field(gt=0, le=1)] = 1.0
    #: Case names to use instead of the seeded split; of `training_cases` `labelled` takes the first part.
    training_cases: tuple[str, ...] = ()
    validation_cases: tuple[str, ...] = ()
    #: Preprocessed cases; None keeps them in the run's folder.
    cache: Path | None = None

    @model_validator(mode="after")
    def _fold_exists(self) -> "FolderData":
        if self.folds is not None and self.fold >= self.folds:
            raise ValueError(f"fold {self.fold} does not exist, there are {self.folds} (counted from 0)")
        if self.folds is None and self.fold > 0:
            raise ValueError(f"fold {self.fold} is one of none; give folds, their number, as well")
        if bool(self.training_cases) != bool(self.validation_cases):
            raise ValueError("training_cases and validation_cases belong together; give both or none")
        if self.training_cases and self.folds is not None:
            raise ValueError("folds and training_cases both divide the cases; give one of them")
        both = sorted(set(self.training_cases) & set(self.validation_cases))
        if both:
            raise ValueError(f"case {both[0]} is in training_cases and in validation_cases")
        return self


class SyntheticData(Frozen):
    """Cases drawn by `segsync_train.synthesis`: every one a function of the run's seed and its number."""

    kind: Literal["synthetic"] = "synthetic"
    #: Folder with `brain-label-maps`, `lesion-masks-soop` and `lesion-masks-lesymap`.
    sources: Path
    settings: SynthesisConfig = SynthesisConfig()
    #: Where the sources are kept as the generator needs them, for other runs as well; None: in the run's folder.
    cache: Path | None = None
    #: A new case is drawn after so many patches, and so many of the newest are kept to cut patches from.
    patches_per_case: PositiveInt = 8
    cases_in_memory: PositiveInt = 4
    #: Independent series of cases per place in the batch; as many as worker processes keeps all of them busy.
    streams: PositiveInt = 1
    #: Number of validation cases, the same in every run of one seed.
    validation_cases: PositiveInt = 8
    validation_seed: Seed = 0


def kind_from_keys(data: Any) -> Any:
    """Tell the kind of `data` by its keys, where the settings do not: folders of cases, or sources of drawn ones."""
    if not isinstance(data, Mapping) or "kind" in data:
        return data
    for key, kind in (("folder", "folder"), ("folders", "folder"), ("sources", "synthetic")):
        if key in data:
            return {"kind": kind, **data}
    found = ", ".join(map(str, data)) or "no key"
    raise ValueError(f"expected a folder of cases, or the sources of synthetic ones (kind: synthetic), found {found}")


class AugmentationConfig(Frozen):
    """The paper's list (section 2.4). Each entry is done with its probability; 0 leaves it out."""

    flip: Fraction = 0.5
    #: Rotation about every axis, degrees, and zoom factor: one interpolation does both.
    rotate_zoom: Fraction = 0.2
    degrees: Annotated[float, Field(ge=0, le=180)] = 15.0
    zoom: PositiveRange = (0.8, 1.25)
    noise: Fraction = 0.15
    noise_std: NonNegativeFloat = 0.1
    smooth: Fraction = 0.1
    smooth_sigma: NonNegativeRange = (0.5, 1.0)
    #: Brightness: values times 1 + this; contrast: distance from the mean times 1 + this.
    brightness: Fraction = 0.15
    contrast: Fraction = 0.15
    strength: Range = (-0.25, 0.25)
    #: MONAI's AdjustContrast.
    gamma: Fraction = 0.15
    gamma_range: PositiveRange = (0.7, 1.5)
    #: Gamma on the inverted image, as nnU-Net has it beside the other.
    inverted_gamma: Fraction = 0.0
    #: The patch at a lower resolution and back, by a factor of this range: nnU-Net's too.
    low_resolution: Fraction = 0.0
    low_resolution_zoom: PositiveRange = (0.5, 1.0)
    shift: Fraction = 0.1
    shift_offset: NonNegativeFloat = 0.1
    #: An optional channel is set to zero, as at inference where the patient has none.
    drop_optional: Fraction = 0.2


class OptimiserConfig(Frozen):
    """The optimiser and its learning rate as a function of the step."""

    kind: Literal["adamw", "adam", "sgd"] = "adamw"
    lr: PositiveFloat = 1e-3
    weight_decay: NonNegativeFloat = 0.01
    #: SGD with Nesterov's momentum.
    momentum: Fraction = 0.99
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    schedule: Literal["cosine", "poly", "constant"] = "cosine"
    warmup_steps: NonNegativeInt = 0
    #: The cosine ends at this fraction of `lr`.
    final: Fraction = 0.01
    #: Norm to which gradients are clipped.
    clip: PositiveFloat = 12.0


class LossConfig(Frozen):
    """Weights of the terms: Dice, cross-entropy, and Dice of every lesion in its own surroundings, all alike."""

    dice: NonNegativeFloat = 1.0
    cross_entropy: NonNegativeFloat = 1.0
    lesion: NonNegativeFloat = 0.0
    #: Whether the coarsest output of deep supervision counts too; nnU-Net's code gives it no weight.
    coarsest: bool = True
    #: Fraction of each patch's voxels, those with the largest cross-entropy, that alone count in it (nnU-Net's TopK
    #: loss takes 0.1); None takes all.
    top_k: Annotated[float, Field(gt=0, le=1)] | None = None

    @model_validator(mode="after")
    def _some(self) -> "LossConfig":
        if self.dice + self.cross_entropy == 0:
            raise ValueError("dice and cross_entropy are both 0; give at least one of them a weight")
        return self


class ValidationConfig(Frozen):
    """How often and how validation is done, and when a run that no longer improves ends."""

    every: PositiveInt = 250
    overlap: Annotated[float, Field(ge=0, lt=1)] = 0.25
    #: Validations without a better score after which the run ends; None never ends early.
    patience: PositiveInt | None = None
    #: Cases drawn as PNG.
    overlays: NonNegativeInt = 4


class TransferConfig(Frozen):
    """What is taken over from an earlier training.

    `full`: every stage of a pretrained encoder. `bottom`: its deepest stage alone (3D-SegSync-Bottom); the others start
    anew. `network`: encoder and decoder of a fine-tuning, to train on with other data or longer; its checkpoint, or a
    model.onnx that was exported from it. `none`: from scratch, whatever the checkpoint.
    """

    mode: Literal["full", "bottom", "network", "none"] = "none"
    checkpoint: WeightsPath | None = None
    #: Learning rate of the transferred part as a fraction of the rest's.
    lr_factor: PositiveFloat = 1.0
    #: Parts of the network that are not trained, transferred or not, by the names of its modules: `encoder`,
    #: `encoder.stages.0`. Whole for the encoder but its deepest stage: encoder.stages.0 to encoder.stages.4 of six.
    freeze: tuple[str, ...] = ()
    #: Steps after which the frozen parts are trained as well; None never.
    freeze_steps: PositiveInt | None = None
    #: Steps over which the transferred part's learning rate rises from 0 to its own, once it is trained.
    warmup_steps: NonNegativeInt = 0

    @model_validator(mode="after")
    def _has_checkpoint(self) -> "TransferConfig":
        if self.mode != "none" and self.checkpoint is None:
            raise ValueError(f"mode {self.mode!r} needs a checkpoint")
        if self.freeze_steps is not None and not self.freeze:
            raise ValueError("freeze_steps: expected the parts that are frozen so long; give freeze as well")
        return self


class CardConfig(Frozen):
    """What only a person can say of the weights: the first lines of their MODEL_CARD.md."""

    trained_on: str = ""
    evaluated_on: str = ""
    not_evaluated_on: str = ""
    #: Whose images and labels were used, under which licence.
    attribution: str = ""


class CaseSpec(PreprocessingSpec):
    """What a prepared case depends on: channels and grid, the labels that are kept, and what is blanked before."""

    #: Label values and names; empty: the case is background throughout.
    labels: dict[PositiveInt, str] = Field(default_factory=dict)
    #: The folder of the region model's weights.
    region_model: Path | None = None


class NetworkSettings(Protocol):
    """What of a run's settings its network depends on."""

    @property
    def network(self) -> NetworkConfig:
        """The preset and what is changed in it."""

    @property
    def channels(self) -> tuple[ChannelSpec, ...]:
        """The input channels."""

    @property
    def outputs(self) -> int:
        """Channels of the output, background among them."""

    @property
    def patch_zyx(self) -> SizeZYX:
        """Voxels of a patch."""

    @property
    def spacing_zyx(self) -> Triple:
        """Millimetres between them."""


def check_channels(channels: Sequence[ChannelSpec], reference: str | None) -> None:
    """Raise ValueError where two channels have one name, or the reference is missing or may be."""
    names = [channel.name for channel in channels]
    if len(set(names)) != len(names):
        raise ValueError(f"channels: expected different names, found {', '.join(names)}")
    if reference is not None and reference not in names:
        raise ValueError(f"reference {reference!r} is not among the channels {', '.join(names)}")
    always = {channel.name: not channel.optional for channel in channels}
    if not always[reference or names[0]]:
        raise ValueError(f"the reference channel {reference or names[0]!r} cannot be optional")


def check_spacing(spacing_zyx: Triple, data: object) -> None:
    """Raise ValueError where synthetic cases are asked for on voxels that are no cubes."""
    if isinstance(data, SyntheticData) and len(set(spacing_zyx)) > 1:
        raise ValueError(f"spacing_zyx: expected one spacing for synthetic data, found {spacing_zyx}")


class RunConfig(Frozen):
    """One supervised run."""

    name: str
    #: A task of `segsync.tasks`, for the exported weights; any name for data of one's own.
    task: str
    data: Annotated[Annotated[FolderData | SyntheticData, Field(discriminator="kind")], BeforeValidator(kind_from_keys)]
    channels: tuple[ChannelSpec, ...] = Field(min_length=1)
    #: The channel whose field of view the model's grid covers; None takes the first.
    reference: str | None = None
    #: The region model: a folder of weights (weights/brain) that segment a region in the reference image. Voxels
    #: outside its mask are set to 0, in training as at inference. Synthetic cases are not masked but drawn so
    #: (`skull_stripped` in their settings).
    region_model: WeightsPath | None = None
    #: What is known of the organ that the network segments, if it is one in one piece.
    organ: OrganSpec | None = None
    #: Label values and names; background is 0 and not listed.
    labels: dict[PositiveInt, str] = Field(min_length=1)
    spacing_zyx: Triple
    patch_zyx: SizeZYX
    network: NetworkConfig = NetworkConfig()
    transfer: TransferConfig = TransferConfig()
    #: Patches in a batch, per process.
    batch: PositiveInt = 2
    steps: PositiveInt
    #: Fraction of the patches whose centre is a labelled voxel.
    foreground: Fraction = 0.5
    #: Axes (0 = Z, 1 = Y, 2 = X) that may be mirrored, in training and at inference.
    mirror_axes: tuple[Literal[0, 1, 2], ...] = (2,)
    optimiser: OptimiserConfig = OptimiserConfig()
    loss: LossConfig = LossConfig()
    augmentation: AugmentationConfig = AugmentationConfig()
    validation: ValidationConfig = ValidationConfig()
    #: Decay of the running mean of the weights that is validated and exported; None takes the weights themselves.
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    seed: Seed = 0
    device: str = "auto"
    #: Mixed precision: `auto` is bfloat16 on a GPU that has it, else float16, and float32 on a CPU. `bf16` is worth
    #: asking for on a CPU with AMX: the tiny preset's steps took 0.56 to 0.66 of the time.
    amp: Literal["auto", "bf16", "fp16", "off"] = "auto"
    #: torch.compile: worth its minutes on long GPU runs.
    compile: bool = False
    #: Processes that prepare patches; 0 prepares them between the steps.
    workers: NonNegativeInt = 2
    checkpoint_every: PositiveInt = 250
    log_every: PositiveInt = 20
    card: CardConfig = CardConfig()

    @model_validator(mode="after")
    def _consistent(self) -> "RunConfig":
        check_channels(self.channels, self.reference)
        check_spacing(self.spacing_zyx, self.data)
        if max(self.labels) > 255:
            raise ValueError(f"labels: expected values of 1 to 255, found {max(self.labels)}")
        return self

    @property
    def reference_channel(self) -> str:
        """Name of the channel that the model's grid follows."""
        return self.reference or self.channels[0].name

    @property
    def outputs(self) -> int:
        """Channels of the network's output: background and every label."""
        return len(self.labels) + 1

    @property
    def preprocessing(self) -> PreprocessingSpec:
        """What preprocessing needs of the run's network."""
        return PreprocessingSpec(channels=self.channels, reference=self.reference, spacing_zyx=self.spacing_zyx)

    @property
    def case_spec(self) -> CaseSpec:
        """What the run's prepared cases depend on."""
        return CaseSpec(**dict(self.preprocessing), labels=self.labels, region_model=self.region_model)

    def inference_spec(self, multiple_zyx: SizeZYX, decision: DecisionSpec | None = None) -> InferenceSpec:
        """What the whole way from images to labels needs of the run's network.

        Args:
            multiple_zyx: What divides the sides of the network's windows.
            decision: The operating point; None: a threshold of 0.5, and every component is kept.

        Returns:
            The part of `model.json` that `export` fills from here.
        """
        return InferenceSpec(
            **dict(self.preprocessing),
            **dict(decision or DecisionSpec()),
            labels=self.labels,
            patch_zyx=self.patch_zyx,
            multiple_zyx=multiple_zyx,
            organ=self.organ,
            mirror_axes=self.mirror_axes,
        )
