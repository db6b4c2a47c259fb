"""The loop of `pretrain` and `finetune`: steps, log, evaluations, checkpoints; stopped or killed, a run goes on.

Everything random in a step is a function of (seed, step), nothing of the global generators: a run that was killed goes
on from its last checkpoint to the same weights (bit for bit on one CPU with as many threads; to rounding on GPUs, whose
reductions have no fixed order). What the two differ in is a `Learner`.
"""

import logging
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from segsync.errors import SegsyncError
from segsync_train.config.training import EvaluationConfig, TrainingConfig
from segsync_train.data.loader import batches
from segsync_train.data.patches import Batch, PatchDataset
from segsync_train.runs.checkpoints import (
    Checkpoint,
    load_optimiser,
    optimiser_tensors,
    save_checkpoint,
    seed_everything,
)
from segsync_train.runs.devices import (
    Processes,
    autocast,
    hardware,
    memory_of_training,
    peak_memory_mib,
    processes,
    reset_peak_memory,
    training_amp_dtype,
    training_device,
)
from segsync_train.runs.folder import RunFolder, commit
from segsync_train.runs.progress import StepProgress
from segsync_train.trainer.schedule import Pace, learning_rate, make_optimiser, set_learning_rate

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """How a run stands when it returns.

    Attributes:
        folder: Of the run.
        step: The last that was done.
        best: Score or loss of the best weights; None where no evaluation has found any yet.
        finished: Whether all steps are done, or the run no longer improves; otherwise it was stopped in between.
    """

    folder: Path
    step: int
    best: float | None
    finished: bool


@dataclass(frozen=True)
class Context:
    """Where a training runs: its folder, its device, its mixed precision, and the processes that share it."""

    run: RunFolder
    device: torch.device
    dtype: torch.dtype | None
    group: Processes

    def autocast(self) -> AbstractContextManager[object]:
        """The precision in which the network is called."""
        return autocast(self.dtype, self.device)


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found.

    Attributes:
        value: The score or loss that decides.
        better: Whether the weights are the best so far.
        record: What the log gets besides, by name.
    """

    value: float
    better: bool
    record: Mapping[str, Any]


class Learner(ABC):
    """What pretraining and fine-tuning differ in: network and data, the loss of a batch, and which weights are best.

    Made from the run's settings, a `Context`, and the checkpoint that it goes on from, if there is one.
    """

    #: What checkpoints call the training.
    kind: ClassVar[str]
    #: What decides on the best weights, in the words of the progress bar.
    criterion: ClassVar[str]
    #: What the optimiser changes, and the pace of parameters that do not follow the run's learning rate, by name.
    trained: nn.Module
    paces: Mapping[str, Pace]
    #: How often it is evaluated, and when the run gives up.
    schedule: EvaluationConfig

    @abstractmethod
    def dataset(self) -> PatchDataset:
        """The batches of this process, one a step."""

    @abstractmethod
    def losses(self, batch: Batch, step: int) -> Mapping[str, Tensor]:
        """`loss`, which training lowers, and for the log what it is made of, without gradients.

        Args:
            batch: On the device.
            step: From 0.
        """

    def after_step(self, step: int) -> None:  # noqa: B027 (nothing follows it in every training)
        """What follows the optimiser's step (from 0), such as a moving average of the weights."""

    def watch(self, step: int) -> None:  # noqa: B027 (nor is every one watched)
        """Called as often as the log is due; raises SegsyncError to end the run."""

    @abstractmethod
    def evaluate(self, step: int, best: float | None) -> Evaluation:
        """Judge the weights after so many steps; `best` is the value of the best so far. Every process is asked."""

    @abstractmethod
    def weights(self) -> dict[str, Tensor]:
        """What the checkpoint of the best weights keeps."""

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """What the newest checkpoint keeps: all that the next step depends on, apart from the optimiser."""

    def state(self) -> dict[str, Any]:
        """What checkpoints keep besides, as JSON has it."""
        return {}


def train(
    config: TrainingConfig,
    folder: Path,
    learner_of: Callable[[Context, Checkpoint | None], Learner],
    *,
    resume: bool,
    should_stop: Callable[[], bool],
) -> Outcome:
    """Train, evaluate, and keep the newest and the best weights in `folder`.

    Args:
        config: The settings.
        folder: Of the run.
        learner_of: Makes what is trained, before the folder holds a run.
        resume: Whether the run that the folder holds goes on (`runs.folder.MAY_CHANGE` says what may change).
        should_stop: Asked after every step; a run that is stopped writes a checkpoint first.

    Returns:
        How the run stands.

    Raises:
        InputError: Bad data, settings of another run, or a folder that holds one already.
        WeightsError: The checkpoint is of another network.
        OutputError: The disk is full, or the folder cannot be written.
        ResourceError: Memory has ended, or the device is missing.
        SegsyncError: The loss is no number, or the learner ends the run.
    """
    with processes(config.device) as group, RunFolder(folder, main=group.main) as run:
        # A function of its own: at the block's end nothing of it may hold on to the processes.
        return _train(config, run, group, learner_of, resume, should_stop)


def _train(
    config: TrainingConfig,
    run: RunFolder,
    group: Processes,
    learner_of: Callable[[Context, Checkpoint | None], Learner],
    resume: bool,
    should_stop: Callable[[], bool],
) -> Outcome:
    if resume:
        run.check_unchanged(config)
    else:
        run.check_new()
    device = training_device(config.device, group)
    reset_peak_memory(device)
    seed_everything(config.seed)
    checkpoint = run.newest(config.checkpoint_every) if resume else None
    context = Context(run, device, training_amp_dtype(config.amp, device, config.patch_zyx), group)
    loop = _Loop(config, context, learner_of(context, checkpoint), checkpoint)
    if resume:
        run.reopen(config, loop.step)
    else:
        run.create(config)
    with memory_of_training(lambda: f"{device}, step {loop.step}, batch {config.batch}, patches of {config.patch_zyx}"):
        return loop.run_to_end(should_stop)


class _Loop:
    """One run under way; its whole state is the learner's, `optimiser`, `scaler` and the four numbers below."""

    def __init__(
        self, config: TrainingConfig, context: Context, learner: Learner, checkpoint: Checkpoint | None
    ) -> None:
        self.config, self.context, self.learner = config, context, learner
        self.run, self.device, self.group = context.run, context.device, context.group
        self.step, self.waited, self.hours = 0, 0, 0.0
        self.best: float | None = None
        self.commit = commit()
        self.optimiser = make_optimiser(config.optimiser, learner.trained, learner.paces)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=context.dtype is torch.float16)
        if checkpoint is not None:
            self._restore(checkpoint)
        self._losses: list[Mapping[str, Tensor]] = []
        self._clock = time.monotonic()

    def run_to_end(self, should_stop: Callable[[], bool]) -> Outcome:
        config, every = self.config, self.learner.schedule.every
        dataset = self.learner.dataset()
        finished = self.step >= config.steps or self._given_up()
        with StepProgress(config.name, config.steps, self.step, quiet=not self.group.main) as progress:
            for batch in batches(dataset, self.step, config.workers, self.device) if not finished else ():
                self._train_step(batch)
                last, stop = self.step == config.steps, self.group.any(should_stop(), self.device)
                saving = last or stop or self.step % config.checkpoint_every == 0
                evaluating = last or self.step % every == 0
                if saving or evaluating or self.step % config.log_every == 0:
                    self._log()
                # Not where the run happens to be stopped, so that an unbroken run sees the same.
                if self.step % config.log_every == 0:
                    self.learner.watch(self.step)
                if evaluating:
                    self._evaluate()
                finished = last or self._given_up()
                if saving or finished:
                    self._save()
                progress.advance("" if self.best is None else f"{self.learner.criterion} {self.best:.3f}")
                if finished or stop:
                    break
        return Outcome(self.run.folder, self.step, self.best, finished)

    def _train_step(self, batch: Batch) -> None:
        rate = learning_rate(self.config.optimiser, self.step, self.config.steps)
        set_learning_rate(self.optimiser, rate, self.step)
        losses = self.learner.losses(batch, self.step)
        self.optimiser.zero_grad(set_to_none=True)
        self.scaler.scale(losses["loss"]).backward()  # type: ignore[no-untyped-call]
        self.scaler.unscale_(self.optimiser)
        nn.utils.clip_grad_norm_(self.learner.trained.parameters(), self.config.optimiser.clip)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.learner.after_step(self.step)
        self._losses.append({name: value.detach() for name, value in losses.items()})
        self.step += 1

    def _log(self) -> None:
        values = torch.stack([torch.stack(list(losses.values())) for losses in self._losses]).mean(0)
        means = dict(zip(self._losses[0], self.group.mean(values).tolist(), strict=True))
        if not math.isfinite(means["loss"]):
            raise SegsyncError(
                f"{self.run.folder}: the loss is {means['loss']} at step {self.step}; lower optimiser.lr or set "
                "amp: off, and --resume from the last checkpoint"
            )
        now = time.monotonic()
        machine = {
            "lr": learning_rate(self.config.optimiser, self.step - 1, self.config.steps),
            "steps_per_second": len(self._losses) / max(now - self._clock, 1e-9),
            "peak_memory_mib": peak_memory_mib(self.device),
        }
        self.run.record(self.step, {f"train/{name}": value for name, value in (means | machine).items()})
        self.hours += (now - self._clock) / 3600
        self._losses, self._clock = [], now

    def _evaluate(self) -> None:
        """Have the weights judged, and keep the best."""
        found = self.learner.evaluate(self.step, self.best)
        self.run.record(self.step, found.record)
        said = [f"{name} {value:.3f}" for name, value in found.record.items() if isinstance(value, float)]
        log.info("step %d: %s", self.step, ", ".join(said))
        self.waited += 1
        if found.better:
            self.best, self.waited = found.value, 0
            if self.group.main:
                save_checkpoint(self.run.best, self.learner.weights(), self._state())
        # No step is charged with the evaluation's time.
        self._clock = time.monotonic()

    def _given_up(self) -> bool:
        patience = self.learner.schedule.patience
        return patience is not None and self.waited >= patience

    def _state(self) -> dict[str, Any]:
        return {
            "kind": self.learner.kind,
            "config": self.config.model_dump(mode="json"),
            "step": self.step,
            "best": self.best,
            "waited": self.waited,
            "hours": self.hours,
            "commit": self.commit,
            "hardware": hardware(self.device),
            **self.learner.state(),
        }

    def _save(self) -> None:
        """Everything that the next step depends on."""
        if self.group.main:
            tensors = self.learner.tensors() | optimiser_tensors(self.optimiser)
            save_checkpoint(self.run.last, tensors, {**self._state(), "scaler": self.scaler.state_dict()})

    def _restore(self, checkpoint: Checkpoint) -> None:
        load_optimiser(self.optimiser, checkpoint.part("optimiser"))
        if checkpoint.state["scaler"]:
            self.scaler.load_state_dict(checkpoint.state["scaler"])
        self.step, self.best, self.waited, self.hours = (
            checkpoint.state[key] for key in ("step", "best", "waited", "hours")
        )
        log.info("going on after step %d", self.step)
