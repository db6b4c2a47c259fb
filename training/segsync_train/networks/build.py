"""The network of a run, built from its settings with fresh weights."""

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

from segsync.arrays import SizeZYX
from segsync.errors import InputError
from segsync_train.config.run import RunConfig
from segsync_train.config.settings import check_settings, unknown_key
from segsync_train.networks import SegmentationNetwork
from segsync_train.networks.baselines import Baseline, baseline, plan
from segsync_train.networks.transformers import (
    SWIN_MULTIPLE,
    VIT_TOKEN,
    SwinUNETRConfig,
    TransformerName,
    UNETRConfig,
    swinunetr,
    unetr,
)
from segsync_train.networks.xlstm_unet import PresetName, XLSTMUNet, XLSTMUNetConfig, preset

#: Given by the run's channels and labels, never by `network.overrides`.
DERIVED = ("in_channels", "out_channels")


def network_config(
    name: PresetName, overrides: Mapping[str, Any], in_channels: int, out_channels: int
) -> XLSTMUNetConfig:
    """The preset with its overrides; raises InputError for one that does not exist or does not fit."""
    return _overridden(preset(name, in_channels, out_channels), overrides)


Config = TypeVar("Config", XLSTMUNetConfig, SwinUNETRConfig, UNETRConfig)


def _overridden(base: Config, overrides: Mapping[str, Any]) -> Config:
    known = [field.name for field in dataclasses.fields(base) if field.name not in DERIVED]
    for key in overrides:
        if key not in known:
            raise InputError(f"network.overrides: {unknown_key(key, known)}")
    return check_settings(type(base), {**vars(base), **overrides}, "network.overrides")


def build_network(config: RunConfig) -> SegmentationNetwork:
    """The run's network with fresh weights; raises InputError where its settings or the patch do not fit."""
    name, channels = config.network.preset, len(config.channels)
    if name == "swinunetr" or name == "unetr":
        return _transformer(name, config)
    network: SegmentationNetwork
    if name == "nnunet" or name == "resunet" or name == "unet":
        if config.network.overrides:
            raise InputError(f"network.overrides: expected none for {name}, whose shape follows from the patch")
        try:
            network = baseline(name, channels, config.outputs, plan(config.patch_zyx, config.spacing_zyx))
        except ValueError as error:
            raise InputError(f"patch_zyx: {error}, found {config.patch_zyx}; choose a larger patch") from error
    else:
        settings = network_config(name, config.network.overrides, channels, config.outputs)
        try:
            network = XLSTMUNet(settings)
        except ValueError as error:
            raise InputError(f"network.overrides: {error}") from error
    _check_patch(config, network.multiple_zyx, "choose another patch or other network.overrides.strides_zyx")
    return network


def _transformer(name: TransformerName, config: RunConfig) -> Baseline:
    overrides, channels = config.network.overrides, len(config.channels)
    multiple = SWIN_MULTIPLE if name == "swinunetr" else VIT_TOKEN
    _check_patch(config, multiple, "choose another patch")
    try:
        if name == "swinunetr":
            return swinunetr(_overridden(SwinUNETRConfig(), overrides), channels, config.outputs, config.patch_zyx)
        return unetr(_overridden(UNETRConfig(), overrides), channels, config.outputs, config.patch_zyx)
    except ValueError as error:
        raise InputError(f"network.overrides: {error}") from error


def _check_patch(config: RunConfig, multiple_zyx: SizeZYX, advice: str) -> None:
    if any(side % multiple for side, multiple in zip(config.patch_zyx, multiple_zyx, strict=True)):
        raise InputError(
            f"patch_zyx: expected sides that are multiples of {multiple_zyx}, found {config.patch_zyx}; {advice}"
        )
    if tuple(config.patch_zyx) == multiple_zyx:
        raise InputError(
            f"patch_zyx: expected more than one voxel in the deepest stage, found {config.patch_zyx}; "
            "choose a larger patch"
        )
