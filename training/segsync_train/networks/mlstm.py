"""The mLSTM cell (Beck et al., xLSTM, 2024): the recurrence as its definition, and the form in linear time that runs.

Notation: B batch, H heads, S tokens, D head dimension, L tokens a chunk, N = S/L chunks. Queries, keys and values are
(B, H, S, D); the gates' pre-activations i and f are (B, H, S). The input gate is exp(i), the forget gate sigmoid(f).

    C_t = f_t C_{t-1} + i_t k_t v_tᵀ      n_t = f_t n_{t-1} + i_t k_t      h_t = C_tᵀ q_t / max(|n_tᵀ q_t|, 1)

with keys scaled by 1/√D. Both forms keep C and n divided by exp(m_t), a running maximum of the exponents, so that no
gate overflows; the result does not depend on m.

The chunkwise form is quadratic inside a chunk and carries a D×D state from chunk to chunk. The states of up to
`GROUP` chunks are one masked matrix product; more chunks than that are grouped, and the groups' states are found the
same way, so that time and memory stay linear in S and no step loops over chunks.
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


def mlstm_chunkwise(q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor, chunk: int = 64) -> Tensor:
    """Hidden states (B, H, S, D) in time and memory linear in S; equal to `mlstm_recurrent` up to rounding.

    q, k, v may be of any floating type; gates, their sums and exponentials are float32 whatever the rest is (float64
    for float64). S need not be a multiple of `chunk`.
    """
    batch, heads, tokens, dim = q.shape
    exact = torch.float64 if q.dtype == torch.float64 else torch.float32
    padding = (-tokens) % chunk
    count = (tokens + padding) // chunk
    q, k, v = (
        F.pad(t, (0, 0, 0, padding)).reshape(batch, heads, count, chunk, dim) for t in (q, k / math.sqrt(dim), v)
    )
    # Padding never enters (i) and never forgets (f).
    i = F.pad(i.to(exact), (0, padding), value=NOTHING).reshape(batch, heads, count, chunk)
    # ln sigmoid(f): `logsigmoid` becomes log(sigmoid) in ONNX, which is -inf from f = -89 on, and then NaN.
    log_f = -F.softplus(-f.to(exact), threshold=80)
    log_f = F.pad(log_f, (0, padding)).reshape(batch, heads, count, chunk)

    since_start = log_f.cumsum(-1)  # exponent of the decay from a chunk's start to each of its tokens, inclusive
    decay = since_start[..., -1]
    to_end = decay[..., None] - since_start + i  # each token's weight at its chunk's end
    m_chunk = to_end.detach().amax(-1)
    entering = k * torch.exp(to_end - m_chunk[..., None])[..., None]
    # What each chunk adds to C, (B, H, N, D, D), and to n, (B, H, N, D, 1). n divides, and its terms cancel: it is
    # kept exact.
    own = entering.to(v.dtype).transpose(-1, -2) @ v, entering.sum(-2)[..., None]
    (state, normaliser), m_before, _, _ = _states_before(own, decay, m_chunk)

    token = torch.arange(chunk, device=q.device)
    causal = token[:, None] >= token[None, :]
    within = since_start[..., :, None] - since_start[..., None, :] + i[..., None, :]
    within = within.masked_fill(~causal, NOTHING)
    across = since_start + m_before[..., None]
    m = torch.maximum(within.detach().amax(-1), across.detach())
    attention = (q @ k.transpose(-1, -2)) * torch.exp(within - m[..., None])
    carried = q * torch.exp(across - m)[..., None]
    read = attention.to(v.dtype) @ v + carried.to(v.dtype) @ state
    weight = attention.sum(-1, keepdim=True) + carried @ normaliser
    hidden = read / torch.maximum(weight.abs(), torch.exp(-m)[..., None])
    return hidden.to(v.dtype).reshape(batch, heads, count * chunk, dim)[:, :, :tokens]


def _states_before(
    own: tuple[Tensor, ...], decay: Tensor, m: Tensor
) -> tuple[tuple[Tensor, ...], Tensor, tuple[Tensor, ...], Tensor]:
    """The states that enter each chunk, and those that leave the last.

    own: states (…, N, D, E), what each chunk adds to each, divided by exp(m); decay, m: (…, N) exponents of a chunk's
    whole decay and of its scale. Returns the states (…, N, D, E) and their common exponents (…, N), then the same for
    the end, (…, D, E) and (…).
    """
    count = decay.shape[-1]
    if count <= GROUP:
        states, exponents = _dense(own, decay, m)
        inner, last = (tuple(s[..., part, :, :] for s in states) for part in (slice(None, -1), -1))
        return inner, exponents[..., :-1], last, exponents[..., -1]
    padding = (-count) % GROUP
    groups = (count + padding) // GROUP
    lead = decay.shape[:-1]
    own = tuple(F.pad(o, (0, 0, 0, 0, 0, padding)).reshape(*lead, groups, GROUP, *o.shape[-2:]) for o in own)
    decay = F.pad(decay, (0, padding)).reshape(*lead, groups, GROUP)
    m = F.pad(m, (0, padding), value=NOTHING).reshape(*lead, groups, GROUP)
    states, exponents = _dense(own, decay, m)  # inside each group: (…, R, GROUP + 1, D, E)
    ends = tuple(s[..., -1, :, :] for s in states)
    entering, m_entering, last, m_last = _states_before(ends, decay.sum(-1), exponents[..., -1])  # of the groups
    passed = F.pad(decay.cumsum(-1)[..., :-1], (1, 0)) + m_entering[..., None]
    m_inside = exponents[..., :-1]
    joint = torch.maximum(m_inside, passed.detach())
    here, before = (torch.exp(exponent - joint)[..., None, None] for exponent in (m_inside, passed))
    joined = tuple(
        (s[..., :-1, :, :] * here.to(s.dtype) + e[..., None, :, :] * before.to(s.dtype)).flatten(-4, -3)[
            ..., :count, :, :
        ]
        for s, e in zip(states, entering, strict=True)
    )
    return joined, joint.flatten(-2)[..., :count], last, m_last


def _dense(own: tuple[Tensor, ...], decay: Tensor, m: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
    """States before each of N chunks and after the last, (…, N + 1, D, E), by one masked (N + 1)×N product."""
    count = decay.shape[-1]
    row = torch.arange(count + 1, device=decay.device)
    earlier = row[:, None] > row[None, :-1]  # (N + 1, N): chunk i lies before row j
    # Decay from chunk i's end to row j's start, Σ decay_l over i < l < j, summed rather than taken as a difference of
    # cumulative sums, which would cancel.
    steps = torch.where(row[:-1, None] > row[None, :-1], decay[..., :, None], 0.0)
    passed = F.pad(steps.cumsum(-2), (0, 0, 1, 0))
    exponent = torch.where(earlier, passed + m[..., None, :], NOTHING)
    scale = exponent.detach().amax(-1)
    weight = torch.exp(exponent - scale[..., None]) * earlier
    states = tuple((weight.to(o.dtype) @ o.flatten(-2)).reshape(*o.shape[:-3], count + 1, *o.shape[-2:]) for o in own)
    return states, scale
