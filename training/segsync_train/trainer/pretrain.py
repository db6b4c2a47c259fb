"""Self-supervised pretraining of the encoder (Appendix C of the paper): the loop, in one sitting.

Everything random in a step is a function of (seed, step), nothing of the global generators: a run that was killed goes
on from its last checkpoint to the same weights (bit for bit on one CPU; to rounding on GPUs, whose reductions have no
fixed order).

What is trained is a pretext (`segsync_train.ssl.pretext`): 3D-SegSync, or one of its peers. Checkpoints hold its
encoder as `encoder/…`, which `transfer` of a fine-tuning reads.
"""

import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from segsync.errors import InputError, SegsyncError
from segsync_train.data.loader import batches
from segsync_train.data.patches import Batch
from segsync_train.networks.build import build_network, encoder_of
from segsync_train.networks.features import FeatureEncoder
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
    processes,
    training_device,
)
from segsync_train.runs.folder import RunFolder, commit
from segsync_train.runs.progress import StepProgress
from segsync_train.ssl.config import PretrainConfig
from segsync_train.ssl.hiendmae import HiEndMAE
from segsync_train.ssl.mae import MAE
from segsync_train.ssl.monitors import knn_probe, rank_me
from segsync_train.ssl.pretext import Draws, Pretext, StepOutput
from segsync_train.ssl.segsync import SegSync
from segsync_train.ssl.swinmm import SwinMM
from segsync_train.ssl.swinssl import SwinSSL
from segsync_train.ssl.voco import VoCo
from segsync_train.ssl.volumes import Volumes, open_volumes, windows_held_out, windows_to_train
from segsync_train.trainer.schedule import learning_rate, make_optimiser, set_learning_rate

log = logging.getLogger(__name__)

#: Where the encoder stands in a checkpoint.
ENCODER = "encoder/"


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

    resume: go on with the run that the folder holds (`runs.MAY_CHANGE` says what may change). should_stop: asked after
    every step; a run that is stopped writes a checkpoint first. Raises InputError for bad volumes and for settings of
    another run, WeightsError for a checkpoint of another network, OutputError where the disk is full, ResourceError
    where memory ends, SegsyncError where the loss is no number or the features have collapsed.
    """
    with processes(config.device) as group, RunFolder(folder, main=group.main) as run:
        return _run(config, run, group, resume, should_stop)


def _run(
    config: PretrainConfig, run: RunFolder, group: Processes, resume: bool, should_stop: Callable[[], bool]
) -> Outcome:
    if resume:
        run.check_unchanged(config)
    device = training_device(config.device, group)
    seed_everything(config.seed)
    # oneDNN's and cuDNN's 3D convolutions are two to four times faster with channels innermost.
    model = build_pretext(config, group).to(device, memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    checkpoint = run.newest(config.checkpoint_every) if resume else None
    volumes = open_volumes(config, run.folder, group)
    if resume:
        run.reopen(config, 0 if checkpoint is None else checkpoint.state["step"])
    else:
        run.create(config)
    training = _Pretraining(config, run, volumes, model, device, group, checkpoint)
    with memory_of_training(
        lambda: f"{device}, step {training.step}, {config.batch} volumes and patches of {config.patch_zyx}"
    ):
        return training.run_to_end(should_stop)


def build_pretext(config: PretrainConfig, group: Processes | None = None) -> Pretext:
    """The pretext on an encoder with fresh weights; raises InputError where the settings do not fit each other."""
    encoder, settings = build_encoder(config), config.pretext
    if settings.kind == "mae":
        return MAE(encoder, settings, config.patch_zyx, len(config.channels))
    if settings.kind == "hiendmae":
        return HiEndMAE(encoder, settings, config.patch_zyx, len(config.channels))
    if settings.kind == "swinssl":
        return SwinSSL(encoder, settings, config.patch_zyx, len(config.channels))
    if settings.kind == "swinmm":
        return SwinMM(encoder, settings, config.patch_zyx, len(config.channels))
    if settings.kind == "voco":
        return VoCo(encoder, settings, config.patch_zyx)
    return SegSync(encoder, config, group)


def build_encoder(config: PretrainConfig) -> FeatureEncoder:
    """The encoder with fresh weights; raises InputError where the settings ask for one that cannot be pretrained."""
    network = build_network(config)
    encoder = encoder_of(network)
    if encoder is None:
        raise InputError(
            "network.preset: expected a network whose encoder can be pretrained (an xLSTM-UNet, published-enc, "
            f"resenc-m, resenc-l, plainconv, swinunetr or unetr), found {config.network.preset!r}"
        )
    stages = len(encoder.widths)
    for key, stage in _mask_stages(config):
        if stage < -stages:
            raise InputError(f"{key}: expected -1 to -{stages}, the network's stages, found {stage}")
    return encoder


def _mask_stages(config: PretrainConfig) -> Iterator[tuple[str, int]]:
    """The settings that name a stage of the encoder."""
    if config.pretext.kind == "segsync":
        if config.objective.masked:
            yield "objective.mask_stage", config.objective.mask_stage
    elif config.pretext.kind != "voco":
        yield "pretext.mask_stage", config.pretext.mask_stage


class _Pretraining:
    """One run under way; its whole state is `model`, `monitor`, `optimiser`, `scaler` and the four numbers below."""

    def __init__(
        self,
        config: PretrainConfig,
        run: RunFolder,
        volumes: Volumes,
        model: Pretext,
        device: torch.device,
        group: Processes,
        checkpoint: Checkpoint | None,
    ) -> None:
        self.config, self.run, self.volumes, self.model = config, run, volumes, model
        self.device, self.group = device, group
        self.commit = commit()
        self.step, self.best, self.waited, self.hours = 0, math.inf, 0, 0.0
        self.collapsed = False
        monitor = model.new_monitor()
        self.monitor = monitor.to(device) if monitor is not None else None
        self.optimiser = make_optimiser(config.optimiser, model.trained)
        self.dtype = amp_dtype(config.amp, device)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.dtype is torch.float16)
        if checkpoint is not None:
            self._restore(checkpoint)
        if config.compile:
            for module in model.modules():
                if isinstance(module, FeatureEncoder):
                    module.compile()
        self.forward: Callable[..., StepOutput] = DistributedDataParallel(model) if group.count > 1 else model
        self._logged: list[dict[str, Tensor]] = []
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
                evaluating = last or self.step % config.held_out.every == 0
                if saving or evaluating or self.step % config.log_every == 0:
                    self._log()
                # Not where the run happens to be stopped, so that an unbroken run counts the same signs.
                if self.step % config.log_every == 0:
                    self._watch()
                if evaluating:
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
        set_learning_rate(self.optimiser, learning_rate(config.optimiser, self.step, config.steps), self.step)
        inputs = self.model.inputs(batch["image"], self._draws(self.step), self.step)
        with autocast(self.dtype, self.device):
            output = self.forward(*inputs)
        self.optimiser.zero_grad(set_to_none=True)
        self.scaler.scale(output.loss).backward()  # type: ignore[no-untyped-call]
        self.scaler.unscale_(self.optimiser)
        nn.utils.clip_grad_norm_(self.model.trained.parameters(), config.optimiser.clip)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.model.after_step(self.step)
        if self.monitor is not None:
            self.monitor.update(output)
        self._logged.append({"loss": output.loss.detach(), **output.terms})
        self.step += 1

    def _draws(self, number: int, *, held_out: bool = False) -> Draws:
        first = self.group.rank * self.config.batch
        return Draws(self.config.seed, number, range(first, first + self.config.batch), held_out)

    def _log(self) -> None:
        values = torch.stack([torch.stack(list(step.values())) for step in self._logged]).mean(0)
        means = dict(zip(self._logged[0], self.group.mean(values).tolist(), strict=True))
        loss = means["loss"]
        if not math.isfinite(loss):
            raise SegsyncError(
                f"{self.run.folder}: the loss is {loss} at step {self.step}; lower optimiser.lr or set amp: off, and "
                "--resume from the last checkpoint"
            )
        now = time.monotonic()
        rates = {
            "train/lr": learning_rate(self.config.optimiser, self.step - 1, self.config.steps),
            "train/steps_per_second": len(self._logged) / max(now - self._clock, 1e-9),
        }
        self.run.record(self.step, {f"train/{name}": mean for name, mean in means.items()} | rates)
        self.hours += (now - self._clock) / 3600
        self._logged, self._clock = [], now

    def _watch(self) -> None:
        """Record the monitor's readings; a collapse is a warning in the log, or the end of the run."""
        if self.monitor is None:
            return
        values, collapse = self.monitor.watch()
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
        """The loss on the held-out volumes; the lowest keeps its encoder.

        Until the pretext is settled the newest counts as the lowest. Weights with a sign of collapse never do: a
        constant may have the lowest loss of all.
        """
        losses, features = [], []
        self.model.eval()
        for output in self._held_out():
            losses.append(output.loss if output.held_out is None else output.held_out)
            features += [] if output.features is None else [output.features.float().cpu()]
        self.model.train()
        loss = float(self.group.mean(torch.stack(losses).mean()))
        values = {"held_out/loss": loss, **_told_apart(self.group.gather(features))}
        self.run.record(self.step, values)
        log.info("step %d: %s", self.step, ", ".join(f"{name} {value:.3f}" for name, value in values.items()))
        self.waited += 1
        suspect = self.group.gather([self.monitor is not None and self.monitor.suspicious])[0]
        if (loss < self.best or not self.model.settled(self.step)) and not suspect:
            self.best, self.waited = loss, 0
            if self.group.main:
                save_checkpoint(self.run.best, self._encoder(), self._state())
        self._clock = time.monotonic()

    @torch.no_grad()
    def _held_out(self) -> Iterator[StepOutput]:
        dataset = windows_held_out(self.config, self.volumes.held_out, self.group)
        for number, batch in enumerate(batches(dataset, 0, 0, self.device)):
            inputs = self.model.inputs(batch["image"], self._draws(number, held_out=True), self.step)
            with autocast(self.dtype, self.device):
                yield self.model(*inputs)

    def _given_up(self) -> bool:
        patience = self.config.held_out.patience
        return patience is not None and self.waited >= patience

    def _encoder(self) -> dict[str, Tensor]:
        encoder = self.model.get_submodule(self.model.kept)
        return {f"{ENCODER}{name}": tensor for name, tensor in encoder.state_dict().items()}

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
        """Everything that the next step depends on. The encoder that is kept stands there once, as `encoder/…`."""
        if not self.group.main:
            return
        kept = f"{self.model.kept}."
        rest = {name: t for name, t in self.model.state_dict().items() if not name.startswith(kept)}
        tensors = self._encoder() | _named("pretext", rest) | optimiser_tensors(self.optimiser)
        if self.monitor is not None:
            tensors |= _named("monitor", self.monitor.state_dict())
        state = {**self._state(), "scaler": self.scaler.state_dict()}
        save_checkpoint(self.run.last, tensors, state)

    def _restore(self, checkpoint: Checkpoint) -> None:
        encoder = {f"{self.model.kept}.{name}": tensor for name, tensor in checkpoint.part("encoder").items()}
        load_network(self.model, checkpoint.part("pretext") | encoder, checkpoint.path)
        if self.monitor is not None:
            load_network(self.monitor, checkpoint.part("monitor"), checkpoint.path)
        load_optimiser(self.optimiser, checkpoint.part("optimiser"))
        if checkpoint.state["scaler"]:
            self.scaler.load_state_dict(checkpoint.state["scaler"])
        self.step, self.waited, self.hours = (checkpoint.state[key] for key in ("step", "waited", "hours"))
        self.best = math.inf if checkpoint.state["best"] is None else checkpoint.state["best"]
        log.info("going on after step %d", self.step)


def _told_apart(features: list[Tensor]) -> dict[str, float]:
    """How well the pooled features of held-out volumes tell them apart, for a pretext that has two views of them."""
    if not features:
        return {}
    first, second = (half.flatten(0, 1) for half in torch.stack(features).chunk(2, dim=1))
    return {"held_out/probe": knn_probe(first, second), "held_out/rank": rank_me(first)}


def _named(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}/{name}": tensor for name, tensor in tensors.items()}
