"""What a pretraining run is: unlabelled volumes, views, heads, the loss and its schedules. Kept in the run folder."""

import math
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from segsync.bundle import Fixed, ZScore
from segsync_train.config.data import SyntheticData, check_spacing, kind_from_keys
from segsync_train.config.ranges import Fraction, PositiveRange, Range
from segsync_train.config.run import CaseSpec
from segsync_train.config.settings import Frozen
from segsync_train.config.training import Decay, EvaluationConfig, SizeZYX, TrainingConfig
from segsync_train.ssl.peers_config import (
    HiEndMAEConfig,
    MAEConfig,
    SegSyncConfig,
    SwinMMConfig,
    SwinSSLConfig,
    VoCoConfig,
)

PretextConfig = Annotated[
    SegSyncConfig | MAEConfig | HiEndMAEConfig | VoCoConfig | SwinSSLConfig | SwinMMConfig, Field(discriminator="kind")
]


class VolumeFolder(Frozen):
    """One folder of volumes; labels that lie there are not read."""

    folder: Path
    #: `files`: every image below the folder that is no label map is a volume of its own. Else a layout that fine-tuning
    #: knows.
    layout: str = "files"
    #: What the layout calls the model's channels, {image: cta}; others are then not taken. Empty: the same names.
    channels: dict[str, str] = Field(default_factory=dict)
    #: How this folder's images are normalised instead of as `channels` of the run say: CT among MRI.
    normalisation: Annotated[ZScore | Fixed, Field(discriminator="kind")] | None = None

    @model_validator(mode="after")
    def _has_channels(self) -> "VolumeFolder":
        if self.layout == "files" and self.channels:
            raise ValueError("channels: expected none for the layout 'files', whose images have no names; give another")
        return self


class FolderVolumes(Frozen):
    """Volumes of any number of folders, taken together."""

    kind: Literal["folder"] = "folder"
    folders: tuple[VolumeFolder, ...] = Field(min_length=1)
    #: Preprocessed volumes; None keeps them in the run's folder.
    cache: Path | None = None
    #: Names of cases to leave out: those whose labels will test the fine-tuned network.
    exclude: tuple[str, ...] = ()
    #: Fraction of the volumes that may be unreadable: they are named and left out. Of more the run does not begin.
    unreadable: Annotated[float, Field(ge=0, le=0.5)] = 0.05


class ViewsConfig(Frozen):
    """The augmentations of eq. 2. Probabilities are per view and channel; 0 leaves one out."""

    #: Side of the window that both views are cut from, as a fraction of the largest part cut: above 1 they lie apart.
    window: Annotated[float, Field(ge=1)] = 1.0
    #: Magnification: a part of patch / zoom voxels becomes the view.
    zoom: PositiveRange = (0.8, 1.4)
    flip: Fraction = 0.5
    #: Axes (0 = Z, 1 = Y, 2 = X) that may be flipped.
    flip_axes: tuple[Literal[0, 1, 2], ...] = (0, 1, 2)
    blur: Fraction = 0.3
    blur_sigma: PositiveRange = (0.3, 1.0)
    #: Brightness: values times 1 + strength; contrast: distance from the mean times 1 + strength.
    brightness: Fraction = 0.5
    contrast: Fraction = 0.5
    strength: Range = (-0.3, 0.3)
    #: Intensity jitter: gamma and, independently, an offset in standard deviations of the tissue.
    jitter: Fraction = 0.5
    jitter_gamma: PositiveRange = (0.7, 1.5)
    jitter_offset: NonNegativeFloat = 0.2
    solarise: Fraction = 0.1
    noise: Fraction = 0.5
    noise_std: NonNegativeFloat = 0.15

    def window_zyx(self, patch_zyx: SizeZYX) -> SizeZYX:
        """Voxels (Z, Y, X) that views are cut from: enough for the largest part, with room to move it."""
        z, y, x = (math.ceil(side * self.window / min(1.0, self.zoom[0])) for side in patch_zyx)
        return z, y, x


class HeadConfig(Frozen):
    """The MLP of eqs. 7 and 8, one for each stage; K = prototypes.

    `prototypes`: DINO's head, two hidden layers, a bottleneck of unit length, cosines with K prototypes. `mlp`: the
    equations to the letter, one hidden layer and a linear map to K outputs of any size.
    """

    kind: Literal["prototypes", "mlp"] = "prototypes"
    hidden: PositiveInt = 512
    #: Of `prototypes` alone.
    bottleneck: PositiveInt = 128
    prototypes: Annotated[int, Field(ge=2)] = 1024
    #: Decay of the running statistics that standardise pooled vectors before the MLP; None leaves them as they are.
    standardise: Decay | None = 0.99


class CentringConfig(Frozen):
    """How the teacher's outputs are kept apart (eqs. 9 and 10)."""

    kind: Literal["running", "sinkhorn"] = "running"
    #: Decay of the running centre; DINO's 0.9 is for batches of a thousand.
    momentum: Decay = 0.99
    #: Earlier samples among which Sinkhorn-Knopp balances.
    queue: NonNegativeInt = 256


class TeacherConfig(Frozen):
    """Momentum of eq. 1 and temperatures; the defaults are DINO's."""

    #: m of eq. 1 at the first step; it rises to 1.
    momentum: Decay = 0.996
    #: τ of eqs. 9 and 10, at first and after so many steps. DINO's authors call more than 0.07 unstable.
    temperature: tuple[PositiveFloat, PositiveFloat] = (0.04, 0.04)
    warmup_steps: NonNegativeInt = 0
    #: Temperature of the student's softmax in eq. 12, 1 where the paper names none.
    student_temperature: PositiveFloat = 0.1


class ObjectiveConfig(Frozen):
    """Weights of the terms."""

    #: Eq. 12. Its gradient is that of the KL divergence: both differ by the teacher's entropy alone.
    cross_entropy: NonNegativeFloat = 1.0
    #: The MSE of section 2.4, between the student's and the teacher's distribution, summed over K.
    squared_error: NonNegativeFloat = 1.0
    #: The same MSE between the outputs themselves, before centring and softmax: the other reading of section 2.4.
    output_error: NonNegativeFloat = 0.0
    koleo: NonNegativeFloat = 0.0
    masked: NonNegativeFloat = 0.0
    #: Fraction of the cells that are masked in the first view, and the stage whose cells they are, from the deepest
    #: (-1).
    mask_ratio: Annotated[float, Field(gt=0, lt=1)] = 0.3
    mask_stage: Annotated[int, Field(le=-1)] = -2

    @model_validator(mode="after")
    def _some(self) -> "ObjectiveConfig":
        if self.cross_entropy + self.squared_error + self.output_error == 0:
            raise ValueError(
                "cross_entropy, squared_error and output_error are all 0; give at least one of them a weight"
            )
        return self


class HeldOutConfig(EvaluationConfig):
    """Volumes that never train: their loss decides on the best weights and, after the warm-up, on the end."""

    fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1
    #: At most so many volumes; those of one name, a head in several contrasts, count as one.
    volumes: Annotated[int, Field(ge=2)] = 32


class DistillationConfig(Frozen):
    """What 3D-SegSync alone has: self-distillation between two views, at every stage of the encoder."""

    #: `all`: features of every stage are trained (3D-SegSync). `bottom`: the loss sees the deepest alone.
    layers: Literal["all", "bottom"] = "all"
    views: ViewsConfig = ViewsConfig()
    head: HeadConfig = HeadConfig()
    centring: CentringConfig = CentringConfig()
    teacher: TeacherConfig = TeacherConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    #: Whose encoder is kept. The paper fine-tunes the student's; the teacher's is the mean of the last
    #: students, less noisy at every moment of a training (DINO, Caron et al. 2021, section 5.3), and what DINOv2 keeps.
    keep: Literal["teacher", "student"] = "teacher"
    #: Whether a run that has collapsed ends with an error; otherwise it warns and goes on.
    stop_on_collapse: bool = True


class PretrainConfig(DistillationConfig, TrainingConfig):
    """One run of self-supervised pretraining."""

    data: Annotated[
        Annotated[FolderVolumes | SyntheticData, Field(discriminator="kind")], BeforeValidator(kind_from_keys)
    ]
    patch_zyx: SizeZYX = (96, 96, 96)
    #: The pretext task: a name, or its settings with the name as `kind`.
    pretext: PretextConfig = SegSyncConfig()
    held_out: HeldOutConfig = HeldOutConfig()

    @field_validator("pretext", mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        return {"kind": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _consistent(self) -> "PretrainConfig":
        check_spacing(self.spacing_zyx, self.data)
        names = [channel.name for channel in self.channels]
        if any(channel.scalar is not None for channel in self.channels):
            raise ValueError("channels: expected images to pretrain on, found a number; numbers join in fine-tuning")
        for part in self.data.folders if isinstance(self.data, FolderVolumes) else ():
            for name in part.channels:
                if name not in names:
                    raise ValueError(
                        f"data.folders: {part.folder}: channels: expected a channel of the model ({', '.join(names)}), "
                        f"found {name!r}"
                    )
        if self.pretext.kind != "segsync":
            for name in DistillationConfig.model_fields:
                if getattr(self, name) != type(self).model_fields[name].default:
                    raise ValueError(
                        f"{name} belongs to the pretext 'segsync', found {self.pretext.kind!r}; leave it out"
                    )
        if self.pretext.kind in ("swinssl", "swinmm") and self.batch < 2:
            raise ValueError(
                f"the pretext {self.pretext.kind!r} compares the samples of a batch; give a batch of 2 or more"
            )
        if self.objective.koleo and self.batch < 2:
            raise ValueError("objective.koleo compares the samples of a batch; give a batch of 2 or more, or koleo 0")
        if self.layers == "bottom" and self.objective.masked and self.objective.mask_stage != -1:
            raise ValueError("layers 'bottom' trains the deepest stage alone; set objective.mask_stage to -1")
        return self

    @property
    def outputs(self) -> int:
        """Channels of the network's output, of which pretraining keeps none: background and one label."""
        return 2

    @property
    def window_zyx(self) -> SizeZYX:
        """Voxels (Z, Y, X) of a volume that a step sees."""
        if self.pretext.kind == "segsync":
            return self.views.window_zyx(self.patch_zyx)
        return self.pretext.window_zyx(self.patch_zyx)

    def case_spec(self, normalisation: ZScore | Fixed | None = None) -> CaseSpec:
        """What the run's prepared volumes depend on.

        Args:
            normalisation: Of the volumes' folder, in place of the channels' own.

        Returns:
            Channels and grid; no labels.
        """
        changed = {} if normalisation is None else {"normalisation": normalisation}
        channels = tuple(channel.model_copy(update=changed) for channel in self.channels)
        return CaseSpec(**{**dict(self.preprocessing), "channels": channels})
