"""MAE against numbers worked out by hand and in NumPy."""

import numpy as np
import pytest
import torch

from peers_cases import DECODER, draws, peer, peer_config, windows
from segsync_train.ssl.mae import MAE
from segsync_train.ssl.reconstruction import hidden_error, normalised, patchify

CONFIG = peer_config({"kind": "mae", "mask_stage": -1, "decoder": DECODER})


def mae() -> MAE:
    found = peer(CONFIG)
    assert isinstance(found, MAE)
    return found


def test_patches_are_the_voxels_of_their_cells() -> None:
    """Each voxel's value tells its place: patch (z, y, x) holds exactly the voxels of that cell, channel by channel."""
    volume = torch.arange(2 * 4 * 6 * 8.0).reshape(1, 2, 4, 6, 8)
    patches = patchify(volume, (2, 3, 2))
    assert patches.shape == (1, 12, 2 * 2 * 2 * 4)
    cell = volume[0, :, 2:4, 2:4, 4:8]  # z 1, y 1, x 1 → number 1·6 + 1·2 + 1
    assert patches[0, 9].tolist() == cell.flatten().tolist()


def test_targets_are_normalised_patch_by_patch() -> None:
    target = normalised(torch.tensor([[[1.0, 3.0], [5.0, 5.0]]]))
    assert target.flatten().tolist() == pytest.approx([-1, 1, 0, 0], abs=1e-5)


def test_hidden_patches_alone_count() -> None:
    """Two of three patches hidden, errors 1 and 3 a voxel: (1 + 9) / 2, whatever the visible one is."""
    masks = torch.tensor([[[[True, False, True]]]])
    predicted = torch.tensor([[[1.0, 1.0], [99.0, 99.0], [3.0, 3.0]]])
    assert hidden_error(predicted, torch.zeros(1, 3, 2), masks).item() == 5


def test_the_loss_is_the_papers() -> None:
    """From the prediction to the loss in NumPy; a perfect prediction has none."""
    pretext = mae()
    image, masks = pretext.inputs(windows(CONFIG), draws(CONFIG), 0)
    with torch.no_grad():
        found = pretext(image, masks).loss.item()
        shown = image * (~masks).repeat_interleave(2, 1).repeat_interleave(2, 2).repeat_interleave(2, 3)[:, None]
        predicted = pretext.decode(pretext.encoder(shown), masks).numpy()
    errors = []
    for sample in range(2):
        for number, place in enumerate(np.ndindex(4, 4, 4)):
            z, y, x = (2 * side for side in place)
            voxels = image[sample, 0, z : z + 2, y : y + 2, x : x + 2].numpy().ravel()
            target = (voxels - voxels.mean()) / np.sqrt(voxels.var() + 1e-6)
            if masks[sample][place]:
                errors.append(((predicted[sample, number] - target) ** 2).mean())
    assert len(errors) == 2 * 48  # three quarters of 64 cells
    assert found == pytest.approx(np.mean(errors), rel=1e-4)


def test_a_perfect_reconstruction_has_no_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    pretext = mae()
    image, masks = pretext.inputs(windows(CONFIG), draws(CONFIG), 0)
    monkeypatch.setattr(MAE, "decode", lambda *_: normalised(patchify(image, pretext.grid_zyx)))
    assert pretext(image, masks).loss.item() == 0


def test_hidden_voxels_never_reach_the_encoder() -> None:
    """What is predicted does not depend on them; the target does."""
    pretext = mae()
    image, masks = pretext.inputs(windows(CONFIG), draws(CONFIG), 0)
    hidden = torch.nn.functional.interpolate(masks.float()[:, None], size=(8, 8, 8)).bool()
    other = torch.where(hidden, torch.randn_like(image), image)
    seen: list[torch.Tensor] = []
    pretext.encoder.register_forward_pre_hook(lambda _, given: seen.append(given[0].clone()))
    first, second = pretext(image, masks).loss, pretext(other, masks).loss
    assert torch.equal(seen[0], seen[1])
    assert first.item() != second.item()
