"""What is wrong with a folder of images is found and said, by the check and by `segsync-train datasets`."""

import logging
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from builders import write_image
from dataset_trees import GRID, MOVED, TREES, build, noise, put
from segsync.errors import InputError
from segsync.geometry import Grid
from segsync_train.cli import main
from segsync_train.data.dataset import (
    LAYOUTS,
    find_cases,
)
from segsync_train.data.validate import validate_folder


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """`segsync-train ARGUMENT...` in this process; returns the exit code."""
    monkeypatch.setattr(sys, "argv", ["segsync-train", *map(str, arguments)])
    handlers = logging.getLogger().handlers[:]
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    finally:
        logging.getLogger().handlers[:] = handlers
    return 0


@dataclass(frozen=True)
class Fault:
    """Something done to a good miniature of ISLES'22, and what is said about it."""

    said: tuple[str, ...]
    removed: tuple[str, ...] = ()
    written: dict[str, tuple[float, Grid]] = field(default_factory=dict)
    cut: str = ""


CASE1 = "sub-strokecase0001/ses-0001/dwi/sub-strokecase0001_ses-0001"
MASK1, MASK2 = (TREES["isles22"].labels[f"sub-strokecase000{n}_ses-0001"][0] for n in (1, 2))
FAULTS = {
    "an image is missing": Fault(
        ("case sub-strokecase0001_ses-0001: no image of the channel 'adc'",),
        removed=(f"{CASE1}_adc.nii.gz",),
    ),
    "a label is missing": Fault(("case sub-strokecase0001_ses-0001: no label map",), removed=(MASK1,)),
    "only the label is there": Fault(
        tuple(f"case sub-strokecase0001_ses-0001: no image of the channel {c!r}" for c in ("dwi", "adc")),
        removed=tuple(TREES["isles22"].images["sub-strokecase0001_ses-0001"].values()),
    ),
    "the label lies elsewhere": Fault(
        ("expected the grid of sub-strokecase0001_ses-0001_dwi.nii.gz",), written={MASK1: (1, MOVED)}
    ),
    "two labels hold other values": Fault(
        ("expected the label values 0, 1, found 2", "expected the label values 0, 1, found 0.5"),
        written={MASK1: (2, GRID), MASK2: (0.5, GRID)},
    ),
    "an image is cut": Fault(("expected whole compressed voxels",), cut=f"{CASE1}_dwi.nii.gz"),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_each_fault_is_told_with_its_case_or_file(fault: Fault, tmp_path: Path) -> None:
    folder = build(TREES["isles22"], tmp_path / "set")
    for name in fault.removed:
        (folder / name).unlink()
    for name, (value, grid) in fault.written.items():
        write_image(folder / name, np.full(grid.size_zyx, value, np.float32), grid)
    if fault.cut:
        (folder / fault.cut).write_bytes((folder / fault.cut).read_bytes()[:-40])
    problems = validate_folder("isles22", folder).problems
    assert len(problems) == len(fault.said)
    for problem, said in zip(problems, fault.said, strict=True):
        assert said in problem


def test_a_folder_without_any_labels_is_whole_in_a_general_format_and_not_as_a_labelled_set(tmp_path: Path) -> None:
    for subject in (1, 2):
        put(tmp_path / "rawdata" / f"sub-{subject}_dwi.nii.gz", noise())
        put(tmp_path / "rawdata" / f"sub-{subject}_adc.nii.gz", noise())
    assert validate_folder("bids", tmp_path).problems == ()
    assert len(validate_folder("isles22", tmp_path).problems) == 2
    put(tmp_path / "derivatives" / "sub-1_msk.nii.gz", np.ones(GRID.size_zyx, np.uint8))
    (problem,) = validate_folder("bids", tmp_path).problems
    assert problem.startswith("case sub-2: no label map")


def general(folder: Path, layout: str, channels: int) -> Path:
    """Cases a, b and c in a general format, with nothing that describes them."""
    label = np.zeros(GRID.size_zyx, np.uint8)
    label[1:3, 1:3, 1:3] = 1
    for case in "abc":
        for channel in range(channels):
            nnunets, bids = f"imagesTr/{case}_000{channel}.nii.gz", f"sub-{case}/sub-{case}_T{channel + 1}w.nii.gz"
            put(folder / (nnunets if layout == "nnunet" else bids), noise())
        put(folder / (f"labelsTr/{case}.nii.gz" if layout == "nnunet" else f"sub-{case}/sub-{case}_dseg.nii.gz"), label)
    return folder


GENERAL: dict[str, tuple[str, int, dict[str, float | None], str]] = {
    "an image is gone": (
        "nnunet", 1, {"imagesTr/b_0000.nii.gz": None}, "case b: no image of the channel 'image'",
    ),
    "an image of a BIDS folder is gone": (
        "bids", 1, {"sub-b/sub-b_T1w.nii.gz": None}, "case sub-b: no image of the channel 't1w'",
    ),
    "one of two channels is gone": (
        "nnunet", 2, {"imagesTr/b_0001.nii.gz": None}, "case b: no image of the channel '0001'",
    ),
    "an image is no number throughout": (
        "nnunet", 1, {"imagesTr/b_0000.nii.gz": np.nan}, "b_0000.nii.gz: expected an image of the channel 'image', "
        "found 0 or no number in every voxel",
    ),
    "an image is constant": (
        "nnunet", 2, {"imagesTr/b_0001.nii.gz": 7}, "b_0001.nii.gz: expected an image of the channel '0001', found 7",
    ),
    "a label map holds probabilities": (
        "nnunet", 1, {"labelsTr/b.nii.gz": 0.5}, "b.nii.gz: expected whole numbers from 0 as label values, found 0.5",
    ),
    "a label is below 0": (
        "nnunet", 1, {"labelsTr/b.nii.gz": -1}, "b.nii.gz: expected whole numbers from 0 as label values, found -1",
    ),
    "all label maps are empty": (
        "nnunet", 1, {f"labelsTr/{case}.nii.gz": 0 for case in "abc"},
        "set: expected label maps that hold labels, found 3 empty ones",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("layout", "channels", "changes", "said"), GENERAL.values(), ids=GENERAL)
def test_a_fault_in_a_general_format_is_told_with_its_case(
    layout: str, channels: int, changes: dict[str, float | None], said: str, tmp_path: Path
) -> None:
    """Without a dataset.json, which could say how many channels and which labels there are."""
    folder = general(tmp_path / "set", layout, channels)
    assert validate_folder(layout, folder).problems == ()
    for name, value in changes.items():
        (folder / name).unlink()
        if value is not None:
            put(folder / name, np.full(GRID.size_zyx, value, np.float32))
    (problem,) = validate_folder(layout, folder).problems
    assert said in problem
    assert len(changes) > 1 or f"case {'sub-' if layout == 'bids' else ''}b: " in problem


def test_one_empty_label_map_is_no_fault_and_an_optional_image_may_be_empty(tmp_path: Path) -> None:
    """Patients without a lesion are part of a set; a channel that cases may lack is done without."""
    folder = general(tmp_path / "general", "nnunet", 1)
    put(folder / "labelsTr" / "b.nii.gz", np.zeros(GRID.size_zyx, np.uint8))
    assert validate_folder("nnunet", folder).problems == ()
    folder = build(TREES["isles22"], tmp_path / "set")
    put(folder / TREES["isles22"].images["sub-strokecase0001_ses-0001"]["flair"], np.zeros(GRID.size_zyx, np.float32))
    assert validate_folder("isles22", folder).problems == ()


def test_an_image_of_nothing_but_nan_is_told_where_the_format_keeps_them(tmp_path: Path) -> None:
    folder = general(tmp_path / "set", "nnunet", 1)
    (folder / "imagesTr" / "b_0000.nii.gz").unlink()
    put(folder / "imagesTr" / "b_0000.mha", np.full(GRID.size_zyx, np.nan, np.float32))
    (problem,) = validate_folder("nnunet", folder).problems
    assert problem.startswith("case b: ")
    assert "b_0000.mha: expected an image of the channel 'image', found 0 or no number in every voxel" in problem


def test_label_maps_without_an_image_are_no_cases_to_train_on(tmp_path: Path) -> None:
    folder = general(tmp_path / "set", "nnunet", 1)
    (folder / "imagesTr" / "b_0000.nii.gz").unlink()
    assert [case.name for case in find_cases("nnunet", folder, ["t1"])] == ["a", "c"]


def test_the_decathlons_names_may_end_in_a_number(tmp_path: Path) -> None:
    """`imagesTr/hippo_0001.nii.gz` beside `labelsTr/hippo_0001.nii.gz` is a case, not the second channel of one."""
    for number in (0, 1):
        put(tmp_path / "imagesTr" / f"hippo_000{number}.nii.gz", noise())
        put(tmp_path / "labelsTr" / f"hippo_000{number}.nii.gz", np.ones(GRID.size_zyx, np.uint8))
    report = validate_folder("nnunet", tmp_path)
    assert (report.cases, report.labelled, report.problems) == (2, 2, ())


def test_a_structure_that_other_cases_have_is_missed(tmp_path: Path) -> None:
    folder = build(TREES["totalsegmentator"], tmp_path / "set")
    (folder / "s0001" / "segmentations" / "heart.nii.gz").unlink()
    (problem,) = validate_folder("totalsegmentator", folder).problems
    assert problem.startswith("case s0001: no mask of 'heart', as other cases have")


def test_two_files_that_claim_to_be_one_image_are_refused(tmp_path: Path) -> None:
    folder = build(TREES["hvsmr2"], tmp_path / "set")
    write_image(folder / "copy" / "pat0_cropped.nii.gz", np.ones(GRID.size_zyx, np.float32), GRID)
    with pytest.raises(InputError, match=r"pat0_cropped.nii.gz: expected one mr image for the case pat0, found"):
        validate_folder("hvsmr2", folder)


def test_two_bids_files_of_one_channel_and_a_folder_of_other_names(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no name as in BIDS"):
        find_cases("bids", tmp_path, ["t1"])
    for run in (1, 2):
        write_image(tmp_path / "sub-01" / f"sub-01_run-{run}_T1w.nii.gz", np.zeros(GRID.size_zyx, np.float32), GRID)
    with pytest.raises(InputError, match=r"sub-01_run-2_T1w.nii.gz: expected one T1w for the case sub-01"):
        find_cases("bids", tmp_path, ["t1"])


def test_the_command_lists_describes_and_checks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "datasets") == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in LAYOUTS)
    assert run(monkeypatch, "datasets", "mmwhs-mr") == 0
    assert "3: left ventricle (in the files 500)" in capsys.readouterr().out
    folder = build(TREES["isles22"], tmp_path / "set")
    assert run(monkeypatch, "datasets", "isles22", folder) == 0
    assert "2 cases\t2 with labels\tnothing wrong" in capsys.readouterr().out


def test_the_command_ends_with_3_where_something_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    folder = build(TREES["isles22"], tmp_path / "set")
    (folder / MASK1).unlink()
    for arguments, said in (
        (("isles22", folder), "1 problems in 2 cases"),
        (("isles22", tmp_path / "empty"), "no images like **/{case}_dwi"),
        (("isles22", tmp_path / "none"), "no folder of cases"),
        (("bids", tmp_path / "empty"), "no name as in BIDS"),
        (("nnunet", tmp_path / "empty"), "no folder imagesTr"),
        (("isles23", folder), "expected one of nnunet, bids"),
        (("isles23",), "expected a data set among"),
    ):
        assert run(monkeypatch, "datasets", *arguments) == 3
        printed = capsys.readouterr()
        assert said in printed.err
        assert printed.out == ""
