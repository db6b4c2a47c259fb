"""Gets a network ready in a process that holds nothing else: `start_worker.py segsync|monai|nnunet START NETWORK`.

The network is a folder of weights for segsync, else a file of TorchScript. The one of nnU-Net runs in its environment,
with its package and torch alone.
"""

import sys
import time


def segsync(network: str) -> None:
    """As README shows it."""
    import segsync

    segsync.load("isles22", weights=network, device="cpu")


def monai(network: str) -> None:
    """What a script that predicts with it begins with."""
    import torch
    from monai.inferers import SlidingWindowInferer

    SlidingWindowInferer((64, 64, 64))
    torch.jit.load(network).eval()  # type: ignore[no-untyped-call]


def nnunet(network: str) -> None:
    """Its predictor."""
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    nnUNetPredictor(perform_everything_on_device=False, device=torch.device("cpu"))
    torch.jit.load(network).eval()  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    {"segsync": segsync, "monai": monai, "nnunet": nnunet}[sys.argv[1]](sys.argv[3])
    sys.stdout.write(f"{time.monotonic() - float(sys.argv[2])}\n")
