"""Each data set in its official layout, in miniature: every case is found with its files, and what is wrong is said."""

import json
import logging
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from builders import grid_of, write_image
from dataset_trees import GRID, TREES, build, put
from segsync.errors import InputError
from segsync.geometry import Grid
from segsync.images import read
from segsync_train.cli import main
from segsync_train.config import FolderData, RunConfig
from segsync_train.data.adapters import DATASETS
from segsync_train.data.check import check_folder
from segsync_train.data.dataset import (
    LAYOUTS,
    cached_cases,
    check_files,
    find_cases,
    open_cases,
    prepare_case,
    read_label,
    split_cases,
)
from segsync_train.data.formats import nnunet_description
from segsync_train.data.layout import CaseFiles, compiled
from segsync_train.data.listing import FORMATS
from training_cases import run_config

MOVED = grid_of((4, 5, 6), (3.0, 1.0, 1.0), origin=(0.0, 0.0, 0.0))


def relative(case: CaseFiles, folder: Path) -> dict[str, str]:
    return {channel: path.relative_to(folder).as_posix() for channel, path in case.images.items()}


def test_every_data_set_has_a_miniature_and_every_layout_is_listed() -> None:
    assert set(TREES) == set(DATASETS)
    assert set(LAYOUTS) == {*DATASETS, *FORMATS}


@pytest.mark.parametrize("name", TREES)
def test_every_case_of_the_official_layout_is_found_with_its_files(name: str, tmp_path: Path) -> None:
    tree = TREES[name]
    folder = build(tree, tmp_path / "set")
    cases = find_cases(name, folder, list(DATASETS[name].channels))
    assert {case.name: relative(case, folder) for case in cases} == tree.images
    labels = {
        case.name: tuple(sorted(path.relative_to(folder).as_posix() for path in case.label_files))
        for case in cases
        if case.label_files
    }
    assert labels == tree.labels
    report = check_folder(name, folder)
    assert (report.cases, report.labelled, report.problems) == (len(tree.images), len(tree.labels), ())


@pytest.mark.parametrize("name", [name for name in TREES if name != "totalsegmentator"])
def test_stored_values_become_the_numbers_of_the_settings(name: str, tmp_path: Path) -> None:
    tree, dataset = TREES[name], DATASETS[name]
    folder = build(tree, tmp_path / "set")
    case = next(case for case in find_cases(name, folder, list(dataset.channels)) if case.label_files)
    label = read_label(case, dataset.labels).array
    assert sorted(np.unique(label).tolist()) == [0, tree.stored[1]]
    assert np.count_nonzero(label) == 8
    assert set(dataset.values.values()) <= set(dataset.labels)


# --- masks apart -----------------------------------------------------------------------------------------------------


def test_smoothed_masks_of_several_lesions_become_one(tmp_path: Path) -> None:
    """ATLAS v1.2: half of the largest value is the border, whatever the scale; an empty mask adds nothing."""
    first, second = np.zeros((2, *GRID.size_zyx), np.float32)
    first[1, 1, 1:4] = (200, 128, 127)
    second[2, 2, 2:5] = (1.0, 0.5, 0.4)
    write_image(tmp_path / "a" / "t01" / "a_t1w_deface_stx.nii.gz", first, GRID)
    paths = [tmp_path / "a" / "t01" / f"a_LesionSmooth{number}_stx.nii.gz" for number in ("", "_1", "_2")]
    for path, array in zip(paths, (first, second, np.zeros_like(first)), strict=True):
        write_image(path, array, GRID)
    (case,) = find_cases("atlas12", tmp_path, ["t1"])
    label = read_label(case, {1: "lesion"}).array
    expected = np.zeros(GRID.size_zyx)
    expected[1, 1, 1:4] = expected[2, 2, 2:4] = 1
    assert np.array_equal(label, expected)


def test_structures_are_chosen_by_the_names_in_the_settings(tmp_path: Path) -> None:
    folder = build(TREES["totalsegmentator"], tmp_path / "set")
    aorta = np.zeros(GRID.size_zyx, np.uint8)
    aorta[3, 4] = 1
    write_image(folder / "s0000" / "segmentations" / "aorta.nii.gz", aorta, GRID)
    case = find_cases("totalsegmentator", folder, ["ct"])[0]
    label = read_label(case, {1: "aorta", 2: "heart"}).array
    assert [int((label == value).sum()) for value in (1, 2)] == [6, 8]
    assert int(read_label(case, {5: "heart"}).array.max()) == 5
    with pytest.raises(InputError, match=r"case s0000: expected a mask of 'spleen', found aorta, heart"):
        read_label(case, {1: "spleen"})


def test_masks_on_two_grids_are_refused(tmp_path: Path) -> None:
    folder = build(TREES["totalsegmentator"], tmp_path / "set")
    write_image(folder / "s0001" / "segmentations" / "heart.nii.gz", np.ones(GRID.size_zyx, np.uint8), MOVED)
    with pytest.raises(InputError, match=r"heart.nii.gz: expected the grid of aorta.nii.gz"):
        read_label(find_cases("totalsegmentator", folder, ["ct"])[1], {1: "aorta", 2: "heart"})


# --- through training's own preparation ------------------------------------------------------------------------------


def config_for(name: str, folder: Path, labels: dict[int, str]) -> RunConfig:
    channels = [{"name": channel, "normalisation": {"kind": "zscore"}} for channel in DATASETS[name].channels]
    data = {"kind": "folder", "folder": str(folder), "layout": name}
    return run_config(folder, data=data, channels=channels, labels=labels, spacing_zyx=[3, 1, 1])


def test_a_case_with_values_above_255_is_prepared_and_kept(tmp_path: Path) -> None:
    folder = build(TREES["mmwhs-ct"], tmp_path / "set")
    config = config_for("mmwhs-ct", folder, dict(DATASETS["mmwhs-ct"].labels))
    cases = [case for case in find_cases("mmwhs-ct", folder, ["ct"]) if case.label_files]
    kept = open_cases(cached_cases(cases, config, tmp_path / "cache"))[0]
    assert sorted(np.unique(kept.label).tolist()) == [0, 7]


def test_cases_whose_labels_are_held_back_neither_train_nor_validate(tmp_path: Path) -> None:
    """They are found, to pretrain on; a case that only lost its label is not one of them."""
    folder = build(TREES["whspp-ct"], tmp_path / "set")
    config = config_for("whspp-ct", folder, dict(DATASETS["whspp-ct"].labels))
    cases = find_cases("whspp-ct", folder, ["ct"])
    assert [case.name for case in cases if case.held_back] == ["val-Case4001"]
    check_files(cases, config, folder)
    assert isinstance(config.data, FolderData)
    split = split_cases(cases, config.data.model_copy(update={"validation": 0.5}))
    assert {case.name for case in (*split.training, *split.validation)} == {"train-Case1001", "train-Case2001"}
    (folder / TREES["whspp-ct"].labels["train-Case2001"][0]).unlink()
    with pytest.raises(InputError, match=r"case train-Case2001: expected a label map, found none \(1 of 2 cases"):
        check_files(find_cases("whspp-ct", folder, ["ct"]), config, folder)


def test_a_share_of_the_labels_is_taken_of_named_cases_as_well() -> None:
    """Half of four named cases: the first two, as they stand in the settings; those that validate all stay."""
    cases = [CaseFiles(name, {"t1": Path(name)}, Path(name)) for name in "abcdef"]
    data = FolderData(folder=Path(), training_cases=("d", "b", "a", "c"), validation_cases=("e", "f"), labelled=0.5)
    split = split_cases(cases, data)
    assert [case.name for case in split.training] == ["d", "b"]
    assert [case.name for case in split.validation] == ["e", "f"]


@pytest.mark.parametrize("value", [300, 3])
def test_a_value_that_the_set_has_not_is_told_when_a_case_is_prepared(value: int, tmp_path: Path) -> None:
    """Also one that is a number of the settings: in the files it means something else, or nothing."""
    folder = build(TREES["mmwhs-ct"], tmp_path / "set")
    label = folder / "ct_train" / "ct_train_1001_label.nii.gz"
    write_image(label, np.full(GRID.size_zyx, value, np.int16), GRID)
    config = config_for("mmwhs-ct", folder, dict(DATASETS["mmwhs-ct"].labels))
    case = next(case for case in find_cases("mmwhs-ct", folder, ["ct"]) if case.label_files)
    with pytest.raises(InputError, match=rf"ct_train_1001_label.nii.gz: expected the label values .* found {value}"):
        prepare_case(case, config)


def test_a_mask_that_changed_is_prepared_again(tmp_path: Path) -> None:
    folder = build(TREES["totalsegmentator"], tmp_path / "set")
    config = config_for("totalsegmentator", folder, {1: "heart"})
    cases = find_cases("totalsegmentator", folder, ["ct"])[:1]
    first = cached_cases(cases, config, tmp_path / "cache")
    write_image(folder / "s0000" / "segmentations" / "heart.nii.gz", np.ones(GRID.size_zyx, np.uint8), GRID)
    second = cached_cases(cases, config, tmp_path / "cache")
    assert first != second
    assert open_cases(second)[0].label.all()


def test_channels_that_a_set_has_not_are_told_by_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"isles22: expected channels among dwi, adc, flair, found 't1'"):
        find_cases("isles22", tmp_path, ["dwi", "t1"])


# --- general formats -------------------------------------------------------------------------------------------------


def test_bids_sessions_entities_and_derivatives(tmp_path: Path) -> None:
    names = {
        "sub-01/ses-1/anat/sub-01_ses-1_acq-mprage_T1w.nii.gz": None,
        "sub-01/ses-1/anat/sub-01_ses-1_FLAIR.nii.gz": None,
        "sub-01/ses-2/anat/sub-01_ses-2_T1w.nii.gz": None,
        "sub-02/anat/sub-02_T1w.nii": None,
        "derivatives/manual/sub-01/ses-1/anat/sub-01_ses-1_space-orig_label-lesion_mask.nii.gz": None,
        "derivatives/prep/sub-01/ses-1/anat/sub-01_ses-1_space-MNI_T1w.nii.gz": None,
        "sub-02/anat/sub-02_dseg.nii.gz": None,
        "sub-02/anat/readme.nii.gz": None,
    }
    for name in names:
        write_image(tmp_path / name, np.zeros(GRID.size_zyx, np.float32), GRID)
    cases = find_cases("bids", tmp_path, ["t1", "FLAIR"])
    assert {case.name: (sorted(case.images), bool(case.label)) for case in cases} == {
        "sub-01_ses-1": (["FLAIR", "t1"], True),
        "sub-01_ses-2": (["t1"], False),
        "sub-02": (["t1"], True),
    }
    assert relative(cases[0], tmp_path)["t1"] == "sub-01/ses-1/anat/sub-01_ses-1_acq-mprage_T1w.nii.gz"


def test_two_bids_files_of_one_channel_and_a_folder_of_other_names(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected names as in BIDS"):
        find_cases("bids", tmp_path, ["t1"])
    for run in (1, 2):
        write_image(tmp_path / "sub-01" / f"sub-01_run-{run}_T1w.nii.gz", np.zeros(GRID.size_zyx, np.float32), GRID)
    with pytest.raises(InputError, match=r"sub-01_run-2_T1w.nii.gz: expected one T1w for the case sub-01"):
        find_cases("bids", tmp_path, ["t1"])


def test_the_documentation_lists_every_layout_and_its_example_of_a_new_set_works(tmp_path: Path) -> None:
    text = (Path(__file__).parents[1] / "docs" / "datasets.md").read_text()
    assert [name for name in LAYOUTS if f"`{name}`" not in text] == []
    names: dict[str, Any] = {}
    exec(text.split("```python\n")[1].split("```")[0], names)
    for name in ("flair", "t1", "lesion"):
        put(tmp_path / "some" / "p1" / f"{name}.nii.gz", np.ones(GRID.size_zyx, np.uint8))
    (case,) = names["SETS"][0].cases(tmp_path, ["flair", "t1"])
    assert (case.name, sorted(case.images), len(case.label_files)) == ("p1", ["flair", "t1"], 1)


def noise() -> npt.NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal(GRID.size_zyx).astype(np.float32)


def nnunet(folder: Path, description: object, labels: npt.NDArray[np.generic]) -> Path:
    for channel in (0, 1):
        write_image(folder / "imagesTr" / f"a_000{channel}.nii.gz", noise(), GRID)
    write_image(folder / "labelsTr" / "a.nii.gz", labels, GRID)
    (folder / "dataset.json").write_text(json.dumps(description))
    return folder


@pytest.mark.parametrize(
    "description",
    [
        {"channel_names": {"0": "CT", "1": "CTA"}, "labels": {"background": 0, "core": 1}},
        {"modality": {"0": "CT", "1": "CTA"}, "labels": {"0": "background", "1": "core"}},
    ],
    ids=["nnU-Net 2", "Decathlon"],
)
def test_what_dataset_json_says_is_checked(description: object, tmp_path: Path) -> None:
    good = nnunet(tmp_path / "good", description, np.ones(GRID.size_zyx, np.uint8))
    assert check_folder("nnunet", good).problems == ()
    bad = nnunet(tmp_path / "bad", description, np.full(GRID.size_zyx, 2, np.uint8))
    (problem,) = check_folder("nnunet", bad).problems
    assert "expected the label values 0, 1, found 2" in problem


def test_channels_in_another_order_than_the_files_numbers_are_refused(tmp_path: Path) -> None:
    """By their numbers alone the CT would be taken for the CTA. The order of the keys in the JSON says nothing."""
    description = {"channel_names": {"1": "CTA", "0": "CT"}, "labels": {"background": 0, "core": 1}}
    folder = nnunet(tmp_path / "set", description, np.ones(GRID.size_zyx, np.uint8))
    (case,) = find_cases("nnunet", folder, ["ct", "cta"])
    assert relative(case, folder) == {"ct": "imagesTr/a_0000.nii.gz", "cta": "imagesTr/a_0001.nii.gz"}
    assert nnunet_description(folder)[0] == ["CT", "CTA"]
    with pytest.raises(
        InputError, match=r"dataset\.json: expected the channels cta, ct by their .* found CT, CTA; list"
    ):
        find_cases("nnunet", folder, ["cta", "ct"])
    assert len(find_cases("nnunet", folder, ["first", "second"])) == 1  # names of one's own are taken in their order


# --- what is wrong with a folder -------------------------------------------------------------------------------------


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
        ("case sub-strokecase0001_ses-0001: expected an image of the channel 'adc', found none",),
        removed=(f"{CASE1}_adc.nii.gz",),
    ),
    "a label is missing": Fault(
        ("case sub-strokecase0001_ses-0001: expected a label map, found none",), removed=(MASK1,)
    ),
    "only the label is there": Fault(
        tuple(f"case sub-strokecase0001_ses-0001: expected an image of the channel {c!r}" for c in ("dwi", "adc")),
        removed=tuple(TREES["isles22"].images["sub-strokecase0001_ses-0001"].values()),
    ),
    "the label lies elsewhere": Fault(
        ("expected the grid of sub-strokecase0001_ses-0001_dwi.nii.gz",), written={MASK1: (1, MOVED)}
    ),
    "two labels hold other values": Fault(
        ("expected the label values 0, 1, found 2", "expected the label values 0, 1, found 0.5"),
        written={MASK1: (2, GRID), MASK2: (0.5, GRID)},
    ),
    "an image is cut": Fault(("expected a whole gzip file",), cut=f"{CASE1}_dwi.nii.gz"),
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
    problems = check_folder("isles22", folder).problems
    assert len(problems) == len(fault.said)
    for problem, said in zip(problems, fault.said, strict=True):
        assert said in problem


def test_a_folder_without_any_labels_is_whole_in_a_general_format_and_not_as_a_labelled_set(tmp_path: Path) -> None:
    for subject in (1, 2):
        put(tmp_path / "rawdata" / f"sub-{subject}_dwi.nii.gz", noise())
        put(tmp_path / "rawdata" / f"sub-{subject}_adc.nii.gz", noise())
    assert check_folder("bids", tmp_path).problems == ()
    assert len(check_folder("isles22", tmp_path).problems) == 2
    put(tmp_path / "derivatives" / "sub-1_msk.nii.gz", np.ones(GRID.size_zyx, np.uint8))
    (problem,) = check_folder("bids", tmp_path).problems
    assert problem.startswith("case sub-2: expected a label map")


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
        "nnunet", 1, {"imagesTr/b_0000.nii.gz": None}, "case b: expected an image of the channel 'image', found none",
    ),
    "an image of a BIDS folder is gone": (
        "bids", 1, {"sub-b/sub-b_T1w.nii.gz": None}, "case sub-b: expected an image of the channel 't1w', found none",
    ),
    "one of two channels is gone": (
        "nnunet", 2, {"imagesTr/b_0001.nii.gz": None}, "case b: expected an image of the channel '0001', found none",
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
    assert check_folder(layout, folder).problems == ()
    for name, value in changes.items():
        (folder / name).unlink()
        if value is not None:
            put(folder / name, np.full(GRID.size_zyx, value, np.float32))
    (problem,) = check_folder(layout, folder).problems
    assert said in problem
    assert len(changes) > 1 or f"case {'sub-' if layout == 'bids' else ''}b: " in problem


def test_one_empty_label_map_is_no_fault_and_an_optional_image_may_be_empty(tmp_path: Path) -> None:
    """Patients without a lesion are part of a set; a channel that cases may lack is done without."""
    folder = general(tmp_path / "general", "nnunet", 1)
    put(folder / "labelsTr" / "b.nii.gz", np.zeros(GRID.size_zyx, np.uint8))
    assert check_folder("nnunet", folder).problems == ()
    folder = build(TREES["isles22"], tmp_path / "set")
    put(folder / TREES["isles22"].images["sub-strokecase0001_ses-0001"]["flair"], np.zeros(GRID.size_zyx, np.float32))
    assert check_folder("isles22", folder).problems == ()


def test_an_image_of_nothing_but_nan_is_told_where_the_format_keeps_them(tmp_path: Path) -> None:
    folder = general(tmp_path / "set", "nnunet", 1)
    (folder / "imagesTr" / "b_0000.nii.gz").unlink()
    put(folder / "imagesTr" / "b_0000.mha", np.full(GRID.size_zyx, np.nan, np.float32))
    (problem,) = check_folder("nnunet", folder).problems
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
    report = check_folder("nnunet", tmp_path)
    assert (report.cases, report.labelled, report.problems) == (2, 2, ())


def test_a_structure_that_other_cases_have_is_missed(tmp_path: Path) -> None:
    folder = build(TREES["totalsegmentator"], tmp_path / "set")
    (folder / "s0001" / "segmentations" / "heart.nii.gz").unlink()
    (problem,) = check_folder("totalsegmentator", folder).problems
    assert problem.startswith("case s0001: expected a mask of 'heart', as other cases have")


def test_two_files_that_claim_to_be_one_image_are_refused(tmp_path: Path) -> None:
    folder = build(TREES["hvsmr2"], tmp_path / "set")
    write_image(folder / "copy" / "pat0_cropped.nii.gz", np.ones(GRID.size_zyx, np.float32), GRID)
    with pytest.raises(InputError, match=r"pat0_cropped.nii.gz: expected one mr image for the case pat0, found"):
        check_folder("hvsmr2", folder)


# --- patterns and files ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "path", "found"),
    [
        ("**/{case}_T1", "a_T1", {"case": "a"}),
        ("**/{case}_T1", "x/y/a_T1", {"case": "a"}),
        ("**/{case}_T1", "x/a_t1", {"case": "a"}),
        ("**/{case}_T1", "x/a_T1w", None),
        ("{case}/{case}_ct", "s1/s1_ct", {"case": "s1"}),
        ("{case}/{case}_ct", "s1/s2_ct", None),
        ("{case}/*/ct", "s1/a/b/ct", None),
        ("{case}.img", "1ximg", None),
    ],
)
def test_patterns(pattern: str, path: str, found: dict[str, str] | None) -> None:
    match = compiled(pattern).fullmatch(path)
    assert (match.groupdict() if match else None) == found


def test_nrrd_keeps_its_geometry_and_a_cut_one_is_refused(tmp_path: Path) -> None:
    """ASOCA is distributed as NRRD."""
    array = np.random.default_rng(0).standard_normal(GRID.size_zyx).astype(np.float32)
    for compress in (True, False):
        path = write_image(tmp_path / f"a{compress}.nrrd", array, GRID, compress=compress)
        volume = read(path)
        assert volume.grid.same_as(GRID)
        assert np.array_equal(volume.array, array)
        path.write_bytes(path.read_bytes()[:-100])
        with pytest.raises(InputError, match=r"expected (a whole gzip file|the 480 bytes of voxels)"):
            read(path)


# --- the command -----------------------------------------------------------------------------------------------------


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
        (("isles22", tmp_path / "empty"), "expected images like **/{case}_dwi, found none"),
        (("isles22", tmp_path / "none"), "expected a folder of cases, found none"),
        (("bids", tmp_path / "empty"), "expected names as in BIDS"),
        (("nnunet", tmp_path / "empty"), "expected the folder imagesTr"),
        (("isles23", folder), "expected one of nnunet, bids"),
        (("isles23",), "expected a data set among"),
    ):
        assert run(monkeypatch, "datasets", *arguments) == 3
        printed = capsys.readouterr()
        assert said in printed.err
        assert printed.out == ""
