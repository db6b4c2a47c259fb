"""What a pretraining is given: volumes, settings and the command line; what is wrong is one clear line."""

import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from builders import Outcome
from pretrain_cases import pretrain_config, pretrain_settings, write_volumes
from segsync.errors import InputError
from segsync_train.cli import main
from segsync_train.config.data import FolderData, SyntheticData
from segsync_train.config.run import CaseSpec, RunConfig
from segsync_train.config.settings import load_settings
from segsync_train.data.dataset import find_cases
from segsync_train.data.layout import CaseFiles
from segsync_train.data.patches import FolderSource
from segsync_train.data.sources import Data
from segsync_train.data.splits import split_cases
from segsync_train.runs.devices import Processes
from segsync_train.ssl.build import build_encoder
from segsync_train.ssl.config import HeldOutConfig, PretrainConfig
from segsync_train.ssl.volumes import divide, find_volumes, open_volumes
from segsync_train.trainer.pretrain import pretrain
from training_cases import write_cases

CONFIGS = Path(__file__).parents[1] / "training" / "configs"


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_volumes(tmp_path_factory.mktemp("cases"))


# Volumes


def files_of(count: int) -> list[CaseFiles]:
    return [CaseFiles(f"c{number}", {"t1": Path(f"c{number}.nii.gz")}) for number in range(count)]


def test_held_out_volumes_never_train() -> None:
    files = files_of(40)
    held_out, training = divide(files, HeldOutConfig(fraction=0.2), 3)
    assert (len(held_out), len(training)) == (8, 32)
    assert {case.name for case in held_out} | {case.name for case in training} == {case.name for case in files}
    assert divide(files, HeldOutConfig(fraction=0.2), 3) == (held_out, training)
    assert divide(files, HeldOutConfig(fraction=0.2), 4) != (held_out, training)
    assert len(divide(files, HeldOutConfig(fraction=0.5, volumes=5), 0)[0]) == 5
    assert len(divide(files_of(4), HeldOutConfig(fraction=0.9), 0)[0]) == 2


def test_one_head_in_several_contrasts_is_held_out_in_all() -> None:
    files = [file for _ in range(3) for file in files_of(10)]
    held_out, training = divide(files, HeldOutConfig(fraction=0.2), 0)
    assert (len(held_out), len(training)) == (6, 24)
    assert not {case.name for case in held_out} & {case.name for case in training}


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
    names = [case.name for case in find_volumes(config.data, config.channels)]
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


def test_one_unreadable_volume_does_not_end_a_pretraining(
    cases: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is named and left out; of more than the stated fraction the run does not begin."""
    broken = tmp_path / "set"
    write_cases(broken, 6)
    (broken / "imagesTr" / "case1_0000.nii.gz").write_bytes(b"not an image")
    data = {"kind": "folder", "folders": [{"folder": str(broken), "layout": "nnunet"}]}
    opened = open_volumes(pretrain_config(cases, data={**data, "unreadable": 0.2}), tmp_path / "run", Processes())
    assert isinstance(opened.source, FolderSource)
    assert len(opened.source.cases) + len(opened.held_out) == 5
    assert "1 of 6 volumes cannot be read and are left out" in caplog.text
    assert "case1_0000.nii.gz: expected" in caplog.text
    with pytest.raises(InputError, match=r"case1_0000\.nii\.gz: expected"):
        open_volumes(pretrain_config(cases, data={**data, "unreadable": 0.1}), tmp_path / "run", Processes())


def test_synthetic_cases_are_volumes_as_well(cases: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They come from where fine-tuning has them (which draws for a minute, so here it gives the folder's)."""
    given = open_volumes(pretrain_config(cases), tmp_path, Processes())
    asked: list[SyntheticData] = []

    def drawn(task: str, spec: CaseSpec, data: SyntheticData, *_: object) -> Data:
        asked.append(data)
        assert not spec.label_set.labels
        return Data(given.source, [*given.held_out] * 3, ())

    monkeypatch.setattr("segsync_train.ssl.volumes.open_synthetic", drawn)
    synthetic = {"kind": "synthetic", "sources": str(tmp_path), "validation_cases": 6}
    config = pretrain_config(cases, data=synthetic, held_out={"volumes": 4, "every": 3})
    assert len(open_volumes(config, tmp_path, Processes()).held_out) == 4
    assert pretrain(config, tmp_path / "run").finished
    assert asked[0] == config.data


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
        ("an empty folder", r"empty: no images; check"),
        ("no folder", r"empty: no folder of images; check"),
        ("a broken file", r"case1_0000\.nii\.gz: expected .*found "),
        ("too few", r"expected volumes of four names or more, two of them held out, found 3; add volumes"),
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


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[Callable[..., Outcome]]:
    """Runs `segsync-train pretrain ARGUMENT...` in this process; signals are put back."""
    at_term = signal.getsignal(signal.SIGTERM)

    def run(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["segsync-train", "pretrain", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        return Outcome(int(ended.value.code or 0), *capfd.readouterr())

    yield run
    signal.signal(signal.SIGTERM, at_term)


def test_the_command_line(cases: Path, tmp_path: Path, command: Callable[..., Outcome]) -> None:
    """Result on stdout, --resume, --minutes, and one line with an exit code for what is wrong."""
    settings, run = tmp_path / "run.yaml", tmp_path / "run"
    settings.write_text(yaml.safe_dump(pretrain_settings(cases, steps=3)))
    stopped = command("-c", settings, "-o", run, "--minutes", 0)
    assert (stopped.code, stopped.out) == (0, f"{run}\tstep 1\tno best weights yet\n")
    assert "stopped after step 1 of 3; go on with --resume" in stopped.err
    done = command("-o", run, "--resume")
    assert (done.code, done.out.split("\t")[:2]) == (0, [str(run), "step 3"])
    assert command("-c", settings, "-o", run, "--resume").out == done.out
    other = tmp_path / "other.yaml"
    other.write_text(yaml.safe_dump(pretrain_settings(cases, steps=4)))
    for arguments, code, message in (
        (
            ("-c", other, "-o", run, "--resume"),
            3,
            f"steps: expected 3, with which the run in {run} began, found 4; leave",
        ),
        (
            ("-o", run, "--resume", "--set", "held_out.fraction=0.3"),
            3,
            "held_out.fraction: expected 0.1, with which the run",
        ),
        (("-c", settings, "-o", run), 3, "already holds a run; add --resume"),
        (("-c", settings, "-o", run, "--set", "head.prototype=8"), 3, "did you mean 'prototypes'?"),
        (("-o", tmp_path / "none", "--resume"), 3, "no run to go on with"),
        (("-c", settings, "-o", tmp_path / "b", "--set", f"data.folders=[{{folder: {run}}}]"), 3, "no images"),
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
    volumes = find_volumes(before.data.model_copy(update={"folders": folders}), before.channels)
    assert {case.name for case in volumes} == {case.name for case in split.training}
    assert len(volumes) == 208
