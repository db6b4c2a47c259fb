"""What the loop of `segsync_train.trainer.pretrain` needs of a pretext task, whatever the task is.

A pretext is a module that holds the encoder, what it puts on top, and the loss. The loop draws windows, asks `inputs`
for everything random, calls the module, lowers `loss`, calls `after_step`, and keeps `encoder` for fine-tuning.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn

#: First words of the seeds of what is drawn for one volume, in training and held out.
TRAINING, HELD_OUT = 31, 32


@dataclass(frozen=True)
class Draws:
    """Generators for the samples of one batch: functions of the seed, the step and the place in the batch alone."""

    seed: int
    #: The step, or of held-out volumes the batch.
    number: int
    #: Places of this process's samples in the batch of all processes.
    places: range
    held_out: bool = False

    def __call__(self, purpose: int) -> list[np.random.Generator]:
        """One generator for each sample; every purpose of a pretext (first view, second, masks, …) has its own."""
        word = HELD_OUT if self.held_out else TRAINING
        return [np.random.default_rng([word, self.seed, self.number, place, purpose]) for place in self.places]


@dataclass(frozen=True)
class StepOutput:
    """What one batch gave.

    Attributes:
        loss: What training lowers.
        terms: What it is made of, without gradients, for the log.
        held_out: Of held-out volumes, what decides on the best weights where it is not the loss.
        features: The deepest stage's pooled vectors (2n, D), first views, then second, of a pretext that has two views.
    """

    loss: Tensor
    terms: Mapping[str, Tensor]
    held_out: Tensor | None = None
    features: Tensor | None = None


class Pretext(nn.Module, ABC):
    """A pretext task on an encoder. Its forward takes what `inputs` gives and returns a StepOutput."""

    #: The submodule that checkpoints hold as `encoder/…` and fine-tuning takes over.
    kept: str = "encoder"

    @property
    def trained(self) -> nn.Module:
        """What the optimiser changes."""
        return self

    def new_monitor(self) -> "Monitor | None":
        """What watches for collapse, where the loss has a solution that tells nothing of the input."""
        return None

    @abstractmethod
    def inputs(self, windows: Tensor, draws: Draws, step: int) -> tuple[Any, ...]:
        """Arguments of forward for windows (n, C, Z, Y, X): all that is random, and what depends on the step."""

    def after_step(self, step: int) -> None:
        """What follows the optimiser's step (from 0), such as the moving average of a teacher."""

    def settled(self, step: int) -> bool:
        """Whether held-out losses after so many steps compare with later ones; until then the newest is the best."""
        return True


class Monitor(nn.Module, ABC):
    """Watches a pretext: its buffers are part of the run's state."""

    @property
    @abstractmethod
    def suspicious(self) -> bool:
        """Whether the last check saw any sign of collapse: such weights are never the best."""

    @abstractmethod
    def update(self, output: Any) -> None:
        """Take in one training step's output; nothing is read back from the device."""

    @abstractmethod
    def watch(self) -> tuple[dict[str, float], str | None]:
        """Values for the log, and the collapse in one line, if there is one."""
