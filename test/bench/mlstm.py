"""The mLSTM's linear form against the parallel form of the published code, and public packages where they are there."""

import importlib
import importlib.util
import math
import statistics
import time
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from environments import mlstm_kernels
from sections import Pair, Section, compared
from torch import Tensor

from segsync_train.networks.mlstm import mlstm_chunkwise

Form = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
ROUNDS = 5
HERE = "chunkwise (here)"
CPU = torch.device("cpu")
CONDITIONS = "4 heads of 64, float32, one thread, processor time, after a first run that warms up."
#: The published form holds tokens × tokens numbers.
QUADRATIC = 4096
#: With the rounds of each.
GROWTH = {QUADRATIC: ROUNDS, 16_384: ROUNDS, 65_536: 1, 262_144: 1}


def measure() -> Iterator[Section]:
    """B = 1, 4 heads of 64, float32; medians of rounds in turn."""
    mlstm_kernels()
    torch.set_num_threads(1)
    yield forms()
    yield growth()


def forms() -> Section:
    """Every form of the same function, as many tokens as the quadratic one can hold."""
    others = packages() | {"the published code's quadratic form": parallel}
    seconds = timed({HERE: mlstm_chunkwise} | others, QUADRATIC, CPU)
    passes = ("forward", "forward and backward")
    pairs = [
        Pair(title, name, 1e3 * seconds[HERE][number], 1e3 * seconds[name][number], "ms")
        for number, title in enumerate(passes)
        for name in others
    ]
    return compared(f"The mLSTM, {QUADRATIC:,} tokens", pairs, CONDITIONS)


def growth() -> Section:
    """Time a token, which stays where time grows with the tokens and no faster."""
    rows, pairs = [], []
    first: list[float] = []
    for tokens, rounds in GROWTH.items():
        here = [1e6 * found / tokens for found in timed({HERE: mlstm_chunkwise}, tokens, CPU, rounds)[HERE]]
        first = first or here
        cells = [cell for it, least in zip(here, first, strict=True) for cell in (f"{it:.2f} µs", f"{least / it:.2f}")]
        beside = [
            Pair(f"{tokens:,} tokens, forward, a token", name, here[0], 1e6 * found[0] / tokens, "µs")
            for name, found in timed(packages(), tokens, CPU, rounds, backward=False).items()
        ]
        rows.append((f"{tokens:,}", *cells, *(f"{pair.ratio:.2f}" for pair in beside)))
        pairs += beside
    least = f"{QUADRATIC:,} / this"
    columns = ("tokens", "forward", least, "forward and backward", least, *(f"{name} / here" for name in packages()))
    note = f"Time a token: it stays where time grows with the tokens and no faster. {CONDITIONS}"
    return Section("The mLSTM as the sequence grows", columns, tuple(rows), note, tuple(pairs))


def timed(
    forms: dict[str, Form], tokens: int, device: torch.device, rounds: int = ROUNDS, *, backward: bool = True
) -> dict[str, tuple[float, float]]:
    """Seconds of each form, forward and forward + backward (0 without)."""
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
            if backward:
                torch.autograd.grad(form(q, k, v, i, f).sum(), (q, k, v, i, f))
            if round_:  # the first warms up
                found[name].append((forward, now(device) - began))
    return {name: (statistics.median(a for a, _ in t), statistics.median(b for _, b in t)) for name, t in found.items()}


def now(device: torch.device) -> float:
    """A GPU's clock, once it has done what it was given; a processor's time, which neighbours change little."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


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

        found["mlstm_kernels' chunkwise form in torch"] = lambda q, k, v, i, f: mlstm_chunkwise__native_autograd(
            q, k, v, i, f, chunk_size=64
        )
        if triton:
            module = importlib.import_module("mlstm_kernels.torch.chunkwise.triton_xl_chunk")
            found["mlstm_kernels, Triton"] = module.mlstm_chunkwise__xl_chunk
    return found
