"""Earlier weights taken over: which, fitted to other channels, warned of and refused where they do not fit."""

from pathlib import Path
from typing import Any

import pytest
import torch

from segsync.errors import WeightsError
from segsync_train.config.run import TransferConfig
from segsync_train.networks.build import build_network
from segsync_train.networks.xlstm_unet import XLSTMUNet
from segsync_train.runs.checkpoints import load_checkpoint, save_checkpoint
from segsync_train.trainer.finetune import finetune
from segsync_train.trainer.transfer import trained_network, transfer
from training_cases import assert_same, run_config, write_cases


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cases(tmp_path_factory.mktemp("cases"))


def pretraining(folder: Path, cases: Path) -> Path:
    """A checkpoint as `segsync-train pretrain` writes it: an encoder of other weights."""
    torch.manual_seed(99)
    weights = build_network(run_config(cases)).state_dict()
    path = folder / "pretrained.safetensors"
    encoder = {f"encoder/{name.removeprefix('encoder.')}": t for name, t in weights.items() if "encoder." in name}
    made = {"kind": "pretrain", "step": 70, "hours": 0.5, "config": {"pretext": {"kind": "voco"}}}
    save_checkpoint(path, encoder, made)
    return path


def test_images_on_another_scale_than_the_encoders_are_warned_of(
    cases: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A z-score and a window of HU give the same shapes, and features that mean nothing to each other."""
    config = run_config(cases)
    kept = config.model_dump(mode="json")
    states = {
        "same": kept,
        "other": {**kept, "spacing_zyx": [3, 3, 3], "channels": [{"normalisation": {"kind": "fixed", "low": -200}}]},
        "region_model": {**kept, "region_model": "weights/brain"},
    }
    weights = build_network(config).state_dict()
    said = {}
    for name, state in states.items():
        path = tmp_path / f"{name}.safetensors"
        save_checkpoint(path, {f"network/{k}": t for k, t in weights.items()}, {"step": 1, "hours": 0, "config": state})
        caplog.clear()
        transfer(build_network(config), TransferConfig(mode="full", checkpoint=path), config.case_spec)
        said[name] = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert said["same"] == []
    assert ["voxels of (3, 3, 3) mm" in said["other"][0], "'low': -200" in said["other"][1]] == [True, True]
    assert ["trained with the region model brain" in line for line in said["region_model"]] == [True]


@pytest.mark.parametrize(("mode", "taken"), [("full", ("stages.0.", "stages.1.")), ("bottom", ("stages.1.",))])
def test_transfer_takes_over_what_it_says(cases: Path, tmp_path: Path, mode: Any, taken: tuple[str, ...]) -> None:
    path = pretraining(tmp_path, cases)
    network = build_network(run_config(cases))
    before = {name: t.clone() for name, t in network.state_dict().items()}
    inherited = transfer(network, TransferConfig(mode=mode, checkpoint=path, lr_factor=0.1))
    assert (inherited.steps, inherited.hours, inherited.pretext) == (70, 0.5, "voco")
    pretrained = load_checkpoint(path).part("encoder")
    for name, tensor in network.state_dict().items():
        own = name.removeprefix("encoder.")
        is_taken = name.startswith("encoder.") and own.startswith(taken)
        assert torch.equal(tensor, pretrained[own] if is_taken else before[name])
        assert inherited.factors.get(name) == (0.1 if is_taken else None)


def test_a_fine_tunings_encoder_is_the_one_that_it_validates_and_exports(cases: Path, tmp_path: Path) -> None:
    """The running mean of the weights, which all that is known of a run was measured with."""
    run = finetune(run_config(cases), tmp_path / "run").folder
    network, path = build_network(run_config(cases)), run / "checkpoints" / "last.safetensors"
    transfer(network, TransferConfig(mode="full", checkpoint=path))
    _, trained = trained_network(load_checkpoint(path))
    assert isinstance(network, XLSTMUNet)
    assert isinstance(trained, XLSTMUNet)
    assert_same(network.encoder.state_dict(), trained.encoder.state_dict())


def test_weights_are_fitted_to_another_number_of_channels(cases: Path, tmp_path: Path) -> None:
    """Two channels that show the same give the features that one gave."""
    path = pretraining(tmp_path, cases)
    normalised = {"normalisation": {"kind": "zscore"}}
    channels = [{"name": "t1", **normalised}, {"name": "again", **normalised}]
    one, two = (build_network(run_config(cases, channels=channels[:count])) for count in (1, 2))
    for network in (one, two):
        transfer(network, TransferConfig(mode="full", checkpoint=path))
    image = torch.randn(1, 1, 8, 8, 8)
    assert isinstance(one, XLSTMUNet)
    assert isinstance(two, XLSTMUNet)
    for alone, doubled in zip(one.encoder(image), two.encoder(image.expand(1, 2, 8, 8, 8)), strict=True):
        torch.testing.assert_close(doubled, alone)


def test_a_checkpoint_of_another_network_is_refused(cases: Path, tmp_path: Path) -> None:
    path = pretraining(tmp_path, cases)
    overrides = {"widths": [4, 12], "strides_zyx": [[1, 1, 1], [2, 2, 2]], "vil_stages": [1]}
    other = build_network(run_config(cases, network={"preset": "tiny", "overrides": overrides}))
    with pytest.raises(WeightsError, match=r"another network: encoder\.stages\.1.*expected .* found .*"):
        transfer(other, TransferConfig(mode="full", checkpoint=path))
