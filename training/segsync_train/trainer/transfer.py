"""What a training starts with: the weights of an earlier one, by the settings' `transfer`."""

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from segsync.bundle import load_bundle
from segsync.errors import InputError, WeightsError
from segsync_train.config.run import CaseSpec, RunConfig, TransferConfig
from segsync_train.config.settings import check_settings
from segsync_train.networks import SegmentationNetwork
from segsync_train.networks.baselines import Baseline
from segsync_train.networks.build import build_network
from segsync_train.networks.features import WRAPPED
from segsync_train.networks.onnx_file import read_onnx
from segsync_train.networks.transformers import (
    VIT_TOKEN,
    resized_positions,
)
from segsync_train.networks.xlstm_unet import XLSTMUNet
from segsync_train.runs.checkpoints import Checkpoint, load_checkpoint, load_network

log = logging.getLogger(__name__)

#: A ViT's learned positions.
POSITIONS = "patch_embedding.position_embeddings"


def trained_network(checkpoint: Checkpoint) -> tuple[RunConfig, SegmentationNetwork]:
    """The settings and the network of a fine-tuning's checkpoint, in evaluation mode; the mean of the weights if kept.

    Raises InputError, WeightsError where the checkpoint is of something else.
    """
    config = check_settings(RunConfig, checkpoint.state.get("config", {}), str(checkpoint.path))
    network = build_network(config)
    load_network(network, _averaged(checkpoint), checkpoint.path)
    return config, network.eval()


@dataclass(frozen=True)
class Inherited:
    """What a training starts with: each inherited parameter's fraction of the learning rate, and what made them."""

    factors: Mapping[str, float] = field(default_factory=dict)
    steps: int = 0
    hours: float = 0.0
    #: The pretext task of its encoder's pretraining; None where a fine-tuning made it, or nothing.
    pretext: str | None = None


def transfer(network: SegmentationNetwork, config: TransferConfig, cases: CaseSpec | None = None) -> Inherited:
    """Give the network its earlier weights.

    Weights of another number of input channels are fitted to this network's.

    Args:
        network: With fresh weights.
        config: `full` takes all stages of the encoder, `bottom` the deepest alone, `network` the decoder as well.
        cases: The run's, to warn where they come on another scale than those before; None: nothing is compared.

    Returns:
        What was inherited.

    Raises:
        WeightsError: The checkpoint is of another network; it names the first difference.
        InputError: The network has no encoder that can be inherited so.
    """
    if config.mode == "none" or config.checkpoint is None:
        return Inherited()
    own = weights_of(network)
    if config.mode == "network":
        weights, made = _network(config.checkpoint)
        # An exported file holds the finest head alone; those of deep supervision start anew, and so do all where the
        # labels are others.
        wanted = [name for name in own if not name.startswith(network.heads_at) or _same(name, own, weights)]
        anew = [name for name in own if name not in wanted and name in weights]
        if anew:
            log.warning("%s: of other labels; %s start anew", config.checkpoint, ", ".join(anew))
    elif network.encoder_at is None:
        raise InputError(
            "transfer: expected a network whose encoder can be pretrained, found a baseline; set transfer.mode to none"
        )
    else:
        weights, made = _encoder(config.checkpoint, network)
        taken_over = network.encoder_at
        if config.mode == "bottom":
            if not isinstance(network, XLSTMUNet):
                raise InputError("transfer.mode: expected full, found 'bottom', which only an xLSTM-UNet has")
            taken_over += f"stages.{len(network.encoder.stages) - 1}."
        wanted = [name for name in own if name.startswith(taken_over)]
    for name in fit_input(weights, network, wanted):
        _without_scalars(weights, name, cases)
    for name in wanted:
        found = tuple(weights[name].shape) if name in weights else "no such tensor"
        if found != tuple(own[name].shape):
            raise WeightsError(
                f"{config.checkpoint}: the checkpoint is of another network: {name}: expected "
                f"{tuple(own[name].shape)}, found {found}; use the network it was trained with"
            )
    with torch.no_grad():
        for name in wanted:
            own[name].copy_(weights[name])
    if cases is not None:
        _compare_scales(config.checkpoint, made.get("config", {}), cases)
    log.info("%d of %d tensors taken over from %s", len(wanted), len(own), config.checkpoint)
    taken = set(wanted)
    factors = {name: config.lr_factor for name, _ in network.named_parameters() if name in taken}
    before = made.get("inherited", {})
    steps, hours = made["step"] + before.get("steps", 0), made["hours"] + before.get("hours", 0.0)
    return Inherited(factors, steps, hours, _pretext(made))


def _without_scalars(weights: dict[str, Tensor], name: str, cases: CaseSpec | None) -> None:
    """Numbers of the patient begin without a say, so that the images give what they gave before."""
    places = cases.scalar_places if cases is not None else []
    if places:
        channels = weights[name].shape[1]
        weights[name] = weights[name] * (channels / (channels - len(places)))
        weights[name][:, places] = 0


def weights_of(network: nn.Module) -> dict[str, Tensor]:
    """A network's parameters and buffers by name, each once: some libraries hold theirs under several names."""
    kept = network.state_dict().keys()
    named = (*network.named_parameters(), *network.named_buffers())
    return {name: tensor for name, tensor in named if name in kept}


def fit_input(weights: dict[str, Tensor], network: SegmentationNetwork, names: Collection[str]) -> list[str]:
    """Fit the convolutions that see the image, of those named, to the network's number of channels; says which."""
    own, fitted = weights_of(network), []
    for name in network.input_weights:
        if name in names and name in weights and name in own:
            before, wanted = weights[name].shape, own[name].shape
            if before[1] != wanted[1] and (before[0], *before[2:]) == (wanted[0], *wanted[2:]):
                weights[name] = _fitted(weights[name], network.in_channels)
                fitted.append(name)
    return fitted


def _same(name: str, own: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> bool:
    return name in weights and weights[name].shape == own[name].shape


def _pretext(made: Mapping[str, Any]) -> str | None:
    """What an encoder was pretrained by: a pretext of ours, or the name that an import was given."""
    if made.get("kind") == "import":
        return str(made["name"])
    if made.get("kind") != "pretrain":
        return None
    settings = made["config"]["pretext"]
    return "-".join([str(settings["kind"]), *(word for word in ("sparse", "released") if settings.get(word))])


def _compare_scales(path: Path, before: Mapping[str, Any], now: CaseSpec) -> None:
    """Spacing, normalisation and region model of an earlier training's settings: shapes fit whatever they are."""
    spacing = tuple(before.get("spacing_zyx", now.spacing_zyx))
    if spacing != now.spacing_zyx:
        log.warning("%s: learned from voxels of %s mm, this run's are of %s", path, spacing, now.spacing_zyx)
    region_model = before.get("region_model") and Path(before["region_model"]).name
    if region_model and (now.region_model is None or now.region_model.name != region_model):
        log.warning("%s: trained with the region model %s; set region_model to that folder", path, region_model)
    known = [channel["normalisation"] for channel in before.get("channels", ())]
    known += [folder.get("normalisation") for folder in before.get("data", {}).get("folders", ())]
    for channel in now.images:
        own = channel.normalisation.model_dump(mode="json")
        if known and own not in known:
            log.warning("%s: learned from images by %s, this run's %s is by %s", path, known[0], channel.name, own)


def _fitted(weight: Tensor, channels: int) -> Tensor:
    """A first convolution (out, in, …) for another number of input channels.

    Every channel gets the mean of all, so that images which show the same in each channel give what they gave before.
    """
    before = weight.shape[1]
    if before == channels:
        return weight
    return weight.mean(1, keepdim=True).repeat_interleave(channels, 1) * (before / channels)


Weights = tuple[dict[str, Tensor], Mapping[str, Any]]


def _network(path: Path) -> Weights:
    """All weights of a fine-tuning, of its exported file or its checkpoint, and the state they were left in."""
    if path.suffix != ".onnx":
        checkpoint = load_checkpoint(path)
        return _averaged(checkpoint), checkpoint.state
    provenance = load_bundle(path.parent).spec.provenance
    return read_onnx(path), {**provenance, "step": provenance["steps"], "hours": provenance["training_hours"]}


def _encoder(path: Path, network: SegmentationNetwork) -> Weights:
    """The encoder's weights by the network's names, and the state they were left in.

    Of a pretraining's checkpoint or a fine-tuning's; of the running mean where one was kept.
    """
    checkpoint, at = load_checkpoint(path), str(network.encoder_at)
    pretrained = {f"{at}{name.removeprefix(WRAPPED)}": tensor for name, tensor in checkpoint.part("encoder").items()}
    found = pretrained or _averaged(checkpoint)
    if not any(name.startswith(at) for name in found):
        raise WeightsError(f"{path}: no encoder's weights; give a pretraining's checkpoint")
    if isinstance(network, Baseline) and f"{at}{POSITIONS}" in found:
        _resize_positions(found, f"{at}{POSITIONS}", network, checkpoint)
    return found, checkpoint.state


def _resize_positions(weights: dict[str, Tensor], name: str, network: Baseline, checkpoint: Checkpoint) -> None:
    """A ViT that was pretrained on patches of another size: its positions, interpolated."""
    before, now = (
        tuple(side // token for side, token in zip(patch, VIT_TOKEN, strict=True))
        for patch in (checkpoint.state["config"]["patch_zyx"], network.multiple_zyx)
    )
    if before != now:
        weights[name] = resized_positions(weights[name], before, now)


def _averaged(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """The running mean of the weights where one was kept, else the weights themselves."""
    averaged = checkpoint.part("ema")
    weights = {name.removeprefix("module."): t for name, t in averaged.items() if name.startswith("module.")}
    return weights or checkpoint.part("network")
