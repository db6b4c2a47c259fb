"""Instance normalisation that keeps channels last, as convolutions are fastest with.

torch's own copies a map into channels first and its gradient back, which on a CPU costs more than the convolution
before it; of one sample whose gradient comes with channels last, torch 2.13 gives a wrong one without a word.
"""

from typing import Any

import torch
from torch import Tensor, nn

#: Neighbouring voxels whose sums are kept apart, at most: rows long enough for vectors whatever the width, and float32
#: sums of that many fewer terms.
APART = 64


class InstanceNorm(nn.InstanceNorm3d):
    """`nn.InstanceNorm3d` with gain and bias; of a CPU's map with channels last the result has them last as well."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, affine=True)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, Z, Y, X) → the same shape and layout."""
        if x.device.type != "cpu" or not x.is_contiguous(memory_format=torch.channels_last_3d) or x[0, 0].numel() < 2:
            return super().forward(x)
        normed: Tensor = _Normalised.apply(x, self.weight, self.bias, self.eps)  # type: ignore[no-untyped-call]
        return normed


class _Normalised(torch.autograd.Function):
    """Of (N, V, C) in memory, read as (N, V / k, k C)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        rows = _rows(x)
        means, variances = (
            torch.stack(parts).unflatten(1, (-1, x.shape[1]))  # type: ignore[no-untyped-call]
            for parts in zip(*(_moments(sample) for sample in rows), strict=True)
        )
        mean = means.mean(1)
        variance = variances.mean(1) + (means - mean[:, None]).square().mean(1)
        rstd = torch.rsqrt(variance + eps)
        gain = rstd * weight
        ctx.save_for_backward(x, weight, mean, rstd)
        # No view, so that what follows may work in place. Its layout is said: a compiled graph may hand on another one
        # than it was traced with, and of that, rows would be a copy.
        normed = torch.empty_like(x, memory_format=torch.channels_last_3d)
        torch.addcmul(_spread(bias - mean * gain, rows), rows, _spread(gain, rows), out=_rows(normed))
        return normed

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, weight, mean, rstd = ctx.saved_tensors
        rows = _rows(x)
        above = _rows(gradients[0].contiguous(memory_format=torch.channels_last_3d))
        normed = torch.addcmul(_spread(-mean * rstd, rows), rows, _spread(rstd, rows))
        voxels = x[0, 0].numel()
        # Sums over voxels (N, C): of the gradient, and of it times what was normalised.
        product = above * normed
        plain, along = (
            part.sum(1, dtype=mean.dtype).unflatten(1, (-1, x.shape[1])).sum(1)  # type: ignore[no-untyped-call]
            for part in (above, product)
        )
        gain = rstd * weight
        constant, slope = (_spread(-gain * part / voxels, rows) for part in (plain, along))
        below = torch.addcmul(constant, normed, slope, out=product).addcmul_(above, _spread(gain, rows))
        return _shaped(below, x), along.sum(0), plain.sum(0), None


def _rows(x: Tensor) -> Tensor:
    """A view (N, V / k, k C) of a map with channels last."""
    samples, channels, voxels = x.shape[0], x.shape[1], x[0, 0].numel()
    apart = APART
    while voxels % apart or voxels == apart:
        apart //= 2
    return x.permute(0, 2, 3, 4, 1).reshape(samples, voxels // apart, apart * channels)


def _spread(values: Tensor, rows: Tensor) -> Tensor:
    """(N, C), once for each of the voxels of a row: (N, 1, k C)."""
    return values.repeat(1, rows.shape[2] // values.shape[1])[:, None]


def _moments(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Means and variances (k C,) of a sample's rows."""
    columns = rows.t()[None, :, :, None]
    mean, variance = torch.batch_norm_update_stats(columns, None, None, 0.0)
    return mean.float(), variance.float()


def _shaped(rows: Tensor, like: Tensor) -> Tensor:
    """The map of which these are the rows, in the type of another."""
    samples, channels, *sides = like.shape
    return rows.to(like.dtype).reshape(samples, *sides, channels).permute(0, 4, 1, 2, 3)
