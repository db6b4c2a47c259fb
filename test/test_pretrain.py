"""Pretraining: it learns without labels, goes on as if never stopped, names collapse, gives fine-tuning its encoder."""

import logging
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pretrain_cases import pretrain_config, write_volumes
from segsync.errors import SegsyncError, WeightsError
from segsync_train.config.run import TransferConfig
from segsync_train.networks.build import build_network
from segsync_train.runs.checkpoints import Checkpoint, load_checkpoint
from segsync_train.runs.folder import read_log
from segsync_train.ssl.build import build_encoder
from segsync_train.ssl.views import Views
from segsync_train.trainer.pretrain import pretrain
from segsync_train.trainer.transfer import transfer
from training_cases import run_config


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_volumes(tmp_path_factory.mktemp("cases"))


def last(run: Path) -> Checkpoint:
    return load_checkpoint(run / "checkpoints" / "last.safetensors")


def best(run: Path) -> Checkpoint:
    return load_checkpoint(run / "checkpoints" / "best.safetensors")


def losses(run: Path) -> dict[int, float]:
    """The held-out loss by step."""
    return {line["step"]: line["held_out/loss"] for line in read_log(run) if "held_out/loss" in line}


def learned(run: Path) -> list[dict[str, Any]]:
    """The log without what depends on the machine."""
    machine = ("train/steps_per_second", "train/peak_memory_mib")
    return [{key: value for key, value in line.items() if key not in machine} for line in read_log(run)]


def assert_same(one: Checkpoint, other: Checkpoint) -> None:
    """Every tensor, bit for bit: both networks, statistics, monitors, optimiser."""
    assert one.tensors.keys() == other.tensors.keys()
    assert [name for name in one.tensors if not torch.equal(one.tensors[name], other.tensors[name])] == []


@pytest.fixture(scope="module")
def unbroken(cases: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "unbroken"
    assert pretrain(pretrain_config(cases), folder).finished
    return folder


@pytest.mark.parametrize(("stop_after", "workers"), [(1, 0), (4, 0), (3, 1)])
def test_a_run_that_was_stopped_ends_with_the_same_weights(
    cases: Path, unbroken: Path, tmp_path: Path, stop_after: int, workers: int
) -> None:
    config = pretrain_config(cases, workers=workers)
    answers = iter([*[False] * (stop_after - 1), True])
    first = pretrain(config, tmp_path / "run", should_stop=answers.__next__)
    assert (first.step, first.finished) == (stop_after, False)
    assert pretrain(config, tmp_path / "run", resume=True).finished
    assert_same(last(tmp_path / "run"), last(unbroken))
    assert_same(best(tmp_path / "run"), best(unbroken))
    assert learned(tmp_path / "run") == learned(unbroken)


def test_a_run_that_was_killed_before_its_first_checkpoint_begins_again(
    cases: Path, unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("segsync_train.trainer.loop._Loop._save", killed)
        with pytest.raises(KeyboardInterrupt):
            pretrain(pretrain_config(cases), tmp_path / "run")
    assert pretrain(pretrain_config(cases), tmp_path / "run", resume=True).finished
    assert_same(last(tmp_path / "run"), last(unbroken))


def test_everything_that_dinov2_adds_goes_on_as_well(cases: Path, tmp_path: Path) -> None:
    """Masked cells, KoLeo, Sinkhorn-Knopp's queue and early stopping are part of the state."""
    config = pretrain_config(
        cases,
        objective={"masked": 1.0, "mask_stage": -1, "koleo": 0.1},
        centring={"kind": "sinkhorn", "queue": 8},
        held_out={"every": 1, "patience": 5},
    )
    whole = pretrain(config, tmp_path / "whole")
    answers = iter([False, False, True])
    pretrain(config, tmp_path / "run", should_stop=answers.__next__)
    assert pretrain(config, tmp_path / "run", resume=True) == replace(whole, folder=tmp_path / "run")
    assert_same(last(tmp_path / "run"), last(tmp_path / "whole"))
    line = next(line for line in read_log(tmp_path / "run") if "train/koleo" in line)
    assert line["train/masked"] > 0


def test_the_teacher_of_the_loop_is_the_running_mean_of_the_students(cases: Path, tmp_path: Path) -> None:
    """After one step: m of its first weights and 1 − m of the student's, to the last digit."""
    config = pretrain_config(cases, steps=1, teacher={"momentum": 0.9})
    torch.manual_seed(config.seed)
    first = build_encoder(config).state_dict()
    pretrain(config, tmp_path / "run")
    found = last(tmp_path / "run")
    teacher = found.part("encoder")
    for name, start in first.items():
        student = found.part("pretext")[f"student.encoder.{name}"]
        assert torch.equal(teacher[name], torch.lerp(start, student, 1 - 0.9))
    assert any(not torch.equal(teacher[name], start) for name, start in first.items())


def test_each_step_sees_two_different_views_of_the_same_windows(
    cases: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And other ones at every step, of other volumes; the held-out views are the same at every evaluation."""
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    class Spy(Views):
        def __call__(self, windows: torch.Tensor, rngs: Sequence[np.random.Generator]) -> torch.Tensor:
            seen.append((windows, super().__call__(windows, rngs)))
            return seen[-1][1]

    monkeypatch.setattr("segsync_train.ssl.segsync.Views", Spy)
    pretrain(pretrain_config(cases, steps=2, held_out={"every": 1}), tmp_path / "run")
    first, held_out, second, again = (seen[i : i + 2] for i in (0, 2, 4, 6))
    for one, other in (first, held_out, second, again):
        assert torch.equal(one[0], other[0])
        assert not torch.equal(one[1], other[1])
    assert not torch.equal(first[0][0], second[0][0])
    assert torch.equal(held_out[1][1], again[1][1])


def test_fine_tuning_takes_the_teachers_encoder_over(cases: Path, unbroken: Path) -> None:
    for checkpoint in ("last", "best"):
        path = unbroken / "checkpoints" / f"{checkpoint}.safetensors"
        network = build_network(run_config(cases))
        transfer(network, TransferConfig(mode="full", checkpoint=path))
        pretrained = load_checkpoint(path).part("encoder")
        own = {name: t for name, t in network.state_dict().items() if name.startswith("encoder.")}
        assert {f"encoder.{name}" for name in pretrained} == set(own)
        assert all(torch.equal(own[f"encoder.{name}"], tensor) for name, tensor in pretrained.items())


def test_it_learns_to_tell_volumes_apart(cases: Path, tmp_path: Path) -> None:
    """On volumes that never trained: the student comes nearer the teacher, and nothing collapses meanwhile."""
    config = pretrain_config(
        cases,
        batch=4,
        steps=60,
        teacher={"momentum": 0.95, "temperature": [0.04, 0.04]},
        held_out={"every": 10, "fraction": 0.4},
        optimiser={"lr": 0.003},
        log_every=10,
        checkpoint_every=1000,
    )
    outcome = pretrain(config, tmp_path / "run")
    found = losses(tmp_path / "run")
    assert outcome.best is not None
    assert outcome.best < 0.8 * found[10]
    assert best(tmp_path / "run").state["step"] == min(found, key=lambda step: found[step])
    assert best(tmp_path / "run").state["best"] == outcome.best == min(found.values())


def test_looking_at_held_out_volumes_changes_nothing(cases: Path, unbroken: Path, tmp_path: Path) -> None:
    """Neither weights nor centres nor statistics take them in: evaluated at every step, the run ends the same."""
    pretrain(pretrain_config(cases, held_out={"every": 1}), tmp_path / "run")
    assert_same(last(tmp_path / "run"), last(unbroken))


def test_the_run_ends_when_the_held_out_loss_no_longer_falls(cases: Path, tmp_path: Path) -> None:
    config = pretrain_config(cases, steps=300, held_out={"every": 2, "patience": 2}, log_every=50)
    outcome = pretrain(config, tmp_path / "run")
    found = list(losses(tmp_path / "run").values())
    assert outcome.finished
    assert outcome.step < 300
    assert min(found) == found[-3] == outcome.best
    assert last(tmp_path / "run").state["step"] == outcome.step
    assert max(line["step"] for line in read_log(tmp_path / "run") if "train/loss" in line) == outcome.step
    assert pretrain(config, tmp_path / "run", resume=True).step == outcome.step


def test_while_the_temperature_rises_the_newest_weights_are_the_best(cases: Path, tmp_path: Path) -> None:
    config = pretrain_config(
        cases,
        steps=8,
        held_out={"every": 1},
        teacher={"temperature": [0.02, 5.0], "warmup_steps": 6},
        objective={"squared_error": 0.0},
        views={"zoom": [1, 1], "window": 1, **dict.fromkeys(("flip", "blur", "brightness", "contrast", "jitter"), 0)},
        optimiser={"lr": 1e-6},
        log_every=50,
    )
    pretrain(config, tmp_path / "run")
    assert losses(tmp_path / "run")[6] > losses(tmp_path / "run")[1]
    assert best(tmp_path / "run").state["step"] >= 6


@pytest.mark.parametrize("stops", [True, False])
def test_a_collapse_is_said_while_training(
    cases: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, stops: bool
) -> None:
    """Planted: a teacher of so high a temperature that it says 1 / K of everything."""
    config = pretrain_config(
        cases,
        batch=8,
        steps=24,
        teacher={"temperature": [50, 50]},
        held_out={"every": 24},
        log_every=2,
        checkpoint_every=100,
        stop_on_collapse=stops,
    )
    line = r"run: collapse: stage 0: uniform teacher, entropy 2\.77\d of ln K = 2\.773.*stage 1.* at step 20; lower"
    if stops:
        with pytest.raises(SegsyncError, match=line):
            pretrain(config, tmp_path / "run")
    else:
        with caplog.at_level(logging.WARNING, "segsync_train"):
            assert pretrain(config, tmp_path / "run").step == 24
        assert sum("collapse: " in record.message for record in caplog.records) == 1
    marked = [entry["step"] for entry in read_log(tmp_path / "run") if "monitor/collapse" in entry]
    assert marked == ([20] if stops else [20, 22, 24])
    # Collapsed weights are never the best.
    assert not (tmp_path / "run" / "checkpoints" / "best.safetensors").exists()


PROCESSES = """
import sys
from pathlib import Path
from segsync_train.trainer.pretrain import pretrain
from segsync_train.ssl.config import PretrainConfig
pretrain(PretrainConfig.model_validate_json(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
# A thread that is left may abort the process at its end.
left = [(task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir()]
assert not any("gloo" in thread for thread in left), left
"""


def test_two_processes_are_one_of_twice_the_batch(cases: Path, tmp_path: Path) -> None:
    """gloo on the CPU: weights, statistics and losses after three steps agree to rounding."""
    (tmp_path / "run.py").write_text(PROCESSES)
    config = pretrain_config(
        cases,
        batch=4,
        steps=3,
        centring={"kind": "sinkhorn", "queue": 8},
        objective={"masked": 1.0, "mask_stage": -1},  # whose centre is a running one
        optimiser={"kind": "sgd", "clip": 1e6},
    )
    pretrain(config, tmp_path / "one")
    (tmp_path / "two.json").write_text(config.model_copy(update={"batch": 2}).model_dump_json())
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [*start, str(tmp_path / "run.py"), str(tmp_path / "two.json"), str(tmp_path / "two")]
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False
    )
    assert done.returncode == 0, done.stderr
    for part in ("encoder", "pretext"):
        one, two = (last(tmp_path / name).part(part) for name in ("one", "two"))
        for name, tensor in one.items():
            # The queue is filled in the order of the processes.
            if not name.endswith("queue"):
                torch.testing.assert_close(two[name], tensor, rtol=1e-3, atol=1e-5, msg=name)
    assert losses(tmp_path / "two")[3] == pytest.approx(losses(tmp_path / "one")[3], rel=1e-3)


def test_a_run_of_another_network_is_not_resumed(cases: Path, unbroken: Path, tmp_path: Path) -> None:
    network = {
        "preset": "tiny",
        "overrides": {"widths": [4, 12], "strides_zyx": [[1, 1, 1], [2, 2, 2]], "vil_stages": [1]},
    }
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoints").symlink_to(unbroken / "checkpoints")
    with pytest.raises(WeightsError, match=r"another network: .*expected .* found "):
        pretrain(pretrain_config(cases, network=network), tmp_path / "run", resume=True)
