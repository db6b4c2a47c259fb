"""Hi-End-MAE against numbers worked out by hand and in NumPy."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from peers_cases import DECODER, draws, peer, peer_config, windows
from segsync_train.ssl.hiendmae import HiEndMAE, asking_block, visible
from segsync_train.ssl.peers_config import DecoderConfig
from segsync_train.ssl.reconstruction import normalised, patchify

SETTINGS: dict[str, Any] = {"kind": "hiendmae", "mask_stage": -1, "decoder": DECODER}
CONFIG = peer_config(SETTINGS)


def hiendmae(**changes: Any) -> HiEndMAE:
    found = peer(peer_config(SETTINGS | changes))
    assert isinstance(found, HiEndMAE)
    return found


def drawn(pretext: HiEndMAE) -> tuple[Tensor, Tensor]:
    image, masks = pretext.inputs(windows(CONFIG), draws(CONFIG), 0)
    return image, masks


def two_maps() -> tuple[Tensor, Tensor]:
    """Maps of the miniature encoder's two stages, the finer one first."""
    generator = torch.Generator().manual_seed(3)
    return torch.randn(2, 4, 8, 8, 8, generator=generator), torch.randn(2, 8, 4, 4, 4, generator=generator)


def test_visible_cells_are_picked_in_their_order() -> None:
    tokens = torch.arange(8.0).reshape(2, 4, 1)
    hidden = torch.tensor([[[[False, True, True, False]]], [[[True, False, False, True]]]])
    assert visible(tokens, hidden).squeeze(-1).tolist() == [[0, 3], [5, 6]]


def test_a_block_is_self_attention_then_cross_attention_by_the_formula() -> None:
    """One head, in NumPy: softmax(q kᵀ / √d) v of the tokens, then of the memory, each added; then the MLP, added."""
    torch.manual_seed(0)
    block = asking_block(DecoderConfig(width=6, depth=1, heads=1))
    tokens, memory = torch.randn(1, 3, 6), torch.randn(1, 5, 6)
    with torch.no_grad():
        found = block(tokens, memory)[0].numpy()
        weights = {name: p.numpy() for name, p in block.named_parameters()}

    def norm(x: Any) -> Any:
        return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)

    def attend(layer: str, asking: Any, asked: Any) -> Any:
        maps = np.split(weights[f"{layer}.in_proj_weight"], 3)
        q, k, v = asking @ maps[0].T, asked @ maps[1].T, asked @ maps[2].T
        scores = np.exp(q @ k.T / np.sqrt(6))
        return scores / scores.sum(-1, keepdims=True) @ v @ weights[f"{layer}.out_proj.weight"].T

    t, m = tokens[0].numpy(), memory[0].numpy()
    t = t + attend("self_attn", norm(t), norm(t))
    t = t + attend("multihead_attn", norm(t), m)
    with torch.no_grad():
        inner = torch.nn.functional.gelu(block.linear1(torch.from_numpy(norm(t)).float()))
        expected = t + block.linear2(inner).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_decoder_asks_one_stage_after_the_other() -> None:
    """MAE's blocks on the deepest stage, then a block on the other stage's visible cells, put together by hand."""
    pretext = hiendmae()
    _, masks = drawn(pretext)
    fine, deep = two_maps()
    with torch.no_grad():
        found = pretext.decode([fine, deep], masks)
        cells = pretext.tokens.maps[0](deep.flatten(2).transpose(1, 2))
        first = torch.where(masks.flatten(1)[..., None], pretext.mask_token, cells) + pretext.position
        finer = pretext.memories[0].maps[0](  # type: ignore[operator, index]
            torch.nn.functional.avg_pool3d(fine, 2).flatten(2).transpose(1, 2)
        )
        memory = torch.stack([m[~h.flatten()] for m, h in zip(finer + pretext.position, masks, strict=True)])
        after = pretext.crossings[0](pretext.blocks(first), memory)
        expected = pretext.voxels(pretext.norm(after))
    torch.testing.assert_close(found, expected)


def test_the_loss_is_maes_over_hidden_cells() -> None:
    pretext = hiendmae()
    image, masks = drawn(pretext)
    with torch.no_grad():
        found = pretext(image, masks).loss.item()
        shown = image * (~masks).repeat_interleave(2, 1).repeat_interleave(2, 2).repeat_interleave(2, 3)[:, None]
        predicted = pretext.decode(pretext.encoder(shown), masks).numpy()
    target = normalised(patchify(image, (4, 4, 4))).numpy()
    hidden = masks.flatten(1).numpy()
    errors = [((predicted[n] - target[n])[hidden[n]] ** 2).mean() for n in range(2)]
    assert predicted.shape == (2, 64, 8)
    assert found == pytest.approx(np.mean(errors), rel=1e-5)


def test_hidden_cells_ask_visible_ones_at_every_level() -> None:
    """What the maps hold in hidden cells changes nothing; in visible ones it does, at each stage."""
    pretext = hiendmae()
    _, masks = drawn(pretext)
    fine, deep = two_maps()
    hidden = masks[:, None]
    grown = torch.nn.functional.interpolate(hidden.float(), size=(8, 8, 8)).bool()
    with torch.no_grad():
        first = pretext.decode([fine, deep], masks)
        same = pretext.decode([fine.masked_fill(grown, 9), deep.masked_fill(hidden, 9)], masks)
        torch.testing.assert_close(same, first, rtol=0, atol=1e-6)
        for maps in ([fine.masked_fill(~grown, 9), deep], [fine, deep.masked_fill(~hidden, 9)]):
            assert (pretext.decode(maps, masks) - first).abs().amin((0, 2)).max() > 1e-5


def test_the_decoder_asks_a_vits_layers_from_the_last_to_the_first() -> None:
    """UNETR's maps are of the layers 3, 6, 9 and the last."""
    overrides = {"feature_size": 4, "hidden_size": 12, "mlp_dim": 16, "num_heads": 2}
    network = {"preset": "unetr", "overrides": overrides}
    pretext = peer(peer_config(SETTINGS, network=network, patch_zyx=[32, 16, 16]))
    assert isinstance(pretext, HiEndMAE)
    assert list(pretext.tokens.stages) == [3]
    assert [list(memory.stages) for memory in pretext.memories] == [[2], [1], [0]]  # type: ignore[arg-type]
