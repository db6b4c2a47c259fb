"""Which cases lie in a folder, and which file is which channel."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from builders import Cli, files_below, write_dicom, write_image, write_isles22_platform, write_platform
from case_folders import BIDS, GRID, LESION, SOCKETS, VOLUMES, bids, platform, write_case
from segsync.cases import find_cases, find_task
from segsync.errors import InputError
from segsync.geometry import Grid
from segsync.pipeline import Case
from segsync.tasks import TASKS, Task, own_task

ISLES22 = TASKS["isles22"]
NUMBERS = {"dwi": "0000", "adc": "0001", "flair": "0002"}


def whole_cases(source: Path, task: Task = ISLES22) -> list[Case]:
    found, broken = find_cases(source, task, {})
    assert broken == []
    return found


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


def test_what_a_pipeline_made_of_a_patient_is_the_patients(tmp_path: Path) -> None:
    """BIDS: the pipeline's folder lies between `derivatives` and the subject."""
    write_case(tmp_path / "sub-01" / "dwi", "sub-01_{}.nii.gz", {"dwi": "dwi"})
    write_case(tmp_path / "derivatives" / "coregistered" / "sub-01" / "dwi", "sub-01_{}.nii.gz", {"adc": "adc"})
    [case] = whole_cases(tmp_path)
    assert set(case.channels) == {"dwi", "adc"}


def test_two_whole_acquisitions_of_a_patient_are_two_cases(tmp_path: Path) -> None:
    for name in ("acq-b1000", "acq-b2000"):
        write_case(tmp_path / "sub-01" / "dwi", f"sub-01_{name}_{{}}.nii.gz", {"dwi": "trace", "adc": "ADC"})
    cases = {case.name: case.channels for case in whole_cases(tmp_path)}
    assert len(cases) == 2
    for name, channels in cases.items():
        assert {path.name for path in channels.values() if isinstance(path, Path)} == {
            f"{name}_{suffix}.nii.gz" for suffix in ("trace", "ADC")
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


# --- what names say --------------------------------------------------------------------------------------------------

#: Layouts of one case: the files' names, and which of them is which channel; the others are nobody's.
NAMES: dict[str, tuple[str, dict[str, str]]] = {
    "ds004889": (
        "sub-1/dwi/sub-1_rec-TRACE_dwi sub-1/dwi/sub-1_rec-ADC_dwi sub-1/anat/sub-1_FLAIR sub-1/anat/sub-1_T1w "
        "derivatives/lesion_masks/sub-1/dwi/sub-1_space-TRACE_desc-lesion_mask",
        {"dwi": "sub-1_rec-TRACE_dwi", "adc": "sub-1_rec-ADC_dwi", "flair": "sub-1_FLAIR"},
    ),
    "the raw series beside its trace": (
        "sub-1/dwi/sub-1_dwi sub-1/dwi/sub-1_rec-trace_dwi sub-1/dwi/sub-1_rec-ADC_dwi",
        {"dwi": "sub-1_rec-trace_dwi", "adc": "sub-1_rec-ADC_dwi"},
    ),
    "b-values and further maps": (
        "sub-1/dwi/sub-1_acq-b0_dwi sub-1/dwi/sub-1_acq-b1000TRACE_dwi sub-1/dwi/sub-1_desc-ADCmap_dwi "
        "sub-1/dwi/sub-1_rec-eADC_dwi sub-1/dwi/sub-1_rec-FA_dwi",
        {"dwi": "sub-1_acq-b1000TRACE_dwi", "adc": "sub-1_desc-ADCmap_dwi"},
    ),
    "derivatives of diffusion": (
        "sub-1/dwi/sub-1_dwi sub-1/dwi/sub-1_param-adc_dwimap sub-1/dwi/sub-1_model-DTI_param-FA_dwimap",
        {"dwi": "sub-1_dwi", "adc": "sub-1_param-adc_dwimap"},
    ),
    "an entity for a space is no kind": (
        "sub-1/dwi/sub-1_dwi sub-1/dwi/sub-1_space-dwi_adc sub-1/anat/sub-1_space-ADC_FLAIR",
        {"dwi": "sub-1_dwi", "adc": "sub-1_space-dwi_adc", "flair": "sub-1_space-ADC_FLAIR"},
    ),
    "a label that holds a kind's letters": (
        "sub-1/dwi/sub-1_acq-headcoil_dwi sub-1/dwi/sub-1_adc",
        {"dwi": "sub-1_acq-headcoil_dwi", "adc": "sub-1_adc"},
    ),
    "dcm2niix": ("pat1_dwi pat1_dwi_ADC pat1_dwi_ph", {"dwi": "pat1_dwi", "adc": "pat1_dwi_ADC"}),
    "dcm2niix in BIDS": ("sub-1_dwi sub-1_dwi_ADC", {"dwi": "sub-1_dwi", "adc": "sub-1_dwi_ADC"}),
    "Siemens": ("pat1_TRACEW pat1_ADC pat1_FA", {"dwi": "pat1_TRACEW", "adc": "pat1_ADC"}),
    "Siemens, the protocol's name": (
        "ep2d_diff_3scan_trace_p2_TRACEW ep2d_diff_3scan_trace_p2_ADC",
        {"dwi": "ep2d_diff_3scan_trace_p2_TRACEW", "adc": "ep2d_diff_3scan_trace_p2_ADC"},
    ),
    "exponential maps": (
        "pat1_dwi pat1_ADC pat1_eADC pat1_exp_ADC pat1_b0",
        {"dwi": "pat1_dwi", "adc": "pat1_ADC"},
    ),
    "masks": (
        "pat1_dwi pat1_adc pat1_lesion pat1_lesion-msk pat1_dwi_seg",
        {"dwi": "pat1_dwi", "adc": "pat1_adc"},
    ),
}


@pytest.mark.parametrize(("files", "channels"), NAMES.values(), ids=NAMES.keys())
def test_names_tell_what_each_image_is(tmp_path: Path, files: str, channels: dict[str, str]) -> None:
    for name in files.split():
        write_image(tmp_path / f"{name}.nii.gz", LESION, GRID)
    assert find_task(tmp_path) is ISLES22
    [case] = whole_cases(tmp_path)
    assert {name: Path(str(path)).name.removesuffix(".nii.gz") for name, path in case.channels.items()} == channels


@pytest.mark.parametrize("word", ["part-phase_T1w", "part-real_T1w", "part-imag_T1w", "label-WM_probseg", "T1w_ph"])
def test_a_phase_image_or_mask_is_no_patient(tmp_path: Path, caplog: pytest.LogCaptureFixture, word: str) -> None:
    for name in ("part-mag_T1w", word):
        write_image(tmp_path / "sub-01" / "anat" / f"sub-01_{name}.nii.gz", LESION, GRID)
    [case] = whole_cases(tmp_path, TASKS["aims-tbi"])
    assert case.channels == {"t1": tmp_path / "sub-01" / "anat" / "sub-01_part-mag_T1w.nii.gz"}
    assert f"1 images whose names tell a {'mask' if 'label' in word else 'phase image'}" in caplog.text


def test_images_of_other_kinds_in_a_folder_without_names_are_no_patients(tmp_path: Path) -> None:
    """For a task of one image every file is a case, but those whose names say that they are something else."""
    for name in ("a", "b", "a_mask", "a_FLAIR", "b_ph", "b_lesion"):
        write_image(tmp_path / f"{name}.nii.gz", LESION, GRID)
    assert [case.name for case in whole_cases(tmp_path, TASKS["aims-tbi"])] == ["a", "b"]
    for name, said in (("a_FLAIR", "an image of another kind, flair"), ("b_ph", "a phase image")):
        with pytest.raises(InputError, match=f"found by its name {said}.*--channel t1=FILE"):
            find_cases(tmp_path / f"{name}.nii.gz", TASKS["aims-tbi"], {})


def test_series_of_a_study_are_told_by_their_folders(tmp_path: Path) -> None:
    """As scanners call them. For a task of one image, a series of another kind is no patient."""
    for number, name in enumerate(("5_ep2d_diff_TRACEW", "6_ep2d_diff_ADC", "7_t2_flair", "8_ep2d_diff_FA"), start=1):
        write_dicom(tmp_path / "study" / name, VOLUMES["adc"], f"1.2.826.0.1.3680043.2.1125.{number}")
    [case] = whole_cases(tmp_path / "study")
    assert {name: path.name for name, path in case.channels.items() if isinstance(path, Path)} == {
        "dwi": "5_ep2d_diff_TRACEW",
        "adc": "6_ep2d_diff_ADC",
        "flair": "7_t2_flair",
    }
    write_dicom(tmp_path / "study" / "9_mprage", VOLUMES["adc"], "1.2.826.0.1.3680043.2.1125.9")
    [case] = whole_cases(tmp_path / "study", TASKS["aims-tbi"])
    assert case.channels == {"t1": tmp_path / "study" / "9_mprage"}


def test_ct_whose_tilt_dcm2niix_took_out(tmp_path: Path) -> None:
    for name in ("ct_Tilt_1", "acq-cta_ct", "tmax", "cbf", "cbv", "mtt"):
        write_image(tmp_path / f"sub-1_{name}.nii.gz", LESION, GRID)
    [case] = whole_cases(tmp_path, TASKS["isles24"])
    assert {name: path.name for name, path in case.channels.items() if isinstance(path, Path)} == {
        "ncct": "sub-1_ct_Tilt_1.nii.gz",
        "cta": "sub-1_acq-cta_ct.nii.gz",
        **{name: f"sub-1_{name}.nii.gz" for name in ("tmax", "cbf", "cbv", "mtt")},
    }


def test_two_phase_encodings_are_not_chosen_between(tmp_path: Path) -> None:
    for name in ("dir-AP_dwi", "dir-PA_dwi", "adc"):
        write_image(tmp_path / f"sub-1_{name}.nii.gz", LESION, GRID)
    with pytest.raises(InputError, match="expected one dwi image for the case sub-1, found"):
        find_cases(tmp_path, ISLES22, {})


def test_weights_of_ones_own_know_the_usual_words_of_a_channel(tmp_path: Path) -> None:
    """`--task brain` reads files called T1w, as the challenges' tasks do."""
    write_image(tmp_path / "sub-01_T1w.nii.gz", LESION, GRID)
    write_image(tmp_path / "sub-01_FLAIR.nii.gz", LESION, GRID)
    [case] = whole_cases(tmp_path, own_task("brain", "brain", {"t1": True}, "t1"))
    assert case.channels == {"t1": tmp_path / "sub-01_T1w.nii.gz"}
