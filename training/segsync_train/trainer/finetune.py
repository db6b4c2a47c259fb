"""Supervised training of a segmentation network, from scratch or from earlier weights."""

import logging
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from segsync_train.config.data import FolderData
from segsync_train.config.labels import LabelSet
from segsync_train.config.run import RunConfig
from segsync_train.data.augment import Augmentation
from segsync_train.data.patches import Batch, FolderSource, PatchDataset
from segsync_train.data.sources import Data, open_data
from segsync_train.data.splits import SPLIT_FILE, write_split
from segsync_train.networks import SegmentationNetwork
from segsync_train.networks.build import build_network
from segsync_train.runs.checkpoints import Checkpoint, load_network, prefixed
from segsync_train.trainer.figures import save_overlay
from segsync_train.trainer.freezing import freeze
from segsync_train.trainer.loop import Context, Evaluation, Learner, Outcome, train
from segsync_train.trainer.losses import SegmentationLoss
from segsync_train.trainer.predictor import torch_pipeline
from segsync_train.trainer.transfer import Inherited, transfer
from segsync_train.trainer.validation import CaseScore, labels_in_none, summary, validate

log = logging.getLogger(__name__)

#: Fraction of the first weights in the running mean at the end of a run from which on it is said.
FIRST = 0.15


def finetune(
    config: RunConfig, folder: Path, *, resume: bool = False, should_stop: Callable[[], bool] = lambda: False
) -> Outcome:
    """Train, validate, keep the last and the best weights in `folder`; best is the highest validation score.

    See `segsync_train.trainer.loop.train` for the arguments and errors.
    """
    return train(config, folder, partial(_FineTuning, config), resume=resume, should_stop=should_stop)


def _warn_of_labels(data: Data, labels: LabelSet) -> None:
    """Say which labels nothing is learned of, or nothing is known of afterwards."""
    if isinstance(data.source, FolderSource):
        count = len(data.source.cases)
        for value, name in labels_in_none(data.source.cases, labels).items():
            log.warning(
                "label %d (%s): none of the %d training cases holds it, so that it is never learned; check labels, or "
                "train on other cases (another fold, more labelled)", value, name, count,
            )  # fmt: skip
    for value, name in labels_in_none(data.validation, labels).items():
        log.warning(
            "label %d (%s): none of the %d validation cases holds it, so that its Dice tells nothing; check labels, or "
            "validate on other cases", value, name, len(data.validation),
        )  # fmt: skip


def _warn_of_mean(config: RunConfig) -> None:
    """Say where the running mean of the weights would still hold those that the run began with."""
    if config.ema is not None and config.ema**config.steps > FIRST:
        log.warning(
            "ema: %g averages over about %.0f steps of a run of %d, so that %.0f %% of what is validated and exported "
            "are its first weights; lower ema",
            config.ema, 1 / (1 - config.ema), config.steps, 100 * config.ema**config.steps,
        )  # fmt: skip


class _FineTuning(Learner):
    """A network, its exponential moving average if one is kept, and the cases it learns from."""

    kind = "finetune"
    criterion = "best score"

    def __init__(self, config: RunConfig, context: Context, checkpoint: Checkpoint | None) -> None:
        self.config, self.context = config, context
        self.schedule = config.validation
        # oneDNN's and cuDNN's 3D convolutions are two to four times faster with channels innermost.
        network: SegmentationNetwork = build_network(config).to(context.device, memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        self.network = self.trained = network.train()
        if checkpoint is None:
            self.inherited = transfer(network, config.transfer, config.case_spec)
        else:
            self.inherited = Inherited(**checkpoint.state["inherited"])
        self.data = self._opened()
        self.paces = freeze(network, config.transfer, self.inherited.factors)
        self.ema: AveragedModel | None = None
        if config.ema is not None:
            average = get_ema_multi_avg_fn(config.ema)  # type: ignore[no-untyped-call]
            self.ema = AveragedModel(network, multi_avg_fn=average)
        self.loss = SegmentationLoss(config.loss, config.label_set)
        if checkpoint is not None:
            load_network(network, checkpoint.part("network"), checkpoint.path)
            if self.ema is not None:
                self.ema.load_state_dict(checkpoint.part("ema"))
        wrapped = DistributedDataParallel(network) if context.group.count > 1 else network
        self.forward: Callable[[Tensor], list[Tensor]] = torch.compile(wrapped) if config.compile else wrapped

    def _opened(self) -> Data:
        """The cases; what was drawn by lot, and what is wrong with the labels, is written and said once."""
        config, run = self.config, self.context.run
        data = open_data(config, run.folder, self.context.group)
        if self.context.group.main:
            if not run.begun and data.split is not None and isinstance(config.data, FolderData):
                write_split(data.split, config.data.group, run.folder / SPLIT_FILE)
            _warn_of_labels(data, config.label_set)
            _warn_of_mean(config)
        return data

    def dataset(self) -> PatchDataset:
        config, group = self.config, self.context.group
        return PatchDataset(
            self.data.source,
            Augmentation(
                config.augmentation,
                config.patch_zyx,
                config.mirror_axes,
                self.data.optional,
                config.preprocessing.scalar_places,
                config.preprocessing.place_of(config.reference_channel),
            ),
            batch=config.batch,
            steps=config.steps,
            foreground=config.foreground,
            seed=config.seed,
            rank=group.rank,
            processes=group.count,
            regions=config.loss.lesion > 0,
        )

    def losses(self, batch: Batch, step: int) -> dict[str, Tensor]:
        with self.context.autocast():
            outputs = self.forward(batch["image"].to(memory_format=torch.channels_last_3d))
        return {"loss": self.loss(outputs, batch["label"], batch.get("regions"))}

    def after_step(self, step: int) -> None:
        if self.ema is not None:
            self.ema.update_parameters(self.network)

    def evaluate(self, step: int, best: float | None) -> Evaluation:
        """Score this process's part of the cases, and draw the first of all."""
        config, group = self.config, self.context.group
        network = self.network if self.ema is None else cast(SegmentationNetwork, self.ema.module)
        pipeline = torch_pipeline(config.inference_spec(network.multiple_zyx), network, self.context.device, config.amp)
        mine = range(group.rank, len(self.data.validation), group.count)
        scores: list[CaseScore] = []
        cases = [self.data.validation[index] for index in mine]
        found = validate(network, cases, pipeline, config.validation.overlap)
        for index, (case, predicted, score) in zip(mine, found, strict=True):
            scores.append(score)
            if index < config.validation.overlays:
                save_overlay(case, predicted, self.context.run.figures / f"step-{step:06d}" / f"{case.name}.png")
        scores = sorted(group.gather(scores), key=lambda score: score.name)
        means = summary(scores)
        value = means["validation/score"]
        record = {**means, "validation/cases": [asdict(score) for score in scores]}
        return Evaluation(value, best is None or value > best, record)

    def weights(self) -> dict[str, Tensor]:
        """Of the moving average where one is kept."""
        return prefixed("network", (self.ema.module if self.ema is not None else self.network).state_dict())

    def tensors(self) -> dict[str, Tensor]:
        tensors = prefixed("network", self.network.state_dict())
        return tensors if self.ema is None else tensors | prefixed("ema", self.ema.state_dict())

    def state(self) -> dict[str, Any]:
        return {"inherited": asdict(self.inherited)}
