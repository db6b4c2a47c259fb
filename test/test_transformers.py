"""SwinUNETR and UNETR: they train like the other networks, their encoders are pretrained by every pretext."""

from pathlib import Path
from typing import Any

import pytest
import torch

from peers_cases import DECODER, peer, peer_config, step
from segsync.errors import InputError, WeightsError
from segsync_train.config.run import TransferConfig
from segsync_train.export.export import export
from segsync_train.networks.baselines import Baseline
from segsync_train.networks.build import build_network, encoder_of
from segsync_train.networks.transformers import SwinEncoder, ViTEncoder, resized_positions
from segsync_train.runs.checkpoints import load_checkpoint
from segsync_train.ssl.pretext import Pretext
from segsync_train.trainer.finetune import finetune
from segsync_train.trainer.pretrain import pretrain
from segsync_train.trainer.transfer import transfer
from training_cases import run_config, write_cases

SWIN: dict[str, Any] = {
    "network": {
        "preset": "swinunetr",
        "overrides": {"feature_size": 12, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 1, 1], "window_size": 2},
    },
    "patch_zyx": [32, 32, 64],
}
VIT: dict[str, Any] = {
    "network": {
        "preset": "unetr",
        "overrides": {"feature_size": 4, "hidden_size": 12, "mlp_dim": 16, "num_heads": 2},
    },
    "patch_zyx": [32, 16, 32],
}
NETWORKS = {"swinunetr": SWIN, "unetr": VIT}
PRETEXTS: dict[str, Any] = {
    "segsync": "segsync",
    "mae": {"kind": "mae", "decoder": DECODER},
    "hiendmae": {"kind": "hiendmae", "decoder": DECODER | {"depth": 1}},
    "voco": {"kind": "voco", "bases_zyx": [1, 1, 2], "width": 8},
    "swinssl": {"kind": "swinssl", "width": 8},
    "swinmm": {"kind": "swinmm", "width": 8},
}


def built(name: str, **changes: Any) -> Baseline:
    torch.manual_seed(0)
    network = build_network(run_config(Path("unused"), **NETWORKS[name], **changes))
    assert isinstance(network, Baseline)
    return network


def vit() -> ViTEncoder:
    encoder = encoder_of(built("unetr"))
    assert isinstance(encoder, ViTEncoder)
    return encoder


def moved(network: Baseline, start: dict[str, torch.Tensor]) -> set[str]:
    return {name for name, tensor in network.state_dict().items() if not torch.equal(start[name], tensor)}


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cases(tmp_path_factory.mktemp("cases"), 4)


@pytest.mark.parametrize("name", NETWORKS)
def test_they_train_in_the_same_loop_and_say_that_they_are_not_exported(name: str, cases: Path, tmp_path: Path) -> None:
    config = run_config(cases, **NETWORKS[name], steps=1, batch=1, validation={"every": 1, "overlays": 0}, ema=None)
    assert finetune(config, tmp_path / "run").finished
    with pytest.raises(InputError, match=f"expected a network that is exported, found '{name}'"):
        export(tmp_path / "run", tmp_path / "weights")
    assert not (tmp_path / "weights").exists()


def test_maps_have_the_widths_and_grids_that_the_encoders_name() -> None:
    for name, widths in (("swinunetr", (12, 24, 48, 96, 192)), ("unetr", (12,) * 4)):
        network = built(name)
        encoder = encoder_of(network)
        assert encoder is not None
        z, y, x = NETWORKS[name]["patch_zyx"]
        maps = encoder(torch.randn(1, 1, z, y, x))
        grids = [encoder.grid_zyx((z, y, x), stage - len(maps)) for stage in range(len(maps))]
        assert encoder.widths == widths
        assert [tuple(m.shape[1:]) for m in maps] == [(w, *grid) for w, grid in zip(widths, grids, strict=True)]
        assert encoder.flat == (name == "unetr")
    assert encoder_of(build_network_of("nnunet")) is None


def build_network_of(name: str) -> Baseline:
    network = build_network(run_config(Path("unused"), network={"preset": name}, patch_zyx=[16, 16, 16]))
    assert isinstance(network, Baseline)
    return network


def test_the_vits_maps_are_monais_hidden_states() -> None:
    encoder = vit()
    image = torch.randn(2, 1, 32, 16, 32)
    with torch.no_grad():
        last, states = encoder.wrapped(image)
        maps = encoder(image)
    for tokens, found in zip([states[3], states[6], states[9], last], maps, strict=True):
        torch.testing.assert_close(found.flatten(2).transpose(1, 2), tokens)


def test_a_vit_sees_visible_tokens_alone() -> None:
    """Nothing depends on hidden voxels; with nothing hidden it is the whole encoder; hidden cells are zero."""
    encoder = vit()
    image = torch.randn(2, 1, 32, 16, 32)
    masks = torch.tensor([[[[True, False]], [[False, False]]], [[[False, False]], [[False, True]]]])
    with torch.no_grad():
        found = encoder.visible(image, masks)
        changed = image.clone()
        changed[0, :, :16, :, :16] = changed[1, :, 16:, :, 16:] = 5.0
        again, whole = encoder.visible(changed, masks), encoder.visible(image, torch.zeros_like(masks))
        expected = encoder(image)
    for one, other, full, own in zip(found, again, whole, expected, strict=True):
        assert torch.equal(one, other)
        assert not one[0, :, 0, 0, 0].any()
        assert one[0, :, 0, 0, 1].any()
        torch.testing.assert_close(full, own)


def pretext_of(pretext: str, network: str) -> tuple[Pretext, Any]:
    config = peer_config(PRETEXTS[pretext], **NETWORKS[network])
    return peer(config), config


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("pretext", PRETEXTS)
def test_every_pretext_trains_their_encoders(pretext: str, network: str) -> None:
    found, config = pretext_of(pretext, network)
    step(found, config).loss.backward()  # type: ignore[no-untyped-call]
    encoder = found.trained.encoder
    assert isinstance(encoder, SwinEncoder if network == "swinunetr" else ViTEncoder)
    weights = [(name, p) for name, p in encoder.named_parameters() if p.requires_grad]
    assert [name for name, p in weights if p.grad is None or not p.grad.isfinite().all()] == []
    assert any(p.grad is not None and p.grad.any() for p in weights[0][1:])


@pytest.mark.parametrize("name", NETWORKS)
def test_a_pretrained_encoder_changes_exactly_the_encoder(name: str, cases: Path, tmp_path: Path) -> None:
    config = peer_config(PRETEXTS["mae"], cases, **NETWORKS[name], steps=1, held_out={"every": 1})
    pretrain(config, tmp_path / "run")
    path = tmp_path / "run" / "checkpoints" / "best.safetensors"
    network = built(name, transfer={"mode": "full", "checkpoint": path})
    start = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    inherited = transfer(network, TransferConfig(mode="full", checkpoint=path, lr_factor=0.5))
    encoder = {key for key in start if key.startswith(str(network.encoder_at))}
    assert moved(network, start) <= encoder
    given = load_checkpoint(path).part("encoder")
    assert len(given) == len(encoder)
    for key, tensor in given.items():
        assert torch.equal(network.state_dict()[f"{network.encoder_at}{key.removeprefix('wrapped.')}"], tensor)
    assert set(inherited.factors) == {key for key, _ in network.named_parameters() if key in encoder}
    with pytest.raises(InputError, match=r"transfer\.mode: expected full, found 'bottom'"):
        transfer(network, TransferConfig(mode="bottom", checkpoint=path))
    other = build_network(run_config(cases))
    with pytest.raises(WeightsError, match="the checkpoint is of another network"):
        transfer(other, TransferConfig(mode="full", checkpoint=path))


def test_a_vit_takes_its_positions_along_to_another_patch(cases: Path, tmp_path: Path) -> None:
    config = peer_config(PRETEXTS["mae"], cases, **VIT, steps=1, held_out={"every": 1})
    pretrain(config, tmp_path / "run")
    path = tmp_path / "run" / "checkpoints" / "best.safetensors"
    larger = build_network(run_config(cases, network=VIT["network"], patch_zyx=[32, 32, 48]))
    transfer(larger, TransferConfig(mode="full", checkpoint=path))
    name = "patch_embedding.position_embeddings"
    before = load_checkpoint(path).part("encoder")[f"wrapped.{name}"]
    after = larger.state_dict()[f"network.vit.{name}"]
    torch.testing.assert_close(after, resized_positions(before, (2, 1, 2), (2, 2, 3)))


def test_positions_are_interpolated_along_each_axis() -> None:
    """A table whose values are the places: a finer grid over the same patch has the places between."""
    table = torch.tensor([0.0, 4.0, 8.0, 12.0]).reshape(1, 4, 1)
    found = resized_positions(table, (1, 4, 1), (1, 8, 1)).flatten()
    assert found.tolist() == [0, 1, 3, 5, 7, 9, 11, 12]
    assert torch.equal(resized_positions(table, (1, 4, 1), (1, 4, 1)), table)


@pytest.mark.parametrize(
    ("network", "patch", "message"),
    [
        ({"preset": "swinunetr", "overrides": {"feature": 12}}, [32, 32, 64], "unknown key 'feature'; did you mean"),
        ({"preset": "swinunetr", "overrides": {"feature_size": 10}}, [32, 32, 64], r"network\.overrides: .*divide"),
        ({"preset": "swinunetr", "overrides": {"num_heads": [3, 6]}}, [32, 32, 64], "expected four numbers of 1"),
        ({"preset": "swinunetr", "overrides": {"num_heads": [5, 6, 12, 24]}}, [32, 32, 64], "48 does not divide into"),
        ({"preset": "swinunetr", "overrides": {"window_size": 0}}, [32, 32, 64], "expected 1 or more"),
        ({"preset": "swinunetr"}, [32, 32, 48], r"multiples of \(32, 32, 32\), found \(32, 32, 48\); choose another"),
        ({"preset": "unetr", "overrides": {"num_heads": 7}}, [32, 32, 32], r"network\.overrides: .*divisible"),
        ({"preset": "unetr", "overrides": {"num_heads": 0}}, [32, 32, 32], "expected 1 or more"),
        ({"preset": "unetr"}, [16, 16, 24], r"multiples of \(16, 16, 16\)"),
        ({"preset": "unetr"}, [16, 16, 16], "choose a larger patch"),
    ],
)
def test_what_does_not_fit_is_one_clear_line(network: dict[str, Any], patch: list[int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        build_network(run_config(Path("unused"), network=network, patch_zyx=patch))
