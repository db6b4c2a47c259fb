"""Hi-End-MAE: the encoder drives the decoding, level by level (Tang et al. 2025, "Hi-End-MAE: hierarchical
encoder-driven masked autoencoders are stronger vision learners for medical image segmentation").

Masking, target and loss are MAE's (`segsync_train.ssl.mae`). The decoder is another: hidden cells are queries and
nothing but queries, and what they learn of the image they ask the encoder for, in cross-attention to its visible
cells, at one stage after the other from the deepest to the finest:

    (queries)                 t = mask token + position, for hidden cells
    (encoder-driven)          m_l = Norm(W_l h_l + position), h_l the l-th stage from the deepest, visible cells alone
    (hierarchical decoding)   u = t + CrossAttention(Norm t, m_l),  t ← u + MLP(Norm u), `depth` times at level l
    (loss)                    x̂ = W Norm t,  L = mean over hidden cells of ‖x̂_i − x̄_i‖² / V

There is no attention among hidden cells: what they cannot tell each other, the encoder must. In a ViT the stages are
its layers at a quarter, a half, three quarters and all of the depth.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segsync.geometry import SizeZYX
from segsync_train.networks.features import FeatureEncoder
from segsync_train.ssl.masked import draw_masks
from segsync_train.ssl.peers_config import DecoderConfig, HiEndMAEConfig
from segsync_train.ssl.pretext import Draws, Pretext, StepOutput
from segsync_train.ssl.reconstruction import normalised, patchify, see

#: Purpose of generators.
MASKS = 1


class Asking(nn.Module):
    """A decoder's block: cross-attention to the encoder's tokens and an MLP, norms first."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        width = config.width
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.attention = nn.MultiheadAttention(width, config.heads, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, queries: Tensor, memory: Tensor) -> Tensor:
        """queries (N, hidden, width), memory (N, visible, width) → (N, hidden, width)."""
        attended, _ = self.attention(self.norms[0](queries), memory, memory, need_weights=False)
        queries = queries + attended
        added: Tensor = queries + self.mlp(self.norms[1](queries))
        return added


class Level(nn.Module):
    """The blocks that attend to one stage of the encoder."""

    def __init__(self, channels: int, config: DecoderConfig) -> None:
        super().__init__()
        self.embed = nn.Linear(channels, config.width)
        self.norm = nn.LayerNorm(config.width)
        self.blocks = nn.ModuleList(Asking(config) for _ in range(config.depth))

    def forward(self, queries: Tensor, visible: Tensor, position: Tensor) -> Tensor:
        """queries (N, hidden, width), visible cells' features (N, visible, channels) and position → queries."""
        memory = self.norm(self.embed(visible) + position)
        for block in self.blocks:
            queries = block(queries, memory)
        return queries


class HiEndMAE(Pretext):
    """The encoder and the decoder that is thrown away."""

    def __init__(self, encoder: FeatureEncoder, config: HiEndMAEConfig, patch_zyx: SizeZYX, channels: int) -> None:
        super().__init__()
        self.config = config
        self.grid_zyx = encoder.grid_zyx(patch_zyx, config.mask_stage)
        cells, width = math.prod(self.grid_zyx), config.decoder.width
        self.encoder = encoder
        self.mask_token = nn.Parameter(0.02 * torch.randn(width))
        self.position = nn.Parameter(0.02 * torch.randn(cells, width))
        deepest_first = encoder.widths[::-1][: config.levels]
        self.levels = nn.ModuleList(Level(channels, config.decoder) for channels in deepest_first)
        self.norm = nn.LayerNorm(width)
        self.voxels = nn.Linear(width, channels * math.prod(patch_zyx) // cells)

    def inputs(self, windows: Tensor, draws: Draws, step: int) -> tuple[Any, ...]:
        """The windows as they are, and masks (n, z, y, x)."""
        masks = draw_masks(self.grid_zyx, self.config.mask_ratio, draws(MASKS)).to(windows.device)
        return windows.to(memory_format=torch.channels_last_3d), masks

    def forward(self, image: Tensor, masks: Tensor) -> StepOutput:
        """image: (n, C, Z, Y, X); masks: its hidden cells."""
        predicted = self.decode(see(self.encoder, image, masks), masks)
        target = of_cells(normalised(patchify(image, self.grid_zyx)), masks)
        return StepOutput((predicted.float() - target).square().mean(), {})

    def decode(self, maps: list[Tensor], masks: Tensor) -> Tensor:
        """The encoder's maps → the hidden cells' voxels (n, hidden, V)."""
        position = self.position.expand(len(masks), -1, -1)
        queries = self.mask_token + of_cells(position, masks)
        for level, features in zip(self.levels, reversed(maps), strict=False):
            cells = F.adaptive_avg_pool3d(features, self.grid_zyx).flatten(2).transpose(1, 2)
            queries = level(queries, of_cells(cells, ~masks), of_cells(position, ~masks))
        voxels: Tensor = self.voxels(self.norm(queries))
        return voxels


def of_cells(tokens: Tensor, chosen: Tensor) -> Tensor:
    """The tokens (N, cells, D) of the chosen cells (N, z, y, x), of which every sample has as many: (N, chosen, D)."""
    return tokens[chosen.flatten(1)].unflatten(0, (len(tokens), -1))  # type: ignore[no-untyped-call,no-any-return]
