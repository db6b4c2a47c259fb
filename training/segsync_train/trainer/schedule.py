"""Optimisers, and the learning rate as a function of the step alone, so that nothing of it need be kept."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from segsync_train.config.run import OptimiserConfig


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
    config: OptimiserConfig, network: nn.Module, factors: Mapping[str, float] | None = None
) -> torch.optim.Optimizer:
    """The optimiser over the network's parameters.

    factors: by a parameter's name, its fraction of the learning rate (the pretrained part), 1 where not named. Biases
    and scales (one-dimensional parameters) do not decay.
    """
    factors = factors or {}
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((factors.get(name, 1.0), parameter.ndim > 1), []).append(parameter)
    settings: Iterable[dict[str, Any]] = [
        {"params": parameters, "factor": factor, "weight_decay": config.weight_decay if decays else 0.0}
        for (factor, decays), parameters in groups.items()
    ]
    if config.kind == "sgd":
        return torch.optim.SGD(settings, lr=config.lr, momentum=config.momentum, nesterov=config.momentum > 0)
    kind = torch.optim.AdamW if config.kind == "adamw" else torch.optim.Adam
    return kind(settings, lr=config.lr, betas=config.betas)


def set_learning_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Give every group its fraction of the rate."""
    for group in optimiser.param_groups:
        group["lr"] = rate * group["factor"]
