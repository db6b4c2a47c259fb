"""A training step of networks at one patch: the xLSTM-UNet here and as published, and nnU-Net's own by its trainer."""

import json
import statistics
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from environments import NNUNET, nnunet
from mlstm import now, parallel
from pipeline import Figures
from sections import Pair, Section, amount, compared
from torch import Tensor, nn

from segsync_train.config.run import LossConfig, RunConfig
from segsync_train.config.training import OptimiserConfig
from segsync_train.networks import SegmentationNetwork, published
from segsync_train.networks.build import build_network
from segsync_train.runs.devices import autocast
from segsync_train.trainer.losses import SegmentationLoss
from segsync_train.trainer.schedule import make_optimiser

ROUNDS = 2
#: The six stages of the published network ask for this or more.
SIDE = 64
NAMES = {
    "default": "xLSTM-UNet",
    "enc": "xLSTM-UNet-Enc",
    "bot": "xLSTM-UNet-Bot",
    "published-enc": "the published xLSTM-UNet-Enc",
    "published-bot": "the published xLSTM-UNet-Bot",
    "resenc-l": "ResEnc-L",
    "plainconv": "PlainConvUNet",
}
#: Ours, and what it stands beside; nnU-Net's trainer runs its own networks.
PAIRS = (
    ("enc", "published-enc"),
    ("bot", "published-bot"),
    ("default", "nnunet resenc-l"),
    ("default", "nnunet plainconv"),
    ("resenc-l", "nnunet resenc-l"),
    ("plainconv", "nnunet plainconv"),
)
#: What the published networks are here.
PUBLISHED = (
    "The published code is `networks/published.py`, which computes the same, with the quadratic mLSTM and the order of "
    "up-sampling and convolution that the authors' code has."
)
#: Six stages for all, whatever the patch.
STAGES = {"strides_zyx": [[1, 1, 1], *[[2, 2, 2]] * 5]}


def measure() -> Iterator[Section]:
    """Forward, loss, backward and update of one patch; medians of rounds, after a first that warms up."""
    torch.set_num_threads(1)
    yield trainers()
    yield precisions()


def trainers() -> Section:
    """The networks one after the other, in float32."""
    seconds, millions = {}, {}
    for name in NAMES:
        network = built(name, (SIDE,) * 3)
        seconds[name] = statistics.median(timed({name: Step(network, (SIDE,) * 3)})[name])
        millions[name] = sum(parameter.numel() for parameter in network.parameters()) / 1e6
    for name, found in nnunets().items():
        seconds[f"nnunet {name}"], millions[f"nnunet {name}"] = found["seconds"], found["parameters"] / 1e6
    names = NAMES | {f"nnunet {name}": f"nnU-Net's trainer, {NAMES[name]}" for name in ("resenc-l", "plainconv")}
    named = {name: f"{title} ({millions[name]:.1f})" for name, title in names.items()}
    pairs = [Pair(named[ours], named[peer], seconds[ours], seconds[peer]) for ours, peer in PAIRS]
    note = (
        f"Forward, loss with deep supervision, backward, clipping and update, one patch of {SIDE}³ of noise, float32, "
        "one thread, processor time; in brackets millions of parameters. Nothing is read or augmented. "
        f"nnU-Net is {NNUNET}, with the networks that its planners make for larger patches, of six stages. {PUBLISHED}"
    )
    return compared("A training step", pairs, note)


def nnunets() -> dict[str, Figures]:
    """Parameters and seconds of a step of nnU-Net's own trainer, by network."""
    with tempfile.TemporaryDirectory() as folder:
        worker = Path(__file__).with_name("nnunet_trainer.py")
        command = [str(nnunet()), str(worker), folder, str(SIDE), str(ROUNDS)]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found: dict[str, Figures] = json.loads(output.splitlines()[-1])
    return found


def precisions() -> Section:
    """The presets that processors train, in float32 and bfloat16."""
    rows = []
    for name in ("tiny", "compact"):
        network = built(name, (SIDE,) * 3)
        steps = {str(dtype): Step(network, (SIDE,) * 3, dtype) for dtype in (None, torch.bfloat16)}
        full, half = (statistics.median(found) for found in timed(steps).values())
        rows.append((f"`{name}`", amount(full, "s"), amount(half, "s"), f"{full / half:.2f}"))
    columns = ("preset", "float32", "bfloat16", "float32 / bfloat16")
    note = f"The same step; with `amp: bf16`, on a processor {'with' if amx() else 'without'} AMX."
    return Section("A training step in bfloat16", columns, tuple(rows), note)


def amx() -> bool:
    """Whether the processor multiplies tiles of bfloat16."""
    flags = Path("/proc/cpuinfo")
    return flags.is_file() and "amx_bf16" in flags.read_text()


def timed(steps: dict[str, "Step"]) -> dict[str, list[float]]:
    """Processor seconds of rounds in turn."""
    device = torch.device("cpu")
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for round_ in range(ROUNDS + 1):
        for name, step in steps.items():
            began = now(device)
            step()
            if round_:
                seconds[name].append(now(device) - began)
    return seconds


def built(name: str, patch: tuple[int, int, int]) -> SegmentationNetwork:
    """A network of six stages, one channel and one label, in training mode; ours with channels last, as in training."""
    overrides = STAGES if name in ("resenc-l", "plainconv") else {}
    settings = {
        "name": name, "task": "bench", "data": {"kind": "folder", "folder": Path()}, "labels": {1: "label"},
        "channels": [{"name": "image", "normalisation": {"kind": "zscore"}}], "spacing_zyx": (1, 1, 1),
        "patch_zyx": patch, "network": {"preset": name, "overrides": overrides}, "steps": 1,
    }  # fmt: skip
    network = build_network(RunConfig.model_validate(settings)).train()
    if not name.startswith("published"):
        return network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload,no-any-return]
    vars(published)["mlstm_chunkwise"] = parallel
    published._Upsample.forward = _grown_first  # type: ignore[method-assign]
    return network


def _grown_first(self: published._Upsample, x: Tensor) -> Tensor:
    """As the authors' code has it: the convolution sees the larger map."""
    grown: Tensor = self.conv(F.interpolate(x, scale_factor=self.scale, mode="nearest"))
    return grown


def layout(network: nn.Module) -> torch.memory_format:
    """That of its weights, which its image should have."""
    first = next(parameter for parameter in network.parameters() if parameter.ndim == 5)
    last = torch.channels_last_3d
    return last if first.is_contiguous(memory_format=last) else torch.contiguous_format


class Step:
    """A step of a training, on noise."""

    def __init__(
        self, network: SegmentationNetwork, patch: tuple[int, int, int], dtype: torch.dtype | None = None
    ) -> None:
        self.network, self.dtype = network, dtype
        self.loss = SegmentationLoss(LossConfig())
        self.optimiser = make_optimiser(OptimiserConfig(), network)
        self.image = torch.randn(1, 1, *patch).to(memory_format=layout(network))
        self.target = torch.randint(0, 2, (1, *patch))

    def __call__(self) -> None:
        """Forward, loss, backward, clipping and update."""
        with autocast(self.dtype, self.image.device):
            outputs = self.network(self.image)
        self.optimiser.zero_grad(set_to_none=True)
        self.loss(outputs, self.target).backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), 12)
        self.optimiser.step()
