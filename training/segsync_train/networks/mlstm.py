"""The mLSTM cell (Beck et al., xLSTM, 2024): the recurrence as its definition, and the form in linear time that runs.

Notation: B batch, H heads, S tokens, D head dimension, L tokens a chunk, N = S/L chunks. Queries, keys and values are
(B, H, S, D); the gates' pre-activations i and f are (B, H, S). The input gate is exp(i), the forget gate sigmoid(f).

    C_t = f_t C_{t-1} + i_t k_t v_tᵀ      n_t = f_t n_{t-1} + i_t k_t      h_t = C_tᵀ q_t / max(|n_tᵀ q_t|, 1)

with keys scaled by 1/√D. Both forms keep C and n divided by exp(m_t), a running maximum of the exponents, so that no
gate overflows; the result does not depend on m.

The chunkwise form is quadratic inside a chunk and carries a D×D state from chunk to chunk. The states of `GROUP` chunks
are one masked matrix product; the groups follow each other, so that time and memory are linear in S, and what a group
computes stays in the processor's cache whatever S is.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

#: Chunks whose states are found by one dense product.
GROUP = 64
#: An exponent that is nothing beside any other, and finite, so that differences of two of them are no NaN.
NOTHING = -1e30


def mlstm_recurrent(q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor) -> Tensor:
    """Hidden states (B, H, S, D), one token after the other: the definition, for reading and for tests."""
    batch, heads, tokens, dim = q.shape
    k = k / math.sqrt(dim)
    log_f = F.logsigmoid(f)
    state = q.new_zeros(batch, heads, dim, dim)
    normaliser = q.new_zeros(batch, heads, dim)
    m = q.new_full((batch, heads), NOTHING)
    hidden = []
    for t in range(tokens):
        m_before, m = m, torch.maximum(log_f[..., t] + m, i[..., t])
        forget = torch.exp(log_f[..., t] + m_before - m)
        enter = torch.exp(i[..., t] - m)
        state = forget[..., None, None] * state + enter[..., None, None] * k[..., t, :, None] * v[..., t, None, :]
        normaliser = forget[..., None] * normaliser + enter[..., None] * k[..., t, :]
        read = (q[..., t, None, :] @ state).squeeze(-2)
        weight = (q[..., t, :] * normaliser).sum(-1).abs()
        hidden.append(read / torch.maximum(weight, torch.exp(-m))[..., None])
    return torch.stack(hidden, dim=2)


#: What a group hands to the next: C (B, H, D, D) and n (B, H, D, 1), both divided by exp(m), and m (B, H).
State = tuple[Tensor, Tensor, Tensor]


def mlstm_chunkwise(q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor, chunk: int = 64) -> Tensor:
    """Hidden states (B, H, S, D) in time and memory linear in S; equal to `mlstm_recurrent` up to rounding.

    q, k, v may be of any floating type; gates, their sums and exponentials are float32 whatever the rest is (float64
    for float64). S need not be a multiple of `chunk`. In ONNX all chunks are one group: the graph has no loop.
    """
    exact = torch.float64 if q.dtype == torch.float64 else torch.float32
    # The keys' 1/√D is a part of what the input gate multiplies.
    i = i.to(exact) - math.log(q.shape[-1]) / 2
    # ln sigmoid(f): `logsigmoid` becomes log(sigmoid) in ONNX, which is -inf from f = -89 on, and then NaN.
    log_f = -F.softplus(-f.to(exact), threshold=80)
    if torch.onnx.is_in_onnx_export() or q.shape[2] <= GROUP * chunk:
        return _group(q, k, v, i, log_f, chunk, None)[0]
    hidden: list[Tensor] = []
    state: State | None = None
    groups = (torch.split(t, GROUP * chunk, dim=2) for t in (q, k, v, i, log_f))
    for part_q, part_k, part_v, part_i, part_f in zip(*groups, strict=True):
        found, state = _group(part_q, part_k, part_v, part_i, part_f, chunk, state)
        hidden.append(found)
    return torch.cat(hidden, dim=2)


def _group(
    q: Tensor, k: Tensor, v: Tensor, i: Tensor, log_f: Tensor, chunk: int, entering: State | None
) -> tuple[Tensor, State]:
    """Hidden states of a group's tokens, and the state that leaves it; entering: that of the group before."""
    batch, heads, tokens, dim = q.shape
    padding = (-tokens) % chunk
    count = (tokens + padding) // chunk
    if torch.onnx.is_in_onnx_export() or padding:  # padding by nothing is a copy
        q, k, v = (F.pad(t, (0, 0, 0, padding)) for t in (q, k, v))
        i = F.pad(i, (0, padding), value=NOTHING)  # padding never enters
        log_f = F.pad(log_f, (0, padding))  # and never forgets
    q, k, v = (t.reshape(batch, heads, count, chunk, dim) for t in (q, k, v))
    i, log_f = (t.reshape(batch, heads, count, chunk) for t in (i, log_f))

    since_start = log_f.cumsum(-1)  # exponent of the decay from a chunk's start to each of its tokens, inclusive
    decay = since_start[..., -1]
    to_end = decay[..., None] - since_start + i  # each token's weight at its chunk's end
    m_chunk = to_end.detach().amax(-1)
    adding = k * torch.exp(to_end - m_chunk[..., None])[..., None]
    # What each chunk adds to C, (B, H, N, D, D), and to n, (B, H, N, D, 1). n divides, and its terms cancel: it is
    # kept exact.
    own: tuple[Tensor, ...] = (adding.to(v.dtype).transpose(-1, -2) @ v, adding.sum(-2)[..., None])
    before, m_before, leaving = _states(own, decay, m_chunk, entering)

    token = torch.arange(chunk, device=q.device)
    later = token[:, None] < token[None, :]
    gate = i - since_start
    across = since_start + m_before[..., None]
    m = torch.maximum((since_start + _running_maximum(gate, later)).detach(), across.detach())
    within = (since_start - m)[..., :, None] + gate[..., None, :]
    attention = (q @ k.transpose(-1, -2)) * within.masked_fill_(later, NOTHING).exp_()
    carried = q * torch.exp(across - m)[..., None]
    read = attention.to(v.dtype) @ v + carried.to(v.dtype) @ before[0]
    weight = attention.sum(-1, keepdim=True) + carried @ before[1]
    hidden = read / torch.maximum(weight.abs(), torch.exp(-m)[..., None])
    return hidden.to(v.dtype).reshape(batch, heads, count * chunk, dim)[:, :, :tokens], leaving


def _running_maximum(gate: Tensor, later: Tensor) -> Tensor:
    """The largest of each token and those before it, (…, L) → (…, L)."""
    if torch.onnx.is_in_onnx_export():  # which has none
        return gate[..., None, :].masked_fill(later, NOTHING).amax(-1)
    return gate.detach().cummax(-1).values


def _states(
    own: tuple[Tensor, ...], decay: Tensor, m: Tensor, entering: State | None
) -> tuple[tuple[Tensor, ...], Tensor, State]:
    """The states before each of N chunks and after the last, by one masked (N + 1)×N product.

    own: (B, H, N, D, E), what each chunk adds to each state, divided by exp(m); decay, m: (B, H, N) exponents of a
    chunk's whole decay and of its scale. Returns the states before each chunk with their common exponents (B, H, N),
    and what leaves the last.
    """
    if entering is not None:  # a chunk before the first
        own = tuple(torch.cat([e[:, :, None].to(o.dtype), o], dim=2) for e, o in zip(entering, own, strict=False))
        decay, m = F.pad(decay, (1, 0)), torch.cat([entering[2][..., None], m], dim=-1)
    row = torch.arange(decay.shape[-1] + 1, device=decay.device)
    earlier = row[:, None] > row[None, :-1]  # (N + 1, N): chunk i lies before row j
    # Decay from chunk i's end to row j's start, Σ decay_l over i < l < j, summed rather than taken as a difference of
    # cumulative sums, which would cancel.
    steps = torch.where(row[:-1, None] > row[None, :-1], decay[..., :, None], 0.0)
    passed = F.pad(steps.cumsum(-2), (0, 0, 1, 0))
    exponent = torch.where(earlier, passed + m[..., None, :], NOTHING)
    scale = exponent.detach().amax(-1)
    weight = torch.exp(exponent - scale[..., None]) * earlier
    states = tuple((weight.to(o.dtype) @ o.flatten(-2)).reshape(*weight.shape[:-1], *o.shape[-2:]) for o in own)
    first = 0 if entering is None else 1
    state, normaliser = (s[..., -1, :, :] for s in states)
    return tuple(s[..., first:-1, :, :] for s in states), scale[..., first:-1], (state, normaliser, scale[..., -1])
