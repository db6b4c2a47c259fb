"""Exported weights put together: what is averaged, what the new folder says, and what does not go together."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import segsync
from builders import ball, constant, grid_of, write_bundle
from segsync.bundle import CARD_FILE, MODEL_FILE, ChannelSpec, Fixed, load_bundle, load_manifest, sha256_of
from segsync.errors import InputError, WeightsError
from segsync.geometry import Volume
from segsync.predict import Settings
from segsync_train.export.combine import combine
from training_cases import provenance, run_config

GRID = grid_of((16, 18, 20))


def exported(folder: Path, value: float, steps: int, **changes: Any) -> Path:
    """Weights whose network gives this value everywhere, with the record of a training of so many steps."""
    channel = ChannelSpec(name="t1", normalisation=Fixed(low=0, high=1, mean=0, std=1))
    changes = {"channels": (channel,), "provenance": provenance(run_config(folder), steps), **changes}
    write_bundle(folder, "aims-tbi", model=constant(value), **changes)
    return folder


def test_networks_are_averaged_and_each_is_recorded(tmp_path: Path) -> None:
    """Of 0.2, 0.6 and 0.7, the last two an ensemble before, the mean is 0.5."""
    one, two, three = (
        exported(tmp_path / name / "aims-tbi", value, steps)
        for name, value, steps in (("a", 0.2, 100), ("b", 0.6, 200), ("c", 0.7, 300))
    )
    pair = combine([two, three], tmp_path / "pair")
    folder = combine([one, pair], tmp_path / "all")
    bundle = load_bundle(folder, "aims-tbi")
    assert [network.sha256 for network in bundle.networks] == [
        sha256_of(one / MODEL_FILE),
        *(network.sha256 for network in load_bundle(pair).networks),
    ]
    assert [network["steps"] for network in bundle.spec.provenance["networks"]] == [100, 200, 300]
    card = (folder / CARD_FILE).read_text()
    assert "the mean of 3 networks" in card
    assert "100 steps, 1.5 hours on a CPU; 200 steps, 1.5 hours on a CPU; 300 steps" in card
    assert set(load_manifest(tmp_path / "all" / "manifest.json").tasks["aims-tbi"].files) >= {"model-3.onnx"}
    lesion = ball(GRID, 5.0)
    image = Volume(lesion + np.float32(0), GRID)
    found = segsync.load("aims-tbi", weights=folder, device="cpu").predict({"t1": image}, Settings(tta="none"))
    assert found.probability()[lesion > 0] == pytest.approx(0.5, abs=1e-5)


def test_what_is_no_ensemble_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    one = exported(tmp_path / "a" / "aims-tbi", 0.2, 100)
    other = exported(tmp_path / "b" / "aims-tbi", 0.6, 100, spacing_zyx=(2.0, 2.0, 3.0))
    with pytest.raises(InputError, match=r"b/aims-tbi: expected spacing_zyx of .*a/aims-tbi"):
        combine([one, other], tmp_path / "out")
    with pytest.raises(InputError, match="expected several networks, each once, found 2 files of 1"):
        combine([one, one], tmp_path / "out")
    with pytest.raises(InputError, match="found 1 files of 1"):
        combine([one], tmp_path / "out")
    damaged = exported(tmp_path / "c" / "aims-tbi", 0.7, 100)
    (damaged / MODEL_FILE).write_bytes(b"no network")
    with pytest.raises(WeightsError, match="c/aims-tbi"):
        combine([one, damaged], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_mirroring_and_windows_are_those_that_every_network_bears(tmp_path: Path) -> None:
    one = exported(tmp_path / "a" / "aims-tbi", 0.2, 1, mirror_axes=(1, 2), multiple_zyx=(2, 2, 4), patch_zyx=(8, 8, 8))
    two = exported(tmp_path / "b" / "aims-tbi", 0.3, 1, mirror_axes=(2, 0), multiple_zyx=(4, 1, 2), patch_zyx=(8, 8, 8))
    spec = load_bundle(combine([one, two], tmp_path / "out")).spec
    assert (spec.mirror_axes, spec.multiple_zyx) == ((2,), (4, 2, 4))
