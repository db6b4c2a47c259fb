"""The Vision-LSTM block: long context for a convolutional stage, at any size of its feature map.

3D-SegSync section 2.2.2, on the ViL block of Alkin et al. (2024) as used by the xLSTM-UNet (Chen et al. 2024).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segsync_train.networks.mlstm import mlstm_chunkwise

#: Width of the causal convolution that gives queries and keys a look at the tokens just before.
KERNEL = 4
#: Forget gates start nearly open, each head with another memory.
FORGET_BIAS = (3.0, 6.0)
#: Pre-activations of gates are held within ± this by a tanh (xLSTM 7B, Beck et al. 2025): without it training drives
#: input gates beyond e^100, where the gradient of the normaliser is no longer a float32.
GATE_CAP = 15.0


class BlockDiagonal(nn.Module):
    """A linear map of (…, width) whose matrix has `width / size` blocks of `size`² on its diagonal (xLSTM, 2024)."""

    def __init__(self, width: int, size: int) -> None:
        super().__init__()
        bound = size**-0.5
        self.weight = nn.Parameter(torch.empty(width // size, size, size).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        """The same shape."""
        blocks, size, _ = self.weight.shape
        parts = torch.einsum("...bi,bij->...bj", x.unflatten(-1, (blocks, size)), self.weight)  # type: ignore[no-untyped-call]
        return parts.flatten(-2) + self.bias.to(parts.dtype)


class MLSTMPath(nn.Module):
    """One direction: causal depthwise convolution + SiLU → q, k; v from the input; mLSTM; norm; learnable skip."""

    def __init__(self, width: int, heads: int, block_size: int | None) -> None:
        super().__init__()
        self.heads = heads
        self.convolution = nn.Conv1d(width, width, KERNEL, groups=width)
        self.query, self.key, self.value = (
            nn.Linear(width, width) if block_size is None else BlockDiagonal(width, block_size) for _ in range(3)
        )
        self.gates = nn.Linear(3 * width, 2 * heads)
        self.norm = nn.GroupNorm(heads, width)
        self.skip = nn.Parameter(torch.ones(width))
        nn.init.zeros_(self.gates.weight)
        with torch.no_grad():
            self.gates.bias[:heads].normal_(0, 0.1)
            self.gates.bias[heads:] = torch.linspace(*FORGET_BIAS, heads)

    def forward(self, x: Tensor) -> Tensor:
        """(B, S, width) → the same, each token knowing those before it."""
        batch, tokens, width = x.shape
        local = F.silu(self.convolution(F.pad(x.transpose(1, 2), (KERNEL - 1, 0))).transpose(1, 2))
        q, k, v = self.query(local), self.key(local), self.value(x)
        # Gates are float32 even under autocast: their exponentials are what overflows. The cell itself says what of it
        # may be coarse; autocast would make its normaliser so as well.
        with torch.autocast(x.device.type, enabled=False):
            joint = torch.cat([q, k, v], dim=-1).to(self.gates.weight.dtype)
            i, f = (GATE_CAP * torch.tanh(self.gates(joint) / GATE_CAP)).transpose(1, 2).chunk(2, dim=1)
            q, k, v = (t.reshape(batch, tokens, self.heads, -1).transpose(1, 2) for t in (q, k, v))
            hidden = mlstm_chunkwise(q, k, v, i, f).transpose(1, 2).reshape(batch * tokens, width)
        normed: Tensor = self.norm(hidden)
        return normed.reshape(batch, tokens, width) + self.skip * local


class ViLBlock(nn.Module):
    """LayerNorm; up-projection into x and z; mLSTM over x in one or both directions; gated by SiLU(z); down; residual.

    Voxels are tokens in (Z, Y, X) order, channels their features, whatever the size of the map. With two directions
    the second path reads the flipped sequence, as the paper's block does, and both are added. block_size: of the
    blocks on the diagonal of the maps to queries, keys and values (4 in the published code); None for full maps.
    """

    def __init__(
        self, channels: int, *, heads: int = 4, directions: int = 2, expansion: int = 2, block_size: int | None = None
    ) -> None:
        super().__init__()
        if directions not in (1, 2):
            raise ValueError(f"directions must be 1 or 2, found {directions}")
        width = expansion * channels
        blocks = width if block_size is None else block_size
        if min(heads, blocks) < 1 or width % heads or width % blocks:
            raise ValueError(f"{width} features do not divide into {heads} heads and blocks of {blocks}")
        self.norm = nn.LayerNorm(channels)
        self.up = nn.Linear(channels, 2 * width)
        self.paths = nn.ModuleList(MLSTMPath(width, heads, block_size) for _ in range(directions))
        self.down = nn.Linear(width, channels)

    def forward(self, feature_map: Tensor) -> Tensor:
        """(N, C, Z, Y, X) → the same shape."""
        tokens = feature_map.flatten(2).transpose(1, 2)
        x, z = self.up(self.norm(tokens)).chunk(2, dim=-1)
        mixed = self.paths[0](x)
        for backward in self.paths[1:]:
            mixed = mixed + backward(x.flip(1)).flip(1)
        added: Tensor = tokens + self.down(mixed * F.silu(z))
        return added.transpose(1, 2).reshape(feature_map.shape)
