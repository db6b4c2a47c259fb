"""Bad input, weights, output and resources: one clear line, a documented exit code, and nothing written."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from builders import (
    GRID,
    LESION,
    Cli,
    Outcome,
    copying,
    files_below,
    flip_byte,
    greedy,
    options,
    write_bundle,
    write_image,
    write_isles22_platform,
)
from segsync.bundle import MAX_OPSET


def image(source: Path, channel: str) -> Path:
    return next((source / "images" / f"{channel}-brain-mri").iterdir())


def replaced(source: Path, channel: str, made: sitk.Image) -> None:
    sitk.WriteImage(made, str(image(source, channel)))


def header(source: Path, channel: str, field: str, value: str) -> None:
    path = image(source, channel)
    replaced(source, channel, sitk.ReadImage(str(path)))  # not compressed: lines of text, then voxels
    changed = re.sub(rf"{field} = [^\n]*".encode(), f"{field} = {value}".encode(), path.read_bytes(), count=1)
    path.write_bytes(changed)


def missing_socket(source: Path) -> None:
    image(source, "adc").unlink()
    (source / "images" / "adc-brain-mri").rmdir()


def empty_socket(source: Path) -> None:
    image(source, "adc").unlink()


def two_images(source: Path) -> None:
    write_image(source / "images" / "adc-brain-mri" / "second.mha", LESION, GRID)


def no_image_in_socket(source: Path) -> None:
    image(source, "dwi").rename(source / "images" / "dwi-brain-mri" / "notes.txt")


def truncated(source: Path) -> None:
    path = image(source, "dwi")
    path.write_bytes(path.read_bytes()[:-100])


def zero_bytes(source: Path) -> None:
    image(source, "flair").write_bytes(b"")


def text(source: Path) -> None:
    image(source, "adc").write_text("ObjectType = Letter\nDear colleague,\n")


def two_dimensions(source: Path) -> None:
    replaced(source, "dwi", sitk.Image(12, 11, sitk.sitkFloat32))


def four_dimensions(source: Path) -> None:
    one = sitk.ReadImage(str(image(source, "adc")))
    replaced(source, "adc", sitk.JoinSeries([one, one]))


def colour(source: Path) -> None:
    replaced(source, "dwi", sitk.Image([12, 11, 10], sitk.sitkVectorUInt8, 3))


def zero_spacing(source: Path) -> None:
    header(source, "dwi", "ElementSpacing", "1 0 1")


def negative_spacing(source: Path) -> None:
    header(source, "adc", "ElementSpacing", "1 -1 1")


def sheared(source: Path) -> None:
    header(source, "flair", "TransformMatrix", "1 0 0 0.2 1 0 0 0 1")


def elsewhere(source: Path) -> None:
    header(source, "adc", "Offset", "1000 0 0")


def all_zero(source: Path) -> None:
    write_image(image(source, "dwi"), np.zeros_like(LESION), GRID)


def all_nan(source: Path) -> None:
    write_image(image(source, "adc"), np.full_like(LESION, np.nan), GRID)


def listing(content: str) -> Callable[[Path], None]:
    def spoil(source: Path) -> None:
        (source / "inputs.json").write_text(content)

    return spoil


def items(**changes: object) -> str:
    return json.dumps([{"socket": {"slug": "t1-brain-mri", "relative_path": "images/t1-brain-mri", **changes}}])


def gone(source: Path) -> None:
    source.rename(source.with_name("elsewhere"))


#: What is done to a good ISLES'22 input, what the line starts with (below `/input`), and what it says.
BAD_INPUT: list[tuple[str, Callable[[Path], None], str, str]] = [
    ("missing socket", missing_socket, "", "adc-brain-mri"),
    ("empty socket", empty_socket, "images/adc-brain-mri", "expected exactly one image, found 0 (nothing)"),
    ("two images", two_images, "images/adc-brain-mri", "expected exactly one image, found 2"),
    ("no image in socket", no_image_in_socket, "images/dwi-brain-mri", "found 0 (notes.txt)"),
    ("truncated", truncated, "images/dwi-brain-mri/dwi-brain-mri-0001.mha", "expected"),
    ("zero bytes", zero_bytes, "images/flair-brain-mri/flair-brain-mri-0001.mha", "empty file (0 bytes)"),
    ("text", text, "images/adc-brain-mri/adc-brain-mri-0001.mha", "expected a .mha image"),
    ("2D", two_dimensions, "images/dwi-brain-mri/dwi-brain-mri-0001.mha", "expected a 3D image, found 2D (12×11)"),
    ("4D", four_dimensions, "images/adc-brain-mri/adc-brain-mri-0001.mha", "expected a 3D image, found 4D"),
    ("colour", colour, "images/dwi-brain-mri/dwi-brain-mri-0001.mha", "expected one value a voxel, found 3"),
    ("zero spacing", zero_spacing, "images/dwi-brain-mri/dwi-brain-mri-0001.mha", "spacing"),
    ("negative spacing", negative_spacing, "images/adc-brain-mri/adc-brain-mri-0001.mha", "spacing"),
    ("sheared", sheared, "images/flair-brain-mri/flair-brain-mri-0001.mha", "expected orthonormal axis directions"),
    ("elsewhere", elsewhere, "images/adc-brain-mri/adc-brain-mri-0001.mha", "found 0% of it in the field of view"),
    ("all zero", all_zero, "images/dwi-brain-mri/dwi-brain-mri-0001.mha", "the image holds only the value 0"),
    ("all NaN", all_nan, "images/adc-brain-mri/adc-brain-mri-0001.mha", "the image holds only the value 0"),
    ("no input", gone, "", "no folder with the case's inputs"),
    ("no JSON", listing("{'a'"), "inputs.json", "expected a JSON list of sockets, found"),
    ("no list", listing('{"socket": 1}'), "inputs.json", "expected a JSON list of sockets, found dict"),
    ("no socket", listing('[{"image": 1}]'), "inputs.json", "item 0: expected a socket with slug and relative_path"),
    ("no slug", listing(items(slug=None)), "inputs.json", "item 0: expected a socket with slug and relative_path"),
    ("outside", listing(items(relative_path="../etc")), "inputs.json", "item 0: expected a path inside"),
    ("absolute", listing(items(relative_path="/etc")), "inputs.json", "item 0: expected a path inside"),
    ("unknown slug", listing(items(slug="chest-ct")), "", "found chest-ct"),
    ("listed, not there", listing(items()), "images/t1-brain-mri", "no folder with one image"),
]
BAD_IDS = [name for name, *_ in BAD_INPUT]
BAD_ROWS = [row for _, *row in BAD_INPUT]


def check_line(done: Outcome, code: int, start: object, said: str) -> None:
    """One line on stderr, of an error, that starts with the file; the code of its kind."""
    assert done.code == code, done.err
    lines = [line for line in done.err.splitlines() if not line.startswith(("INFO: ", "WARNING: "))]
    assert len(lines) == 1, done.err
    assert lines[0].startswith(f"ERROR: {start}")
    assert said in lines[0]
    assert re.search(r"expected .* found|: no | no weights for |the image holds only", lines[0]), lines[0]
    assert done.out == ""


@pytest.mark.parametrize(("spoil", "start", "said"), BAD_ROWS, ids=BAD_IDS)
def test_bad_input_on_the_platform(
    cli: Cli, tmp_path: Path, weights: Path, spoil: Callable[[Path], None], start: str, said: str
) -> None:
    """One line that names the file, exit code 3, and nothing in `/output`."""
    source = write_isles22_platform(tmp_path / "input")
    spoil(source)
    output = tmp_path / "output"
    output.mkdir()
    done = cli("run", "--input", source, "--output", output, "--weights", weights, "--device", "cpu")
    check_line(done, 3, source / start, said)
    assert files_below(output) == []


@pytest.mark.parametrize(("spoil", "start", "said"), BAD_ROWS, ids=BAD_IDS)
def test_bad_input_to_predict(
    cli: Cli, tmp_path: Path, weights: Path, spoil: Callable[[Path], None], start: str, said: str
) -> None:
    """The same through the other door; it may find a task where the platform finds none, and so say it otherwise."""
    spoil(write_isles22_platform(tmp_path / "input"))
    done = cli("predict", *options(tmp_path, weights), "-q", "--report", "--save-probabilities")
    check_line(done, 3, tmp_path / "input" / start if start else tmp_path / "input", "")
    assert not (tmp_path / "output").exists()


# --- weights, output, resources, usage -------------------------------------------------------------------------------


def no_weights(folder: Path) -> None:
    folder.mkdir()


def altered(folder: Path) -> None:
    flip_byte(write_bundle(folder / "isles22", "isles22") / "model.onnx")


def of_another_task(folder: Path) -> None:
    write_bundle(folder, "isles26")


def too_new(folder: Path) -> None:
    write_bundle(folder / "isles22", "isles22", opset=MAX_OPSET + 1)


def without_network(folder: Path) -> None:
    (write_bundle(folder / "isles22", "isles22") / "model.onnx").unlink()


def no_network(folder: Path) -> None:
    write_bundle(folder / "isles22", "isles22", model=b"hello")


def other_channels(folder: Path) -> None:
    write_bundle(folder / "isles22", "isles22", model=copying(1))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (no_weights, "no weights for the task isles22 in one of"),
        (altered, "isles22/model.onnx: expected sha256"),
        (of_another_task, "expected weights for the task 'isles22', found 'isles26'"),
        (too_new, f"isles22/model.onnx: expected opset {MAX_OPSET} or older, found {MAX_OPSET + 1}"),
        (without_network, "isles22/model.onnx: expected the network's weights, found no such file"),
        (no_network, "isles22/model.onnx: expected a network that ONNX Runtime"),
        (other_channels, "isles22/model.onnx: expected 3 input channels and 1 labels"),
    ],
)
def test_bad_weights(cli: Cli, tmp_path: Path, make: Callable[[Path], None], said: str) -> None:
    write_isles22_platform(tmp_path / "input")
    make(tmp_path / "weights")
    done = cli("predict", *options(tmp_path, tmp_path / "weights"), "-q", "--task", "isles22")
    check_line(done, 4, "", said)
    assert not (tmp_path / "output").exists()
    assert cli("run", "--input", tmp_path / "input", "--output", tmp_path, "--weights", tmp_path / "weights").code == 4


def test_an_output_that_cannot_be_written(cli: Cli, tmp_path: Path, weights: Path) -> None:
    write_isles22_platform(tmp_path / "input")
    (tmp_path / "output").write_text("a file where a folder should be")
    done = cli("predict", *options(tmp_path, weights), "-q")
    check_line(done, 5, tmp_path / "output" / "dwi-brain-mri-0001.mha", "expected to write the image")
    done = cli("run", "--input", tmp_path / "input", "--output", tmp_path / "output", "--weights", weights)
    assert done.code == 5
    assert files_below(tmp_path) == sorted([*(f"input/{name}" for name in files_below(tmp_path / "input")), "output"])


@pytest.mark.parametrize("name", ["mask.png", "mask.PNG", "mask.tif", "mask.mhd", "mask.mgz", "mask.nii.zip", "t.json"])
def test_an_ending_that_cannot_be_written(cli: Cli, tmp_path: Path, weights: Path, name: str) -> None:
    """Neither is a folder of that name made; one that is there already is a folder."""
    write_isles22_platform(tmp_path / "input")
    arguments = ("predict", *options(tmp_path, weights), "-o", tmp_path / name, "-q")
    check_line(cli(*arguments), 5, tmp_path / name, "expected an ending of .mha, .nii.gz, .nii, found another")
    assert not (tmp_path / name).exists()
    (tmp_path / name).mkdir()
    assert cli(*arguments).code == 0
    assert files_below(tmp_path / name) == ["dwi-brain-mri-0001.mha"]


@pytest.mark.parametrize("name", ["masks", "run.1", "2026.11.27", "v1.2"])
def test_a_folder_whose_name_has_a_full_stop(cli: Cli, tmp_path: Path, weights: Path, name: str) -> None:
    write_isles22_platform(tmp_path / "input")
    assert cli("predict", *options(tmp_path, weights), "-o", tmp_path / name, "-q").code == 0
    assert files_below(tmp_path / name) == ["dwi-brain-mri-0001.mha"]


def test_one_file_for_several_cases(cli: Cli, tmp_path: Path, weights: Path) -> None:
    for name in ("a", "b"):
        write_isles22_platform(tmp_path / "input" / name)
    done = cli("predict", *options(tmp_path, weights), "-o", tmp_path / "mask.mha", "-q")
    check_line(done, 5, tmp_path / "mask.mha", "expected a folder for 2 cases")


LONG = "x" * 300


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["predict", "-i", LONG, "-o", "output"], 3),
        (["predict", "-i", LONG, "-o", "output", "--task", "isles22"], 3),
        (["predict", "-i", "input", "-o", "output", "--channel", f"adc={LONG}"], 3),
        (["predict", "-i", "input", "-o", LONG], 5),
        (["predict", "-i", "input", "-o", f"{LONG}.mha"], 5),
        (["predict", "-i", "input", "-o", "output", "--weights", LONG], 4),
        (["run", "--input", LONG], 3),
        (["run", "--input", "input", "--output", LONG], 5),
        (["verify", "--weights", LONG], 4),
    ],
)
def test_a_path_that_the_system_refuses(
    cli: Cli, tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: int
) -> None:
    """A name too long stands for all that is refused to everybody; a closed folder lets root in."""
    write_isles22_platform(tmp_path / "input")
    monkeypatch.chdir(tmp_path)
    done = cli(*arguments, *([] if "--weights" in arguments else ["--weights", weights]))
    check_line(done, code, "", "File name too long")
    assert LONG in done.err


FULL_DISK = """
import resource, sys
from segsync.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv.pop(1)), resource.RLIM_INFINITY))
main()
"""


@pytest.mark.parametrize("ending", [".mha", ".nii.gz", ".nii"])
def test_a_disk_that_is_full(tmp_path: Path, weights: Path, ending: str) -> None:
    """No file may grow beyond 100 bytes: the image library does not always say that it could not write."""
    write_isles22_platform(tmp_path / "input")
    arguments = [*options(tmp_path, weights), "-q", "-o", tmp_path / "output" / f"mask{ending}"]
    command = [sys.executable, "-c", FULL_DISK, "100", "predict", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 5, done.stderr
    assert f"ERROR: {tmp_path}/output/mask{ending}: " in done.stderr
    assert "Traceback" not in done.stderr
    assert files_below(tmp_path / "output") == []


def test_memory_that_ends(cli: Cli, tmp_path: Path) -> None:
    """ONNX Runtime's own failure: smaller windows are tried, and said; where none fits, code 6 and no file."""
    write_isles22_platform(tmp_path / "input")
    weights = write_bundle(tmp_path / "weights", "isles22", model=greedy(3, most_voxels=4**3))
    done = cli("predict", *options(tmp_path, weights))
    assert done.code == 0, done.err
    assert "WARNING: out of memory with windows of 8×8×8; went on with 4×4×4" in done.err
    write_bundle(weights, "isles22", model=greedy(3, most_voxels=1))
    done = cli("predict", *options(tmp_path, weights), "-q", "-o", tmp_path / "second")
    check_line(done, 6, "case dwi-brain-mri-0001: ", "memory for one window of 4×4×4 voxels")
    assert not (tmp_path / "second").exists()


def test_a_device_that_is_none(cli: Cli, tmp_path: Path, weights: Path) -> None:
    write_isles22_platform(tmp_path / "input")
    check_line(cli("predict", *options(tmp_path, weights), "--device", "tpu", "-q"), 2, "--device", "found 'tpu'")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--task", "isles23"], 2, "expected one of isles22, isles24, aims-tbi, isles26, found 'isles23'"),
        (["--channel", "dwi"], 2, "expected NAME=FILE, found 'dwi'"),
        (["--channel", "swi=a.nii"], 2, "expected a channel of the task isles22 (dwi, adc, flair), found 'swi'"),
        (["--channel", "adc=a.nii", "--channel", "adc=b.nii"], 2, "expected adc once, found a.nii and b.nii"),
        (["--channel", "dwi=a.nii", "--channel", "adc=./a.nii"], 2, "./a.nii for dwi and adc"),
        (["--channel", "adc=none.nii"], 3, "none.nii: no image file"),
    ],
)
def test_arguments_that_are_wrong(
    cli: Cli, tmp_path: Path, weights: Path, arguments: list[str], code: int, said: str
) -> None:
    write_isles22_platform(tmp_path / "input")
    check_line(cli("predict", *options(tmp_path, weights), "-q", *arguments), code, "", said)


@pytest.mark.parametrize(
    "arguments",
    [
        ["predict"],
        ["predict", "-i", "a"],
        ["predict", "-i", "a", "-o", "b", "--overlap", "1.5"],
        ["predict", "-i", "a", "-o", "b", "--tta", "twice"],
        ["predict", "-i", "a", "-o", "b", "--colour"],
        ["paint"],
    ],
)
def test_wrong_usage_is_code_2(cli: Cli, arguments: list[str]) -> None:
    done = cli(*arguments)
    assert done.code == 2
    assert done.err


def test_an_unexpected_error_is_one_line_and_code_1(
    cli: Cli, tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_isles22_platform(tmp_path / "input")

    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a fault of ours")

    monkeypatch.setattr("segsync.commands.predict.load", fail)
    done = cli("predict", *options(tmp_path, weights))
    assert done.code == 1
    assert done.err == "ERROR: unexpected ZeroDivisionError: a fault of ours; run again with -v and report it\n"
    assert "Traceback" in cli("predict", *options(tmp_path, weights), "-v").err
