"""MAE: masked autoencoders (He et al. 2022, "Masked autoencoders are scalable vision learners", CVPR).

    (section 3, masking)    a fraction ρ = 0.75 of the cells is hidden, drawn without replacement       `draw_masks`
    (encoder)               h = f(visible cells)                                                     `see`
    (decoder)               t_i = W h_i of visible cells, the mask token of hidden ones; + position;
                            transformer blocks over all cells; a linear map to the cell's voxels     `MAE.decode`
    (target)                x̄_i = (x_i − mean(x_i)) / std(x_i), by cell                              `normalised`
    (loss)                  L = mean over hidden cells i of ‖x̂_i − x̄_i‖² / V                         `hidden_error`

A ViT sees the visible tokens alone. Convolutions and windows have no tokens to leave out: they see zeros, or with
`sparse` nothing in any layer (`ssl.sparse`). And of a pyramid
every stage's map is a part of h, so that all are trained. There is no augmentation but the random place of the window:
the paper found cropping alone to work well. Positions are learned, where the paper's are sines and cosines, and there
is no class token: what is fine-tuned segments.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from segsync.arrays import SizeZYX
from segsync_train.networks.features import FeatureEncoder
from segsync_train.ssl.masked import draw_masks
from segsync_train.ssl.peers_config import AutoencoderConfig, DecoderConfig
from segsync_train.ssl.pretext import Draws, Pretext, StepOutput
from segsync_train.ssl.reconstruction import Tokens, check_sparse, hidden_error, normalised, patchify, see

#: Purpose of generators.
MASKS = 1


class MAE(Pretext):
    """The encoder and the decoder that is thrown away. stages: the encoder's whose maps are h."""

    def __init__(
        self,
        encoder: FeatureEncoder,
        config: AutoencoderConfig,
        patch_zyx: SizeZYX,
        channels: int,
        stages: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        check_sparse(encoder, config)
        self.config = config
        self.grid_zyx = encoder.grid_zyx(patch_zyx, config.mask_stage)
        cells, width = math.prod(self.grid_zyx), config.decoder.width
        self.encoder = encoder
        self.tokens = Tokens(encoder, encoder.outputs if stages is None else stages, self.grid_zyx, width)
        self.mask_token = nn.Parameter(0.02 * torch.randn(width))
        self.position = nn.Parameter(0.02 * torch.randn(cells, width))
        self.blocks = nn.Sequential(*(block(config.decoder) for _ in range(config.decoder.depth)))
        self.norm = nn.LayerNorm(width)
        self.voxels = nn.Linear(width, channels * math.prod(patch_zyx) // cells)

    def inputs(self, windows: Tensor, draws: Draws, step: int) -> tuple[Any, ...]:
        """The windows as they are, and masks (n, z, y, x)."""
        masks = draw_masks(self.grid_zyx, self.config.mask_ratio, draws(MASKS)).to(windows.device)
        return windows.to(memory_format=torch.channels_last_3d), masks

    def forward(self, image: Tensor, masks: Tensor) -> StepOutput:
        """Reconstruct what is hidden.

        Args:
            image: (n, C, Z, Y, X).
            masks: Its hidden cells.

        Returns:
            The loss and its terms.
        """
        predicted = self.decode(see(self.encoder, image, masks, sparsely=self.config.sparse), masks)
        loss = hidden_error(predicted, normalised(patchify(image, self.grid_zyx)), masks)
        return StepOutput(loss, {})

    def decode(self, maps: list[Tensor], masks: Tensor) -> Tensor:
        """The encoder's maps → every cell's voxels (n, cells, V)."""
        voxels: Tensor = self.voxels(self.norm(self.attended(maps, masks)))
        return voxels

    def attended(self, maps: list[Tensor], masks: Tensor) -> Tensor:
        """The encoder's maps → the tokens (n, cells, width) that the decoder's blocks make."""
        tokens = torch.where(masks.flatten(1)[..., None], self.mask_token, self.tokens(maps))
        after: Tensor = self.blocks(tokens + self.position)
        return after


def block(config: DecoderConfig) -> nn.TransformerEncoderLayer:
    """A transformer block as ViT has it: norms first, GELU, four times the width inside, no dropout."""
    return nn.TransformerEncoderLayer(
        config.width, config.heads, 4 * config.width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    )
