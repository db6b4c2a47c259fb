"""The mLSTM's linear form against the parallel form of the published code, and public packages where they are there."""

import importlib
import importlib.util
import math
import statistics
import time
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from sections import Section
from torch import Tensor

from segsync_train.networks.mlstm import mlstm_chunkwise

Form = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
ROUNDS = 5
QUADRATIC = 4096


def measure() -> Iterator[Section]:
    """B = 1, 4 heads of 64, float32; forward alone and with the backward pass; medians of rounds in turn."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    forms = {"chunkwise (here)": mlstm_chunkwise, "parallel (published form)": parallel} | packages()
    seconds = timed(forms, QUADRATIC, device)
    here = seconds["chunkwise (here)"]
    rows = [
        (name, f"{1e3 * t[0]:.1f} ms", f"{1e3 * t[1]:.1f} ms", f"{t[0] / here[0]:.1f}", f"{t[1] / here[1]:.1f}")
        for name, t in seconds.items()
    ]
    columns = ("form", "forward", "forward + backward", "ratio forward", "ratio both")
    yield Section(f"mLSTM, {QUADRATIC} tokens, 4 heads of 64, float32, {device}", columns, tuple(rows))
    growth = []
    for tokens in (4096, 16_384, 65_536, 262_144):
        forward, both = timed({"here": mlstm_chunkwise}, tokens, device)["here"]
        growth.append((f"{tokens:,}", f"{1e6 * forward / tokens:.2f} µs", f"{1e6 * both / tokens:.2f} µs"))
    title = "Time per token as the sequence grows (linear: constant)"
    yield Section(title, ("tokens", "forward", "forward + backward"), tuple(growth))


def timed(
    forms: dict[str, Form], tokens: int, device: torch.device, rounds: int = ROUNDS
) -> dict[str, tuple[float, float]]:
    """Seconds of each form, forward and forward + backward."""
    qkv = [torch.randn(1, 4, tokens, 64, device=device, requires_grad=True) for _ in range(3)]
    i = torch.randn(1, 4, tokens, device=device, requires_grad=True)
    f = (torch.randn(1, 4, tokens, device=device) + 4).requires_grad_()
    q, k, v = qkv
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in forms}
    for round_ in range(rounds + 1):
        for name, form in forms.items():
            began = now(device)
            with torch.no_grad():
                form(q, k, v, i, f)
            forward = now(device) - began
            began = now(device)
            torch.autograd.grad(form(q, k, v, i, f).sum(), (q, k, v, i, f))
            if round_:  # the first warms up
                found[name].append((forward, now(device) - began))
    return {name: (statistics.median(a for a, _ in t), statistics.median(b for _, b in t)) for name, t in found.items()}


def now(device: torch.device) -> float:
    """The clock, once the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def parallel(q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor) -> Tensor:
    """The S×S form of the xLSTM paper (Beck et al. 2024, appendix A.3), which the published xLSTM-UNet runs."""
    tokens, dim = q.shape[-2:]
    total = F.logsigmoid(f).cumsum(-1)
    gates = total[..., :, None] - total[..., None, :] + i[..., None, :]
    causal = torch.ones(tokens, tokens, dtype=torch.bool, device=q.device).tril()
    gates = gates.masked_fill(~causal, -math.inf)
    m = gates.amax(-1, keepdim=True)
    weights = (q @ (k / math.sqrt(dim)).transpose(-1, -2)) * torch.exp(gates - m)
    return weights / torch.maximum(weights.sum(-1, keepdim=True).abs(), torch.exp(-m)) @ v


def packages(*, triton: bool = False) -> dict[str, Form]:
    """Public chunkwise forms that this machine has, those for a GPU as well; none of them is a dependency."""
    found: dict[str, Form] = {}
    if importlib.util.find_spec("mlstm_kernels") is not None:
        from mlstm_kernels.torch.chunkwise.native import mlstm_chunkwise__native_autograd  # type: ignore[import-not-found]

        found["mlstm_kernels, native chunkwise"] = lambda q, k, v, i, f: mlstm_chunkwise__native_autograd(
            q, k, v, i, f, chunk_size=64
        )
        if triton:
            module = importlib.import_module("mlstm_kernels.torch.chunkwise.triton_xl_chunk")
            found["mlstm_kernels, Triton"] = module.mlstm_chunkwise__xl_chunk
    return found
