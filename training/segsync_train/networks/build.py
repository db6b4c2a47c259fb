"""The network of a run, built from its settings with fresh weights."""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from monai.networks.nets import UNETR, SwinUNETR

from segsync.arrays import SizeZYX
from segsync.errors import InputError
from segsync_train.config.settings import check_settings, unknown_key
from segsync_train.config.training import NetworkSettings
from segsync_train.networks import SegmentationNetwork
from segsync_train.networks.baselines import Baseline, BaselineName, baseline, plan
from segsync_train.networks.features import FeatureEncoder
from segsync_train.networks.published import PublishedConfig, PublishedEncoder, PublishedName, PublishedXLSTMUNet
from segsync_train.networks.resenc import LibraryEncoder, ResEncConfig, ResEncName, resenc
from segsync_train.networks.transformers import (
    SWIN_MULTIPLE,
    VIT_TOKEN,
    SwinEncoder,
    SwinUNETRConfig,
    TransformerName,
    UNETRConfig,
    ViTEncoder,
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


Config = TypeVar("Config", XLSTMUNetConfig, PublishedConfig, ResEncConfig, SwinUNETRConfig, UNETRConfig)


def _overridden(base: Config, overrides: Mapping[str, Any]) -> Config:
    known = [field.name for field in dataclasses.fields(base) if field.name not in DERIVED]
    for key in overrides:
        if key not in known:
            raise InputError(f"network.overrides: {unknown_key(key, known)}")
    return check_settings(type(base), {**vars(base), **overrides}, "network.overrides")


def build_network(config: NetworkSettings) -> SegmentationNetwork:
    """The run's network with fresh weights; raises InputError where its settings or the patch do not fit."""
    name = config.network.preset
    if name == "swinunetr" or name == "unetr":
        return _transformer(name, config)
    if name == "published-enc" or name == "published-bot":
        return _published(name, config)
    network: SegmentationNetwork
    if name == "nnunet" or name == "resunet" or name == "unet":
        network = _baseline(name, config)
    elif name == "resenc-m" or name == "resenc-l" or name == "plainconv":
        network = _resenc(name, config)
    else:
        settings = network_config(name, config.network.overrides, len(config.channels), config.outputs)
        try:
            network = XLSTMUNet(settings)
        except ValueError as error:
            raise InputError(f"network.overrides: {error}") from error
    _check_patch(config, network.multiple_zyx, "choose another patch or other network.overrides.strides_zyx")
    return network


def encoder_of(network: SegmentationNetwork) -> FeatureEncoder | None:
    """The network's encoder, if it is one that pretraining knows."""
    if isinstance(network, XLSTMUNet):
        return network.encoder
    inner = network.network
    if isinstance(inner, SwinUNETR):
        return SwinEncoder(inner)
    if isinstance(inner, UNETR):
        return ViTEncoder(inner)
    if isinstance(inner, PublishedXLSTMUNet):
        # The block of published-bot lies outside its encoder.
        return PublishedEncoder(inner) if inner.encoder.xlstm_layers is not None else None
    if isinstance(inner, ResidualEncoderUNet | PlainConvUNet):
        return LibraryEncoder(inner.encoder, network.strides_zyx)
    return None


def _baseline(name: BaselineName, config: NetworkSettings) -> Baseline:
    if config.network.overrides:
        raise InputError(f"network.overrides: expected none for {name}, whose shape follows from the patch")
    try:
        return baseline(name, len(config.channels), config.outputs, plan(config.patch_zyx, config.spacing_zyx))
    except ValueError as error:
        raise InputError(f"patch_zyx: {error}, found {config.patch_zyx}; choose a larger patch") from error


def _resenc(name: ResEncName, config: NetworkSettings) -> Baseline:
    settings = _overridden(ResEncConfig(), config.network.overrides)
    try:
        settings = settings.planned(name, plan(config.patch_zyx, config.spacing_zyx))
    except ValueError as error:
        raise InputError(f"network.overrides: {error}") from error
    return resenc(name, settings, len(config.channels), config.outputs)


def _published(name: PublishedName, config: NetworkSettings) -> Baseline:
    settings, channels = _overridden(PublishedConfig(), config.network.overrides), len(config.channels)
    _check_patch(config, _product(settings.strides_zyx), "choose another patch or other network.overrides.strides_zyx")
    try:
        network = PublishedXLSTMUNet(name, settings, channels, config.outputs, config.patch_zyx)
    except ValueError as error:
        raise InputError(f"network.overrides: {error}") from error
    # Of channels that are tokens voxels are the features: such a network sees windows of the patch's size alone.
    strides = settings.strides_zyx if name == "published-bot" else (config.patch_zyx,)
    heads = ("network.decoder.seg_layers.",)
    return Baseline(network, channels, strides, encoder_at="network.encoder.", heads_at=heads)


def _product(strides_zyx: Iterable[SizeZYX]) -> SizeZYX:
    z, y, x = (math.prod(axis) for axis in zip(*strides_zyx, strict=True))
    return z, y, x


def _transformer(name: TransformerName, config: NetworkSettings) -> Baseline:
    overrides, channels = config.network.overrides, len(config.channels)
    multiple = SWIN_MULTIPLE if name == "swinunetr" else VIT_TOKEN
    _check_patch(config, multiple, "choose another patch")
    try:
        if name == "swinunetr":
            return swinunetr(_overridden(SwinUNETRConfig(), overrides), channels, config.outputs, config.patch_zyx)
        return unetr(_overridden(UNETRConfig(), overrides), channels, config.outputs, config.patch_zyx)
    except ValueError as error:
        raise InputError(f"network.overrides: {error}") from error


def _check_patch(config: NetworkSettings, multiple_zyx: SizeZYX, advice: str) -> None:
    if any(side % multiple for side, multiple in zip(config.patch_zyx, multiple_zyx, strict=True)):
        raise InputError(
            f"patch_zyx: expected sides that are multiples of {multiple_zyx}, found {config.patch_zyx}; {advice}"
        )
    if tuple(config.patch_zyx) == multiple_zyx:
        raise InputError(
            f"patch_zyx: expected more than one voxel in the deepest stage, found {config.patch_zyx}; "
            "choose a larger patch"
        )
