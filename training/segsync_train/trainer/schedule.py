"""Optimisers, and the learning rate as a function of the step alone, so that nothing of it need be kept."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from segsync_train.config.training import OptimiserConfig


@dataclass(frozen=True)
class Pace:
    """How a parameter's learning rate follows the run's.

    Attributes:
        factor: Its fraction of the run's.
        start: Steps in which it is 0.
        warmup: Steps over which it then rises linearly.
    """

    factor: float = 1.0
    start: int = 0
    warmup: int = 0

    def at(self, step: int) -> float:
        """The fraction of the run's learning rate for a step, counted from 0."""
        if step < self.start:
            return 0.0
        since = step - self.start
        return self.factor * (1.0 if since >= self.warmup else (since + 1) / self.warmup)


def learning_rate(config: OptimiserConfig, step: int, steps: int) -> float:
    """The rate for step `step` (from 0) of `steps`: linear warm-up, then cosine, poly 0.9 (nnU-Net) or constant."""
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return config.lr
    fraction = (step - config.warmup_steps) / max(1, steps - config.warmup_steps)
    if config.schedule == "poly":
        return config.lr * math.pow(max(0.0, 1 - fraction), 0.9)
    return config.lr * (config.final + (1 - config.final) * (1 + math.cos(math.pi * min(1.0, fraction))) / 2)


def make_optimiser(
    config: OptimiserConfig, network: nn.Module, paces: Mapping[str, Pace] | None = None
) -> torch.optim.Optimizer:
    """The optimiser over the network's parameters that are trained; biases and scales (of one dimension) do not decay.

    Args:
        config: The settings.
        network: The network.
        paces: By a parameter's name; `Pace()` where not named.

    Returns:
        The optimiser, a group for each pace and decay.
    """
    paces = paces or {}
    groups: dict[tuple[Pace, bool], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((paces.get(name, Pace()), parameter.ndim > 1), []).append(parameter)
    settings: Iterable[dict[str, Any]] = [
        {"params": parameters, "pace": pace, "weight_decay": config.weight_decay if decays else 0.0}
        for (pace, decays), parameters in groups.items()
    ]
    if config.kind == "sgd":
        return torch.optim.SGD(settings, lr=config.lr, momentum=config.momentum, nesterov=config.momentum > 0)
    kind = torch.optim.AdamW if config.kind == "adamw" else torch.optim.Adam
    return kind(settings, lr=config.lr, betas=config.betas)


def set_learning_rate(optimiser: torch.optim.Optimizer, rate: float, step: int) -> None:
    """Give every group its part of the run's rate for a step."""
    for group in optimiser.param_groups:
        group["lr"] = rate * group["pace"].at(step)
