"""What a fine-tuning adds to the settings of every training. Written whole into the run folder."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    BeforeValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from segsync.bundle import Decisions, InferenceSpec, OrganSpec, PreprocessingSpec, check_organ
from segsync_train.config.data import FolderData, SyntheticData, check_spacing, kind_from_keys
from segsync_train.config.labels import LabelSet
from segsync_train.config.ranges import Fraction, NonNegativeRange, PositiveRange, Range
from segsync_train.config.recipes import WeightsPath
from segsync_train.config.settings import Frozen
from segsync_train.config.training import EvaluationConfig, SizeZYX, TrainingConfig


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


class ValidationConfig(EvaluationConfig):
    """How often and how validation is done, and when a run whose score no longer rises ends."""

    overlap: Annotated[float, Field(ge=0, lt=1)] = 0.25
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

    #: Without labels the case is background throughout.
    label_set: LabelSet = LabelSet()
    #: The folder of the region model's weights.
    region_model: Path | None = None


class RunConfig(TrainingConfig):
    """One supervised run."""

    data: Annotated[Annotated[FolderData | SyntheticData, Field(discriminator="kind")], BeforeValidator(kind_from_keys)]
    #: The region model: a folder of weights (weights/brain) that segment a region in the reference image. Voxels
    #: outside its mask are set to 0, in training as at inference. Synthetic cases are not masked but drawn so
    #: (`skull_stripped` in their settings).
    region_model: WeightsPath | None = None
    #: What is known of the organ that the network segments, if it is one in one piece: its only label.
    organ: OrganSpec | None = None
    #: Label values and names; background is 0 and not listed.
    labels: dict[PositiveInt, str] = Field(min_length=1)
    #: Labels that overlap, as the regions of BraTS and nnU-Net do: the values of the label maps that each is the union
    #: of, its own among them. Masks are written in the order of the labels, later ones over earlier.
    regions: dict[PositiveInt, tuple[PositiveInt, ...]] = Field(default_factory=dict)
    #: The value of voxels that nobody labelled (nnU-Net's `ignore`): left out of the loss, of what patches are centred
    #: on, of validation and of scores.
    ignore: PositiveInt | None = None
    transfer: TransferConfig = TransferConfig()
    #: Fraction of the patches whose centre is a labelled voxel.
    foreground: Fraction = 0.5
    #: Axes (0 = Z, 1 = Y, 2 = X) that may be mirrored, in training and at inference.
    mirror_axes: tuple[Literal[0, 1, 2], ...] = (2,)
    loss: LossConfig = LossConfig()
    augmentation: AugmentationConfig = AugmentationConfig()
    validation: ValidationConfig = ValidationConfig()
    #: Decay of the running mean of the weights that is validated and exported; None takes the weights themselves.
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    card: CardConfig = CardConfig()

    @model_validator(mode="after")
    def _consistent(self) -> "RunConfig":
        check_spacing(self.spacing_zyx, self.data)
        LabelSet(labels=self.labels, regions=self.regions, ignore=self.ignore)
        check_organ(self.labels, self.organ)
        return self

    @property
    def outputs(self) -> int:
        """Channels of the network's output."""
        return self.label_set.outputs

    @property
    def label_set(self) -> LabelSet:
        """What the values of the label maps mean."""
        return LabelSet(labels=self.labels, regions=self.regions, ignore=self.ignore)

    @property
    def case_spec(self) -> CaseSpec:
        """What the run's prepared cases depend on."""
        return CaseSpec(**dict(self.preprocessing), label_set=self.label_set, region_model=self.region_model)

    def inference_spec(self, multiple_zyx: SizeZYX, decision: Decisions | None = None) -> InferenceSpec:
        """What the whole way from images to labels needs of the run's network.

        Args:
            multiple_zyx: What divides the sides of the network's windows.
            decision: The operating point; None: a threshold of 0.5, and every component is kept.

        Returns:
            The part of `model.json` that `export` fills from here.
        """
        return InferenceSpec(
            **dict(self.preprocessing),
            **dict(decision or Decisions()),
            labels=self.labels,
            regions=self.regions,
            patch_zyx=self.patch_zyx,
            multiple_zyx=multiple_zyx,
            organ=self.organ,
            mirror_axes=self.mirror_axes,
        )
