"""Supervised training of the xLSTM-UNet, from scratch or from a pretrained encoder: the loop, in one sitting.

Everything random in a step is a function of (seed, step): a run that was killed goes on from its last checkpoint to the
same weights (bit for bit on one CPU with as many threads; to rounding on GPUs, whose reductions have no fixed order).
"""

import logging
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from segsync.errors import SegsyncError
from segsync_train.config.run import FolderData, RunConfig
from segsync_train.data.augment import Augmentation
from segsync_train.data.loader import batches
from segsync_train.data.patches import Batch, FolderSource, PatchDataset
from segsync_train.data.sources import Data, open_data
from segsync_train.data.splits import SPLIT_FILE, write_split
from segsync_train.networks import SegmentationNetwork
from segsync_train.networks.build import build_network
from segsync_train.runs.checkpoints import (
    Checkpoint,
    load_network,
    load_optimiser,
    optimiser_tensors,
    save_checkpoint,
    seed_everything,
)
from segsync_train.runs.devices import (
    Processes,
    amp_dtype,
    autocast,
    hardware,
    memory_of_training,
    peak_memory_mib,
    processes,
    reset_peak_memory,
    training_device,
)
from segsync_train.runs.folder import RunFolder, commit
from segsync_train.runs.progress import StepProgress
from segsync_train.trainer.figures import save_overlay
from segsync_train.trainer.freezing import freeze
from segsync_train.trainer.losses import SegmentationLoss
from segsync_train.trainer.predictor import torch_pipeline
from segsync_train.trainer.schedule import learning_rate, make_optimiser, set_learning_rate
from segsync_train.trainer.transfer import Inherited, transfer
from segsync_train.trainer.validation import CaseScore, labels_in_none, summary, validate

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """How a run stands when it returns: finished (all steps, or no longer improving), or stopped in between."""

    folder: Path
    step: int
    best_score: float
    finished: bool


def finetune(
    config: RunConfig, folder: Path, *, resume: bool = False, should_stop: Callable[[], bool] = lambda: False
) -> Outcome:
    """Train, validate, keep the last and the best weights in `folder`.

    resume: go on with the run that the folder holds (`runs.MAY_CHANGE` says what may change). should_stop: asked after
    every step; a run that is stopped writes a checkpoint first. Raises InputError for bad cases and for settings of
    another run, WeightsError for a checkpoint of another network, OutputError where the disk is full, ResourceError
    where memory ends, SegsyncError where the loss is no number.
    """
    with processes(config.device) as group, RunFolder(folder, main=group.main) as run:
        return _run(config, run, group, resume, should_stop)


def _run(config: RunConfig, run: RunFolder, group: Processes, resume: bool, should_stop: Callable[[], bool]) -> Outcome:
    if resume:
        run.check_unchanged(config)
    device = training_device(config.device, group)
    reset_peak_memory(device)
    seed_everything(config.seed)
    # oneDNN's and cuDNN's 3D convolutions are two to four times faster with channels innermost.
    network = build_network(config).to(device, memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    checkpoint = run.newest(config.checkpoint_every) if resume else None
    inherited = transfer(network, config.transfer, config) if checkpoint is None else None
    data = open_data(config, run.folder, group)
    if resume:
        run.reopen(config, 0 if checkpoint is None else checkpoint.state["step"])
    else:
        if group.main and not run.begun and data.split is not None and isinstance(config.data, FolderData):
            write_split(data.split, config.data.group, run.folder / SPLIT_FILE)
        run.create(config)
    if group.main:
        _warn_of_labels(data, config)
    training = _FineTuning(config, run, data, network, device, group, inherited, checkpoint)
    with memory_of_training(lambda: f"{device}, step {training.step}, {config.batch} patches of {config.patch_zyx}"):
        return training.run_to_end(should_stop)


def _warn_of_labels(data: Data, config: RunConfig) -> None:
    """Say which labels nothing is learned of, or nothing is known of afterwards."""
    if isinstance(data.source, FolderSource):
        count = len(data.source.cases)
        for value, name in labels_in_none(data.source.cases, config.labels).items():
            log.warning(
                "label %d (%s): none of the %d training cases holds it, so that it is never learned; check labels, or "
                "train on other cases (another fold, more labelled)", value, name, count,
            )  # fmt: skip
    for value, name in labels_in_none(data.validation, config.labels).items():
        log.warning(
            "label %d (%s): none of the %d validation cases holds it, so that its Dice tells nothing; check labels, or "
            "validate on other cases", value, name, len(data.validation),
        )  # fmt: skip


class _FineTuning:
    """One run under way; its whole state is `network`, `ema`, `optimiser`, `scaler` and the four numbers below."""

    def __init__(
        self,
        config: RunConfig,
        run: RunFolder,
        data: Data,
        network: SegmentationNetwork,
        device: torch.device,
        group: Processes,
        inherited: Inherited | None,
        checkpoint: Checkpoint | None,
    ) -> None:
        self.config, self.run, self.data, self.network = config, run, data, network
        self.device, self.group = device, group
        self.commit = commit()
        self.step, self.best, self.waited, self.hours = 0, -math.inf, 0, 0.0
        self.inherited = inherited or Inherited(**checkpoint.state["inherited"])  # type: ignore[union-attr]
        paces = freeze(network, config.transfer, self.inherited.factors)
        self.optimiser = make_optimiser(config.optimiser, network, paces)
        self.dtype = amp_dtype(config.amp, device)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.dtype is torch.float16)
        self.ema: AveragedModel | None = None
        if config.ema is not None:
            average = get_ema_multi_avg_fn(config.ema)  # type: ignore[no-untyped-call]
            self.ema = AveragedModel(network, multi_avg_fn=average)
        self.loss = SegmentationLoss(config.loss)
        if checkpoint is not None:
            self._restore(checkpoint)
        self.forward: Callable[[Tensor], list[Tensor]] = self._wrapped(network)
        self._losses: list[Tensor] = []
        self._clock = time.monotonic()

    def _wrapped(self, network: nn.Module) -> nn.Module:
        """The network as it is called in training: averaged over processes, compiled."""
        if self.group.count > 1:
            network = DistributedDataParallel(network)
        return torch.compile(network) if self.config.compile else network  # type: ignore[return-value]

    def run_to_end(self, should_stop: Callable[[], bool]) -> Outcome:
        config = self.config
        dataset = PatchDataset(
            self.data.source,
            Augmentation(config.augmentation, config.patch_zyx, config.mirror_axes, self.data.optional),
            batch=config.batch,
            steps=config.steps,
            foreground=config.foreground,
            seed=config.seed,
            rank=self.group.rank,
            processes=self.group.count,
            regions=config.loss.lesion > 0,
        )
        self.network.train()
        finished = self.step >= config.steps or self._given_up()
        with StepProgress(config.name, config.steps, self.step, quiet=not self.group.main) as progress:
            for batch in batches(dataset, self.step, config.workers, self.device) if not finished else ():
                self._train_step(batch)
                last, stop = self.step == config.steps, self.group.any(should_stop(), self.device)
                saving = last or stop or self.step % config.checkpoint_every == 0
                validating = last or self.step % config.validation.every == 0
                if saving or validating or self.step % config.log_every == 0:
                    self._log()
                if validating:
                    self._validate()
                finished = last or self._given_up()
                if saving or finished:
                    self._save()
                progress.advance(f"best {self.best:.3f}" if self.best > -math.inf else "")
                if finished or stop:
                    break
        return Outcome(self.run.folder, self.step, self.best, finished)

    def _train_step(self, batch: Batch) -> None:
        rate = learning_rate(self.config.optimiser, self.step, self.config.steps)
        set_learning_rate(self.optimiser, rate, self.step)
        with autocast(self.dtype, self.device):
            outputs = self.forward(batch["image"].to(memory_format=torch.channels_last_3d))
        loss = self.loss(outputs, batch["label"], batch.get("regions"))
        self.optimiser.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimiser)
        nn.utils.clip_grad_norm_(self.network.parameters(), self.config.optimiser.clip)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        if self.ema is not None:
            self.ema.update_parameters(self.network)
        self._losses.append(loss.detach())
        self.step += 1

    def _log(self) -> None:
        loss = float(self.group.mean(torch.stack(self._losses).mean()))
        if not math.isfinite(loss):
            raise SegsyncError(
                f"{self.run.folder}: the loss is {loss} at step {self.step}; lower optimiser.lr or set amp: off, and "
                "--resume from the last checkpoint"
            )
        now = time.monotonic()
        values = {
            "train/loss": loss,
            "train/lr": learning_rate(self.config.optimiser, self.step - 1, self.config.steps),
            "train/steps_per_second": len(self._losses) / max(now - self._clock, 1e-9),
            "train/peak_memory_mib": peak_memory_mib(self.device),
        }
        self.run.record(self.step, values)
        self.hours += (now - self._clock) / 3600
        self._losses, self._clock = [], now

    def _validate(self) -> None:
        """Score this process's part of the cases, keep the best weights, draw the first cases."""
        config = self.config
        network = self.network if self.ema is None else cast(SegmentationNetwork, self.ema.module)
        pipeline = torch_pipeline(config, network, self.device)
        mine = range(self.group.rank, len(self.data.validation), self.group.count)
        scores: list[CaseScore] = []
        cases = [self.data.validation[index] for index in mine]
        found = validate(network, cases, pipeline, config.validation.overlap)
        for index, (case, predicted, score) in zip(mine, found, strict=True):
            scores.append(score)
            if index < config.validation.overlays:
                save_overlay(case, predicted, self.run.figures / f"step-{self.step:06d}" / f"{case.name}.png")
        scores = sorted(self.group.gather(scores), key=lambda score: score.name)
        means = summary(scores)
        self.run.record(self.step, {**means, "validation/cases": [asdict(score) for score in scores]})
        log.info("step %d: %s", self.step, ", ".join(f"{k.split('/')[1]} {v:.3f}" for k, v in means.items()))
        self.waited += 1
        if means["validation/score"] > self.best:
            self.best, self.waited = means["validation/score"], 0
            if self.group.main:
                save_checkpoint(self.run.best, _named("network", network.state_dict()), self._state())
        self._clock = time.monotonic()

    def _given_up(self) -> bool:
        patience = self.config.validation.patience
        return patience is not None and self.waited >= patience

    def _state(self) -> dict[str, Any]:
        return {
            "kind": "finetune",
            "config": self.config.model_dump(mode="json"),
            "step": self.step,
            "best": self.best if math.isfinite(self.best) else None,
            "waited": self.waited,
            "hours": self.hours,
            "inherited": asdict(self.inherited),
            "commit": self.commit,
            "hardware": hardware(self.device),
        }

    def _save(self) -> None:
        """Everything that the next step depends on."""
        if not self.group.main:
            return
        tensors = _named("network", self.network.state_dict()) | optimiser_tensors(self.optimiser)
        if self.ema is not None:
            tensors |= _named("ema", self.ema.state_dict())
        state = {**self._state(), "scaler": self.scaler.state_dict()}
        save_checkpoint(self.run.last, tensors, state)

    def _restore(self, checkpoint: Checkpoint) -> None:
        load_network(self.network, checkpoint.part("network"), checkpoint.path)
        load_optimiser(self.optimiser, checkpoint.part("optimiser"))
        if self.ema is not None:
            self.ema.load_state_dict(checkpoint.part("ema"))
        if checkpoint.state["scaler"]:
            self.scaler.load_state_dict(checkpoint.state["scaler"])
        self.step, self.waited, self.hours = (checkpoint.state[key] for key in ("step", "waited", "hours"))
        self.best = -math.inf if checkpoint.state["best"] is None else checkpoint.state["best"]
        log.info("going on after step %d", self.step)


def _named(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}/{name}": tensor for name, tensor in tensors.items()}
