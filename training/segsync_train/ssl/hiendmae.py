"""Hi-End-MAE: the encoder drives the decoding, level by level.

Tang et al. 2025, "Hi-End-MAE: hierarchical encoder-driven masked autoencoders are stronger vision learners for medical
image segmentation", MedIA.

Masking, target, loss and the decoder's first blocks are MAE's (`segsync_train.ssl.mae`), on the encoder's deepest
stage. Then the decoder asks the encoder's other stages, from the deepest to the finest, a block a stage:

    (first)                   t = MAE's tokens after `depth` blocks of self-attention, h = the deepest stage's map
    (encoder-driven)          m_l = W_l h_l + position, h_l the l-th stage from the deepest, visible cells alone
    (hierarchical decoding)   t ← t + SelfAttention(Norm t),  t ← t + CrossAttention(Norm t, m_l),  t ← t + MLP(Norm t)
    (loss)                    x̂ = W Norm t,  L = mean over hidden cells i of ‖x̂_i − x̄_i‖² / V

All cells are queries, hidden ones and visible ones; keys and values are the encoder's visible cells. In a ViT of twelve
blocks the stages are the last layer and then those of index 9, 6 and 3, as in the released code. That code adds no
position to m_l, since a ViT's tokens hold theirs; maps of convolutions hold none. It also flips and rotates its crops;
here the place of the window alone is random, as in MAE.
"""

from torch import Tensor, nn

from segsync.arrays import SizeZYX
from segsync_train.networks.features import FeatureEncoder
from segsync_train.ssl.mae import MAE
from segsync_train.ssl.peers_config import DecoderConfig, HiEndMAEConfig
from segsync_train.ssl.reconstruction import Tokens


class HiEndMAE(MAE):
    """MAE, the decoder going on with cross-attention to one stage after the other."""

    def __init__(self, encoder: FeatureEncoder, config: HiEndMAEConfig, patch_zyx: SizeZYX, channels: int) -> None:
        *others, deepest = range(len(encoder.widths))
        super().__init__(encoder, config, patch_zyx, channels, [deepest])
        width = config.decoder.width
        self.memories = nn.ModuleList(Tokens(encoder, [stage], self.grid_zyx, width) for stage in reversed(others))
        self.crossings = nn.ModuleList(asking_block(config.decoder) for _ in others)

    def attended(self, maps: list[Tensor], masks: Tensor) -> Tensor:
        """The encoder's maps → the tokens (n, cells, width) that the decoder's blocks make."""
        tokens = super().attended(maps, masks)
        for memory, crossing in zip(self.memories, self.crossings, strict=True):
            tokens = crossing(tokens, visible(memory(maps) + self.position, masks))
        return tokens


def asking_block(config: DecoderConfig) -> nn.TransformerDecoderLayer:
    """A block of self-attention, cross-attention and an MLP, otherwise as `mae.block`."""
    return nn.TransformerDecoderLayer(
        config.width, config.heads, 4 * config.width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    )


def visible(tokens: Tensor, masks: Tensor) -> Tensor:
    """Of tokens (N, cells, D) those that masks (N, z, y, x) do not hide, as many in each sample: (N, visible, D)."""
    return tokens[~masks.flatten(1)].reshape(len(tokens), -1, tokens.shape[-1])
