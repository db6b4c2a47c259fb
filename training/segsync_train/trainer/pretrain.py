"""Self-supervised pretraining of an encoder (Appendix C of the paper).

What is trained is a pretext (`segsync_train.ssl.pretext`): 3D-SegSync, or one of its peers. Checkpoints hold its
encoder as `encoder/…`, which `transfer` of a fine-tuning reads.
"""

import logging
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from segsync.errors import SegsyncError
from segsync_train.config.run import AugmentationConfig
from segsync_train.data.augment import Augmentation
from segsync_train.data.loader import batches
from segsync_train.data.patches import Batch, CaseSource, FolderSource, PatchDataset
from segsync_train.networks.features import FeatureEncoder
from segsync_train.runs.checkpoints import Checkpoint, load_network, prefixed
from segsync_train.ssl.build import build_pretext
from segsync_train.ssl.config import PretrainConfig
from segsync_train.ssl.monitors import knn_probe, rank_me
from segsync_train.ssl.pretext import Draws, Pretext, StepOutput
from segsync_train.ssl.volumes import open_volumes
from segsync_train.trainer.loop import Context, Evaluation, Learner, Outcome, train

log = logging.getLogger(__name__)

#: Windows are cut and nothing else: the views are made on the device.
UNCHANGED = AugmentationConfig(
    flip=0, rotate_zoom=0, noise=0, smooth=0, brightness=0, contrast=0, gamma=0, shift=0, drop_optional=0
)


def pretrain(
    config: PretrainConfig, folder: Path, *, resume: bool = False, should_stop: Callable[[], bool] = lambda: False
) -> Outcome:
    """Train, watch for collapse, keep the last state and the best encoder; best is the lowest held-out loss.

    See `segsync_train.trainer.loop.train` for the arguments and errors; a collapse of the features is a SegsyncError.
    """
    outcome = train(config, folder, partial(_Pretraining, config), resume=resume, should_stop=should_stop)
    if outcome.finished and outcome.best is None:
        log.warning("%s: no weights without a sign of collapse, so none are the best", folder)
    return outcome


class _Pretraining(Learner):
    """A pretext, what watches it for collapse, and the volumes it learns from."""

    kind = "pretrain"
    criterion = "lowest held-out loss"

    def __init__(self, config: PretrainConfig, context: Context, checkpoint: Checkpoint | None) -> None:
        self.config, self.context = config, context
        self.schedule, self.paces = config.held_out, {}
        # oneDNN's and cuDNN's 3D convolutions are two to four times faster with channels innermost.
        model: Pretext = build_pretext(config, context.group).to(context.device, memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        self.model, self.trained = model.train(), model.trained
        self.volumes = open_volumes(config, context.run.folder, context.group)
        self.collapsed = False
        monitor = model.new_monitor()
        self.monitor = monitor.to(context.device) if monitor is not None else None
        if checkpoint is not None:
            self._restore(checkpoint)
        if config.compile:
            for module in model.modules():
                if isinstance(module, FeatureEncoder):
                    module.compile()
        self.forward: Callable[..., StepOutput] = DistributedDataParallel(model) if context.group.count > 1 else model

    def _restore(self, checkpoint: Checkpoint) -> None:
        encoder = {f"{self.model.kept}.{name}": tensor for name, tensor in checkpoint.part("encoder").items()}
        load_network(self.model, checkpoint.part("pretext") | encoder, checkpoint.path)
        if self.monitor is not None:
            load_network(self.monitor, checkpoint.part("monitor"), checkpoint.path)

    def dataset(self) -> PatchDataset:
        return self._windows(self.volumes.source, self.config.steps)

    def _windows(self, source: CaseSource, steps: int) -> PatchDataset:
        """Batches of the windows that the pretext makes its views of, one a step."""
        config, group = self.config, self.context.group
        return PatchDataset(
            source,
            Augmentation(UNCHANGED, config.window_zyx, ()),
            batch=config.batch,
            steps=steps,
            foreground=0.0,
            seed=config.seed,
            rank=group.rank,
            processes=group.count,
        )

    def losses(self, batch: Batch, step: int) -> dict[str, Tensor]:
        inputs = self.model.inputs(batch["image"], self._draws(step), step)
        with self.context.autocast():
            output = self.forward(*inputs)
        if self.monitor is not None:
            self.monitor.update(output)
        return {"loss": output.loss, **output.terms}

    def _draws(self, number: int, *, held_out: bool = False) -> Draws:
        first = self.context.group.rank * self.config.batch
        return Draws(self.config.seed, number, range(first, first + self.config.batch), held_out)

    def after_step(self, step: int) -> None:
        self.model.after_step(step)

    def watch(self, step: int) -> None:
        """Record the monitor's readings; a collapse is a warning in the log, or the end of the run."""
        if self.monitor is None:
            return
        run = self.context.run
        values, collapse = self.monitor.watch()
        run.record(step, values | ({"monitor/collapse": collapse} if collapse else {}))
        collapse = self.context.group.gather([collapse])[0]  # the first process speaks for all
        began, self.collapsed = collapse is not None and not self.collapsed, collapse is not None
        if not began:
            return
        advice = "lower teacher.temperature or optimiser.lr, make the views more alike, or change centring.kind"
        line = f"{run.folder}: {collapse}, at step {step}; {advice}"
        if self.config.stop_on_collapse:
            raise SegsyncError(line)
        log.warning("%s", line)

    def evaluate(self, step: int, best: float | None) -> Evaluation:
        """The loss on the held-out volumes; the lowest is the best.

        Until the pretext is settled the newest counts as the lowest. Weights with a sign of collapse never do: a
        constant may have the lowest loss of all.
        """
        group = self.context.group
        losses, features = [], []
        self.model.eval()
        for output in self._held_out(step):
            losses.append(output.loss if output.held_out is None else output.held_out)
            features += [] if output.features is None else [output.features.float().cpu()]
        self.model.train()
        loss = float(group.mean(torch.stack(losses).mean()))
        suspect = group.gather([self.monitor is not None and self.monitor.suspicious])[0]
        lowest = best is None or loss < best or not self.model.settled(step)
        record = {"held_out/loss": loss, **_told_apart(group.gather(features))}
        return Evaluation(loss, lowest and not suspect, record)

    @torch.no_grad()
    def _held_out(self, step: int) -> Iterator[StepOutput]:
        """The same windows at every evaluation, one of every held-out volume that fills a batch; fewer repeat."""
        config, volumes = self.config, self.volumes.held_out
        steps = max(1, len(volumes) // (config.batch * self.context.group.count))
        dataset = self._windows(FolderSource(volumes, config.seed), steps)
        for number, batch in enumerate(batches(dataset, 0, 0, self.context.device)):
            inputs = self.model.inputs(batch["image"], self._draws(number, held_out=True), step)
            with self.context.autocast():
                yield self.model(*inputs)

    def weights(self) -> dict[str, Tensor]:
        """Of the encoder that is kept."""
        return prefixed("encoder", self.model.get_submodule(self.model.kept).state_dict())

    def tensors(self) -> dict[str, Tensor]:
        """The encoder that is kept is stored once, as `encoder/…`."""
        kept = f"{self.model.kept}."
        rest = {name: t for name, t in self.model.state_dict().items() if not name.startswith(kept)}
        tensors = self.weights() | prefixed("pretext", rest)
        return tensors if self.monitor is None else tensors | prefixed("monitor", self.monitor.state_dict())


def _told_apart(features: list[Tensor]) -> dict[str, float]:
    """How well the pooled features of held-out volumes tell them apart, for a pretext that has two views of them."""
    if not features:
        return {}
    first, second = (half.flatten(0, 1) for half in torch.stack(features).chunk(2, dim=1))
    return {"held_out/probe": knn_probe(first, second), "held_out/rank": rank_me(first)}
