"""From a run to weights that the runtime opens and that give what the trained network gives."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch

import segsync
from segsync.bundle import load_bundle, load_manifest
from segsync.engine import Device, Engine
from segsync.errors import InputError, WeightsError
from segsync.images import read
from segsync.predict import Settings
from segsync.preprocess import prepare
from segsync_train.config.run import CardConfig, TransferConfig
from segsync_train.evaluation.operating_point import (
    OperatingPoint,
    choose,
    choose_operating_point,
    read_operating_point,
)
from segsync_train.export.card import model_card
from segsync_train.export.ensemble import check_alike, common_axes
from segsync_train.export.export import Member, export
from segsync_train.networks.build import build_network
from segsync_train.networks.onnx_file import read_onnx, write_onnx
from segsync_train.networks.xlstm_unet import XLSTMUNet
from segsync_train.runs.checkpoints import load_checkpoint
from segsync_train.runs.folder import RunFolder
from segsync_train.trainer.finetune import finetune
from segsync_train.trainer.transfer import trained_network, transfer
from training_cases import run_config, write_cases


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    cases = write_cases(folder / "cases")
    config = run_config(cases, steps=60, validation={"every": 60, "overlays": 0}, foreground=0.8)
    finetune(config, folder / "run")
    choose_operating_point(folder / "run", "cpu")
    return folder / "run"


@pytest.fixture(scope="module")
def weights(run: Path) -> Path:
    export(run, run.parent / "weights", licence="CC-BY-4.0")
    return run.parent / "weights"


def test_the_runtime_finds_the_ball_with_the_exported_weights(run: Path, weights: Path) -> None:
    bundle = load_bundle(weights / "custom", "custom")
    image = read(run.parent / "cases" / "imagesTr" / "case2_0000.nii.gz")
    label = sitk.GetArrayFromImage(sitk.ReadImage(str(run.parent / "cases" / "labelsTr" / "case2.nii.gz")))
    array = prepare(lambda channel: image, bundle.spec, "t1").array
    mask = Engine(bundle, Device())(array[None])[0, 0] >= bundle.spec.threshold
    assert 2 * (mask & (label > 0)).sum() / (mask.sum() + label.sum()) > 0.8


def test_the_folder_says_where_it_comes_from(run: Path, weights: Path) -> None:
    spec = load_bundle(weights / "custom").spec
    assert spec.licence == load_manifest(weights / "manifest.json").tasks["custom"].licence == "CC-BY-4.0"
    assert spec.provenance["steps"] == 60
    assert spec.provenance["config"]["name"] == "miniature"
    point = json.loads((run / "operating_point.json").read_text())
    for field in ("threshold", "min_component_ml", "min_component_confidence"):
        assert getattr(spec, field) == point[field]
    card = (weights / "custom" / "MODEL_CARD.md").read_text()
    assert "research, not for care" in card.splitlines()[2]
    assert "An xLSTM-UNet of 0.0" in card
    assert "the architecture of 3D-SegSync (MIDL 2025)" in card
    assert {path.name for path in weights.iterdir()} == {"custom", "manifest.json"}
    assert str(run.parent) not in (weights / "custom" / "model.json").read_text(), "a path of this machine"


@pytest.mark.parametrize(
    ("preset", "called"),
    [
        ("nnunet", "A 3D nnU-Net of"),
        ("resunet", "A 3D U-Net with a residual encoder of"),
        ("unet", "A 3D U-Net of"),
        ("swinunetr", "A SwinUNETR of"),
        ("unetr", "A UNETR of"),
        ("bot", "An xLSTM-UNet of"),
    ],
)
def test_the_card_names_the_network_that_was_trained(weights: Path, preset: str, called: str) -> None:
    spec = load_bundle(weights / "custom").spec
    config = spec.provenance["config"] | {"network": {"preset": preset, "overrides": {}}}
    card = model_card(spec.model_copy(update={"provenance": spec.provenance | {"config": config}}), CardConfig())
    (line,) = (line for line in card.splitlines() if "million parameters" in line)
    assert line.startswith(called)
    assert ("the architecture of 3D-SegSync (MIDL 2025)" in line) == (preset == "bot")


def test_training_goes_on_from_exported_weights(run: Path, weights: Path, tmp_path: Path) -> None:
    _, trained = trained_network(load_checkpoint(RunFolder(run).best))
    again = build_network(run_config(run.parent / "cases", seed=5))
    inherited = transfer(again, TransferConfig(mode="network", checkpoint=weights / "custom" / "model.onnx"))
    assert inherited.steps == 60
    assert inherited.factors.keys() == {name for name, _ in again.named_parameters()}
    image = torch.from_numpy(np.random.default_rng(0).standard_normal((1, 1, 8, 12, 16), dtype=np.float32))
    with torch.inference_mode():
        difference = again.eval().finest(image).softmax(1) - trained.finest(image).softmax(1)
    assert difference.abs().max() < 1e-3, "half precision and no more"

    transfer_settings = {"mode": "network", "checkpoint": str(weights / "custom" / "model.onnx")}
    config = run_config(run.parent / "cases", steps=2, transfer=transfer_settings)
    finetune(config, tmp_path / "run")
    folder = export(tmp_path / "run", tmp_path / "weights")
    assert load_bundle(folder).spec.provenance["inherited"]["steps"] == 60
    assert "2 steps" in (folder / "MODEL_CARD.md").read_text()
    assert "from weights of 60 steps" in (folder / "MODEL_CARD.md").read_text()


def test_another_file_is_no_network(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_text("no network")
    with pytest.raises(WeightsError, match=r"model\.onnx: expected a network as ONNX, found"):
        read_onnx(tmp_path / "model.onnx")


def test_a_file_that_differs_from_the_network_is_not_kept(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def of_another(network: XLSTMUNet, path: Path, **how: bool) -> object:
        return write_onnx(build_network(run_config(Path())), path, **how)

    monkeypatch.setattr("segsync_train.export.export.write_onnx", of_another)
    with pytest.raises(WeightsError, match=r"differs from torch by .* nothing was exported"):
        export(run, tmp_path / "weights")
    assert list((tmp_path / "weights").iterdir()) == []


def test_the_choice_stays_near_a_half_where_the_cases_cannot_tell() -> None:
    """Pairs at 0.2, 0.5, 0.5, 0.8. The best by mean is the first; how sure that is decides."""
    unsure = np.array([[1.0, 0.2, 0.1, 0.0], [0.0, 0.6, 0.5, 0.1], [0.5, 0.6, 0.6, 0.0]])
    sure = np.array([[0.9, 0.6, 0.5, 0.1], [0.8, 0.6, 0.5, 0.1], [0.9, 0.6, 0.6, 0.0]])
    thresholds = (0.2, 0.5, 0.5, 0.8)
    assert (choose(unsure, thresholds), choose(sure, thresholds), choose(unsure[:1], thresholds)) == (1, 0, 0)


def test_a_difference_beyond_its_standard_error_counts() -> None:
    """0.1 in every second of four cases: 0.05, of a standard error of 0.029 (a deviation of 0.058)."""
    assert choose(np.array([[0.7, 0.6], [0.7, 0.7], [0.7, 0.6], [0.7, 0.7]]), (0.6, 0.5)) == 0


@pytest.mark.parametrize("thresholds", [(0.45, 0.55), (0.55, 0.45), (0.3, 0.7), (0.7, 0.3)])
def test_of_thresholds_as_near_to_a_half_the_better_is_taken(thresholds: tuple[float, float]) -> None:
    scores = np.array([[0.8, 0.6], [0.6, 0.7], [0.7, 0.7]])
    assert choose(scores, thresholds) == 0


def test_a_worse_pair_is_not_taken_because_its_distance_is_less_sure() -> None:
    """At 0.5 one pair is 0.01 behind in every case, the other 0.1 in one of four, which may be chance."""
    scores = np.array([[0.7, 0.69, 0.7], [0.7, 0.69, 0.7], [0.7, 0.69, 0.7], [0.7, 0.69, 0.6]])
    assert choose(scores, (0.6, 0.5, 0.5)) == 0


def test_without_a_choice_the_threshold_is_a_half_and_another_file_is_refused(tmp_path: Path) -> None:
    assert read_operating_point(tmp_path) == OperatingPoint()
    (tmp_path / "operating_point.json").write_text("[]")
    with pytest.raises(InputError, match="run segsync-train tune"):
        read_operating_point(tmp_path)


def test_runs_become_an_ensemble_that_averages(run: Path, weights: Path, tmp_path: Path) -> None:
    """Of a run and its copy the mean is the run's own, up to what float32 sums leave."""
    twin = tmp_path / "twin"
    shutil.copytree(run, twin)
    folder = export([run, twin], tmp_path / "weights")
    bundle = load_bundle(folder)
    assert [one.model.name for one in bundle.networks] == ["model.onnx", "model-2.onnx"]
    assert set(load_manifest(tmp_path / "weights" / "manifest.json").tasks["custom"].files) >= {"model-2.onnx"}
    assert len(bundle.spec.provenance["networks"]) == 2
    assert "the mean of 2 networks" in (folder / "MODEL_CARD.md").read_text()
    image = read(run.parent / "cases" / "imagesTr" / "case2_0000.nii.gz")
    alone, both = (
        segsync.load("custom", weights=place, device="cpu").predict({"t1": image}, Settings(tta="none"))
        for place in (weights / "custom", folder)
    )
    assert both.statistics.networks == 2
    assert both.model_probabilities == pytest.approx(alone.model_probabilities, abs=1e-5)
    point = read_operating_point(twin)
    (twin / "operating_point.json").write_text(point.model_copy(update={"threshold": 0.77}).model_dump_json())
    with pytest.raises(InputError, match="--operating-point FOLDER, one chosen for the ensemble"):
        export([run, twin], tmp_path / "other")
    folder = export([run, twin], tmp_path / "other", operating_point=twin)
    assert load_bundle(folder).spec.threshold == 0.77
    with pytest.raises(InputError, match="expected every run once"):
        export([run, run], tmp_path / "other")


@pytest.mark.parametrize(
    ("changes", "what"), [({"spacing_zyx": (2.0, 1.0, 1.0)}, "spacing_zyx"), ({"labels": {1: "other"}}, "labels")]
)
def test_runs_of_other_grids_or_labels_are_no_ensemble(run: Path, changes: dict[str, Any], what: str) -> None:
    config = Member.of(run, None).config
    with pytest.raises(InputError, match=f"other: expected {what} of .*run"):
        check_alike([(run, config), (run / "other", config.model_copy(update=changes))])


def test_an_ensemble_is_mirrored_where_all_its_networks_were() -> None:
    assert common_axes([(1, 2), (2, 0)]) == (2,)
    assert common_axes([(1, 2)]) == (1, 2)
