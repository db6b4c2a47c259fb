"""One case however it lies: BIDS, nnU-Net, sockets, DICOM, folders for channels or kinds, links."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from builders import Cli, files_below, write_dicom, write_image, write_isles22_platform, write_platform
from case_folders import BIDS, GRID, ISLES22, LESION, SOCKETS, VOLUMES, bids, platform, whole_cases, write_case
from segsync.cases import find_cases, find_task
from segsync.errors import InputError
from segsync.geometry import Grid
from segsync.tasks import TASKS

NUMBERS = {"dwi": "0000", "adc": "0001", "flair": "0002"}


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


def listed(folder: Path) -> None:
    write_platform(folder, {SOCKETS[name]: volume for name, volume in VOLUMES.items()}, "socket")


def dicom(folder: Path, below: str = "") -> None:
    for number, (name, volume) in enumerate(VOLUMES.items()):
        write_dicom(folder / BIDS[name] / below, volume, f"1.2.826.0.1.3680043.2.1125.{number}")


def dicom_export(folder: Path) -> None:
    """With the index of its files that a scanner writes beside them."""
    dicom(folder, "SE000003")
    for name in VOLUMES:
        (folder / BIDS[name] / "DICOMDIR").write_bytes(bytes(128) + b"DICM")


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
    assert done.out.startswith(f"{name}\t{LESION.sum() / 1000:.2f} ml\t1 lesion\t")


def test_a_folder_of_files_for_a_task_with_one_channel(tmp_path: Path) -> None:
    for name in ("b", "a"):
        write_image(tmp_path / f"{name}.nii.gz", LESION, GRID)
    found = whole_cases(tmp_path, TASKS["aims-tbi"])
    assert [(case.name, dict(case.channels)) for case in found] == [
        (name, {"t1": tmp_path / f"{name}.nii.gz"}) for name in ("a", "b")
    ]


def test_images_of_a_kind_may_lie_in_a_folder_each(tmp_path: Path) -> None:
    for name in ("p1", "p2"):
        for channel, word in BIDS.items():
            write_image(tmp_path / f"{word}_images" / f"{name}_{word}.nii.gz", VOLUMES[channel].array, GRID)
    assert [(case.name, len(case.channels)) for case in whole_cases(tmp_path)] == [("p1", 3), ("p2", 3)]


def test_what_a_pipeline_made_of_a_patient_is_the_patients(tmp_path: Path) -> None:
    """BIDS: the pipeline's folder lies between `derivatives` and the subject."""
    write_case(tmp_path / "sub-01" / "dwi", "sub-01_{}.nii.gz", {"dwi": "dwi"})
    write_case(tmp_path / "derivatives" / "coregistered" / "sub-01" / "dwi", "sub-01_{}.nii.gz", {"adc": "adc"})
    [case] = whole_cases(tmp_path)
    assert set(case.channels) == {"dwi", "adc"}


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


def test_platform_folders_lie_at_any_depth(tmp_path: Path) -> None:
    write_isles22_platform(tmp_path / "p0")
    write_isles22_platform(tmp_path / "site1" / "p1")
    write_isles22_platform(tmp_path / "site2" / "p1")
    assert [case.name for case in whole_cases(tmp_path)] == ["p0", "site1_p1", "site2_p1"]


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


def test_links_that_lead_back_are_followed_once(tmp_path: Path) -> None:
    bids(tmp_path / "sub-01")
    for name in ("again", "loop"):
        (tmp_path / name).symlink_to(tmp_path)
    (tmp_path / "latest").symlink_to(tmp_path / "sub-01")
    assert [(case.name, len(case.channels)) for case in whole_cases(tmp_path)] == [("sub-01", 3)]
