"""A shipped network, in torch."""

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
