"""Miniature pretexts for tests: an xLSTM-UNet's encoder of a few hundred weights, volumes that can be told apart."""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pretrain_cases import pretrain_config
from segsync_train.ssl.build import build_pretext
from segsync_train.ssl.config import PretrainConfig
from segsync_train.ssl.pretext import Draws, Pretext, StepOutput

DECODER = {"width": 8, "depth": 1, "heads": 2}


def peer_config(settings: dict[str, Any] | str, folder: Path = Path("unused"), **changes: Any) -> PretrainConfig:
    """Settings of a run of a pretext on 8³ voxels."""
    return pretrain_config(folder, **{"pretext": settings, "head": {}, **changes})


def peer(config: PretrainConfig) -> Pretext:
    """The pretext with weights that are the same in every call."""
    torch.manual_seed(0)
    return build_pretext(config)


def windows(config: PretrainConfig) -> Tensor:
    """A batch as the loader gives it: smooth volumes, each another."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.randn(config.batch, len(config.channels), 4, 4, 4, generator=generator)
    return F.interpolate(coarse, size=config.window_zyx, mode="trilinear")


def draws(config: PretrainConfig, number: int = 0, *, held_out: bool = False) -> Draws:
    """The generators of a step."""
    return Draws(config.seed, number, range(config.batch), held_out)


def step(pretext: Pretext, config: PretrainConfig, number: int = 0) -> StepOutput:
    """One batch through the pretext."""
    output: StepOutput = pretext(*pretext.inputs(windows(config), draws(config, number), number))
    return output
