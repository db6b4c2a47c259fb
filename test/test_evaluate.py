"""Evaluation: what is written can be derived by hand, networks go the app's way, bad input is one clear line."""

import csv
import io
import json
import math
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from builders import AS_IT_IS, grid_of, two_labels, write_bundle, write_image
from segsync.bundle import ChannelSpec
from segsync.errors import InputError
from segsync.images import read
from segsync_train.cli import main
from segsync_train.config.labels import LabelSet
from segsync_train.evaluation.evaluate import evaluate, labelled_cases, load_model, parse_labels
from segsync_train.evaluation.metrics import RULES, score
from segsync_train.evaluation.operating_point import OperatingPoint
from segsync_train.evaluation.prediction_folders import evaluate_folders
from segsync_train.evaluation.summary import Group, Row, Statistic, summarise, table_of, write_results
from segsync_train.runs.folder import read_log
from segsync_train.trainer.finetune import finetune
from training_cases import run_config, write_cases

ISLES22 = RULES["isles22"]
GRID = grid_of((8, 16, 16), (3.0, 1.0, 1.0))
T1 = (ChannelSpec(name="t1", normalisation=AS_IT_IS),)


def rows_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text())))


def group(groups: list[Group], name: str, cases: str = "all") -> Group:
    return next(one for one in groups if (one.name, one.cases) == (name, cases))


def square(first: int, side: int = 4) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """A plate of side × side voxels in slice 3, from `first` along X on."""
    array = np.zeros(GRID.size_zyx, np.uint8)
    array[3, 4 : 4 + side, first : first + side] = 1
    return array


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Three references and predictions: the same, one voxel further on, and nothing in both."""
    predictions, references = tmp_path / "predictions", tmp_path / "references"
    for name, first, second in (
        ("a", square(4), square(4)),
        ("b", square(4), square(5)),
        ("c", square(4, 0), square(4, 0)),
    ):
        write_image(references / f"{name}.nii.gz", first, GRID)
        write_image(predictions / f"{name}.mha", second, GRID)
    return predictions, references


# --- folders of predictions ------------------------------------------------------------------------------------------


def test_scores_and_their_summary_by_hand(folders: tuple[Path, Path], tmp_path: Path) -> None:
    """Dice 1, 12/16 and 1; in b four of the sixteen surface voxels of each are 1 mm off: ASSD 8/32."""
    groups, _ = evaluate(folders[0], tmp_path / "out", references=folders[1])
    rows = {row["case"]: row for row in rows_of(tmp_path / "out" / "cases.csv")}
    assert [float(rows[name]["dice"]) for name in "abc"] == [1, 0.75, 1]
    assert [rows[name]["hd_mm"] for name in "abc"] == ["0", "1", ""]
    assert float(rows["b"]["assd_mm"]) == 0.25
    assert (rows["b"]["label"], rows["b"]["volume_ml"], rows["b"]["volume_difference_ml"]) == ("1", "0.048", "0")
    dice = group(groups, "1").metrics["dice"]
    assert (dice.n, dice.median) == (3, 1)
    assert dice.mean == pytest.approx(2.75 / 3)
    assert dice.sd == pytest.approx(math.sqrt(((1 - 2.75 / 3) ** 2 * 2 + (0.75 - 2.75 / 3) ** 2) / 2))
    assd = group(groups, "1").metrics["assd_mm"]
    assert (assd.n, assd.undefined, assd.mean) == (2, 1, 0.125)
    assert group(groups, "1", "with").metrics["dice"].mean == 0.875
    assert group(groups, "1", "without").metrics["dice"].n == 1


def test_json_and_csv_say_the_same_and_name_the_rules(folders: tuple[Path, Path], tmp_path: Path) -> None:
    evaluate(
        folders[0], tmp_path / "out", references=folders[1], rules="aims-tbi", labels=LabelSet(labels={1: "lesion"})
    )
    about = json.loads((tmp_path / "out" / "summary.json").read_text(), parse_constant=pytest.fail)
    assert (about["rules"]["name"], about["rules"]["ignored_voxels"], about["cases"]) == ("aims-tbi", 50, 3)
    for row in rows_of(tmp_path / "out" / "summary.csv"):
        found = next(one for one in about["groups"] if (one["name"], one["cases"]) == (row["name"], row["cases"]))
        mean = found["metrics"][row["metric"]]["mean"]
        assert (row["mean"] == "") == (mean is None)
        assert mean is None or float(row["mean"]) == pytest.approx(mean, rel=1e-5)
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {"cases.csv", "summary.csv", "summary.json", "system.json"}


def test_several_labels_are_averaged_within_each_case_first(tmp_path: Path) -> None:
    """Case 1 has Dice 1 and 0, case 2 has 1 and 1: 0.75 ± 0.354 over the cases; 0 is a mean like any other."""
    one = score(square(4) > 0, square(4) > 0, (1, 1, 1), ISLES22)
    none = score(square(4) > 0, square(9) > 0, (1, 1, 1), ISLES22)
    rows = [Row("1", 1, "a", one), Row("1", 2, "b", none), Row("2", 1, "a", one), Row("2", 2, "b", one)]
    mean = group(summarise(rows), "mean of labels").metrics
    assert mean["dice"].mean == 0.75
    assert mean["dice"].sd == pytest.approx(math.sqrt(0.125))
    assert (mean["lesion_count_difference"].n, mean["lesion_count_difference"].mean) == (2, 0)


def test_a_label_that_was_missed_does_not_lower_the_mean_distance() -> None:
    """Case 1 misses label b, case 2 has none of it, case 3 finds it 5 mm off: the mean is of two cases."""
    exact, moved, missed, nothing = (
        score(square(4, one) > 0, square(place, other) > 0, (1, 1, 1), ISLES22)
        for one, place, other in ((4, 4, 4), (4, 9, 4), (4, 4, 0), (0, 4, 0))
    )
    rows = [Row(case, label, "ab"[label - 1], scores) for case, label, scores in (
        ("1", 1, exact), ("1", 2, missed), ("2", 1, moved), ("2", 2, nothing), ("3", 1, exact), ("3", 2, moved),
    )]  # fmt: skip
    distance = group(summarise(rows), "mean of labels").metrics["hd_mm"]
    assert (distance.n, distance.undefined) == (2, 1)
    assert distance.mean == pytest.approx((5 + 2.5) / 2)


def test_a_label_that_no_reference_holds_is_left_out_of_the_mean(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Dice 0 and 1 of label 1 are 0.5 with or without a second name that nothing has; a warning says so."""
    for name, place in (("a", 9), ("b", 4)):
        write_image(tmp_path / "references" / f"{name}.nii.gz", square(4), GRID)
        write_image(tmp_path / "predictions" / f"{name}.nii.gz", square(place), GRID)
    labels = LabelSet(labels={1: "lesion", 3: "typo"})
    groups, rules = evaluate(
        tmp_path / "predictions", tmp_path / "out", references=tmp_path / "references", labels=labels
    )
    assert group(groups, "mean of labels").metrics["dice"].mean == 0.5
    assert group(groups, "mean of labels").metrics["volume_difference_ml"].n == 2
    assert [(one.name, one.occurs) for one in groups] == [("lesion", True), ("typo", False), ("mean of labels", True)]
    assert "label 3 (typo): no reference holds it; it is left out of the mean of labels" in caplog.text
    console = Console(file=io.StringIO(), width=200)
    console.print(table_of(groups, rules))
    assert isinstance(console.file, io.StringIO)
    assert "typo, in no reference" in console.file.getvalue()
    about = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert [one["occurs"] for one in about["groups"]] == [True, False, True]


def test_a_label_that_some_reference_holds_counts_as_its_challenge_says(caplog: pytest.LogCaptureFixture) -> None:
    """Nothing found where nothing is: 1, in a case of a label that another case holds; and in a set without lesions."""
    whole = score(square(4) > 0, square(4) > 0, (1, 1, 1), ISLES22)
    nothing = score(square(4, 0) > 0, square(4, 0) > 0, (1, 1, 1), ISLES22)
    missed = score(square(4) > 0, square(9) > 0, (1, 1, 1), ISLES22)
    rows = [Row("1", 1, "a", whole), Row("1", 2, "b", missed), Row("2", 1, "a", missed), Row("2", 2, "b", nothing)]
    assert group(summarise(rows), "mean of labels").metrics["dice"].mean == 0.5
    empty = [Row("1", 1, "a", nothing), Row("1", 2, "b", nothing)]
    assert group(summarise(empty), "mean of labels").metrics["dice"].mean == 1
    assert [(one.cases, one.occurs, one.metrics["dice"].mean) for one in summarise(empty[:1])] == [("all", True, 1)]


def test_statistics_of_few_values() -> None:
    assert Statistic.of([]) == Statistic(0, 0, None, None, None)
    assert Statistic.of([math.nan, 2.0]) == Statistic(1, 1, 2.0, None, 2.0)


def test_the_table_shows_means_and_how_many_have_none(folders: tuple[Path, Path], tmp_path: Path) -> None:
    rows = evaluate_folders(*folders, ISLES22, LabelSet(labels={1: "lesion"}))
    console = Console(file=io.StringIO(), width=200)
    console.print(table_of(write_results(rows, ISLES22, tmp_path / "out"), ISLES22))
    assert isinstance(console.file, io.StringIO)
    printed = console.file.getvalue()
    assert "0.917 ± 0.144" in printed
    assert "0.12 ± 0.18 (n=2)" in printed
    assert "without it" in printed


def test_a_prediction_that_is_missing_is_told_with_its_name(folders: tuple[Path, Path]) -> None:
    (folders[0] / "b.mha").unlink()
    with pytest.raises(InputError, match=r"expected a prediction for each of the 3 references .* none for 1 \(b\)"):
        evaluate_folders(*folders, ISLES22)


def test_a_prediction_without_a_reference_is_left_out_and_said(
    folders: tuple[Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    write_image(folders[0] / "d.mha", square(4), GRID)
    assert {row.case for row in evaluate_folders(*folders, ISLES22)} == {"a", "b", "c"}
    assert "1 predictions have no reference" in caplog.text


def test_another_grid_or_label_is_refused(folders: tuple[Path, Path]) -> None:
    write_image(folders[0] / "b.mha", square(4), grid_of((8, 16, 16), (3.0, 1.0, 1.01)))
    with pytest.raises(InputError, match=r"b\.mha: expected the grid of b\.nii\.gz .*16×16×8 voxels of 1\.01"):
        evaluate_folders(*folders, ISLES22)
    write_image(folders[0] / "b.mha", 7 * square(4), GRID)
    with pytest.raises(InputError, match=r"b\.mha: expected the label values 0, 1, found 7"):
        evaluate_folders(*folders, ISLES22)


def test_folders_that_are_none_and_labels_that_are_none(folders: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no label maps"):
        evaluate_folders(tmp_path / "empty", folders[1], ISLES22)
    with pytest.raises(InputError, match="no folder of label maps"):
        evaluate_folders(folders[0], tmp_path / "no", ISLES22)
    write_image(folders[1] / "a.mha", square(4), GRID)
    with pytest.raises(InputError, match="expected one label map of this name"):
        evaluate_folders(*folders, ISLES22)
    for path in folders[1].iterdir():
        path.unlink()
    write_image(folders[1] / "a.mha", square(4, 0), GRID)
    with pytest.raises(InputError, match="no reference holds a label"):
        evaluate_folders(*folders, ISLES22)
    for pair in ("lesion", "0=background", "1=", "x=lesion"):
        with pytest.raises(InputError, match="--label: expected VALUE=NAME"):
            parse_labels([pair])


# --- networks --------------------------------------------------------------------------------------------------------


def copying_weights(folder: Path) -> Path:
    """Weights whose network gives the image back as the probability of the label."""
    return write_bundle(folder, "custom", channels=T1, labels={1: "ball"}, spacing_zyx=(3.0, 1.0, 1.0))


def labelled(folder: Path, *pairs: tuple[int, int]) -> Path:
    """Cases in nnU-Net's format whose image and label are squares at these places."""
    for number, (image, label) in enumerate(pairs):
        # Faint tissue around it, so that the image is not cropped to the square.
        array = 0.1 + 0.9 * square(image).astype(np.float32)
        write_image(folder / "imagesTr" / f"case{number}_0000.nii.gz", array, GRID)
        write_image(folder / "labelsTr" / f"case{number}.nii.gz", square(label), GRID)
    return folder


def test_exported_weights_are_scored_on_the_grid_of_the_image(tmp_path: Path) -> None:
    weights, data = copying_weights(tmp_path / "weights"), labelled(tmp_path / "data", (4, 4), (4, 6))
    groups, rules = evaluate(weights, tmp_path / "out", data=data, masks=True)
    rows = {row["case"]: row for row in rows_of(tmp_path / "out" / "cases.csv")}
    assert rules is ISLES22
    assert [(rows[name]["dice"], rows[name]["hd_mm"]) for name in ("case0", "case1")] == [("1", "0"), ("0.5", "2")]
    assert group(groups, "ball").metrics["dice"].mean == 0.75
    mask = read(tmp_path / "out" / "masks" / "case1.nii.gz")
    assert np.array_equal(mask.array, square(4))
    assert mask.grid.same_as(GRID)


def test_each_label_of_a_network_has_its_row(tmp_path: Path) -> None:
    weights = write_bundle(
        tmp_path / "weights",
        "custom",
        model=two_labels(),
        channels=[ChannelSpec(name=name, normalisation=AS_IT_IS) for name in ("one", "two")],
        labels={1: "first", 5: "second"},
        spacing_zyx=(3.0, 1.0, 1.0),
    )
    for number, first in enumerate((2, 9)):
        array = 0.1 + 0.8 * square(first).astype(np.float32)
        write_image(tmp_path / "data" / "imagesTr" / f"a_000{number}.nii.gz", array, GRID)
    write_image(tmp_path / "data" / "labelsTr" / "a.nii.gz", square(2) + 5 * square(9), GRID)
    groups, _ = evaluate(weights, tmp_path / "out", data=tmp_path / "data")
    assert [(one.label, one.name, one.metrics["dice"].mean) for one in groups] == [
        (1, "first", 1), (5, "second", 1), (0, "mean of labels", 1),
    ]  # fmt: skip


def test_cases_are_looked_at_before_the_first_is_segmented(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights, data = copying_weights(tmp_path / "weights"), labelled(tmp_path / "data", (4, 4), (4, 4))
    write_image(data / "labelsTr" / "case1.nii.gz", 3 * square(4), GRID)
    monkeypatch.setattr("segsync.pipeline.predict", lambda *_, **__: pytest.fail("segmented"))
    with pytest.raises(InputError, match=r"case1.nii.gz: expected the label values 0, 1, found 3"):
        evaluate(weights, tmp_path / "out", data=data)
    write_image(data / "labelsTr" / "case1.nii.gz", square(4), grid_of(GRID.size_zyx))
    with pytest.raises(InputError, match=r"case1.nii.gz: expected the grid of case1_0000.nii.gz"):
        evaluate(weights, tmp_path / "out", data=data)
    (data / "labelsTr" / "case1.nii.gz").unlink()
    with pytest.raises(InputError, match="case case1: no label map"):
        evaluate(weights, tmp_path / "out", data=data)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run that validates as evaluation does: the same windows, the weights themselves, no chosen threshold."""
    folder = tmp_path_factory.mktemp("evaluate")
    cases = write_cases(folder / "cases", 8)
    validation = {"every": 25, "overlays": 0, "overlap": 0.5}
    finetune(run_config(cases, steps=50, validation=validation, foreground=0.8, ema=None), folder / "run")
    return folder / "run"


def test_a_run_scores_what_its_own_validation_scored(trained: Path, tmp_path: Path) -> None:
    """Image, label and model share one grid here, so that the app's way and validation see the same voxels."""
    groups, _ = evaluate(trained, tmp_path / "out")
    logged = [line["validation/score"] for line in read_log(trained) if "validation/score" in line]
    assert group(groups, "ball").metrics["dice"].mean == pytest.approx(max(logged))
    assert max(logged) > 0.3
    last, _ = evaluate(trained, tmp_path / "last", checkpoint=trained / "checkpoints" / "last.safetensors")
    assert group(last, "ball").metrics["dice"].mean == pytest.approx(logged[-1])


def test_scores_on_the_cases_that_chose_the_weights_are_said_to_flatter(
    trained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Best weights and a tuned threshold on the validation cases: a warning, and never on others. What was scored stays
    in `summary.json`."""
    last = trained / "checkpoints" / "last.safetensors"
    evaluate(trained, tmp_path / "best")
    (said,) = flattering(caplog)
    assert re.search(r"run: the best weights \(step \d+\) were chosen on the validation cases that are scored", said)
    assert said.endswith(f"or --checkpoint {last}")
    about = json.loads((tmp_path / "best" / "summary.json").read_text())["weights"]
    assert (about["file"], about["best"], about["tuned_on"]) == ("best.safetensors", True, 0)
    assert about["step"] in (25, 50)
    evaluate(trained, tmp_path / "last", checkpoint=last)
    evaluate(trained, tmp_path / "training", part="training")
    evaluate(trained, tmp_path / "others", data=trained.parent / "cases")
    assert flattering(caplog) == [said]
    (trained / "operating_point.json").write_text(OperatingPoint(threshold=0.4, cases=2).model_dump_json())
    try:
        evaluate(trained, tmp_path / "tuned", checkpoint=last)
    finally:
        (trained / "operating_point.json").unlink()
    assert "run: the threshold was chosen on the validation cases that are scored" in flattering(caplog)[1]
    about = json.loads((tmp_path / "tuned" / "summary.json").read_text())["weights"]
    assert about == {
        "file": "last.safetensors", "step": 50, "best": False, "threshold": 0.4,
        "min_component_ml": 0.0, "min_component_confidence": 0.0, "region_decisions": {},
        "tuned_on": 2,
    }  # fmt: skip


def flattering(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if "flatter" in record.getMessage()]


def test_parts_of_the_split_are_those_of_the_run(trained: Path, tmp_path: Path) -> None:
    model = load_model(trained, "cpu")
    parts = {
        part: {case.name for case in labelled_cases(model, None, part)} for part in ("validation", "training", "all")
    }
    assert {len(parts[part]) for part in ("validation", "training")} == {2, 6}
    assert parts["validation"] | parts["training"] == parts["all"]
    first = next(line for line in read_log(trained) if "validation/cases" in line)
    assert {case["name"] for case in first["validation/cases"]} == parts["validation"]


def test_the_operating_point_of_the_run_is_used(trained: Path, tmp_path: Path) -> None:
    """Components of the whole ball's size and below do not count: nothing is found any more."""
    point = OperatingPoint(min_component_ml=100.0)
    (trained / "operating_point.json").write_text(point.model_dump_json())
    try:
        groups, _ = evaluate(trained, tmp_path / "out", part="all")
    finally:
        (trained / "operating_point.json").unlink()
    assert group(groups, "ball").metrics["predicted_ml"].mean == 0


# --- the command -----------------------------------------------------------------------------------------------------


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["segsync-train", "evaluate", *map(str, arguments)])
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_the_command_writes_a_table_to_stdout(
    folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    predictions, references = folders
    arguments = (predictions, "-o", tmp_path / "out", "--references", references, "--label", "1=lesion")
    assert run(monkeypatch, *arguments, "--rules", "atlas") == 0
    printed = capsys.readouterr().out
    assert "ATLAS R2.0" in printed
    assert "0.917 ± 0.144" in printed


def test_the_command_says_what_is_wrong_and_ends_with_3(
    folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    predictions, references = folders
    output = ("-o", tmp_path / "out")
    weights = copying_weights(tmp_path / "weights")
    for arguments, said in (
        ((predictions, *output), "expected a run (config.yaml) or weights (model.json)"),
        ((predictions, *output, "--references", references, "--rules", "best"), "--rules: expected one of isles22"),
        ((predictions, *output, "--references", references, "--data", references), "found both"),
        ((weights, *output), "give --data FOLDER"),
        ((weights, *output, "--data", references, "--checkpoint", "x"), "--checkpoint belongs to a run, found with"),
        ((weights, *output, "--data", references, "--label", "1=lesion"), "--label belongs to --references"),
        ((weights, *output, "--data", references, "--part", "all"), "--part belongs to the cases of a run's own split"),
        ((weights, *output, "--layout", "bids"), "--layout belongs to --data"),
        ((predictions, *output, "--references", references, "--masks"), "--masks belongs to a network"),
        ((weights, *output, "--data", references, "--layout", "isles22"), "expected channels among dwi, adc, flair"),
    ):
        assert run(monkeypatch, *arguments) == 3
        assert said in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert run(monkeypatch, predictions, "-o", tmp_path / "file", "--references", references) == 5
    assert "expected to make the folder" in capsys.readouterr().err
