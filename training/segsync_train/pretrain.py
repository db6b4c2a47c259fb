"""Self-supervised pretraining of the encoder (Appendix C of the paper): the loop, in one sitting.

Everything random in a step is a function of (seed, step), nothing of the global generators: a run that was killed goes
on from its last checkpoint to the same weights (bit for bit on one CPU; to rounding on GPUs, whose reductions have no
fixed order).

Checkpoints hold the teacher's encoder as `encoder/…`, which `transfer` of a fine-tuning reads. The paper says the
student's; but the teacher is the mean of the last students, so less noisy, better at every moment of a training (DINO,
Caron et al. 2021, section 5.3), what DINOv2 gives away, and what the monitors here have watched.
"""

import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from segsync.errors import InputError, ResourceError, SegsyncError
from segsync_train.checkpoints import (
    Checkpoint,
    load_checkpoint,
    load_network,
    load_optimiser,
    optimiser_tensors,
    save_checkpoint,
    seed_everything,
)
from segsync_train.data.loader import batches
from segsync_train.data.patches import Batch
from segsync_train.devices import Processes, amp_dtype, autocast, hardware, processes, training_device
from segsync_train.model import build_network
from segsync_train.networks.xlstm_unet import Encoder, XLSTMUNet
from segsync_train.progress import StepProgress
from segsync_train.runs import RunFolder, commit
from segsync_train.schedule import learning_rate, make_optimiser, set_learning_rate
from segsync_train.ssl.config import PretrainConfig
from segsync_train.ssl.masked import draw_masks
from segsync_train.ssl.monitors import CollapseMonitor, Reading, knn_probe, rank_me
from segsync_train.ssl.schedules import teacher_momentum, teacher_temperature
from segsync_train.ssl.segsync import SegSync, StepOutput, update_teacher
from segsync_train.ssl.views import Views
from segsync_train.ssl.volumes import Volumes, open_volumes, windows_held_out, windows_to_train

log = logging.getLogger(__name__)

#: First words of the seeds of what is drawn for one volume: views in training, views held out, masks.
TRAINING, HELD_OUT, MASK = 31, 32, 33
#: Where the teacher's encoder stands in a `SegSync`, and in a checkpoint.
TEACHER, ENCODER = "teacher.encoder.", "encoder/"


@dataclass(frozen=True)
class Outcome:
    """How a run stands when it returns: finished (all steps, or no longer improving), or stopped in between."""

    folder: Path
    step: int
    best_loss: float
    finished: bool


def pretrain(
    config: PretrainConfig, folder: Path, *, resume: bool = False, should_stop: Callable[[], bool] = lambda: False
) -> Outcome:
    """Train, watch for collapse, keep the last state and the encoder with the lowest held-out loss in `folder`.

    resume: go on with the run that the folder holds. should_stop: asked after every step; a run that is stopped writes
    a checkpoint first. Raises InputError for bad volumes, WeightsError for a checkpoint of another network, OutputError
    where the disk is full, ResourceError where memory ends, SegsyncError where the loss is no number or the features
    have collapsed.
    """
    with processes(config.device) as group, RunFolder(folder, main=group.main) as run:
        device = training_device(config.device, group)
        seed_everything(config.seed)
        # oneDNN's and cuDNN's 3D convolutions are two to four times faster with channels innermost.
        model = SegSync(build_encoder(config), config, group).to(device, memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        checkpoint = load_checkpoint(run.last) if resume else None
        volumes = open_volumes(config, run.folder, group)
        if checkpoint is None:
            run.create(config)
        else:
            run.reopen(config, checkpoint.state["step"])
        training = _Pretraining(config, run, volumes, model, device, group, checkpoint)
        try:
            return training.run_to_end(should_stop)
        except torch.OutOfMemoryError as error:
            raise ResourceError(
                f"{device}: out of memory at step {training.step} with {config.batch} volumes of two views of "
                f"{config.patch_zyx}; set a smaller batch or patch_zyx, or amp: auto"
            ) from error


def build_encoder(config: PretrainConfig) -> Encoder:
    """The encoder with fresh weights; raises InputError where the settings ask for one that cannot be pretrained."""
    network = build_network(config.as_run())
    if not isinstance(network, XLSTMUNet):
        raise InputError(
            f"network.preset: expected an xLSTM-UNet, whose encoder is pretrained, found {config.network.preset!r}"
        )
    stages, masked = len(network.encoder.stages), config.objective.mask_stage
    if config.objective.masked and masked < -stages:
        raise InputError(f"objective.mask_stage: expected -1 to -{stages}, the network's stages, found {masked}")
    return network.encoder


class _Pretraining:
    """One run under way; its whole state is `model`, `monitor`, `optimiser`, `scaler` and the four numbers below."""

    def __init__(
        self,
        config: PretrainConfig,
        run: RunFolder,
        volumes: Volumes,
        model: SegSync,
        device: torch.device,
        group: Processes,
        checkpoint: Checkpoint | None,
    ) -> None:
        self.config, self.run, self.volumes, self.model = config, run, volumes, model
        self.device, self.group = device, group
        self.commit = commit()
        self.step, self.best, self.waited, self.hours = 0, math.inf, 0, 0.0
        self.collapsed = False
        self.views = Views(config.views, config.patch_zyx)
        encoder = model.student.encoder.config
        self.mask_grid = _grid_at(config.patch_zyx, encoder.strides_zyx, config.objective.mask_stage)
        widths = {int(stage): encoder.widths[int(stage)] for stage in model.student.heads}
        self.monitor = CollapseMonitor(widths, config.head.prototypes).to(device)
        self.optimiser = make_optimiser(config.optimiser, model.student)
        self.dtype = amp_dtype(config.amp, device)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.dtype is torch.float16)
        if checkpoint is not None:
            self._restore(checkpoint)
        if config.compile:
            model.student.encoder.compile()
            model.teacher.encoder.compile()
        self.forward: Callable[..., StepOutput] = DistributedDataParallel(model) if group.count > 1 else model
        self._logged: list[Tensor] = []
        self._clock = time.monotonic()

    def run_to_end(self, should_stop: Callable[[], bool]) -> Outcome:
        config = self.config
        dataset = windows_to_train(config, self.volumes.source, self.group)
        self.model.train()
        finished = self.step >= config.steps or self._given_up()
        with StepProgress(config.name, config.steps, self.step, quiet=not self.group.main) as progress:
            for batch in batches(dataset, self.step, config.workers, self.device) if not finished else ():
                self._train_step(batch)
                last, stop = self.step == config.steps, self.group.any(should_stop(), self.device)
                saving = last or stop or self.step % config.checkpoint_every == 0
                if saving or self.step % config.log_every == 0:
                    self._log()
                # Not where the run happens to be stopped, so that an unbroken run counts the same signs.
                if self.step % config.log_every == 0:
                    self._watch()
                if last or self.step % config.held_out.every == 0:
                    self._evaluate()
                finished = last or self._given_up()
                if saving or finished:
                    self._save()
                progress.advance(f"held-out loss {self.best:.3f}" if math.isfinite(self.best) else "")
                if finished or stop:
                    break
        if finished and not math.isfinite(self.best):
            log.warning("%s: no weights without a sign of collapse, so none are the best", self.run.folder)
        return Outcome(self.run.folder, self.step, self.best, finished)

    def _train_step(self, batch: Batch) -> None:
        config = self.config
        set_learning_rate(self.optimiser, learning_rate(config.optimiser, self.step, config.steps))
        x1, x2 = self._two_views(batch["image"], TRAINING, self.step)
        masks = None
        if config.objective.masked:
            rngs = self._generators(MASK, self.step)
            masks = draw_masks(self.mask_grid, config.objective.mask_ratio, rngs).to(self.device)
        with autocast(self.dtype, self.device):
            output = self.forward(x1, x2, self._temperature(), masks)
        self.optimiser.zero_grad(set_to_none=True)
        self.scaler.scale(output.loss).backward()  # type: ignore[no-untyped-call]
        self.scaler.unscale_(self.optimiser)
        nn.utils.clip_grad_norm_(self.model.student.parameters(), config.optimiser.clip)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        momentum = teacher_momentum(config.teacher.momentum, self.step, config.steps)
        update_teacher(self.model.teacher, self.model.student, momentum)
        self.monitor.update(output)
        self._logged.append(torch.stack([output.loss.detach(), output.koleo, output.masked]))
        self.step += 1

    def _two_views(self, windows: Tensor, word: int, step: int) -> tuple[Tensor, Tensor]:
        """Eq. 2: two views of the same windows; a function of the seed, the step and the place in the batch."""
        x1, x2 = (self.views(windows, self._generators(word, step, number)) for number in (1, 2))
        return x1.to(memory_format=torch.channels_last_3d), x2.to(memory_format=torch.channels_last_3d)

    def _generators(self, word: int, step: int, *further: int) -> list[np.random.Generator]:
        first = self.group.rank * self.config.batch
        places = range(first, first + self.config.batch)
        return [np.random.default_rng([word, self.config.seed, step, place, *further]) for place in places]

    def _temperature(self) -> float:
        teacher = self.config.teacher
        return teacher_temperature(*teacher.temperature, teacher.warmup_steps, self.step)

    def _log(self) -> None:
        loss, koleo, masked = self.group.mean(torch.stack(self._logged).mean(0)).tolist()
        if not math.isfinite(loss):
            raise SegsyncError(
                f"{self.run.folder}: the loss is {loss} at step {self.step}; lower optimiser.lr or set amp: off, and "
                "--resume from the last checkpoint"
            )
        now, objective = time.monotonic(), self.config.objective
        values = {
            "train/loss": loss,
            "train/lr": learning_rate(self.config.optimiser, self.step - 1, self.config.steps),
            "train/steps_per_second": len(self._logged) / max(now - self._clock, 1e-9),
        }
        values |= {"train/koleo": koleo} if objective.koleo else {}
        values |= {"train/masked": masked} if objective.masked else {}
        self.run.record(self.step, values)
        self.hours += (now - self._clock) / 3600
        self._logged, self._clock = [], now

    def _watch(self) -> None:
        """Record the monitors; a collapse is a warning in the log, or the end of the run."""
        readings = self.monitor.readings()
        collapse = self.monitor.check(readings)
        values: dict[str, Any] = {key: value for reading in readings for key, value in _monitored(reading)}
        self.run.record(self.step, values | ({"monitor/collapse": collapse} if collapse else {}))
        collapse = self.group.gather([collapse])[0]  # the first process speaks for all
        began, self.collapsed = collapse is not None and not self.collapsed, collapse is not None
        if not began:
            return
        advice = "lower teacher.temperature or optimiser.lr, make the views more alike, or change centring.kind"
        line = f"{self.run.folder}: {collapse}, at step {self.step}; {advice}"
        if self.config.stop_on_collapse:
            raise SegsyncError(line)
        log.warning("%s", line)

    def _evaluate(self) -> None:
        """The loss on the held-out volumes (eq. 11 and MSE, without other terms); the lowest keeps its encoder.

        While the teacher's temperature rises the loss rises with it, and the newest counts as the lowest. Weights with
        a sign of collapse never do: a constant has the lowest loss of all.
        """
        losses, features = [], []
        objective = self.config.objective
        self.model.eval()
        for output in self._held_out():
            stages = output.stages.values()
            terms = [
                objective.cross_entropy * s.cross_entropy + objective.squared_error * s.squared_error for s in stages
            ]
            losses.append(torch.stack(terms).mean())
            features.append(next(reversed(output.stages.values())).features.float().cpu())
        self.model.train()
        loss = float(self.group.mean(torch.stack(losses).mean()))
        deepest = torch.stack(self.group.gather(features))
        first, second = (half.flatten(0, 1) for half in deepest.chunk(2, dim=1))
        values = {
            "held_out/loss": loss, "held_out/probe": knn_probe(first, second), "held_out/rank": rank_me(first)
        }  # fmt: skip
        self.run.record(self.step, values)
        log.info("step %d: held-out loss %.3f, kNN probe %.2f, RankMe %.1f", self.step, *values.values())
        self.waited += 1
        warming = self.step <= self.config.teacher.warmup_steps
        suspect = self.group.gather([bool(self.monitor.strikes.any())])[0]
        if (loss < self.best or warming) and not suspect:
            self.best, self.waited = loss, 0
            if self.group.main:
                save_checkpoint(self.run.best, self._encoder(), self._state())
        self._clock = time.monotonic()

    @torch.no_grad()
    def _held_out(self) -> Iterator[StepOutput]:
        dataset = windows_held_out(self.config, self.volumes.held_out, self.group)
        for number, batch in enumerate(batches(dataset, 0, 0, self.device)):
            x1, x2 = self._two_views(batch["image"], HELD_OUT, number)
            with autocast(self.dtype, self.device):
                yield self.model(x1, x2, self._temperature())

    def _given_up(self) -> bool:
        patience = self.config.held_out.patience
        return patience is not None and self.waited >= patience

    def _encoder(self) -> dict[str, Tensor]:
        return {f"{ENCODER}{name}": tensor for name, tensor in self.model.teacher.encoder.state_dict().items()}

    def _state(self) -> dict[str, Any]:
        return {
            "kind": "pretrain",
            "config": self.config.model_dump(mode="json"),
            "step": self.step,
            "best": self.best if math.isfinite(self.best) else None,
            "waited": self.waited,
            "hours": self.hours,
            "commit": self.commit,
            "hardware": hardware(self.device),
        }

    def _save(self) -> None:
        """Everything that the next step depends on. The teacher's encoder stands there once, as `encoder/…`."""
        if not self.group.main:
            return
        rest = {name: t for name, t in self.model.state_dict().items() if not name.startswith(TEACHER)}
        tensors = self._encoder() | _named("segsync", rest) | _named("monitor", self.monitor.state_dict())
        tensors |= optimiser_tensors(self.optimiser)
        state = {**self._state(), "scaler": self.scaler.state_dict()}
        save_checkpoint(self.run.last, tensors, state)

    def _restore(self, checkpoint: Checkpoint) -> None:
        teacher = {f"{TEACHER}{name}": tensor for name, tensor in checkpoint.part("encoder").items()}
        load_network(self.model, checkpoint.part("segsync") | teacher, checkpoint.path)
        load_network(self.monitor, checkpoint.part("monitor"), checkpoint.path)
        load_optimiser(self.optimiser, checkpoint.part("optimiser"))
        if checkpoint.state["scaler"]:
            self.scaler.load_state_dict(checkpoint.state["scaler"])
        self.step, self.waited, self.hours = (checkpoint.state[key] for key in ("step", "waited", "hours"))
        self.best = math.inf if checkpoint.state["best"] is None else checkpoint.state["best"]
        log.info("going on after step %d", self.step)


def _grid_at(
    patch_zyx: tuple[int, int, int], strides: tuple[tuple[int, int, int], ...], stage: int
) -> tuple[int, int, int]:
    """Cells (Z, Y, X) of a stage's feature map, stages counted from the deepest (-1)."""
    z, y, x = patch_zyx
    for dz, dy, dx in strides[: len(strides) + stage + 1]:
        z, y, x = z // dz, y // dy, x // dx
    return z, y, x


def _monitored(reading: Reading) -> Iterator[tuple[str, float]]:
    """A reading as lines of the log: `monitor/stage4/rank`, …"""
    for name in (
        "cross_entropy",
        "kl",
        "target_entropy",
        "student_entropy",
        "information",
        "deviation",
        "rank",
        "probe",
    ):
        yield f"monitor/stage{reading.stage}/{name}", getattr(reading, name)


def _named(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}/{name}": tensor for name, tensor in tensors.items()}
