"""What the names of files and folders say: which image is which channel of which case."""

from pathlib import Path

import pytest

from builders import write_dicom, write_image
from case_folders import GRID, ISLES22, LESION, VOLUMES, whole_cases
from segsync.cases import find_cases, find_task
from segsync.errors import InputError
from segsync.tasks import TASKS, own_task

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
    "as radiologists name them": (
        "dwi_b1000 ADCmap T2_FLAIR eADCmap",
        {"dwi": "dwi_b1000", "adc": "ADCmap", "flair": "T2_FLAIR"},
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
