"""Pretraining: it learns without labels, goes on as if never stopped, names collapse, gives fine-tuning its encoder."""

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
import yaml

from builders import Outcome
from pretrain_cases import pretrain_config, pretrain_settings
from segsync.errors import InputError, SegsyncError, WeightsError
from segsync_train.checkpoints import Checkpoint, load_checkpoint
from segsync_train.cli import main
from segsync_train.config import FolderData, RunConfig, TransferConfig
from segsync_train.data.dataset import find_cases, split_cases
from segsync_train.data.layout import CaseFiles
from segsync_train.data.sources import Data
from segsync_train.devices import Processes
from segsync_train.model import build_network, transfer
from segsync_train.pretrain import build_encoder, pretrain
from segsync_train.runs import read_log
from segsync_train.settings import load_settings
from segsync_train.ssl.config import HeldOutConfig, PretrainConfig
from segsync_train.ssl.views import Views
from segsync_train.ssl.volumes import divide, find_volumes, open_volumes
from training_cases import run_config, write_cases

CONFIGS = Path(__file__).parents[1] / "training" / "configs"


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight volumes, each with a texture of its own; the labels are no images: nobody may read them."""
    folder = write_cases(tmp_path_factory.mktemp("cases"), 8)
    for path in (folder / "labelsTr").iterdir():
        path.write_bytes(b"held back")
    for number, path in enumerate(sorted((folder / "imagesTr").iterdir())):
        image = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
        wave = np.sin(np.indices(image.shape).sum(0) * (0.3 + 0.25 * number))
        sitk.WriteImage(sitk.GetImageFromArray((image + 60 * wave).astype(np.float32)), str(path))
    return folder


def last(run: Path) -> Checkpoint:
    return load_checkpoint(run / "checkpoints" / "last.safetensors")


def best(run: Path) -> Checkpoint:
    return load_checkpoint(run / "checkpoints" / "best.safetensors")


def losses(run: Path) -> dict[int, float]:
    """The held-out loss by step."""
    return {line["step"]: line["held_out/loss"] for line in read_log(run) if "held_out/loss" in line}


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
    kept = [{k: v for k, v in line.items() if "per_second" not in k} for line in read_log(tmp_path / "run")]
    assert kept == [{k: v for k, v in line.items() if "per_second" not in k} for line in read_log(unbroken)]


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
        held_out={"every": 10, "share": 0.4},
        optimiser={"lr": 0.003},
        log_every=10,
        checkpoint_every=1000,
    )
    outcome = pretrain(config, tmp_path / "run")
    found = losses(tmp_path / "run")
    assert outcome.best_loss < 0.8 * found[10]
    assert best(tmp_path / "run").state["step"] == min(found, key=lambda step: found[step])
    assert best(tmp_path / "run").state["best"] == outcome.best_loss == min(found.values())


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
    assert min(found) == found[-3] == outcome.best_loss
    assert last(tmp_path / "run").state["step"] == outcome.step
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
from segsync_train.pretrain import pretrain
from segsync_train.ssl.config import PretrainConfig
pretrain(PretrainConfig.model_validate_json(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
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


# Volumes


def files_of(count: int) -> list[CaseFiles]:
    return [CaseFiles(f"c{number}", {"t1": Path(f"c{number}.nii.gz")}) for number in range(count)]


def test_held_out_volumes_never_train() -> None:
    files = files_of(40)
    held_out, training = divide(files, HeldOutConfig(share=0.2), 3)
    assert (len(held_out), len(training)) == (8, 32)
    assert {case.name for case in held_out} | {case.name for case in training} == {case.name for case in files}
    assert divide(files, HeldOutConfig(share=0.2), 3) == (held_out, training)
    assert divide(files, HeldOutConfig(share=0.2), 4) != (held_out, training)
    assert len(divide(files, HeldOutConfig(share=0.5, volumes=5), 0)[0]) == 5
    assert len(divide(files_of(4), HeldOutConfig(share=0.9), 0)[0]) == 2


def test_every_image_below_a_folder_is_a_volume(cases: Path, tmp_path: Path) -> None:
    """The layout `files`, and several folders taken together; a volume's name there is its path."""
    for patient in ("a", "b"):
        (tmp_path / patient).mkdir()
        for number in range(2):
            (tmp_path / patient / f"t1_{number}.nii.gz").symlink_to(cases / "imagesTr" / f"case{number}_0000.nii.gz")
    folders = [{"folder": str(tmp_path)}, {"folder": str(cases), "layout": "nnunet"}]
    config = pretrain_config(cases, data={"kind": "folder", "folders": folders, "exclude": ["a-t1_1", "case3"]})
    assert not isinstance(config.data, FolderData)
    assert config.data.kind == "folder"
    names = [case.name for case in find_volumes(config.data, config)]
    assert names == ["a-t1_0", "b-t1_0", "b-t1_1", *(f"case{number}" for number in (0, 1, 2, 4, 5, 6, 7))]


def test_volumes_are_kept_on_the_disk_and_read_once(
    cases: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [{"folder": str(cases), "layout": "nnunet"}]
    config = pretrain_config(cases, data={"kind": "folder", "folders": folders, "cache": str(tmp_path / "cache")})
    first = open_volumes(config, tmp_path / "run", Processes())

    def read_again(*_: object) -> None:
        raise AssertionError("read again")

    monkeypatch.setattr("segsync_train.data.dataset.read", read_again)
    second = open_volumes(config, tmp_path / "other", Processes())
    image = first.held_out[0].image
    assert isinstance(image, np.memmap)
    assert np.array_equal(image, second.held_out[0].image)
    assert not first.held_out[0].label.any()
    assert abs(float(image.mean())) < 0.5  # the runtime's normalisation


def test_synthetic_cases_are_volumes_as_well(cases: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They come from where fine-tuning has them (which draws for a minute, so here it gives the folder's)."""
    given = open_volumes(pretrain_config(cases), tmp_path, Processes())
    asked: list[RunConfig] = []

    def drawn(run: RunConfig, *_: object) -> Data:
        asked.append(run)
        return Data(given.source, [*given.held_out] * 3, ())

    monkeypatch.setattr("segsync_train.ssl.volumes.open_data", drawn)
    synthetic = {"kind": "synthetic", "sources": str(tmp_path), "validation_cases": 6}
    config = pretrain_config(cases, data=synthetic, held_out={"volumes": 4, "every": 3})
    assert len(open_volumes(config, tmp_path, Processes()).held_out) == 4
    assert pretrain(config, tmp_path / "run").finished
    assert asked[0].data == config.data


def changed(cases: Path, tmp_path: Path, what: str) -> dict[str, Any]:
    """Settings or a folder with one thing wrong."""
    empty, broken, few = tmp_path / "empty", tmp_path / "broken", tmp_path / "few"
    if what == "an empty folder":
        empty.mkdir()
        return {"data": {"kind": "folder", "folders": [{"folder": str(empty)}]}}
    if what == "no folder":
        return {"data": {"kind": "folder", "folders": [{"folder": str(empty)}]}}
    if what == "a broken file":
        write_cases(broken, 5)
        (broken / "imagesTr" / "case1_0000.nii.gz").write_bytes(b"not an image")
        return {"data": {"kind": "folder", "folders": [{"folder": str(broken / "imagesTr")}]}}
    if what == "too few":
        return {"data": {"kind": "folder", "folders": [{"folder": str(write_cases(few, 3)), "layout": "nnunet"}]}}
    if what == "a wrong name":
        folders = [{"folder": str(cases), "layout": "nnunet"}]
        return {"data": {"kind": "folder", "folders": folders, "exclude": ["case1", "cas2"]}}
    if what == "two channels":
        names = [{"name": name, "normalisation": {"kind": "zscore"}} for name in ("t1", "t2")]
        return {"data": {"kind": "folder", "folders": [{"folder": str(cases)}]}, "channels": names}
    if what == "a baseline":
        return {"network": {"preset": "nnunet"}, "patch_zyx": [32, 32, 32]}
    if what == "no such stage":
        return {"objective": {"masked": 1.0, "mask_stage": -3}}
    return {"patch_zyx": [8, 7, 8]}


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("an empty folder", r"empty: expected images, found none; check"),
        ("no folder", r"empty: expected a folder of images, found none; check"),
        ("a broken file", r"case1_0000\.nii\.gz: expected .*found "),
        ("too few", r"expected four volumes or more, two of them held out, found 3; add volumes"),
        ("a wrong name", r"data\.exclude: expected names of volumes, found 'cas2'"),
        ("two channels", r"expected one channel for the layout 'files'.* found t1, t2; give another"),
        ("a baseline", r"network\.preset: expected a network whose encoder can be pretrained .*, found 'nnunet'"),
        ("no such stage", r"objective\.mask_stage: expected -1 to -2, the network's stages, found -3"),
        ("an odd patch", r"patch_zyx: expected sides that are multiples of \(2, 2, 2\)"),
    ],
)
def test_bad_input_is_one_clear_line_before_the_first_step(
    cases: Path, tmp_path: Path, what: str, message: str
) -> None:
    config = pretrain_config(cases, **changed(cases, tmp_path, what))
    with pytest.raises(InputError, match=message) as error:
        pretrain(config, tmp_path / "run")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_a_run_of_another_network_is_not_resumed(cases: Path, unbroken: Path, tmp_path: Path) -> None:
    network = {
        "preset": "tiny",
        "overrides": {"widths": [4, 12], "strides_zyx": [[1, 1, 1], [2, 2, 2]], "vil_stages": [1]},
    }
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoints").symlink_to(unbroken / "checkpoints")
    with pytest.raises(WeightsError, match=r"another network: .*expected .* found "):
        pretrain(pretrain_config(cases, network=network), tmp_path / "run", resume=True)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[Callable[..., Outcome]]:
    """Runs `segsync-train pretrain ARGUMENT...` in this process; logging and signals are put back."""
    root, at_term = logging.getLogger(), signal.getsignal(signal.SIGTERM)
    handlers, level = root.handlers[:], root.level

    def run(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["segsync-train", "pretrain", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        return Outcome(int(ended.value.code or 0), *capfd.readouterr())

    yield run
    root.handlers[:] = handlers
    root.setLevel(level)
    signal.signal(signal.SIGTERM, at_term)


def test_the_command_line(cases: Path, tmp_path: Path, command: Callable[..., Outcome]) -> None:
    """Result on stdout, --resume, --minutes, and one line with an exit code for what is wrong."""
    settings, run = tmp_path / "run.yaml", tmp_path / "run"
    settings.write_text(yaml.safe_dump(pretrain_settings(cases, steps=3)))
    stopped = command("-c", settings, "-o", run, "--minutes", 0)
    assert (stopped.code, stopped.out) == (0, f"{run}\tstep 1\tlowest held-out loss inf\n")
    assert "stopped after step 1 of 3; go on with --resume" in stopped.err
    done = command("-o", run, "--resume")
    assert (done.code, done.out.split("\t")[:2]) == (0, [str(run), "step 3"])
    for arguments, code, message in (
        (("-c", settings, "-o", run), 3, "already holds a run; add --resume"),
        (("-c", settings, "-o", run, "--set", "head.prototype=8"), 3, "did you mean 'prototypes'?"),
        (("-o", tmp_path / "none", "--resume"), 3, "expected a run to go on with, found none"),
        (("-c", settings, "-o", tmp_path / "b", "--set", f"data.folders=[{{folder: {run}}}]"), 3, "expected images"),
    ):
        wrong = command(*arguments)
        *notes, error = wrong.err.splitlines()
        assert (wrong.code, wrong.out) == (code, "")
        assert message in error
        assert all(note.startswith("INFO: ") for note in notes)


# The settings that come with the program


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("pretrain-*.yaml")), ids=lambda path: path.stem)
def test_the_settings_that_come_along_build_their_encoder(path: Path) -> None:
    config = load_settings(PretrainConfig, path)
    with torch.device("meta"):
        assert len(build_encoder(config).widths) >= 5


def test_the_hippocampus_settings_fit_fine_tuning(shared_data: Path) -> None:
    """Same channels, grid and network; and what fine-tuning validates on is exactly what pretraining never sees."""
    before = load_settings(PretrainConfig, CONFIGS / "pretrain-hippocampus.yaml")
    after = load_settings(RunConfig, CONFIGS / "finetune-fast.yaml")
    assert (before.channels, before.spacing_zyx, before.patch_zyx, before.network) == (
        after.channels,
        after.spacing_zyx,
        after.patch_zyx,
        after.network,
    )
    assert isinstance(after.data, FolderData)
    data = after.data.model_copy(update={"folder": shared_data / "hippocampus"})
    split = split_cases(find_cases("nnunet", data.folder, ["mri"]), data)
    assert before.data.kind == "folder"
    folders = (before.data.folders[0].model_copy(update={"folder": data.folder}),)
    volumes = find_volumes(before.data.model_copy(update={"folders": folders}), before)
    assert {case.name for case in volumes} == {case.name for case in split.training}
    assert len(volumes) == 208
