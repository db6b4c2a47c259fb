"""Another operating point for exported weights: chosen on drawn cases, written where the runtime reads it."""

from pathlib import Path
from typing import Any

import pytest

from builders import constant, write_bundle
from segsync.bundle import DecisionSpec, load_bundle, load_manifest, sha256_of, write_manifest
from segsync.errors import InputError
from segsync_train.config.run import RunConfig
from segsync_train.evaluation.candidates import CANDIDATES
from segsync_train.export.retune import retune
from synthesis_cases import write_sources
from training_cases import provenance, run_config, write_cases

SPACING_MM = 5.0


def written(folder: Path, config: RunConfig, **changes: Any) -> Path:
    """Weights that say that they were trained so; as they are, they copy their first channel."""
    changes = {
        "spacing_zyx": (SPACING_MM,) * 3,
        "channels": config.channels,
        "provenance": provenance(config),
        **changes,
    }
    write_bundle(folder / config.task, config.task, **changes)
    write_manifest(folder)
    return folder / config.task


def drawn(folder: Path) -> RunConfig:
    """A training on cases that are drawn from sources elsewhere."""
    changes = {"task": "aims-tbi", "spacing_zyx": [SPACING_MM] * 3}
    base = run_config(folder, channels=[{"name": "t1", "normalisation": {"kind": "zscore"}}], **changes)
    data = {"kind": "synthetic", "sources": str(folder / "elsewhere"), "validation_cases": 2}
    return RunConfig.model_validate({**base.model_dump(mode="json"), "data": data})


def test_the_choice_stands_in_the_weights_and_their_manifest(tmp_path: Path) -> None:
    write_sources(tmp_path / "sources")
    folder = written(tmp_path / "weights", drawn(tmp_path))
    point = retune(folder, "cpu", sources=tmp_path / "sources", cache=tmp_path / "cache", mirror=True)
    assert list((tmp_path / "cache").glob("head-*.npz"))
    spec = load_bundle(folder, "aims-tbi").spec
    chosen = DecisionSpec(**{name: getattr(spec, name) for name in DecisionSpec.model_fields})
    assert chosen == point.decision_of(1)
    assert chosen in CANDIDATES
    assert (point.cases, point.mirror) == (2, True)
    assert spec.provenance["operating_point"]["cases"] == 2
    assert "on 2 validation cases Dice" in (folder / "MODEL_CARD.md").read_text()
    wanted = DecisionSpec(threshold=0.3, min_component_ml=0.01, min_component_confidence=0.9)
    taken = retune(folder, "cpu", 1, sources=tmp_path / "sources", decision=wanted)
    assert (taken.decision_of(1), taken.cases) == (wanted, 1)
    assert load_bundle(folder).spec.threshold == 0.3
    assert set(load_manifest(folder.parent / "manifest.json").tasks["aims-tbi"].files) == {
        "model.onnx",
        "model.json",
        "MODEL_CARD.md",
    }


def test_all_networks_of_an_ensemble_are_scored(tmp_path: Path) -> None:
    """The first alone marks nothing, which is right in two cases without a lesion; the mean marks all tissue."""
    write_sources(tmp_path / "sources")
    first = written(tmp_path / "first", drawn(tmp_path), model=constant(0.2))
    (tmp_path / "both" / "aims-tbi").mkdir(parents=True)
    second = tmp_path / "both" / "aims-tbi" / "model-2.onnx"
    second.write_bytes(constant(0.9))
    further = {second.name: sha256_of(second)}
    both = written(tmp_path / "both", drawn(tmp_path), model=constant(0.2), further_networks=further)
    wanted, sources = DecisionSpec(threshold=0.5), tmp_path / "sources"
    alone, mean = (retune(folder, "cpu", 2, sources=sources, decision=wanted) for folder in (first, both))
    assert (alone.dice, mean.dice) == (1, 0)


def test_weights_of_a_folder_of_cases_are_tuned_by_their_run(tmp_path: Path) -> None:
    config = run_config(write_cases(tmp_path / "cases"))
    with pytest.raises(InputError, match="trained on drawn cases, found folder; tune their run"):
        retune(written(tmp_path / "weights", config), "cpu")
