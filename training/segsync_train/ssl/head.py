"""What stands between a stage of the encoder and the loss: standardisation of the pooled vector, and the MLP head."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segsync_train.runs.devices import Processes
from segsync_train.ssl.config import HeadConfig


class Standardise(nn.Module):
    """(v − mean) / std with running statistics over samples, steps and processes, the same for student and teacher.

    InstanceNorm fixes the mean of every channel, so that average pooling leaves volumes almost alike: at the start the
    cosine between pooled vectors of different hippocampi is 0.96 to 0.999, by stage. A head would see one point.
    """

    mean: Tensor
    square: Tensor
    seen: Tensor

    def __init__(self, width: int, momentum: float, group: Processes) -> None:
        super().__init__()
        self.momentum, self.group = momentum, group
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("square", torch.zeros(width))
        self.register_buffer("seen", torch.tensor(0))

    @torch.no_grad()
    def update(self, vectors: Tensor) -> None:
        """Take in the teacher's pooled vectors (n, width); the first steps are averaged evenly."""
        vectors = vectors.float()
        moments = self.group.mean(torch.stack([vectors.mean(0), vectors.square().mean(0)]))
        self.seen.add_(1)
        weight = (1 / self.seen.float()).clamp(min=1 - self.momentum)
        self.mean.lerp_(moments[0], weight)
        self.square.lerp_(moments[1], weight)

    def forward(self, vectors: Tensor) -> Tensor:
        """(n, width) → the same in float32."""
        # Float32's rounding of E[x²] − E[x]² is the floor of the variance.
        variance = torch.maximum(self.square - self.mean.square(), 1e-6 * self.square) + 1e-12
        return (vectors.float() - self.mean) * variance.rsqrt()


class PlainHead(nn.Sequential):
    """The MLP of eqs. 7 and 8 to the letter: one hidden layer, and a linear map to K outputs of any size."""

    def __init__(self, width: int, *, hidden: int, prototypes: int) -> None:
        super().__init__(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, prototypes))

    def forward(self, vectors: Tensor) -> Tensor:
        """(n, width) → logits (n, K), float32: they are divided by a small temperature."""
        outputs: Tensor = super().forward(vectors)  # type: ignore[no-untyped-call]
        return outputs.float()


class ProjectionHead(nn.Module):
    """The MLP of eqs. 7 and 8, as DINO builds it: two hidden layers, unit length, then cosines with K prototypes."""

    def __init__(self, width: int, *, hidden: int, bottleneck: int, prototypes: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, bottleneck)
        )
        self.prototypes = nn.Parameter(torch.randn(prototypes, bottleneck))
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.xavier_normal_(layer.weight)
                nn.init.zeros_(layer.bias)

    def forward(self, vectors: Tensor) -> Tensor:
        """(n, width) → logits (n, K) in [−1, 1], float32: they are divided by a small temperature."""
        embedded = self.mlp(vectors)
        with torch.autocast(embedded.device.type, enabled=False):
            return F.linear(F.normalize(embedded.float(), dim=-1), F.normalize(self.prototypes.float(), dim=-1))


def make_head(width: int, config: HeadConfig) -> PlainHead | ProjectionHead:
    """The head that the settings ask for, of pooled vectors with `width` channels."""
    if config.kind == "mlp":
        return PlainHead(width, hidden=config.hidden, prototypes=config.prototypes)
    return ProjectionHead(width, hidden=config.hidden, bottleneck=config.bottleneck, prototypes=config.prototypes)
