"""torch's steps of `make gpu`: the same network and windows, a training step of every preset, the mLSTM."""

import statistics
import sys
import time
from collections.abc import Callable, Iterator
from typing import get_args

import torch
from gpu_worker import Row, milliseconds, serve
from mlstm import ROUNDS, Form, packages, parallel, timed
from pipeline import WEIGHTS
from shipped import shipped_network
from torch import Tensor, nn

from segsync_train.config.run import RunConfig
from segsync_train.config.settings import load_settings
from segsync_train.networks.build import build_network
from segsync_train.networks.mlstm import mlstm_chunkwise
from segsync_train.networks.onnx_file import Probabilities
from segsync_train.networks.xlstm_unet import PresetName
from segsync_train.runs.devices import autocast, peak_memory_mib, reset_peak_memory
from segsync_train.trainer.losses import SegmentationLoss

WINDOW = "One window, every engine"
TRAINING = "Training steps in bfloat16"
MLSTM = "The mLSTM, 4 heads of 64, forward and with backward"
PEERS = ("nnunet", "resunet", "swinunetr")


def device_of(dry: bool) -> torch.device:
    """The GPU; the step ends where this torch has none."""
    if not dry and not torch.cuda.is_available():
        sys.exit(f"torch {torch.__version__} sees no GPU: its CUDA ({torch.version.cuda}) needs another driver")
    return torch.device("cpu" if dry else "cuda")


def settle(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def windows(dry: bool) -> Iterator[Row]:
    """The shipped isles22 network in torch: eager, channels last, float16, compiled."""
    device, side = device_of(dry), 32 if dry else 64
    network = shipped_network()
    window = torch.randn(1, 3, side, side, side, generator=torch.Generator().manual_seed(0))
    last = torch.channels_last_3d
    with torch.inference_mode():
        expected = Probabilities(network)(window)
        plain: nn.Module = Probabilities(network).to(device)
        forms = {
            "torch, float32": form(plain, window, device, None, torch.contiguous_format),
            "torch, float32, channels last": form(plain, window, device, None, last),
        }
        if dry:
            yield {"left out": "float16 in torch, which many processors compute in minutes, and compiled networks"}
        else:
            compiled: nn.Module = torch.compile(plain)  # type: ignore[assignment]
            forms |= {
                "torch, float16, channels last": form(plain, window, device, torch.float16, last),
                "torch, float32, compiled": form(compiled, window, device, None, last),
                "torch, float16, compiled": form(compiled, window, device, torch.float16, last),
            }
        times = milliseconds(forms, 1 if dry else 20)
        for name, run in forms.items():
            off = float((run() - expected).abs().max())
            yield {"section": WINDOW, "engine": name, "ms": times[name], "largest difference from the CPU": off}


def form(
    network: nn.Module, window: Tensor, device: torch.device, dtype: torch.dtype | None, layout: torch.memory_format
) -> Callable[[], Tensor]:
    """A window from the processor's memory to the GPU and back, as the runtime has it."""

    def run() -> Tensor:
        with autocast(dtype, device):
            found: Tensor = network(window.to(device).to(memory_format=layout))
        return found.float().cpu()

    return run


def training(dry: bool) -> Iterator[Row]:
    """Forward, loss, backward and optimiser of every preset and of the peers, two patches of 96³."""
    device, side, batch = device_of(dry), 32 if dry else 96, 1 if dry else 2
    recipe = load_settings(RunConfig, WEIGHTS.parent / "training" / "configs" / "isles22.yaml")
    for name in ("tiny",) if dry else (*get_args(PresetName), *PEERS):
        network = recipe.network.model_copy(update={"preset": name, "overrides": {}})
        config = recipe.model_copy(update={"network": network, "patch_zyx": (side,) * 3, "batch": batch})
        row: Row = {"section": TRAINING, "preset": name, "patch": f"{batch} × {side}³"}
        try:
            yield row | step_figures(config, device, 1 if dry else 10)
        except torch.OutOfMemoryError:
            yield row | {"steps a second": "out of memory"}


def step_figures(config: RunConfig, device: torch.device, rounds: int) -> Row:
    """Steps a second and memory of one training, on noise."""
    reset_peak_memory(device)
    network = build_network(config).to(device, memory_format=torch.channels_last_3d).train()  # type: ignore[call-overload]
    optimiser = torch.optim.AdamW(network.parameters(), 1e-4)
    loss = SegmentationLoss(config.loss)
    shape = (config.batch, len(config.channels), *config.patch_zyx)
    image = torch.randn(shape, device=device).to(memory_format=torch.channels_last_3d)
    label = (torch.rand(config.batch, *config.patch_zyx, device=device) > 0.95).long()
    seconds = []
    for _ in range(rounds + 2):
        began = time.perf_counter()
        with autocast(torch.bfloat16, device):
            outputs = network(image)
        optimiser.zero_grad(set_to_none=True)
        loss(outputs, label, None).backward()
        optimiser.step()
        settle(device)
        seconds.append(time.perf_counter() - began)
    parameters = sum(p.numel() for p in network.parameters()) / 1e6
    return {
        "million parameters": parameters,
        "steps a second": 1 / statistics.median(seconds[2:]),
        "MiB": peak_memory_mib(device),
    }


def mlstm(dry: bool) -> Iterator[Row]:
    """The chunkwise form here, the parallel one and those of mlstm_kernels where they are installed."""
    device = device_of(dry)
    forms: dict[str, Form] = {"chunkwise (here)": mlstm_chunkwise}
    for tokens in (256,) if dry else (4096, 32_768, 262_144):
        others = packages(triton=not dry) | ({"parallel (published form)": parallel} if tokens <= 4096 else {})
        for name, (forward, both) in timed(forms | others, tokens, device, 1 if dry else ROUNDS).items():
            yield {
                "section": MLSTM,
                "form": name,
                "tokens": tokens,
                "forward, ms": 1e3 * forward,
                "both, ms": 1e3 * both,
            }


if __name__ == "__main__":
    serve({"windows": windows, "training": training, "mlstm": mlstm})
