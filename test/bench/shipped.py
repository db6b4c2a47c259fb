"""A shipped network, in torch."""

import warnings
from pathlib import Path

import torch
from pipeline import WEIGHTS

from segsync.bundle import MODEL_FILE, load_bundle_spec
from segsync_train.networks.build import network_config
from segsync_train.networks.onnx_file import read_onnx
from segsync_train.networks.xlstm_unet import XLSTMUNet


def shipped_network(task: str = "isles22") -> XLSTMUNet:
    """With its weights, in evaluation mode."""
    spec = load_bundle_spec(WEIGHTS / task)
    settings = spec.provenance["config"]["network"]
    config = network_config(settings["preset"], settings["overrides"], len(spec.channels), len(spec.labels) + 1)
    network = XLSTMUNet(config)
    # The file has no heads but the finest: the others serve deep supervision alone.
    network.load_state_dict(read_onnx(WEIGHTS / task / MODEL_FILE), strict=False)
    return network.eval()


def traced(file: Path, task: str = "isles22") -> Path:
    """The network as TorchScript, which an environment without this project reads."""
    spec = load_bundle_spec(WEIGHTS / task)
    window = torch.zeros(1, len(spec.channels), *spec.patch_zyx)
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # every window has this size
        torch.jit.trace(shipped_network(task), window, check_trace=False).save(str(file))  # type: ignore[no-untyped-call]
    return file
