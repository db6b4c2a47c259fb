"""Which cases lie in a folder: patients kept apart, pieces put together, what is left out or refused."""

import os
from pathlib import Path

import nibabel
import numpy as np
import pytest

from builders import write_image, write_isles22_platform, write_platform
from case_folders import BIDS, GRID, ISLES22, LESION, SOCKETS, VOLUMES, bids, whole_cases, write_case
from dicom_files import enhanced, save
from segsync.cases import find_cases, find_task
from segsync.errors import InputError
from segsync.tasks import TASKS


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


def test_two_patients_of_one_name_are_never_one_case(tmp_path: Path) -> None:
    """Two sites that both have a sub-01: whole cases stay apart, and pieces are not put together across folders."""
    write_case(tmp_path / "siteA", "sub-01_{}.nii.gz", BIDS)
    write_case(tmp_path / "siteB", "sub-01_{}.nii.gz", {"dwi": "dwi", "adc": "adc"})
    assert {case.name: len(case.channels) for case in whole_cases(tmp_path)} == {"siteA_sub-01": 3, "siteB_sub-01": 2}
    (tmp_path / "siteB" / "sub-01_dwi.nii.gz").unlink()
    [case], [error] = find_cases(tmp_path, ISLES22, {})
    assert case.name == "siteA_sub-01"
    assert "siteB/sub-01_adc.nii.gz: expected the images of the case sub-01 in one folder" in str(error)


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


def test_two_whole_acquisitions_of_a_patient_are_two_cases(tmp_path: Path) -> None:
    for name in ("acq-b1000", "acq-b2000"):
        write_case(tmp_path / "sub-01" / "dwi", f"sub-01_{name}_{{}}.nii.gz", {"dwi": "trace", "adc": "ADC"})
    cases = {case.name: case.channels for case in whole_cases(tmp_path)}
    assert len(cases) == 2
    for name, channels in cases.items():
        assert {path.name for path in channels.values() if isinstance(path, Path)} == {
            f"{name}_{suffix}.nii.gz" for suffix in ("trace", "ADC")
        }


def test_numbers_of_cases_are_no_channels(tmp_path: Path) -> None:
    """scan_0000 to scan_0002 for a task of one channel are three patients; alone, _0000 is nnU-Net's channel."""
    write_image(tmp_path / "scan_0000.nii.gz", LESION, GRID)
    assert [case.name for case in whole_cases(tmp_path, TASKS["aims-tbi"])] == ["scan"]
    for number in (1, 2):
        write_image(tmp_path / f"scan_000{number}.nii.gz", LESION, GRID)
    names = [case.name for case in whole_cases(tmp_path, TASKS["aims-tbi"])]
    assert names == ["scan_0000", "scan_0001", "scan_0002"]


def test_images_given_by_name_are_not_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_case(tmp_path, "{}.nii.gz", {"dwi": "first", "adc": "second"})
    find_cases(tmp_path, ISLES22, {"dwi": tmp_path / "first.nii.gz", "adc": tmp_path / "second.nii.gz"})
    assert "left out" not in caplog.text


@pytest.mark.parametrize("name", ["{}/dwi/{}_dwi", "{}/dwi"])
def test_a_diffusion_series_alone_is_a_case(tmp_path: Path, name: str) -> None:
    """What a scanner gives before anybody made maps of it; its ADC is fitted from the b-values beside it."""
    signals = [np.full((4, 5, 6), 1000 * np.exp(-b * 8e-4), np.float32) for b in (0, 1000, 1000)]
    for patient in ("sub-01", "sub-02"):
        path = tmp_path / f"{name.format(patient, patient)}.nii.gz"
        path.parent.mkdir(parents=True)
        nibabel.save(nibabel.Nifti1Image(np.stack(signals, axis=-1), np.diag([2.0, 2, 5, 1])), path)
        path.with_name(path.name.replace(".nii.gz", ".bval")).write_text("0 1000 1000")
    assert find_task(tmp_path) is ISLES22
    cases = whole_cases(tmp_path)
    assert len(cases) == 2
    for case in cases:
        assert set(case.channels) == {"dwi"}
        adc = case.load("adc")
        assert adc is not None
        assert adc.array == pytest.approx(800, rel=1e-3)


def test_a_diffusion_series_in_dicom_alone_is_a_case(tmp_path: Path) -> None:
    array, bvalues = np.repeat([1000, 449], 4)[:, None, None] * np.ones((8, 5, 6), np.uint16), [0.0] * 4 + [1000.0] * 4
    save(tmp_path / "p1" / "dwi", [enhanced(array.astype(np.uint16), [5.0 * n for n in range(4)] * 2, bvalues)])
    assert find_task(tmp_path) is ISLES22
    [case] = whole_cases(tmp_path)
    adc = case.load("adc")
    assert adc is not None
    assert adc.array == pytest.approx(800.7, abs=0.5)


def test_a_file_of_many_frames_is_a_case(tmp_path: Path) -> None:
    save(tmp_path, [enhanced(np.ones((4, 5, 6), np.uint16), [5.0 * n for n in range(4)])])
    (tmp_path / "000.dcm").rename(tmp_path / "head_T1w.dcm")
    [case] = whole_cases(tmp_path / "head_T1w.dcm", TASKS["aims-tbi"])
    assert (case.name, set(case.channels)) == ("head_T1w", {"t1"})


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
    with pytest.raises(InputError, match=r"images of one task, found file names that fit no task; give --task"):
        find_task(tmp_path)
    with pytest.raises(InputError, match=r"no images named \*_dwi, \*_adc, \*_flair"):
        find_cases(tmp_path, ISLES22, {})


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none: no file or folder with a case's images"):
        find_cases(tmp_path / "none", ISLES22, {})


def test_channels_by_name_need_one_case(tmp_path: Path) -> None:
    three_cases(tmp_path)
    with pytest.raises(InputError, match="expected one case for --channel, found 3"):
        find_cases(tmp_path, ISLES22, {"dwi": tmp_path / "x.nii"})


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
