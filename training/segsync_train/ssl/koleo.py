"""KoLeo: features of a batch spread over the sphere (Sablayrolles et al. 2019, eq. 2; DINOv2, Oquab et al. 2023)."""

import torch
import torch.nn.functional as F
from torch import Tensor

#: Two equal vectors are taken to be this far apart: the logarithm stays finite.
NEAREST = 1e-4


def koleo_loss(features: Tensor) -> Tensor:
    """−1/n Σ log min_j ‖x_i − x_j‖ of features (n, d) scaled to unit length, n ≥ 2; least when all are far apart.

    Of several processes each looks at its own part of the batch, as DINOv2's do.
    """
    unit = F.normalize(features.float(), dim=-1)
    with torch.no_grad():
        nearest = (unit @ unit.T).fill_diagonal_(-2).argmax(1)
    # The distance is taken anew from the difference: 2 − 2·cos loses all digits for neighbours.
    distance = (unit - unit[nearest]).square().sum(-1).clamp(min=NEAREST**2).sqrt()
    return -distance.log().mean()
