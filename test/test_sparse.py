"""Sparse masking: what is hidden reaches no visible voxel, in any layer, and nothing else changes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pretrain_cases import pretrain_config
from segsync.errors import InputError
from segsync_train.networks.features import FeatureEncoder
from segsync_train.ssl.build import build_encoder, build_pretext
from segsync_train.ssl.masked import draw_masks
from segsync_train.ssl.reconstruction import see
from segsync_train.ssl.sparse import sparse

OVERRIDES = {"widths": [4, 8], "strides_zyx": [[1, 1, 1], [2, 2, 2]]}
NETWORKS: dict[str, dict[str, Any]] = {
    "xlstm": {"preset": "tiny", "overrides": {**OVERRIDES, "vil_stages": [0, 1]}},
    "resenc": {"preset": "resenc-l", "overrides": {**OVERRIDES, "encoder_blocks": [1, 2]}},
}


def encoder_of(name: str) -> FeatureEncoder:
    torch.manual_seed(0)
    return build_encoder(pretrain_config(Path("unused"), network=NETWORKS[name])).eval()


def masked() -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(2, 1, 8, 8, 8), draw_masks((4, 4, 4), 0.6, [np.random.default_rng(n) for n in range(2)])


@pytest.mark.parametrize("name", NETWORKS)
def test_hidden_voxels_are_zero_in_every_map_and_change_no_visible_one(name: str) -> None:
    """Dense convolutions carry the neighbours into hidden cells; sparse ones do not."""
    encoder, (image, masks) = encoder_of(name), masked()
    with torch.no_grad():
        maps = see(encoder, image, masks, sparsely=True)
        dense = see(encoder, image, masks)
    for found, plain in zip(maps, dense, strict=True):
        repeats = found.shape[2] // 4
        hidden = masks.clone()
        for axis in (1, 2, 3):
            hidden = hidden.repeat_interleave(repeats, axis)
        assert found.movedim(1, -1)[hidden].abs().max() == 0
        assert plain.movedim(1, -1)[hidden].abs().max() > 0
        assert found.movedim(1, -1)[~hidden].abs().mean() > 0.01


@pytest.mark.parametrize("name", NETWORKS)
def test_with_nothing_hidden_it_is_the_dense_encoder_and_afterwards_too(name: str) -> None:
    encoder, (image, _) = encoder_of(name), masked()
    with torch.no_grad():
        before = encoder(image)
        with sparse(encoder, torch.zeros(2, 4, 4, 4, dtype=torch.bool)):
            during = encoder(image)
        after = encoder(image)
    for one, other, last in zip(before, during, after, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-5)
        assert torch.equal(last, one)


def test_statistics_are_those_of_visible_voxels() -> None:
    """An InstanceNorm of visible values alone, by torch's own."""
    norm = torch.nn.InstanceNorm3d(3, affine=True)
    torch.nn.init.normal_(norm.weight)
    image, masks = torch.randn(1, 3, 4, 4, 4), torch.zeros(1, 4, 4, 4, dtype=torch.bool)
    masks[:, :2] = True
    with torch.no_grad(), sparse(norm, masks):
        found = norm(image)
    torch.testing.assert_close(found[:, :, 2:], norm(image[:, :, 2:]))
    assert found[:, :, :2].abs().max() == 0


def test_mae_trains_sparsely_on_convolutions_alone() -> None:
    pretext = {"kind": "mae", "sparse": True, "mask_stage": -1, "decoder": {"width": 8, "depth": 1, "heads": 2}}
    model = build_pretext(pretrain_config(Path("unused"), pretext=pretext, head={}))
    image, masks = masked()
    model(image, masks).loss.backward()
    assert all(p.grad is not None for p in model.encoder.parameters())  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="set mask_stage to -1, found -2"):
        pretrain_config(Path("unused"), pretext={**pretext, "mask_stage": -2}, head={})
    vit = {"preset": "unetr", "overrides": {"feature_size": 4, "hidden_size": 12, "mlp_dim": 16, "num_heads": 2}}
    with pytest.raises(InputError, match=r"pretext\.sparse: expected an encoder of convolutions .*found ViTEncoder"):
        build_pretext(pretrain_config(Path("unused"), pretext=pretext, network=vit, patch_zyx=[32, 32, 32], head={}))
