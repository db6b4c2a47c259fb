"""The pretext that the settings name, on its encoder: a new one is a file here, its settings, and two lines below."""

from collections.abc import Iterator

from segsync.errors import InputError
from segsync_train.networks.build import build_network, encoder_of
from segsync_train.networks.features import FeatureEncoder
from segsync_train.runs.devices import Processes
from segsync_train.ssl.config import PretrainConfig
from segsync_train.ssl.hiendmae import HiEndMAE
from segsync_train.ssl.mae import MAE
from segsync_train.ssl.pretext import Pretext
from segsync_train.ssl.segsync import SegSync
from segsync_train.ssl.swinmm import SwinMM
from segsync_train.ssl.swinssl import SwinSSL
from segsync_train.ssl.voco import VoCo


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
    return SegSync(encoder, config, config.patch_zyx, config.steps, group)


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
