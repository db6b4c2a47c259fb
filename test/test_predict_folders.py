"""`segsync predict` on a case or a folder of cases: what is written where, and what one failure costs."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from builders import Cli, Outcome, files_below, write_dicom, write_image, write_isles22_platform
from case_folders import BIDS, GRID, LESION, VOLUMES, bids, platform, write_case
from segsync.errors import InputError, WeightsError
from segsync.lesions import measure
from segsync.pipeline import Case
from segsync.predict import Model, Result
from segsync.readers.stream import is_gzip


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


def test_a_case_that_lacks_a_channel_is_named(tmp_path: Path, cli: Cli, weights: Path) -> None:
    write_image(tmp_path / "study" / "sub-01_dwi.nii.gz", LESION, GRID)
    done = predict(cli, tmp_path / "study", tmp_path / "masks", weights, "--task", "isles22")
    assert done.code == 3
    assert "case sub-01: channel adc: no image; give the patient's image" in done.err


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

    monkeypatch.setattr("segsync.commands.predict.measure", short_of_memory)
    for name in ("a", "b"):
        write_image(tmp_path / "t1s" / f"{name}.nii.gz", LESION, GRID)
    done = predict(cli, tmp_path / "t1s", tmp_path / "masks", weights, "--task", "aims-tbi")
    assert done.code == 7
    assert files_below(tmp_path / "masks") == ["b.nii.gz", "begun"]
    assert "case a: expected memory for its results, found too little" in done.err


def test_a_disk_that_does_not_answer_costs_the_case(
    tmp_path: Path, cli: Cli, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b", "c"):
        write_case(tmp_path / "study", name + "_{}.nii.gz", BIDS)

    def failing(path: Path) -> bool:
        if path.name == "b_adc.nii.gz":
            raise OSError(5, "Input/output error")
        return is_gzip(path)

    monkeypatch.setattr("segsync.readers.nifti.is_gzip", failing)
    done = predict(cli, tmp_path / "study", tmp_path / "masks", weights, "-q")
    assert done.code == 7
    assert files_below(tmp_path / "masks") == ["a.nii.gz", "c.nii.gz"]
    assert f"{tmp_path / 'study' / 'b_adc.nii.gz'}: expected" in done.err
    assert "found Input/output error" in done.err


def test_results_that_cannot_be_written_cost_the_case_and_no_empty_mask_takes_their_place(
    tmp_path: Path, cli: Cli, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(result: Result, path: Path) -> None:
        raise InputError(f"{path}: a series that no Segmentation can refer to")

    monkeypatch.setattr("segsync.commands.predict.check_highdicom", lambda: None)
    monkeypatch.setattr("segsync.commands.predict.write_segmentation", refused)
    for name in ("a", "b"):
        write_case(tmp_path / "study", name + "_{}.nii.gz", BIDS)
    done = predict(cli, tmp_path / "study", tmp_path / "masks", weights, "--dicom-seg", "--on-failure", "empty")
    assert done.code == 7
    assert "2 of 2 cases failed" in done.err
    assert not (tmp_path / "masks").exists() or files_below(tmp_path / "masks") == []


def test_warnings_say_whose_image_they_are_about(tmp_path: Path, cli: Cli, weights: Path) -> None:
    write_case(tmp_path / "study", "a_{}.nii.gz", BIDS)
    write_case(tmp_path / "study", "b_{}.nii.gz", {"dwi": "dwi", "adc": "adc"})
    done = predict(cli, tmp_path / "study", tmp_path / "masks", weights)
    assert [line for line in done.err.splitlines() if line.startswith("WARNING: ")] == [
        "WARNING: b: channel flair: no image; the model goes on without it"
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
    assert "none: no file or folder with a case's images; check the path" in done.err
