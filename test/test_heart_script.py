"""`docs/results/heart.py --smoke`: every system trained, scored and compared on six hearts; no image leaves them."""

import argparse
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import heart
import heart_study
import ledger
import numpy as np
import pytest

from segsync_train.evaluation.metrics import RULES, score
from segsync_train.evaluation.summary import Row


def test_every_system_is_on_the_page_and_a_second_call_needs_the_kept_figures_alone(
    shared_data: Path, tmp_path: Path
) -> None:
    arguments = [
        "--data",
        str(shared_data / "acdc"),
        "--runs",
        str(tmp_path / "runs"),
        "--docs",
        str(tmp_path / "docs"),
    ]
    heart.main([*arguments, "--smoke"])
    path = tmp_path / "docs" / "results" / "heart.md"
    page = path.read_text()
    for one in heart_study.SYSTEMS:
        assert f"| {one.name} |" in page
    assert "| 2 and 2 |" in page, "the claim's pair, its seeds"
    assert not list((tmp_path / "docs" / "images").glob("*cases*"))
    assert {file.suffix for file in (tmp_path / "docs" / "results" / "heart").iterdir()} == {".csv"}
    shutil.rmtree(tmp_path / "runs")  # the machine is lost
    heart.main([*arguments, "--smoke"])
    assert not (tmp_path / "runs").exists(), "nothing is trained again"
    # But for the commit, which the first line names.
    assert path.read_text().partition(" on ACDC")[2] == page.partition(" on ACDC")[2]


def test_what_is_tried_is_never_tried_on_the_test_hearts(shared_data: Path) -> None:
    options = argparse.Namespace(data=shared_data / "acdc", smoke=False, explore=False)
    whole = heart_study.divided(options)
    options.explore = True
    tried = heart_study.divided(options)
    assert (len(whole.training), len(whole.test)) == (79, 20)
    assert (len(tried.training), len(tried.test)) == (64, 15)
    assert not set(whole.test) & {*tried.training, *tried.test}
    assert whole.training == (*tried.training, *tried.test)


def test_the_claim_comes_first_and_other_settings_are_another_run(shared_data: Path) -> None:
    options = heart.parsed(["--data", str(shared_data / "acdc")])
    hearts = heart_study.divided(options)
    order = heart_study.cells(hearts, options)
    assert [cell.system.key for cell in order[:2]] == ["segsync", "scratch"]
    assert [(cell.seed, cell.labelled) for cell in order[:12]] == [
        (seed, count) for seed in (0, 1, 2) for count in (2, 2, 5, 5)
    ]
    one = heart_study.key_of(order[1], hearts, options)
    assert heart_study.key_of(order[1], hearts, heart.parsed(["--data", str(shared_data / "acdc")])) == one
    other = heart.parsed(["--data", str(shared_data / "acdc"), "--set", "steps=7"])
    assert heart_study.key_of(order[1], hearts, other).settings != one.settings


def test_a_run_that_was_killed_between_both_files_is_run_again(tmp_path: Path, mask_pair: Row) -> None:
    kept = ledger.Ledger(tmp_path)
    first, second = (ledger.Key("a, b", 2, seed, "0123") for seed in (0, 1))
    for key in (first, second):
        kept.add(ledger.Made(key, "c", "a CPU", 5, 1, 0, 2.5), [mask_pair])
    lines = (tmp_path / ledger.RUNS).read_text().splitlines(keepends=True)
    (tmp_path / ledger.RUNS).write_text("".join(lines[:-1]))
    again = ledger.Ledger(tmp_path)
    assert list(again.runs) == [first]
    again.add(ledger.Made(second, "d", "a CPU", 5, 1, 0, 2.5), [mask_pair])
    assert len((tmp_path / ledger.SCORES).read_text().splitlines()) == 3, "each run's row once, below the head"
    assert ledger.Ledger(tmp_path).dice(second) == {("p", "1"): mask_pair.scores.dice}


def test_two_processes_may_add_to_the_same_figures(tmp_path: Path, mask_pair: Row) -> None:
    one, other = ledger.Ledger(tmp_path), ledger.Ledger(tmp_path)
    for number, kept in enumerate((one, other, one)):
        kept.add(ledger.Made(ledger.Key("a", 2, number, "0123"), "c", "a CPU", 5, 1, 0, 2.5), [mask_pair])
    assert [key.seed for key in ledger.Ledger(tmp_path).runs] == [0, 1, 2]


@pytest.fixture
def mask_pair() -> Row:
    """A case whose two masks share half of their voxels."""
    reference, predicted = np.zeros((2, 4, 4, 4), dtype=bool)
    reference[1, 1, :2] = predicted[1, 1, 1:3] = True
    return Row("p", 1, "heart", score(reference, predicted, (1.0, 1.0, 1.0), RULES["isles22"]))


@pytest.fixture(autouse=True, scope="module")
def forgotten() -> Iterator[None]:
    """The scripts are no package: other tests import their own."""
    yield
    for name in ("heart", "heart_study", "heart_page", "ledger"):
        sys.modules.pop(name, None)
