"""What every training is given: channels and grid, network, optimisation, where it computes, how often it tells.

`pretrain` and `finetune` add what is their own (`PretrainConfig`, `RunConfig`). Sizes and spacings are in array order
(Z, Y, X), as in `segsync.bundle.ModelSpec`, which `export` fills from here.
"""

from typing import Annotated, Any, Literal, Protocol

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from segsync.bundle import ChannelSpec, PreprocessingSpec
from segsync_train.config.ranges import Fraction
from segsync_train.config.settings import Frozen

Decay = Annotated[float, Field(ge=0, lt=1)]
#: What NumPy's and torch's generators take alike.
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Triple = tuple[PositiveFloat, PositiveFloat, PositiveFloat]
SizeZYX = tuple[PositiveInt, PositiveInt, PositiveInt]
Amp = Literal["auto", "bf16", "fp16", "off"]


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


class EvaluationConfig(Frozen):
    """How often a training is evaluated, and when one that no longer improves ends."""

    #: Steps between evaluations.
    every: PositiveInt = 250
    #: Evaluations that find nothing better, after which the run ends; None never ends early.
    patience: PositiveInt | None = None


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


class TrainingConfig(Frozen):
    """What pretraining and fine-tuning have in common."""

    name: str
    #: A task of `segsync.tasks`, for synthetic data and exported weights; any name for data of one's own.
    task: str
    channels: tuple[ChannelSpec, ...] = Field(min_length=1)
    #: The channel whose field of view the model's grid covers; None takes the first.
    reference: str | None = None
    spacing_zyx: Triple
    patch_zyx: SizeZYX
    network: NetworkConfig = NetworkConfig()
    #: Patches in a batch, per process; of a pretraining volumes, each of which may give two views.
    batch: PositiveInt = 2
    steps: PositiveInt
    optimiser: OptimiserConfig = OptimiserConfig()
    seed: Seed = 0
    device: str = "auto"
    #: Mixed precision: `auto` is bfloat16 on a GPU that has it, else float16, and float32 on a CPU. `bf16` is worth
    #: asking for on a CPU with AMX: steps of `tiny` took 0.46 of the time, of `compact` 0.42 (flat patches are refused
    #: there).
    amp: Amp = "auto"
    #: torch.compile: worth its minutes on long GPU runs.
    compile: bool = False
    #: Processes that prepare patches; 0 prepares them between the steps.
    workers: NonNegativeInt = 2
    checkpoint_every: PositiveInt = 250
    log_every: PositiveInt = 20

    @model_validator(mode="after")
    def _channels_fit(self) -> "TrainingConfig":
        names = [channel.name for channel in self.channels]
        if len(set(names)) != len(names):
            raise ValueError(f"channels: expected different names, found {', '.join(names)}")
        if self.reference is not None and self.reference not in names:
            raise ValueError(f"reference {self.reference!r} is not among the channels {', '.join(names)}")
        reference = next(channel for channel in self.channels if channel.name == self.reference_channel)
        if reference.optional or reference.scalar is not None:
            raise ValueError(f"the reference channel {self.reference_channel!r} cannot be optional, nor a number")
        return self

    @property
    def reference_channel(self) -> str:
        """Name of the channel that the model's grid follows."""
        return self.reference or self.channels[0].name

    @property
    def preprocessing(self) -> PreprocessingSpec:
        """What preprocessing needs of the training."""
        return PreprocessingSpec(channels=self.channels, reference=self.reference, spacing_zyx=self.spacing_zyx)
