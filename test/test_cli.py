"""The command line: what is asked for is written, in the words and with the exit codes that are documented."""

import contextlib
import csv
import json
import os
import pty
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

import segsync
from builders import (
    CHANNELS,
    GRID,
    LESION,
    Cli,
    files_below,
    flip_byte,
    grid_of,
    options,
    write_bundle,
    write_image,
    write_isles22_platform,
    write_weights,
)
from segsync.bundle import ChannelSpec, Fixed
from segsync.errors import ResourceError
from segsync.geometry import Grid
from segsync.tasks import TASKS


def test_report_and_probabilities(cli: Cli, tmp_path: Path, weights: Path) -> None:
    write_isles22_platform(tmp_path / "input")
    done = cli("predict", *options(tmp_path, weights), "--report", "--save-probabilities", "--tta", "mirror")
    assert done.code == 0, done.err
    stem = "dwi-brain-mri-0001"
    endings = [".mha", "_lesions.csv", "_montage.png", "_probability.mha", "_report.html", "_report.json"]
    assert files_below(tmp_path / "output") == [stem + ending for ending in endings]
    report = json.loads((tmp_path / "output" / f"{stem}_report.json").read_text())
    assert report["volume_ml"] == pytest.approx(LESION.sum() / 1000)
    assert report["run"]["mirrored_passes"] == 2
    assert report["arguments"]["tta"] == "mirror"
    with (tmp_path / "output" / f"{stem}_lesions.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 1
    probability = sitk.ReadImage(str(tmp_path / "output" / f"{stem}_probability.mha"))
    assert Grid.of(probability) == GRID
    assert sitk.GetArrayFromImage(probability) == pytest.approx(LESION, abs=1e-5)


def test_quiet_says_nothing_and_results_go_to_stdout(cli: Cli, tmp_path: Path, weights: Path) -> None:
    write_isles22_platform(tmp_path / "input")
    done = cli("predict", *options(tmp_path, weights), "-q")
    assert done.err == ""
    mask = tmp_path / "output" / "dwi-brain-mri-0001.mha"
    assert done.out == f"dwi-brain-mri-0001\t{LESION.sum() / 1000:.2f} ml\t1 lesion\t{mask}\n"
    assert "100 %" in cli("predict", *options(tmp_path, weights)).err


def test_a_single_bundle_tells_the_task(cli: Cli, tmp_path: Path, weights: Path) -> None:
    """One T1 file says nothing of its task; the weights do."""
    path = write_image(tmp_path / "scan.nii.gz", LESION, GRID)
    bundle = weights / "isles26"
    assert cli("predict", "-i", path, "-o", tmp_path / "m.nii.gz", "--weights", bundle, "--device", "cpu").code == 0
    assert cli("predict", "-i", path, "-o", tmp_path / "m.nii.gz", "--weights", weights, "--device", "cpu").code == 3


def test_weights_of_a_task_of_ones_own(cli: Cli, tmp_path: Path) -> None:
    """No challenge knows it: channels are told by their names, and the weights say whose grid the mask lies on."""
    channels = [
        ChannelSpec(name=name, normalisation=Fixed(kind="fixed", low=0, high=10, mean=0, std=1))
        for name in ("ct", "MR")
    ]
    bundle = write_bundle(tmp_path / "weights" / "heart", "heart", channels=channels, reference="MR")
    half = grid_of((7, 16, 18), (2.0, 1.0, 1.0))
    write_image(tmp_path / "cases" / "p1_ct.nii.gz", LESION, GRID)
    write_image(tmp_path / "cases" / "p1_MR.nii.gz", np.arange(7 * 16 * 18, dtype=np.float32).reshape(7, 16, 18), half)
    chosen = ("-o", tmp_path / "out", "--device", "cpu")
    for told in (("--weights", bundle), ("--weights", bundle.parent, "--task", "heart")):
        done = cli("predict", "-i", tmp_path / "cases", *chosen, *told)
        assert done.code == 0, done.err
        assert Grid.of(sitk.ReadImage(str(tmp_path / "out" / "p1.nii.gz"))) == half
    unknown = cli("predict", "-i", tmp_path / "cases", *chosen, "--task", "liver")
    assert unknown.code == 2
    assert "--task: expected one of isles22," in unknown.err


def test_deadline_and_memory_limit_reach_the_windows(cli: Cli, tmp_path: Path, weights: Path) -> None:
    write_isles22_platform(tmp_path / "input")
    limits = ("--deadline", "0", "--max-memory", "1000", "--report")
    done = cli("predict", *options(tmp_path, weights), *limits)
    assert done.code == 0, done.err
    report = json.loads((tmp_path / "output" / "dwi-brain-mri-0001_report.json").read_text())
    assert report["run"]["mirrored_passes"] == 1
    assert any("deadline" in note for note in report["run"]["notes"])
    done = cli("predict", *options(tmp_path, weights), "--deadline", "inf", "--max-memory", "inf", "--report")
    assert done.code == 0, done.err
    report = json.loads((tmp_path / "output" / "dwi-brain-mri-0001_report.json").read_text())
    assert report["run"]["notes"] == []


def test_info(cli: Cli, tmp_path: Path, weights: Path) -> None:
    facts = json.loads(cli("info", "--json", "--weights", weights).out)
    assert facts["segsync"] == segsync.__version__
    assert "CPUExecutionProvider" in facts["providers"]
    assert {"python", "numpy", "SimpleITK"} <= set(facts["versions"])
    tasks = {task["name"]: task for task in facts["tasks"]}
    assert set(tasks) == set(TASKS)
    assert tasks["isles22"]["channels"] == ["dwi", "adc", "flair (optional)"]
    assert re.fullmatch("[0-9a-f]{64}", tasks["isles22"]["weights"]["sha256"])
    (tmp_path / "none").mkdir()
    none = cli("info", "--json", "--weights", tmp_path / "none")
    assert none.code == 0
    assert all("missing" in task["weights"] for task in json.loads(none.out)["tasks"])
    shown = cli("info", "--weights", weights).out
    assert all(name in shown for name in TASKS)


def test_info_names_the_tasks_of_weights_of_ones_own(cli: Cli, tmp_path: Path) -> None:
    """As `--task` takes them: below a folder, or the folder itself."""
    folder = write_bundle(
        tmp_path / "plaques",
        "plaques",
        channels=[ChannelSpec(name="flair", normalisation=Fixed(low=0, high=1, mean=0, std=1))],
    )
    for place in (tmp_path, folder):
        *challenges, own = json.loads(cli("info", "--json", "--weights", place).out)["tasks"]
        assert [task["name"] for task in challenges] == list(TASKS)
        assert (own["name"], own["channels"], own["weights"]["folder"]) == ("plaques", ["flair"], str(folder))


def test_verify(cli: Cli, tmp_path: Path) -> None:
    weights = write_weights(tmp_path / "weights")
    done = cli("verify", "--weights", weights)
    assert (done.code, len(done.out.splitlines())) == (0, len(TASKS))
    flip_byte(weights / "isles24" / "model.onnx")
    changed = cli("verify", "--weights", weights)
    assert changed.code == 4
    assert re.search(r"isles24/model\.onnx: expected sha256 \w+, found \w+; the file is altered", changed.err)
    (weights / "isles24" / "model.onnx").unlink()
    missing = cli("verify", "--weights", weights)
    assert missing.code == 4
    assert "isles24/model.onnx: listed in manifest.json, found no such file" in missing.err
    (weights / "manifest.json").unlink()
    assert cli("verify", "--weights", weights).code == 4


def test_verify_without_a_manifest(cli: Cli, tmp_path: Path) -> None:
    """One task's folder, as it is uploaded: model.json has the sha256 too."""
    write_bundle(tmp_path / "isles22", "isles22")
    for place in (tmp_path, tmp_path / "isles22"):
        assert cli("verify", "--weights", place).out == f"{tmp_path / 'isles22'}: model.onnx as in model.json\n"
    flip_byte(tmp_path / "isles22" / "model.onnx")
    done = cli("verify", "--weights", tmp_path)
    assert done.code == 4
    assert "model.onnx: expected sha256" in done.err
    shown = cli("info", "--json", "--weights", tmp_path).out
    assert {task["name"]: list(task["weights"]) for task in json.loads(shown)["tasks"]}["isles22"] == [
        "folder",
        "unusable",
    ]
    assert cli("verify", "--weights", tmp_path / "none").code == 4


def test_version_and_help(cli: Cli) -> None:
    assert cli("--version").out == f"segsync {segsync.__version__}\n"
    for command in ("predict", "run", "serve", "info", "verify"):
        assert command in cli("--help").out
        assert cli(command, "--help").code == 0


def test_info_tells_what_is_missing(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No engine, a region model that was not copied, weights that are broken: facts, and exit code 0."""

    def no_engine() -> object:
        raise ResourceError("no ONNX Runtime; install segsync-isles[cpu] or segsync-isles[gpu]")

    monkeypatch.setattr("segsync.engine._runtime", no_engine)
    write_bundle(tmp_path / "aims-tbi", "aims-tbi", region_model="brain")
    flip_byte(write_bundle(tmp_path / "own", "plaques", channels=CHANNELS["aims-tbi"]) / "model.onnx")
    shown = cli("info", "--json", "--weights", tmp_path)
    assert shown.code == 0
    facts = json.loads(shown.out)
    assert facts["providers"] == []
    for said in (
        "install segsync-isles[cpu]",
        f"aims-tbi: {tmp_path / 'brain'}: no folder with",
        "own/model.onnx: expected",
    ):
        assert any(said in line for line in facts["missing"]), said
    assert "unusable" in {task["name"]: task["weights"] for task in facts["tasks"]}["aims-tbi"]
    table = cli("info", "--weights", tmp_path)
    assert table.code == 0
    assert "install segsync-isles[cpu]" in " ".join(table.out.split())


# --- streams that take no lines ------------------------------------------------------------------------------------

NAME = "患者一"


@pytest.mark.parametrize("stream", ["closed pipe", "full", "closed", "ascii"])
def test_a_standard_output_that_takes_no_lines_costs_no_case(tmp_path: Path, weights: Path, stream: str) -> None:
    """`| head -1`, a full disk, `>&-`, and a terminal that does not know the letters of a name."""
    for name in ("a", "b", NAME):
        write_image(tmp_path / "input" / f"{name}_t1.nii.gz", LESION, GRID)
    command = [sys.executable, "-m", "segsync", "predict", *map(str, options(tmp_path, weights)), "--task", "aims-tbi"]
    shell = {"closed pipe": "| head -0", "full": "> /dev/full", "closed": ">&- 2>&-", "ascii": ""}[stream]
    code = ["bash", "-c", f'set -o pipefail; "$@" {shell}', "bash", *command]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "COVERAGE_PROCESS_START": ""}
    done = subprocess.run(code, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert files_below(tmp_path / "output") == sorted(f"{name}.nii.gz" for name in ("a", "b", NAME))
    if stream == "ascii":
        assert "\\u60a3" in done.stdout
    elif stream != "closed":
        assert done.stderr.count("standard output takes no more lines") == 1
    assert "Exception" not in done.stderr


# --- as installed ----------------------------------------------------------------------------------------------------


def test_python_m_segsync_in_a_process_of_its_own(tmp_path: Path, weights: Path) -> None:
    """The real exit code and streams; started without arguments it is the platform's `run`, with its own folders."""
    write_isles22_platform(tmp_path / "input", "socket")
    base = [sys.executable, "-m", "segsync"]
    run = [*base, "run", "--input", tmp_path / "input", "--output", tmp_path / "out", "--weights", weights]
    done = subprocess.run([*map(str, run)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(files_below(tmp_path / "out")) == 2
    if not Path("/input").exists():
        bare = subprocess.run(base, capture_output=True, text=True, check=False)
        assert bare.returncode == 3
        assert bare.stderr.startswith("ERROR: /input: no folder with the case's inputs")


STOPPED_WHILE_WRITING = """
import os, signal, sys
import SimpleITK as sitk
from segsync.cli import main
write, number = sitk.WriteImage, signal.Signals[sys.argv.pop()]
signal.signal(signal.SIGINT, signal.default_int_handler)  # a test in the background inherits that it is ignored
def stopped(*arguments, **options):
    write(*arguments, **options)
    os.kill(os.getpid(), number)
sitk.WriteImage = stopped
main()
"""


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_run_that_is_stopped_leaves_no_half_file(tmp_path: Path, weights: Path, name: str, code: int) -> None:
    """By Ctrl-C, or by a cluster whose time is up."""
    write_isles22_platform(tmp_path / "input")
    command = [sys.executable, "-c", STOPPED_WHILE_WRITING, "predict", *options(tmp_path, weights), name]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert files_below(tmp_path / "output") == []


def test_a_warning_stands_above_the_bar_on_a_terminal(tmp_path: Path, weights: Path) -> None:
    source = write_isles22_platform(tmp_path / "input")
    shutil.rmtree(source / "images" / "flair-brain-mri")
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "segsync", "predict", *map(str, options(tmp_path, weights))]
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=theirs, env={**os.environ, "TERM": "xterm"}, check=True)
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # Linux says so that nobody writes there any more
        while block := os.read(ours, 4096):
            shown += block
    os.close(ours)
    lines = re.split(r"[\r\n]+|\x1b\[2K", shown.decode())
    [line] = [line for line in lines if "channel flair" in line]
    assert "(1/1)" not in line
    assert any("(1/1)" in line for line in lines)


def test_the_runtime_never_imports_torch() -> None:
    """Cold start: neither torch nor, for `--help`, ONNX Runtime and Pillow."""
    names = "{'torch', 'monai', 'scipy', 'onnx', 'onnxruntime', 'PIL', 'segsync_train'}"
    code = f"import sys, segsync.cli; print(sorted({names} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
