"""From the teacher's logits to targets: centring and sharpening (eqs. 9 and 10), made to work at a batch of two.

Read to the letter, Center(z) takes a vector's own mean away, which no softmax notices. What keeps all inputs from the
same output is a mean over samples: `RunningCentre` (DINO, Caron et al. 2021), or balanced assignment, `SinkhornKnopp`
(SwAV, Caron et al. 2020, section 3.1; DINOv2), with SwAV's queue of earlier samples where batches are small.
"""

import math

import torch
import torch.distributed as dist
from torch import Tensor, nn

from segsync_train.runs.devices import Processes


class RunningCentre(nn.Module):
    """Softmax((z − c) / τ), c the running mean of the teacher's logits over samples, steps and processes."""

    centre: Tensor

    def __init__(self, shape: tuple[int, ...], momentum: float, group: Processes) -> None:
        """Begin with a centre of 0.

        Args:
            shape: Of a sample's logits, (K,); with a centre for each cell (cells, K).
            momentum: Decay of the centre.
            group: The run's processes, over which it is a mean.
        """
        super().__init__()
        self.momentum, self.group = momentum, group
        self.register_buffer("centre", torch.zeros(shape))

    @torch.no_grad()
    def forward(self, logits: Tensor, temperature: float) -> Tensor:
        """Logits (n, …, K) → targets by the centre so far; in training mode the centre then takes them in."""
        targets = ((logits.float() - self.centre) / temperature).softmax(-1)
        if self.training:
            mean = self.group.mean(logits.float().mean(0))
            self.centre.lerp_(mean, 1 - self.momentum)
        return targets


class SinkhornKnopp(nn.Module):
    """Targets that use every prototype equally often over the batch and the `queue` of samples before it."""

    queue: Tensor
    filled: Tensor

    def __init__(self, prototypes: int, queue: int, group: Processes, iterations: int = 3) -> None:
        super().__init__()
        self.group, self.iterations = group, iterations
        self.register_buffer("queue", torch.zeros(queue, prototypes))
        self.register_buffer("filled", torch.tensor(0))

    @torch.no_grad()
    def forward(self, logits: Tensor, temperature: float) -> Tensor:
        """Logits (n, K), of all processes at once, → targets (n, K); in training mode they then enter the queue."""
        own = logits.float()
        everyone, first = self._gathered(own)
        balanced = sinkhorn(torch.cat([everyone, self.queue[: int(self.filled)]]) / temperature, self.iterations)
        if self.training:
            kept = torch.cat([everyone, self.queue])[: len(self.queue)]
            self.queue.copy_(kept)
            self.filled.add_(len(everyone)).clamp_(max=len(self.queue))
        return balanced[first : first + len(own)]

    def _gathered(self, own: Tensor) -> tuple[Tensor, int]:
        """The logits of all processes, and where this one's stand among them."""
        if self.group.count == 1:
            return own, 0
        parts = [torch.empty_like(own) for _ in range(self.group.count)]
        dist.all_gather(parts, own.contiguous())
        return torch.cat(parts), self.group.rank * len(own)


def sinkhorn(scores: Tensor, iterations: int) -> Tensor:
    """exp(scores) (n, K) scaled so that columns sum to n / K and rows to 1, in the log domain.

    Rows are exact; columns are so in the limit (Cuturi 2013). Three iterations are SwAV's.
    """
    log_fraction = scores
    fraction = math.log(scores.shape[0] / scores.shape[1])
    for _ in range(iterations):
        log_fraction = log_fraction - log_fraction.logsumexp(0, keepdim=True) + fraction
        log_fraction = log_fraction - log_fraction.logsumexp(1, keepdim=True)
    return log_fraction.exp()
