"""The mLSTM that runs is the recurrence that defines it, at any length, chunk and gate, and in low precision."""

import subprocess
import sys
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from segsync_train.networks import mlstm, vil
from segsync_train.networks.mlstm import mlstm_chunkwise, mlstm_recurrent


def inputs(
    batch: int, heads: int, tokens: int, dim: int, gate: float, seed: int, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """q, k, v, i, f; the gates' pre-activations lie within ±`gate`."""
    random = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(batch, heads, tokens, dim, generator=random, dtype=dtype) for _ in range(3))
    i, f = (gate * (2 * torch.rand(batch, heads, tokens, generator=random, dtype=dtype) - 1) for _ in range(2))
    return q, k, v, i, f


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected.double()).norm() / expected.double().norm())


def test_two_tokens_by_hand() -> None:
    # One head of one feature: k and v 1 and 2, q 1 and 1, i = 0 and ln 2, f = 0 (sigmoid 1/2).
    q, k, v = (torch.tensor(values).reshape(1, 1, 2, 1) for values in ([1.0, 1.0], [1.0, 2.0], [1.0, 2.0]))
    i, f = torch.tensor([[[0.0, 0.6931472]]]), torch.zeros(1, 1, 2)
    # C: 1, then 1/2 + 2·2·2 = 8.5; n: 1, then 1/2 + 2·2 = 4.5; h = C q / max(|n q|, 1).
    expected = torch.tensor([1.0, 8.5 / 4.5]).reshape(1, 1, 2, 1)
    for form in (mlstm_recurrent, mlstm_chunkwise):
        torch.testing.assert_close(form(q, k, v, i, f), expected)


def test_a_small_normaliser_is_held_at_one() -> None:
    # exp(i) = e⁻³ and q k = 1: |n q| = 0.05 < 1, so that h = C q itself.
    one = torch.ones(1, 1, 1, 1)
    i, f = torch.full((1, 1, 1), -3.0), torch.zeros(1, 1, 1)
    for form in (mlstm_recurrent, mlstm_chunkwise):
        torch.testing.assert_close(form(one, one, one, i, f), torch.exp(i)[..., None])


@settings(max_examples=60)
@given(
    tokens=st.integers(1, 130),
    dim=st.integers(1, 6),
    chunk=st.integers(1, 64),
    group=st.integers(2, 64),
    gate=st.sampled_from([0.1, 1.0, 8.0, 50.0]),
    seed=st.integers(0, 2**31),
)
def test_chunkwise_is_the_recurrence(tokens: int, dim: int, chunk: int, group: int, gate: float, seed: int) -> None:
    """Forward and backward, whatever the length, the chunks and how many of them make a group."""
    q, k, v, i, f = (t.requires_grad_() for t in inputs(1, 2, tokens, dim, gate, seed))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mlstm, "GROUP", group)
        found = mlstm_chunkwise(q, k, v, i, f, chunk=chunk)
        expected = mlstm_recurrent(q, k, v, i, f)
        scale = max(1.0, float(expected.detach().abs().max()))
        assert float((found - expected).detach().abs().max()) <= 1e-10 * scale
        weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        gradients = [torch.autograd.grad((h * weights).sum(), (q, k, v, i, f)) for h in (found, expected)]
    for mine, theirs in zip(*gradients, strict=True):
        scale = max(1.0, float(theirs.abs().max()))
        assert float((mine - theirs).abs().max()) <= 1e-10 * scale


def test_gradients_are_those_of_finite_differences() -> None:
    arguments = [t.requires_grad_() for t in inputs(1, 1, 7, 2, 1.0, seed=3)]
    assert torch.autograd.gradcheck(partial(mlstm_chunkwise, chunk=3), arguments)


@pytest.mark.parametrize(
    ("dtype", "largest"), [(torch.float32, 2e-6), (torch.bfloat16, 1e-2), (torch.float16, 1e-2)], ids=str
)
def test_low_precision_stays_near_float64_over_4096_tokens(dtype: torch.dtype, largest: float) -> None:
    """Inputs of the type, gates always float32; the reference computes the very same inputs in float64."""
    q, k, v, i, f = inputs(1, 4, 4096, 64, 1.0, seed=0, dtype=torch.float32)
    f = f + torch.linspace(3, 6, 4)[None, :, None]  # as the network begins
    q, k, v = (t.to(dtype) for t in (q, k, v))
    exact = mlstm_chunkwise(q.double(), k.double(), v.double(), i.double(), f.double())
    found = mlstm_chunkwise(q, k, v, i, f)
    assert found.dtype == dtype
    assert relative(found, exact) <= largest


@pytest.mark.parametrize("block_size", [None, 4])
def test_autocast_leaves_the_cell_exact(block_size: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Queries, keys and values come in bfloat16; the cell then computes as it does by itself."""
    seen: list[tuple[Tensor, ...]] = []

    def watched(q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor) -> Tensor:
        found = mlstm_chunkwise(q, k, v, i, f)
        seen.append((q, k, v, i, f, found))
        return found

    monkeypatch.setattr(vil, "mlstm_chunkwise", watched)
    torch.manual_seed(0)
    path = vil.MLSTMPath(64, 4, block_size)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        path(torch.randn(1, 1024, 64))
    q, k, v, i, f, found = seen[0]
    assert [t.dtype for t in (q, k, v, i, f)] == 3 * [torch.bfloat16] + 2 * [torch.float32]
    exact = mlstm_chunkwise(q.double(), k.double(), v.double(), i.double(), f.double())
    assert relative(found, exact) <= 1e-2


@pytest.mark.parametrize("i", [-50.0, 0.0, 50.0])
@pytest.mark.parametrize("f", [-50.0, 0.0, 50.0])
def test_extreme_gates_give_no_nan(i: float, f: float) -> None:
    q, k, v, gate_i, gate_f = inputs(1, 2, 300, 8, 0.0, seed=1, dtype=torch.float32)
    arguments = [t.requires_grad_() for t in (q, k, v, gate_i + i, gate_f + f)]
    q, k, v, gate_i, gate_f = arguments
    hidden = mlstm_chunkwise(q, k, v, gate_i, gate_f)
    assert hidden.isfinite().all()
    assert all(g.isfinite().all() for g in torch.autograd.grad(hidden.sum(), arguments))


def test_no_token_knows_a_later_one() -> None:
    first = inputs(1, 2, 200, 4, 2.0, seed=5)
    q, k, v, i, f = (torch.cat([t[:, :, :150], t[:, :, 150:] + 1.0], dim=2) for t in first)
    one, other = mlstm_chunkwise(*first)[:, :, :150], mlstm_chunkwise(q, k, v, i, f)[:, :, :150]
    torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


LONG = """
import re, sys, torch
from pathlib import Path
from segsync_train.networks.mlstm import mlstm_chunkwise
peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
before = peak()
for tokens in map(int, sys.argv[1:]):
    q, k, v = (torch.randn(1, 1, tokens, 16, requires_grad=True) for _ in range(3))
    i, f = (torch.zeros(1, 1, tokens, requires_grad=True) for _ in range(2))
    mlstm_chunkwise(q, k, v, i, f + 4).sum().backward()
    sys.stdout.write(f"{peak() - before}\\n")
"""


def test_memory_grows_linearly_to_262144_tokens() -> None:
    """Eight times the tokens take at most ten times the memory, backward pass included; quadratic would take 64."""
    command = [sys.executable, "-c", LONG, "32768", "262144"]
    used = subprocess.run(command, capture_output=True, check=True).stdout.split()
    assert int(used[1]) <= 10 * int(used[0])
