"""Weights of others: each published layout, in small, gives the features here that its own network gives."""

import csv
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file
from torch import nn
from typer.testing import CliRunner

from foreign_weights import PATCH, hiendmae_file, nnunet_file, published_file, swin_file
from segsync.errors import WeightsError
from segsync_train.cli import app
from segsync_train.config.run import RunConfig, TransferConfig
from segsync_train.networks.baselines import Baseline
from segsync_train.networks.build import build_network
from segsync_train.pretrained.convert import Imported, convert
from segsync_train.runs.checkpoints import load_checkpoint
from segsync_train.trainer.transfer import transfer
from training_cases import run_config

IMAGE = torch.randn(1, 1, *PATCH, generator=torch.Generator().manual_seed(5))


def settings_of(folder: Path, **changes: Any) -> RunConfig:
    """A run on what the import wrote, as `base:` would take it."""
    made = yaml.safe_load((folder / "settings.yaml").read_text())
    return run_config(Path("unused"), **{"patch_zyx": list(PATCH), **made, **changes})


def started(folder: Path, **changes: Any) -> Baseline:
    config = settings_of(folder, **changes)
    torch.manual_seed(99)
    network = build_network(config)
    inherited = transfer(network, config.transfer, config.case_spec)
    assert inherited.pretext == "theirs"
    assert isinstance(network, Baseline)
    return network.eval()


def brought(path: Path, folder: Path) -> Imported:
    return convert(path, folder, name="theirs")


def features(encoder: nn.Module, image: torch.Tensor = IMAGE) -> list[torch.Tensor]:
    with torch.no_grad():
        found = encoder.eval()(image)
    flat = [*found] if isinstance(found, list) else [found[0], *found[1]]
    return [tensor for tensor in flat if isinstance(tensor, torch.Tensor)]


def assert_same(one: list[torch.Tensor], other: list[torch.Tensor]) -> None:
    assert len(one) == len(other) > 0
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("kind", ["residual", "plain", "encoder only"])
def test_nnunets_and_nnssls_weights_give_their_features(kind: str, tmp_path: Path) -> None:
    theirs = nnunet_file(tmp_path / "f.pth", plain=kind == "plain", encoder_only=kind == "encoder only")
    imported = brought(tmp_path / "f.pth", tmp_path / "to")
    assert imported.network["preset"] == ("plainconv" if kind == "plain" else "resenc-l")
    assert imported.network["overrides"]["strides_zyx"] == [[1, 1, 1], [1, 2, 2], [2, 2, 2]]
    network = started(tmp_path / "to")
    assert_same(features(network.network.encoder), features(theirs.encoder))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["published-enc", "published-bot"])
def test_the_published_xlstm_unets_weights_give_its_logits(name: Any, tmp_path: Path) -> None:
    """With transfer.mode network all of it is taken over: decoder and heads too."""
    theirs = published_file(tmp_path / "f.pth", name)
    imported = brought(tmp_path / "f.pth", tmp_path / "to")
    assert imported.network["preset"] == name
    transfer_all = {"mode": "network", "checkpoint": str(tmp_path / "to" / "checkpoint.safetensors")}
    network = started(tmp_path / "to", transfer=transfer_all)
    assert_same(features(network.network), features(theirs))


@pytest.mark.parametrize("kind", ["swinvit", "swinmm", "voco", "whole"])
def test_swin_unetrs_weights_give_its_features(kind: str, tmp_path: Path) -> None:
    theirs = swin_file(tmp_path / "f.pt", kind)
    imported = brought(tmp_path / "f.pt", tmp_path / "to")
    overrides = imported.network["overrides"]
    assert (overrides["feature_size"], overrides["window_size"], overrides["use_v2"]) == (12, 4, kind == "voco")
    network = started(tmp_path / "to", patch_zyx=[64, 32, 32])
    assert_same(features(network.network.swinViT), features(theirs))  # type: ignore[arg-type]
    if kind in ("swinvit", "swinmm"):
        left = [row for row in imported.rows if row.what == "left out: not in the network"]
        assert {row.theirs for row in left} == {"rotation_head.weight", "contrastive_head.weight"}


def test_hi_end_maes_weights_give_its_features(tmp_path: Path) -> None:
    theirs = hiendmae_file(tmp_path / "f.pt")
    imported = brought(tmp_path / "f.pt", tmp_path / "to")
    assert imported.network["overrides"] == {
        "hidden_size": 24, "mlp_dim": 32, "num_heads": 12, "qkv_bias": True
    }  # fmt: skip
    network = started(tmp_path / "to")
    assert_same(features(network.network.vit), features(theirs))  # type: ignore[arg-type]


def test_two_channels_that_show_the_same_give_the_features_of_one(tmp_path: Path) -> None:
    theirs = nnunet_file(tmp_path / "f.pth")
    brought(tmp_path / "f.pth", tmp_path / "to")
    channels = [{"name": name, "normalisation": {"kind": "zscore"}} for name in ("t1", "t2")]
    network = started(tmp_path / "to", channels=channels)
    twice = features(network.network.encoder, IMAGE.repeat(1, 2, 1, 1, 1))  # type: ignore[arg-type]
    assert_same(twice, features(theirs.encoder))  # type: ignore[arg-type]


def test_heads_of_other_labels_start_anew_and_say_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The file's network has three outputs, the run two."""
    nnunet_file(tmp_path / "f.pth")
    brought(tmp_path / "f.pth", tmp_path / "to")
    path = tmp_path / "to" / "checkpoint.safetensors"
    config = settings_of(tmp_path / "to")
    network = build_network(config)
    transfer(network, TransferConfig(mode="network", checkpoint=path))
    assert "network.decoder.seg_layers.0.weight" in caplog.text
    assert "start anew" in caplog.text


def test_the_command_writes_a_table_of_every_tensor(tmp_path: Path) -> None:
    swin_file(tmp_path / "f.pt", "swinmm")
    result = CliRunner().invoke(app, ["import", str(tmp_path / "f.pt"), "-o", str(tmp_path / "to")])
    assert result.exit_code == 0, result.output
    with (tmp_path / "to" / "tensors.csv").open() as file:
        rows = list(csv.DictReader(file))
    counted = {what: sum(row["what"] == what for row in rows) for what in {row["what"] for row in rows}}
    assert counted["taken"] == len(torch.load(tmp_path / "f.pt", weights_only=True)["state_dict"]) - 2
    assert counted["left out: not in the network"] == 2
    assert all(not row["file"] for row in rows if row["what"] == "starts anew")
    assert "rotation_head" in result.output


class Evil:
    """What no file of weights needs."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch /tmp/never",)


def written(path: Path, kind: str) -> str:
    """A file that is not taken, and what is said of it."""
    if kind == "code":
        torch.save({"state_dict": {"a": torch.ones(1)}, "args": Evil()}, path)
        return r"expected tensors, numbers and text alone, found (posix|os|nt)\.system"
    if kind == "unknown":
        torch.save({"state_dict": {"conv.weight": torch.ones(2, 1, 3, 3, 3)}}, path)
        return r"expected weights of xLSTM-UNet .*; found 1 tensors \(conv\.weight, …\)"
    if kind == "flat":
        torch.save({"network_weights": {"encoder.stages.0.0.convs.0.conv.weight": torch.ones(4, 1, 3, 3)}}, path)
        return "expected a network of three dimensions, found kernels of two"
    if kind == "cut":
        path.write_bytes(b"PK\x03\x04 and no more")
        return "not a whole file of weights"
    if kind == "no tensors":
        torch.save({"epoch": 3}, path)
        return "expected tensors by name, found keys 'epoch'"
    if kind == "part":
        torch.save({"layers1.0.blocks.0.attn.relative_position_bias_table": torch.ones(343, 3)}, path)
        return "expected all tensors of MONAI's SwinUNETR, .* found a part of them .*layers2"
    if kind == "no positions":
        torch.save(vit_without_positions(), path)
        return "expected all tensors of Hi-End-MAE or MONAI's ViT, found a part of them; give the whole file"
    nnunet_file(path)
    state = torch.load(path, weights_only=False)
    del state["network_weights"]["encoder.stages.1.blocks.0.conv1.conv.weight"]
    torch.save(state, path)
    return r"the first that is not there is encoder\.stages\.1\.blocks\.0\.conv1\.conv\.weight"


def vit_without_positions() -> dict[str, torch.Tensor]:
    shapes = {"patch_embed.proj.weight": (24, 1, 16, 16, 16), "blocks.0.attn.qkv.weight": (72, 24)}
    return {name: torch.ones(shape) for name, shape in {**shapes, "blocks.0.mlp.fc1.weight": (48, 24)}.items()}


@pytest.mark.parametrize("kind", ["code", "unknown", "flat", "cut", "no tensors", "half", "part", "no positions"])
def test_a_file_that_does_not_fit_is_refused_in_one_line(kind: str, tmp_path: Path) -> None:
    said = written(tmp_path / "f.pth", kind)
    with pytest.raises(WeightsError, match=said) as caught:
        convert(tmp_path / "f.pth", tmp_path / "to")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "to").exists()


def test_others_weights_given_to_a_run_say_how_they_are_brought_in(tmp_path: Path) -> None:
    torch.save({"state_dict": {"a": torch.ones(1)}}, tmp_path / "theirs.pth")
    save_file({"a": torch.ones(1)}, tmp_path / "theirs.safetensors")
    for name in ("theirs.pth", "theirs.safetensors"):
        with pytest.raises(WeightsError, match=rf"{name}.*others' weights .* segsync-train import FILE -o DIR"):
            load_checkpoint(tmp_path / name)
