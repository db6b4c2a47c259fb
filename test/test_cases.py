"""Which cases lie in a folder and which file is which channel, and what becomes of a folder with a broken case."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from builders import (
    Cli,
    Outcome,
    ball,
    files_below,
    grid_of,
    isles22_volumes,
    write_dicom,
    write_image,
    write_isles22_platform,
    write_platform,
)
from segsync.cases import find_cases, find_task
from segsync.errors import InputError, WeightsError
from segsync.geometry import Grid
from segsync.integrity import nifti_spacing
from segsync.lesions import measure
from segsync.predict import Case, Model, Result
from segsync.tasks import TASKS, Task

GRID = grid_of((10, 11, 12))
LESION = ball(GRID, 3.5)
VOLUMES = isles22_volumes(LESION, GRID)
ISLES22 = TASKS["isles22"]


def write_case(folder: Path, pattern: str, names: Mapping[str, str]) -> None:
    """The three channels as files whose names come of a pattern and each channel's word."""
    for channel, word in names.items():
        write_image(folder / pattern.format(word), VOLUMES[channel].array, GRID)


BIDS = {"dwi": "dwi", "adc": "adc", "flair": "FLAIR"}
NUMBERS = {"dwi": "0000", "adc": "0001", "flair": "0002"}
SOCKETS = {name: f"{name}-brain-mri" for name in BIDS}


def whole_cases(source: Path, task: Task = ISLES22) -> list[Case]:
    found, broken = find_cases(source, task, {})
    assert broken == []
    return found


def bids(folder: Path) -> None:
    write_case(folder, "sub-01_{}.nii.gz", BIDS)


def bids_tree(folder: Path) -> None:
    write_case(folder / "ses-1" / "dwi", "sub-01_ses-1_{}.nii.gz", {"dwi": "dwi", "adc": "adc"})
    write_case(folder / "ses-1" / "anat", "sub-01_ses-1_{}.nii.gz", {"flair": "FLAIR"})


def nnunet(folder: Path) -> None:
    write_case(folder, "stroke_007_{}.nii.gz", NUMBERS)


def plain_names(folder: Path) -> None:
    write_case(folder, "{}.mha", BIDS)


def sockets(folder: Path) -> None:
    write_case(folder, "{}/7f.mha", SOCKETS)


def channel_folders(folder: Path) -> None:
    write_case(folder, "{}/image.nii", BIDS)


def platform(folder: Path) -> None:
    write_platform(folder, {SOCKETS[name]: volume for name, volume in VOLUMES.items()})


def listed(folder: Path) -> None:
    write_platform(folder, {SOCKETS[name]: volume for name, volume in VOLUMES.items()}, "socket")


def dicom(folder: Path, below: str = "") -> None:
    for number, (name, volume) in enumerate(VOLUMES.items()):
        write_dicom(folder / BIDS[name] / below, volume, f"1.2.826.0.1.3680043.2.1125.{number}")


def dicom_export(folder: Path) -> None:
    dicom(folder, "SE000003")


LAYOUTS: list[tuple[Callable[[Path], None], str]] = [
    (bids, "sub-01"),
    (bids_tree, "sub-01_ses-1"),
    (nnunet, "stroke_007"),
    (plain_names, "study"),
    (sockets, "study"),
    (channel_folders, "study"),
    (platform, "dwi-brain-mri-0001"),
    (listed, "dwi-brain-mri-0001"),
    (dicom, "study"),
    (dicom_export, "study"),
]
IDS = [layout.__name__ for layout, _ in LAYOUTS]


@pytest.mark.parametrize(("layout", "name"), LAYOUTS, ids=IDS)
def test_one_case_however_it_lies(
    tmp_path: Path, cli: Cli, weights: Path, layout: Callable[[Path], None], name: str
) -> None:
    """Task and channels told by names alone; hidden files and others' notes are in nobody's way; the mask is right."""
    source = tmp_path / "study"
    layout(source)
    (source / ".DS_Store").touch()
    (source / "notes.txt").write_text("a fine patient")
    assert find_task(source) is ISLES22
    [case] = whole_cases(source)
    assert case.name == name
    assert set(case.channels) == {"dwi", "adc", "flair"}
    done = cli("predict", "-i", source, "-o", tmp_path / "masks", "--weights", weights, "--device", "cpu")
    assert done.code == 0, done.err
    [written] = files_below(tmp_path / "masks")
    assert written.startswith(name)
    mask = sitk.ReadImage(str(tmp_path / "masks" / written))
    assert Grid.of(mask).same_as(GRID)
    assert np.array_equal(sitk.GetArrayFromImage(mask), LESION)
    assert done.out.startswith(f"{name}\t{LESION.sum() / 1000:.2f} ml\t1 lesions\t")


def predict(cli: Cli, source: Path, output: Path, weights: Path, *options: object) -> Outcome:
    return cli("predict", "-i", source, "-o", output, "--weights", weights, "--device", "cpu", *options)


def test_the_mask_takes_the_references_format(tmp_path: Path, cli: Cli, weights: Path) -> None:
    write_case(tmp_path / "study", "a_{}.mha", BIDS)
    write_case(tmp_path / "study", "b_{}.nii", BIDS)
    assert predict(cli, tmp_path / "study", tmp_path / "masks", weights).code == 0
    assert files_below(tmp_path / "masks") == ["a.mha", "b.nii"]


def test_the_outputs_ending_decides(tmp_path: Path, cli: Cli, weights: Path) -> None:
    bids(tmp_path / "study")
    assert predict(cli, tmp_path / "study", tmp_path / "new" / "mask.mha", weights).code == 0
    assert np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "new" / "mask.mha"))), LESION)


def test_one_file_for_a_task_with_one_channel(tmp_path: Path, cli: Cli, weights: Path) -> None:
    path = write_image(tmp_path / "whatever.nii.gz", LESION, GRID)
    assert predict(cli, path, tmp_path / "mask.nii.gz", weights, "--task", "aims-tbi").code == 0
    assert np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "mask.nii.gz"))), LESION)


def test_a_folder_of_files_for_a_task_with_one_channel(tmp_path: Path) -> None:
    for name in ("b", "a"):
        write_image(tmp_path / f"{name}.nii.gz", LESION, GRID)
    found = whole_cases(tmp_path, TASKS["aims-tbi"])
    assert [(case.name, dict(case.channels)) for case in found] == [
        (name, {"t1": tmp_path / f"{name}.nii.gz"}) for name in ("a", "b")
    ]


def test_channels_by_name(tmp_path: Path, cli: Cli, weights: Path) -> None:
    """Names that tell nothing, and one that would mislead: `--channel` replaces what was found."""
    write_case(tmp_path / "study", "{}.nii.gz", {"dwi": "first", "adc": "second"})
    write_image(tmp_path / "study" / "old_dwi.nii.gz", 1 - LESION, GRID)
    named = [f"--channel={name}={tmp_path}/study/{file}.nii.gz" for name, file in (("dwi", "first"), ("adc", "second"))]
    done = predict(cli, tmp_path / "study", tmp_path / "mask.nii.gz", weights, "--task", "isles22", *named)
    assert done.code == 0, done.err
    assert np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "mask.nii.gz"))), LESION)


def test_a_channel_by_name_may_be_a_dicom_series(tmp_path: Path, cli: Cli, weights: Path) -> None:
    series = write_dicom(tmp_path / "study" / "IM_0004", VOLUMES["dwi"])
    adc = write_image(tmp_path / "study" / "b.nii.gz", VOLUMES["adc"].array, GRID)
    named = ("--task", "isles22", "--channel", f"dwi={series}", "--channel", f"adc={adc}")
    done = predict(cli, tmp_path / "study", tmp_path / "masks", weights, *named)
    assert done.code == 0, done.err
    assert files_below(tmp_path / "masks") == ["study.nii.gz"]
    mask = sitk.ReadImage(str(tmp_path / "masks" / "study.nii.gz"))
    assert np.array_equal(sitk.GetArrayFromImage(mask), LESION)


# --- folders of cases ------------------------------------------------------------------------------------------------


def three_cases(folder: Path) -> None:
    write_case(folder, "sub-01_{}.nii.gz", BIDS)
    write_case(folder / "sub-02", "sub-02_{}.nii.gz", {"dwi": "dwi", "adc": "adc"})
    write_platform(folder / "upload", {SOCKETS[name]: volume for name, volume in VOLUMES.items()})


def test_cases_of_several_layouts_lie_in_one_folder(tmp_path: Path) -> None:
    three_cases(tmp_path)
    found = {case.name: set(case.channels) for case in whole_cases(tmp_path)}
    assert found == {
        "sub-01": {"dwi", "adc", "flair"},
        "sub-02": {"dwi", "adc"},
        "upload": {"dwi", "adc", "flair"},
    }


def test_a_broken_case_is_said_and_the_others_are_written(tmp_path: Path, cli: Cli, weights: Path) -> None:
    for name in ("a", "b", "c"):
        write_case(tmp_path / "study", name + "_{}.nii.gz", BIDS)
    (tmp_path / "study" / "b_adc.nii.gz").write_bytes(b"")
    done = predict(cli, tmp_path / "study", tmp_path / "masks", weights, "-q")
    assert done.code == 7
    assert files_below(tmp_path / "masks") == ["a.nii.gz", "c.nii.gz"]
    first, last = done.err.splitlines()
    assert "b_adc.nii.gz: expected" in first
    assert "empty file" in first
    assert last == "ERROR: 1 of 3 cases failed, the others are written; see the lines above"
    assert [line.split("\t")[0] for line in done.out.splitlines()] == ["a", "c"]
    for path in (tmp_path / "study").glob("[ac]_adc.nii.gz"):
        path.write_bytes(b"")
    done = predict(cli, tmp_path / "study", tmp_path / "none", weights, "-q")
    assert (done.code, done.err.splitlines()[-1]) == (7, "ERROR: 3 of 3 cases failed; see the lines above")


def test_platform_folders_are_told_apart_by_their_own_names(tmp_path: Path, cli: Cli, weights: Path) -> None:
    """Their images may all be called the same: no mask overwrites another."""
    for name in ("one", "two"):
        platform(tmp_path / "study" / name)
    assert predict(cli, tmp_path / "study", tmp_path / "masks", weights).code == 0
    assert files_below(tmp_path / "masks") == ["one.mha", "two.mha"]


def test_a_case_that_cannot_be_told_does_not_stop_the_others(tmp_path: Path, cli: Cli, weights: Path) -> None:
    """A socket with two images, and two files that claim one channel, among whole cases."""
    for name in ("one", "two"):
        platform(tmp_path / "study" / name)
    write_image(tmp_path / "study" / "two" / "images" / "adc-brain-mri" / "second.mha", LESION, GRID)
    for name in ("a", "b"):
        write_case(tmp_path / "study", name + "_{}.nii.gz", BIDS)
    write_image(tmp_path / "study" / "b_dwi.mha", LESION, GRID)
    done = predict(cli, tmp_path / "study", tmp_path / "masks", weights, "-q")
    assert done.code == 7
    assert files_below(tmp_path / "masks") == ["a.nii.gz", "one.mha"]
    socket, clash, last = done.err.splitlines()
    assert "two/images/adc-brain-mri: expected exactly one image, found 2" in socket
    assert "b_dwi.nii.gz: expected one dwi image for the case b" in clash
    assert "2 of 4 cases failed" in last


def test_cases_may_be_links(tmp_path: Path) -> None:
    """As cohorts are put together on a cluster: links to folders, and to files."""
    bids(tmp_path / "real")
    (tmp_path / "study" / "files").mkdir(parents=True)
    (tmp_path / "study" / "sub-01").symlink_to(tmp_path / "real")
    for path in (tmp_path / "real").iterdir():
        (tmp_path / "study" / "files" / path.name.replace("sub-01", "sub-02")).symlink_to(path)
    assert [(case.name, len(case.channels)) for case in whole_cases(tmp_path / "study")] == [
        ("sub-01", 3),
        ("sub-02", 3),
    ]


def test_resume_skips_what_is_done(tmp_path: Path, cli: Cli, weights: Path) -> None:
    for name in ("a", "b"):
        write_case(tmp_path / "study", name + "_{}.nii.gz", BIDS)
    masks = tmp_path / "masks"
    masks.mkdir()
    (masks / "a.nii.gz").write_bytes(b"done before")
    done = predict(cli, tmp_path / "study", masks, weights, "--resume")
    assert done.code == 0
    assert (masks / "a.nii.gz").read_bytes() == b"done before"
    assert [line.split("\t")[0] for line in done.out.splitlines()] == ["b"]
    assert "1 of 2 cases are done already" in done.err
    assert predict(cli, tmp_path / "study", masks, weights, "--resume").out == ""
    assert predict(cli, tmp_path / "study", masks, weights).code == 0
    assert (masks / "a.nii.gz").read_bytes() != b"done before"


def test_two_patients_of_one_name_are_never_one_case(tmp_path: Path) -> None:
    """Two sites that both have a sub-01: whole cases stay apart, and pieces are not put together across folders."""
    write_case(tmp_path / "siteA", "sub-01_{}.nii.gz", BIDS)
    write_case(tmp_path / "siteB", "sub-01_{}.nii.gz", {"dwi": "dwi", "adc": "adc"})
    assert {case.name: len(case.channels) for case in whole_cases(tmp_path)} == {"siteA_sub-01": 3, "siteB_sub-01": 2}
    (tmp_path / "siteB" / "sub-01_dwi.nii.gz").unlink()
    [case], [error] = find_cases(tmp_path, ISLES22, {})
    assert case.name == "siteA_sub-01"
    assert "siteB/sub-01_adc.nii.gz: expected the images of the case sub-01 in one folder" in str(error)


def test_images_of_a_kind_may_lie_in_a_folder_each(tmp_path: Path) -> None:
    for name in ("p1", "p2"):
        for channel, word in BIDS.items():
            write_image(tmp_path / f"{word}_images" / f"{name}_{word}.nii.gz", VOLUMES[channel].array, GRID)
    assert [(case.name, len(case.channels)) for case in whole_cases(tmp_path)] == [("p1", 3), ("p2", 3)]


def test_bids_names_that_differ_by_channel_are_one_case(tmp_path: Path) -> None:
    for folder, name in (
        ("dwi", "acq-b1000_dwi"),
        ("dwi", "adc"),
        ("anat", "acq-3d_run-1_FLAIR"),
        ("anat", "acq-3d_FLAIR"),
    ):
        write_image(tmp_path / "sub-01" / folder / f"sub-01_{name}.nii.gz", LESION, GRID)
    [case] = [case for case in whole_cases(tmp_path) if "adc" in case.channels]
    assert case.name == "sub-01"
    assert {name: Path(str(path)).name for name, path in case.channels.items()} == {
        "dwi": "sub-01_acq-b1000_dwi.nii.gz",
        "adc": "sub-01_adc.nii.gz",
        "flair": "sub-01_acq-3d_FLAIR.nii.gz",
    }


def test_the_layout_of_isles24(tmp_path: Path) -> None:
    """Plain CT in `raw_data`, all else brought to it in `derivatives`, and a CT angiography in both."""
    acute = tmp_path / "derivatives" / "sub-stroke0001" / "ses-01"
    names = [
        tmp_path / "raw_data" / "sub-stroke0001" / "ses-01" / f"sub-stroke0001_ses-01_{n}" for n in ("ncct", "cta")
    ]
    names += [acute / "sub-stroke0001_ses-01_space-ncct_cta"]
    maps = ("tmax", "cbf", "cbv", "mtt")
    names += [acute / "perfusion-maps" / f"sub-stroke0001_ses-01_space-ncct_{name}" for name in maps]
    for name in names:
        write_image(name.with_name(f"{name.name}.nii.gz"), LESION, GRID)
    assert find_task(tmp_path) is TASKS["isles24"]
    [case] = whole_cases(tmp_path, TASKS["isles24"])
    assert case.name == "sub-stroke0001_ses-01"
    assert set(case.channels) == {"ncct", "cta", *maps}
    assert case.channels["cta"] == acute / "sub-stroke0001_ses-01_space-ncct_cta.nii.gz"


def test_numbers_of_cases_are_no_channels(tmp_path: Path) -> None:
    """scan_0000 to scan_0002 for a task of one channel are three patients; alone, _0000 is nnU-Net's channel."""
    write_image(tmp_path / "scan_0000.nii.gz", LESION, GRID)
    assert [case.name for case in whole_cases(tmp_path, TASKS["aims-tbi"])] == ["scan"]
    for number in (1, 2):
        write_image(tmp_path / f"scan_000{number}.nii.gz", LESION, GRID)
    names = [case.name for case in whole_cases(tmp_path, TASKS["aims-tbi"])]
    assert names == ["scan_0000", "scan_0001", "scan_0002"]


def test_links_that_lead_back_are_followed_once(tmp_path: Path) -> None:
    bids(tmp_path / "sub-01")
    for name in ("again", "loop"):
        (tmp_path / name).symlink_to(tmp_path)
    (tmp_path / "latest").symlink_to(tmp_path / "sub-01")
    assert [(case.name, len(case.channels)) for case in whole_cases(tmp_path)] == [("sub-01", 3)]


def test_dicom_folders_for_a_task_with_one_channel(tmp_path: Path) -> None:
    """A series needs no name that tells its channel where there is one alone; notes beside it are no series."""
    for name in ("p1", "p2"):
        write_dicom(tmp_path / name, VOLUMES["dwi"], f"1.2.826.0.1.3680043.2.1125.{name[1]}")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "notes.txt").write_text("fine patients")
    found = whole_cases(tmp_path, TASKS["aims-tbi"])
    assert [(case.name, case.channels) for case in found] == [(n, {"t1": tmp_path / n}) for n in ("p1", "p2")]
    [case] = whole_cases(tmp_path / "p1", TASKS["aims-tbi"])
    assert (case.name, case.channels) == ("p1", {"t1": tmp_path / "p1"})


def test_two_series_below_one_channels_folder_are_not_chosen_between(tmp_path: Path) -> None:
    dicom(tmp_path / "p1", "SE000003")
    write_dicom(tmp_path / "p1" / "dwi" / "SE000004", VOLUMES["dwi"], "1.2.826.0.1.3680043.2.1125.9")
    with pytest.raises(InputError, match=r"dwi/SE000004: expected one dwi image for the case p1, found .*SE000003"):
        find_cases(tmp_path, ISLES22, {})


def test_images_given_by_name_are_not_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_case(tmp_path, "{}.nii.gz", {"dwi": "first", "adc": "second"})
    find_cases(tmp_path, ISLES22, {"dwi": tmp_path / "first.nii.gz", "adc": tmp_path / "second.nii.gz"})
    assert "left out" not in caplog.text


# --- what is refused -------------------------------------------------------------------------------------------------


def test_two_files_for_one_channel(tmp_path: Path) -> None:
    bids(tmp_path)
    write_image(tmp_path / "sub-01_adc.mha", LESION, GRID)
    with pytest.raises(InputError, match=r"sub-01_adc\.nii\.gz: expected one adc image for the case sub-01, found"):
        find_cases(tmp_path, ISLES22, {})
    named = {"adc": tmp_path / "sub-01_adc.mha"}  # as the message says
    [case], _ = find_cases(tmp_path, ISLES22, named)
    assert case.channels == {"dwi": tmp_path / "sub-01_dwi.nii.gz", "flair": tmp_path / "sub-01_FLAIR.nii.gz", **named}


def test_a_case_named_after_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`-i .` with every channel by name, as the README shows."""
    (tmp_path / "patient").mkdir()
    monkeypatch.chdir(tmp_path / "patient")
    [case], _ = find_cases(Path(), ISLES22, {"dwi": Path("a.nii.gz"), "adc": Path("b.nii.gz")})
    assert case.name == "patient"


def test_a_folder_without_images(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing here")
    with pytest.raises(InputError, match=r"expected the images of one task, found no task's images .*; give --task"):
        find_task(tmp_path)
    with pytest.raises(InputError, match=r"expected images named \*_dwi, \*_adc, \*_flair"):
        find_cases(tmp_path, ISLES22, {})


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none: expected a file or folder with a case's images, found none"):
        find_cases(tmp_path / "none", ISLES22, {})


def test_channels_by_name_need_one_case(tmp_path: Path) -> None:
    three_cases(tmp_path)
    with pytest.raises(InputError, match="expected one case for --channel, found 3"):
        find_cases(tmp_path, ISLES22, {"dwi": tmp_path / "x.nii"})


def test_a_case_that_lacks_a_channel_is_named(tmp_path: Path, cli: Cli, weights: Path) -> None:
    write_image(tmp_path / "study" / "sub-01_dwi.nii.gz", LESION, GRID)
    done = predict(cli, tmp_path / "study", tmp_path / "masks", weights, "--task", "isles22")
    assert done.code == 3
    assert "case sub-01: channel adc: expected the patient's image, found none" in done.err


@pytest.mark.parametrize("output", ["t1s", "t1s/p1.nii.gz"])
def test_an_image_is_never_overwritten_by_its_mask(tmp_path: Path, cli: Cli, weights: Path, output: str) -> None:
    path = write_image(tmp_path / "t1s" / "p1.nii.gz", LESION, GRID)
    before = path.read_bytes()
    source = path.parent if output == "t1s" else path
    done = predict(cli, source, tmp_path / output, weights, "--task", "aims-tbi")
    assert done.code == 5
    assert "p1.nii.gz: expected a place for the mask, found an input image" in done.err
    assert path.read_bytes() == before


def test_two_cases_of_one_name_are_refused_before_anything_is_written(tmp_path: Path, cli: Cli, weights: Path) -> None:
    write_isles22_platform(tmp_path / "input" / "p1")
    write_case(tmp_path / "input", "p1_{}.mha", {"dwi": "dwi", "adc": "adc"})
    done = predict(cli, tmp_path / "input", tmp_path / "output", weights, "--task", "isles22")
    assert done.code == 5
    assert "expected one case of that name, found p1 as well" in done.err
    assert not (tmp_path / "output").exists()


def test_nothing_that_lies_among_the_images_is_replaced(tmp_path: Path, cli: Cli, weights: Path) -> None:
    """An expert's mask of the name that ours would get; a name that is given may be written again."""
    write_case(tmp_path / "study", "a_{}.nii.gz", BIDS)
    expert = write_image(tmp_path / "study" / "a.nii.gz", 1 - LESION, GRID)
    before = expert.read_bytes()
    done = predict(cli, tmp_path / "study", tmp_path / "study", weights)
    assert done.code == 5
    assert "a.nii.gz: expected a place for the mask, found a file beside the input images" in done.err
    assert expert.read_bytes() == before
    for _ in range(2):
        assert predict(cli, tmp_path / "study", tmp_path / "study" / "mask.mha", weights).code == 0


def test_a_mask_replaces_no_other_cases_probability_map(tmp_path: Path, cli: Cli, weights: Path) -> None:
    for name in ("a", "a_probability"):
        write_image(tmp_path / "t1s" / f"{name}.nii.gz", LESION, GRID)
    arguments = (tmp_path / "t1s", tmp_path / "masks", weights, "--task", "aims-tbi")
    done = predict(cli, *arguments, "--save-probabilities")
    assert done.code == 5
    assert "a_probability.nii.gz: expected one case of that name, found a as well" in done.err
    assert predict(cli, *arguments).code == 0


def test_memory_that_ends_after_the_network_costs_one_case(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Cli, weights: Path
) -> None:
    def short_of_memory(*arguments: Any) -> object:
        if not files_below(tmp_path / "masks"):
            (tmp_path / "masks").mkdir()
            (tmp_path / "masks" / "begun").touch()
            raise MemoryError
        return measure(*arguments)

    monkeypatch.setattr("segsync.cli.measure", short_of_memory)
    for name in ("a", "b"):
        write_image(tmp_path / "t1s" / f"{name}.nii.gz", LESION, GRID)
    done = predict(cli, tmp_path / "t1s", tmp_path / "masks", weights, "--task", "aims-tbi")
    assert done.code == 7
    assert files_below(tmp_path / "masks") == ["b.nii.gz", "begun"]
    assert "case a: expected memory for its results, found too little" in done.err


def test_platform_folders_lie_at_any_depth(tmp_path: Path) -> None:
    write_isles22_platform(tmp_path / "p0")
    write_isles22_platform(tmp_path / "site1" / "p1")
    write_isles22_platform(tmp_path / "site2" / "p1")
    assert [case.name for case in whole_cases(tmp_path)] == ["p0", "site1_p1", "site2_p1"]


def test_images_that_are_left_out_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("a_t1", "b", "c"):
        write_image(tmp_path / f"{name}.nii.gz", LESION, GRID)
    assert [case.name for case in whole_cases(tmp_path, TASKS["aims-tbi"])] == ["a"]
    assert "2 images whose names tell no channel of aims-tbi are left out, b.nii.gz first" in caplog.text


def test_a_folders_name_speaks_for_no_file_beside_one_that_speaks_for_itself(tmp_path: Path) -> None:
    """BIDS keeps a single-band reference beside the series in `dwi`."""
    folder = tmp_path / "sub-01" / "dwi"
    for name in ("dwi", "adc", "sbref"):
        write_image(folder / f"sub-01_{name}.nii.gz", LESION, GRID)
    [case] = whole_cases(tmp_path)
    assert {name: Path(str(path)).name for name, path in case.channels.items()} == {
        "dwi": "sub-01_dwi.nii.gz",
        "adc": "sub-01_adc.nii.gz",
    }


def test_a_folder_that_may_not_be_read_is_a_failed_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_isles22_platform(tmp_path / "p1")
    (tmp_path / "p2").mkdir()
    scandir = os.scandir

    def refusing(path: str) -> object:
        if str(path).endswith("p2"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    found, failed = find_cases(tmp_path, ISLES22, {})
    assert [case.name for case in found] == ["p1"]
    assert [str(error) for error in failed] == [
        f"{tmp_path / 'p2'}: expected a folder to read, found Permission denied; change its permissions"
    ]

    (tmp_path / "p1").rename(tmp_path / "p2" / "case")
    with pytest.raises(InputError, match="p2: expected a folder to read, found Permission denied"):
        find_task(tmp_path)


def test_a_disk_that_does_not_answer_costs_the_case(
    tmp_path: Path, cli: Cli, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b", "c"):
        write_case(tmp_path / "study", name + "_{}.nii.gz", BIDS)

    def failing(path: Path) -> tuple[float, float, float]:
        if path.name == "b_adc.nii.gz":
            raise OSError(5, "Input/output error")
        return nifti_spacing(path)

    monkeypatch.setattr("segsync.images.nifti_spacing", failing)
    done = predict(cli, tmp_path / "study", tmp_path / "masks", weights, "-q")
    assert done.code == 7
    assert files_below(tmp_path / "masks") == ["a.nii.gz", "c.nii.gz"]
    assert f"{tmp_path / 'study' / 'b_adc.nii.gz'}: expected" in done.err
    assert "found Input/output error" in done.err


def test_warnings_say_whose_image_they_are_about(tmp_path: Path, cli: Cli, weights: Path) -> None:
    write_case(tmp_path / "study", "a_{}.nii.gz", BIDS)
    write_case(tmp_path / "study", "b_{}.nii.gz", {"dwi": "dwi", "adc": "adc"})
    done = predict(cli, tmp_path / "study", tmp_path / "masks", weights)
    assert [line for line in done.err.splitlines() if line.startswith("WARNING: ")] == [
        "WARNING: b: channel flair: expected an image, found none; the model goes on without it"
    ]


def test_a_fault_of_ours_costs_the_case(
    tmp_path: Path, cli: Cli, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A night's work does not end at its third case; weights that fail do end it."""
    for name in ("a", "b", "c"):
        write_case(tmp_path / "study", name + "_{}.nii.gz", BIDS)
    faults: list[Exception] = [ZeroDivisionError("a fault of ours"), WeightsError("the network fails")]

    def failing(self: Model, case: Case, *rest: Any) -> Result:
        if case.name == "b":
            raise faults[0]
        return predict_case(self, case, *rest)

    predict_case = Model.predict
    monkeypatch.setattr(Model, "predict", failing)
    done = predict(cli, tmp_path / "study", tmp_path / "masks", weights, "-q")
    assert done.code == 7
    assert files_below(tmp_path / "masks") == ["a.nii.gz", "c.nii.gz"]
    assert done.err.splitlines() == [
        "ERROR: case b: unexpected ZeroDivisionError: a fault of ours; run again with -v and report it",
        "ERROR: 1 of 3 cases failed, the others are written; see the lines above",
    ]
    del faults[0]
    assert predict(cli, tmp_path / "study", tmp_path / "others", weights, "-q").code == 4
    assert files_below(tmp_path / "others") == ["a.nii.gz"]


def test_a_mistyped_path_is_said_to_be_one(tmp_path: Path, cli: Cli, weights: Path) -> None:
    done = predict(cli, tmp_path / "none", tmp_path / "output", weights)
    assert done.code == 3
    assert "none: expected a file or folder with a case's images, found none; check the path" in done.err
