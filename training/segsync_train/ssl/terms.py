"""The terms of the loss, equation by equation of the paper's Appendix C, as functions of tensors alone."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def global_average_pool(features: Tensor) -> Tensor:
    """Eqs. 5 and 6: global average pooling of a feature map, (n, D, Z, Y, X) → (n, D), in float32."""
    return features.float().mean((2, 3, 4))


def cosines(one: Tensor, other: Tensor) -> Tensor:
    """Cosines of all pairs, (…, n, D) and (…, m, D) → (…, n, m); float32 even under autocast: at first all near 1."""
    with torch.autocast(one.device.type, enabled=False):
        return F.normalize(one.float(), dim=-1) @ F.normalize(other.float(), dim=-1).transpose(-2, -1)


def cross_entropy(z: Tensor, q: Tensor, temperature: float = 1.0) -> Tensor:
    """Eq. 12, mean over the batch: student's logits z and targets q, both (n, K)."""
    return -(q * (z / temperature).log_softmax(-1)).sum(-1).mean()


def squared_error(z: Tensor, q: Tensor, temperature: float = 1.0) -> Tensor:
    """Σk (Softmax(z)[k] − q[k])², mean over the batch: a sum over K as in eq. 12, so that its weight suits any K."""
    return ((z / temperature).softmax(-1) - q).square().sum(-1).mean()


def output_error(z: Tensor, z_teacher: Tensor) -> Tensor:
    """(z[k] − z'[k])², mean over K outputs of any scale and over the batch: both (n, K)."""
    return F.mse_loss(z, z_teacher)


def cross_view(loss: Callable[[Tensor, Tensor], Tensor], z: Tensor, q: Tensor) -> Tensor:
    """Eq. 11: the student of one view against the teacher of the other.

    Args:
        loss: Of a student's outputs and a teacher's.
        z: The student's, (2n, K), first views, then second.
        q: The teacher's, likewise.

    Returns:
        The mean of both directions.
    """
    z1, z2 = z.chunk(2)
    q1, q2 = q.chunk(2)
    return (loss(z1, q2) + loss(z2, q1)) / 2


def entropy(q: Tensor) -> Tensor:
    """Mean entropy of distributions (n, K), in nats."""
    return -torch.xlogy(q, q).sum(-1).mean()
