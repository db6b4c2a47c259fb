"""Cross-validation: every case predicted once by a network that never saw it, resumed, pooled, tuned on."""

import csv
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

from segsync.errors import InputError
from segsync_train.config.data import FolderData
from segsync_train.config.run import RunConfig
from segsync_train.config.settings import dump_settings
from segsync_train.data.splits import read_split
from segsync_train.evaluation.crossval import crossval, crossval_settings
from segsync_train.evaluation.metrics import RULES, score
from segsync_train.evaluation.operating_point import choose_operating_point
from segsync_train.evaluation.out_of_fold import read_out_of_fold
from segsync_train.evaluation.pooling import interval, pooled
from segsync_train.evaluation.summary import Row
from training_cases import run_config, write_cases


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    folder = tmp_path_factory.mktemp("crossval")
    write_cases(folder / "cases", 6)
    file = folder / "settings.yaml"
    file.write_text(dump_settings(run_config(folder / "cases", steps=4)))
    return crossval_settings(folder / "cv", file, ["steps=4"], 3)


@pytest.fixture(scope="module")
def done(settings: RunConfig) -> Path:
    """Fold 1 first, as another machine would, then all: the others are done, and pooled."""
    assert isinstance(settings.data, FolderData)
    output = settings.data.folder.parent / "cv"
    first = crossval(settings, output, fold=1)
    assert first.missing == (0, 2)
    with pytest.raises(InputError, match=r"expected predictions of 3 folds, found 1; run .* --fold for 0, 2"):
        read_out_of_fold(output)
    assert crossval(settings, output).table
    return output


def test_every_case_is_predicted_once_by_the_fold_that_did_not_train_on_it(done: Path) -> None:
    everything = read_out_of_fold(done)
    assert [case.name for case in everything.cases] == [f"case{number}" for number in range(6)]
    for case in everything.cases:
        split = read_split(done / f"fold-{case.fold}" / "split.json")
        assert case.name in split.validation
        assert case.name not in split.training
        label, probabilities = case.read()
        assert probabilities.shape == (1, *label.array.shape)
        assert 0 <= probabilities.min() <= probabilities.max() <= 1


def test_the_pooled_table_has_every_case_and_the_mean_of_all(done: Path) -> None:
    rows = {row["metric"]: row for row in csv.DictReader((done / "pooled.csv").read_text().splitlines())}
    dice = [
        score(label.array == 1, probabilities[0] >= 0.5, label.grid.spacing_zyx, RULES["isles22"]).dice
        for label, probabilities in (case.read() for case in read_out_of_fold(done).cases)
    ]
    assert int(rows["dice"]["n"]) == 6
    assert float(rows["dice"]["mean"]) == pytest.approx(np.mean(dice), abs=1e-5)
    assert float(rows["dice"]["low"]) <= float(rows["dice"]["mean"]) <= float(rows["dice"]["high"])
    assert (done / "scores" / "system.json").is_file()


def test_it_goes_on_where_it_stood(done: Path, settings: RunConfig) -> None:
    """Nothing is trained or predicted again; other settings are refused."""
    files = {path: path.stat().st_mtime_ns for path in done.glob("fold-*/**/*") if path.is_file()}
    assert crossval(settings, done).table
    assert files == {path: path.stat().st_mtime_ns for path in done.glob("fold-*/**/*") if path.is_file()}
    with pytest.raises(InputError, match=r"fold-0: batch: expected 2, with which the run began, found 1"):
        crossval(settings.model_copy(update={"batch": 1}), done)


def test_all_folds_have_the_settings_that_the_first_one_began_with(done: Path, settings: RunConfig) -> None:
    """On another machine too, where another fold is done."""
    with pytest.raises(InputError, match=r"fold-0: batch: expected \d, with which the run began, found 7"):
        crossval(settings.model_copy(update={"batch": 7}), done, fold=2)


def test_settings_that_no_fold_could_begin_with_are_replaced(tmp_path: Path, settings: RunConfig) -> None:
    assert isinstance(settings.data, FolderData)
    file = tmp_path / "settings.yaml"
    file.write_text(dump_settings(settings))
    for folds in (9, 3):
        wanted = crossval_settings(tmp_path / "cv", file, [], folds)
        with pytest.raises(InputError, match="at least as many cases") if folds == 9 else nullcontext():
            crossval(wanted, tmp_path / "cv", should_stop=lambda: True)
    assert crossval_settings(tmp_path / "cv", None, [], None) == wanted


def test_an_operating_point_is_chosen_on_all_of_them(done: Path) -> None:
    try:
        point = choose_operating_point(done)
    finally:
        for name in ("operating_point.json", "operating_points.csv"):
            (done / name).unlink()
    assert (point.cases, point.rules) == (6, "isles22")
    with pytest.raises(InputError, match="belong to a run; leave them out"):
        choose_operating_point(done, cases=3)


def test_predictions_of_other_cases_are_refused(done: Path) -> None:
    case = read_out_of_fold(done).cases[0]
    kept = case.stored.read_bytes()
    try:
        np.savez(case.stored, probabilities=np.zeros((1, 4, 4, 4), np.float16))
        with pytest.raises(InputError, match=r"expected probabilities of the shape \(1, 16, 16, 16\)"):
            case.read()
        case.stored.write_bytes(b"none")
        with pytest.raises(InputError, match="expected probabilities, found"):
            case.read()
    finally:
        case.stored.write_bytes(kept)


def test_a_fold_that_does_not_exist_and_data_that_are_drawn_are_refused(tmp_path: Path, settings: RunConfig) -> None:
    with pytest.raises(InputError, match=r"--fold: expected 0 to 2, found 3"):
        crossval(settings, tmp_path, fold=3)
    with pytest.raises(InputError, match="no settings of the runs"):
        crossval_settings(tmp_path, None, [], None)


def test_the_interval_is_over_patients_and_not_over_their_sessions() -> None:
    """Ten copies of each of five values are five patients: the interval is as wide as that of the five."""
    values = np.array([0.1, 0.3, 0.5, 0.6, 0.9])
    alone = interval(values, list("abcde"))
    copied = interval(values.repeat(10), [name for name in "abcde" for _ in range(10)])
    assert copied == pytest.approx(alone)
    taken_apart = interval(values.repeat(10), [str(number) for number in range(50)])
    assert taken_apart[1] - taken_apart[0] < 0.5 * (alone[1] - alone[0])


def test_a_label_that_no_reference_holds_is_no_line() -> None:
    full, empty = np.ones((3, 3, 3), bool), np.zeros((3, 3, 3), bool)
    perfect, absent = (score(mask, mask, (1.0, 1.0, 1.0), RULES["isles22"]) for mask in (full, empty))
    rows = [Row(case, value, f"l{value}", perfect if value == 1 else absent) for case in "ab" for value in (1, 2)]
    table = pooled(rows, {"a": 0, "b": 1}, {"a": "a", "b": "b"}, 2)
    assert {line.label for line in table} == {1}
    assert next(line for line in table if line.metric == "dice").folds == (1.0, 1.0)
