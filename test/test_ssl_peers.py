"""What every pretext task must do, whichever it is: train the encoder, draw by the step alone, go on after a kill."""

import shlex
from pathlib import Path
from typing import Any

import pytest
import torch

from peers_cases import DECODER, draws, peer, peer_config, step, windows
from segsync.errors import InputError
from segsync_train.config.run import TransferConfig
from segsync_train.config.settings import load_settings
from segsync_train.networks.build import build_network
from segsync_train.runs.checkpoints import load_checkpoint
from segsync_train.runs.folder import read_log
from segsync_train.ssl.config import PretrainConfig
from segsync_train.trainer.pretrain import pretrain
from segsync_train.trainer.schedule import make_optimiser
from segsync_train.trainer.transfer import transfer
from training_cases import run_config, write_cases

PEERS_FILE = Path(__file__).parents[1] / "training" / "configs" / "pretrain-peers.yaml"
PEERS: dict[str, dict[str, Any]] = {
    "mae": {"kind": "mae", "mask_stage": -1, "decoder": DECODER},
    "hiendmae": {"kind": "hiendmae", "mask_stage": -1, "decoder": DECODER},
    "voco": {"kind": "voco", "bases_zyx": [1, 2, 2], "crops": 2, "width": 8},
    "voco-released": {"kind": "voco", "bases_zyx": [1, 2, 2], "crops": 2, "width": 8, "released": True},
    "swinssl": {"kind": "swinssl", "mask_stage": -1, "width": 8},
    "swinssl-released": {"kind": "swinssl", "width": 8, "released": True, "mask_stage": -1},
    "swinmm": {"kind": "swinmm", "mask_stage": -1, "width": 8},
}
every_peer = pytest.mark.parametrize("name", PEERS)


@every_peer
def test_every_weight_of_the_encoder_has_a_gradient(name: str) -> None:
    """And every other weight too, as training in several processes needs."""
    config = peer_config(PEERS[name])
    pretext = peer(config)
    step(pretext, config).loss.backward()  # type: ignore[no-untyped-call]
    assert [n for n, p in pretext.named_parameters() if p.requires_grad and p.grad is None] == []
    encoder = pretext.get_submodule(pretext.kept)
    # InstanceNorm cancels the biases of the convolutions before it, and gates start at zero.
    still = [n for n, p in encoder.named_parameters() if p.grad is not None and not p.grad.any()]
    assert [n for n in still if not n.endswith("bias")] == []


@every_peer
def test_a_few_steps_on_one_batch_lower_the_loss(name: str) -> None:
    config = peer_config(PEERS[name])
    pretext = peer(config)
    inputs = pretext.inputs(windows(config), draws(config), 0)
    optimiser = torch.optim.Adam(pretext.trained.parameters(), 0.01)
    losses = []
    for number in range(12):
        output = pretext(*inputs)
        optimiser.zero_grad()
        output.loss.backward()
        optimiser.step()
        pretext.after_step(number)
        losses.append(output.loss.item())
    assert losses[-1] < losses[0]
    assert make_optimiser(config.optimiser, pretext.trained).param_groups


@every_peer
def test_the_loss_in_mixed_precision_is_the_same_to_its_rounding(name: str) -> None:
    """Cosines near 1 above all: bfloat16 has two digits of them, and VoCo's loss lives of what is missing to 1."""
    config = peer_config(PEERS[name])
    pretext = peer(config).eval()
    inputs = pretext.inputs(windows(config), draws(config), 0)
    with torch.no_grad():
        exact = pretext(*inputs)
        with torch.autocast("cpu", torch.bfloat16):
            mixed = pretext(*inputs)
    assert all(term.dtype is torch.float32 for term in (mixed.loss, *mixed.terms.values()))
    assert mixed.loss.item() == pytest.approx(exact.loss.item(), rel=0.05)


@every_peer
def test_what_is_drawn_is_a_function_of_seed_step_and_place(name: str) -> None:
    config = peer_config(PEERS[name])
    pretext = peer(config)

    def drawn(number: int, *, held_out: bool = False) -> list[torch.Tensor]:
        made = pretext.inputs(windows(config), draws(config, number, held_out=held_out), number)
        return [value for value in made if isinstance(value, torch.Tensor)]

    def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
        return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))

    torch.manual_seed(5)
    first = drawn(3)
    torch.manual_seed(6)
    assert same(drawn(3), first)
    assert not same(drawn(4), first)
    assert not same(drawn(3, held_out=True), first)


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cases(tmp_path_factory.mktemp("cases"), 6)


def test_a_peer_that_was_stopped_ends_with_the_same_weights_and_gives_fine_tuning_its_encoder(
    cases: Path, tmp_path: Path
) -> None:
    config = peer_config(PEERS["mae"], cases, steps=4, held_out={"every": 2})
    assert pretrain(config, tmp_path / "whole").finished
    answers = iter([False, False, True])
    assert not pretrain(config, tmp_path / "run", should_stop=answers.__next__).finished
    assert pretrain(config, tmp_path / "run", resume=True).finished
    for name in ("last", "best"):
        one, other = (
            load_checkpoint(tmp_path / run / "checkpoints" / f"{name}.safetensors") for run in ("whole", "run")
        )
        assert one.tensors.keys() == other.tensors.keys()
        assert [key for key in one.tensors if not torch.equal(one.tensors[key], other.tensors[key])] == []
    logged = {key for line in read_log(tmp_path / "run") for key in line}
    assert {"train/loss", "held_out/loss"} <= logged
    assert not any(key.startswith("monitor/") for key in logged)
    network = build_network(run_config(cases))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    transfer(network, TransferConfig(mode="full", checkpoint=tmp_path / "run" / "checkpoints" / "last.safetensors"))
    moved = {name for name, tensor in network.state_dict().items() if not torch.equal(before[name], tensor)}
    assert moved
    assert all(name.startswith("encoder.") for name in moved)


def published() -> list[tuple[str, list[str]]]:
    """The peers' own settings, as pretrain-peers.yaml has them in its comments."""
    lines = [line.removeprefix("#").split(":", 1) for line in PEERS_FILE.read_text().splitlines() if " --set " in line]
    return [(name.strip(), shlex.split(text)[1::2]) for name, text in lines if name.strip() in PEERS]


def test_the_peers_own_settings_are_settings() -> None:
    """Each of them is valid, names its own pretext, and has its window in whole patches."""
    assert {name for name, _ in published()} == set(PEERS)
    for name, overrides in published():
        config = load_settings(PretrainConfig, PEERS_FILE, overrides)
        kind, _, released = name.partition("-")
        assert config.pretext.kind == kind
        assert getattr(config.pretext, "released", False) == bool(released)
        assert config.network.preset in ("swinunetr", "unetr")
        others = {"voco": (64, 256, 256), "swinmm": (64, 64, 64)}
        assert config.window_zyx == others.get(kind, (96, 96, 96))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pretext": {"kind": "mae", "mask_ration": 0.5}}, "unknown key 'mask_ration'; did you mean 'mask_ratio'"),
        ({"pretext": "swinssl", "batch": 1}, "'swinssl' compares the samples of a batch; give a batch of 2 or more"),
        ({"pretext": "mea"}, "'mae'"),
        ({"pretext": {"kind": "mae", "decoder": {"width": 30}}}, "a width of 30 does not divide into 16 heads"),
        ({"pretext": "mae", "teacher": {"momentum": 0.9}}, "teacher belongs to the pretext 'segsync', found 'mae'"),
    ],
)
def test_settings_of_another_pretext_are_errors(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        peer_config(settings.pop("pretext"), **settings)


def test_a_stage_that_the_encoder_has_not_is_named() -> None:
    with pytest.raises(InputError, match=r"pretext\.mask_stage: expected -1 to -2, the network's stages, found -3"):
        peer(peer_config({"kind": "mae", "mask_stage": -3}))


def test_a_name_alone_takes_the_papers_settings() -> None:
    config = peer_config("mae")
    assert config.pretext.kind == "mae"
    assert config.pretext.mask_ratio == 0.75
    assert PretrainConfig.model_validate_json(config.model_dump_json()) == config
