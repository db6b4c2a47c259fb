"""Hi-End-MAE against numbers worked out by hand and in NumPy."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from peers_cases import DECODER, draws, peer, peer_config, windows
from segsync_train.ssl.hiendmae import Asking, HiEndMAE, of_cells
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


def test_cells_are_picked_in_their_order() -> None:
    tokens = torch.arange(8.0).reshape(2, 4, 1)
    chosen = torch.tensor([[[[True, False, False, True]]], [[[False, True, True, False]]]])
    assert of_cells(tokens, chosen).squeeze(-1).tolist() == [[0, 3], [5, 6]]


def test_a_block_is_cross_attention_by_the_formula() -> None:
    """One head, in NumPy: softmax(q kᵀ / √d) v of the memory, added; then the MLP of the norm, added."""
    torch.manual_seed(0)
    block = Asking(DecoderConfig(width=6, depth=1, heads=1))
    queries, memory = torch.randn(1, 3, 6), torch.randn(1, 5, 6)
    with torch.no_grad():
        found = block(queries, memory)[0].numpy()
        weights = {name: p.numpy() for name, p in block.attention.named_parameters()}

    def norm(x: Any) -> Any:
        return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)

    maps = np.split(weights["in_proj_weight"], 3)
    t, m = queries[0].numpy(), memory[0].numpy()
    q, k, v = norm(t) @ maps[0].T, m @ maps[1].T, m @ maps[2].T
    scores = np.exp(q @ k.T / np.sqrt(6))
    attended = scores / scores.sum(-1, keepdims=True) @ v
    u = t + attended @ weights["out_proj.weight"].T
    with torch.no_grad():
        expected = u + block.mlp(torch.from_numpy(norm(u)).float()).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_loss_is_maes_over_hidden_cells() -> None:
    pretext = hiendmae()
    image, masks = drawn(pretext)
    with torch.no_grad():
        found = pretext(image, masks).loss.item()
        shown = image * (~masks).repeat_interleave(2, 1).repeat_interleave(2, 2).repeat_interleave(2, 3)[:, None]
        predicted = pretext.decode(pretext.encoder(shown), masks).numpy()
    target = normalised(patchify(image, (4, 4, 4))).numpy()
    errors = [((predicted[n] - target[n][masks[n].flatten().numpy()]) ** 2).mean() for n in range(2)]
    assert predicted.shape == (2, 48, 8)
    assert found == pytest.approx(np.mean(errors), rel=1e-5)


def test_a_perfect_reconstruction_has_no_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    pretext = hiendmae()
    image, masks = drawn(pretext)
    monkeypatch.setattr(HiEndMAE, "decode", lambda *_: of_cells(normalised(patchify(image, (4, 4, 4))), masks))
    assert pretext(image, masks).loss.item() == 0


def test_hidden_cells_ask_visible_ones_at_every_level() -> None:
    """What the maps hold in hidden cells changes nothing; in visible ones it does, at each stage."""
    pretext = hiendmae()
    _, masks = drawn(pretext)
    generator = torch.Generator().manual_seed(3)
    fine, deep = torch.randn(2, 4, 8, 8, 8, generator=generator), torch.randn(2, 8, 4, 4, 4, generator=generator)
    hidden = masks[:, None]
    grown = torch.nn.functional.interpolate(hidden.float(), size=(8, 8, 8)).bool()
    with torch.no_grad():
        first = pretext.decode([fine, deep], masks)
        same = pretext.decode([fine.masked_fill(grown, 9), deep.masked_fill(hidden, 9)], masks)
        torch.testing.assert_close(same, first, rtol=0, atol=1e-6)
        for maps in ([fine.masked_fill(~grown, 9), deep], [fine, deep.masked_fill(~hidden, 9)]):
            assert (pretext.decode(maps, masks) - first).abs().amin((0, 2)).max() > 1e-5


def test_hidden_cells_do_not_ask_each_other() -> None:
    """A cell's prediction is the same whichever the other hidden cells are, if the visible ones are."""
    pretext = hiendmae()
    tokens = torch.randn(1, 3, 8, generator=torch.Generator().manual_seed(0))
    memory, position = torch.randn(1, 5, 8), torch.randn(1, 5, 8)
    with torch.no_grad():
        together = pretext.levels[0](tokens, memory, position)
        alone = pretext.levels[0](tokens[:, 1:2], memory, position)
    torch.testing.assert_close(together[:, 1:2], alone, rtol=1e-5, atol=1e-6)


def test_levels_count_from_the_deepest() -> None:
    pretext = hiendmae(levels=1)
    assert [level.embed.in_features for level in pretext.levels] == [8]  # type: ignore[union-attr]
    assert [level.embed.in_features for level in hiendmae().levels] == [8, 4]  # type: ignore[union-attr]
