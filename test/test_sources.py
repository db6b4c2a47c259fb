"""Cases as runs keep them: validation cases of their own settings, any number, whole ones whoever else writes them."""

import pickle
import resource
import threading
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from segsync_train.data.cases import LabelledCase, StoredCases, build_case, open_case, store_case
from segsync_train.data.patches import FolderSource
from segsync_train.data.sources import SyntheticSource, open_data
from segsync_train.runs.devices import Processes
from segsync_train.runs.folder import RunFolder
from training_cases import run_config


def test_validation_cases_of_a_start_that_failed_are_not_those_of_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ended while its cases were drawn, a start leaves them behind, perhaps of other settings; a run keeps its own."""
    drawn = []

    def draw(source: SyntheticSource, *words: int) -> LabelledCase:
        drawn.append(words)
        cube = np.ones((4, 4, 4), dtype=np.uint8)
        return build_case("cube", cube[None].astype(np.float32), cube, cube > 0, source.spec.spacing_zyx)

    monkeypatch.setattr(SyntheticSource, "draw", draw)
    data = {"kind": "synthetic", "sources": str(tmp_path), "validation_cases": 2}
    first, second = (run_config(tmp_path, data=data, spacing_zyx=[mm] * 3) for mm in (2, 1))
    run = RunFolder(tmp_path / "run")
    assert open_data(first, run.folder, Processes()).validation[0].spacing_zyx == (2, 2, 2)
    for case in open_data(second, run.folder, Processes()).validation:
        assert case.spacing_zyx == (1, 1, 1)
    assert len(drawn) == 4
    with run:
        run.create(second)
    assert len(open_data(second, run.folder, Processes()).validation) == 2
    assert len(drawn) == 4


def test_samples_come_from_the_newest_cases_of_their_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new case after every second patch, patches cut from any of the newest three; a function of step and place."""
    validation = []

    def draw(source: SyntheticSource, *words: int) -> LabelledCase:
        cube = np.ones((2, 2, 2), dtype=np.uint8)
        validation.append(words[0])
        return build_case("-".join(map(str, words)), cube[None].astype(np.float32), cube, cube > 0, (1, 1, 1))

    monkeypatch.setattr(SyntheticSource, "draw", draw)
    data = {"kind": "synthetic", "sources": str(tmp_path), "validation_cases": 2}
    config = run_config(tmp_path, data={**data, "patches_per_case": 2, "cases_in_memory": 3, "streams": 1})
    source = open_data(config, tmp_path / "run", Processes()).source
    kinds = set(validation)
    names = {(step, place): source.case(step, place, 2).name for step in range(40) for place in range(2)}
    ages = set()
    for (step, place), name in names.items():
        kind, _, *others, number = map(int, name.split("-"))
        assert kind not in kinds, "a case that validates"
        assert others[0] == place
        ages.add(step // 2 - number)
    assert ages == {0, 1, 2}
    assert len({name for (_, place), name in names.items() if place == 0}) > 15
    again = open_data(config, tmp_path / "run", Processes()).source
    assert again.case(31, 1, 2).name == names[31, 1]


def test_a_case_is_whole_while_another_process_of_the_same_number_writes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first processes of two containers are both number 1: one is through while the other has begun an image."""
    cube = np.ones((4, 4, 4), dtype=np.uint8)
    case = build_case("cube", cube[None].astype(np.float32), cube, cube > 0, (1, 1, 1))
    half, on, save = threading.Event(), threading.Event(), np.save
    other = threading.Thread(target=store_case, args=(case, tmp_path / "cube"))

    def slowly(path: Path, array: npt.NDArray[Any]) -> None:
        if threading.current_thread() is other and path.name == "image.npy":
            with path.open("wb") as file:
                half.set()
                on.wait(30)
                save(file, array)
            return
        if threading.current_thread() is not other and path.name == "label.npy":
            other.start()
            half.wait(30)
        save(path, array)

    monkeypatch.setattr(np, "save", slowly)
    store_case(case, tmp_path / "cube")
    try:
        assert np.array_equal(open_case(tmp_path / "cube").image, case.image)
    finally:
        on.set()
        other.join()
    assert [path.name for path in tmp_path.iterdir()] == ["cube"]


def test_more_cases_than_a_process_may_have_open_files_are_read(tmp_path: Path) -> None:
    """Of 1,024 that most systems allow, a case takes five; here 64 are allowed. Other processes are sent no voxels."""
    cube = np.ones((4, 4, 4), dtype=np.uint8)
    for number in range(40):
        image = np.full((1, *cube.shape), number, dtype=np.float32)
        store_case(build_case(f"cube{number}", image, cube, cube > 0, (1, 1, 1)), tmp_path / f"{number}")
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(list(Path("/proc/self/fd").iterdir()))
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 64, limit[1]))
    try:
        cases = StoredCases([tmp_path / f"{number}" for number in range(40)])
        assert [float(case.image.mean()) for case in cases] == list(range(40))
        sent = pickle.dumps(FolderSource(cases[10:], seed=0))
        found = pickle.loads(sent)
        assert {found.case(0, place, 30).name for place in range(30)} == {f"cube{number}" for number in range(10, 40)}
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)
    assert len(sent) < 10_000
