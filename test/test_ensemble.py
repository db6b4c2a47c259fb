"""Several networks in one folder of weights: averaged, checked one by one, and less of them where time ends."""

from pathlib import Path

import numpy as np
import pytest

import segsync
from builders import (
    AS_IT_IS,
    Cli,
    ball,
    constant,
    copying,
    files_below,
    grid_of,
    write_bundle,
    write_image,
)
from segsync.bundle import ChannelSpec, load_bundle, sha256_of, write_manifest
from segsync.errors import WeightsError
from segsync.geometry import Volume
from segsync.images import read
from segsync.predict import Settings
from segsync.sliding_window import Windows, all_flips, predict

GRID = grid_of((16, 18, 20))
T1 = (ChannelSpec(name="t1", normalisation=AS_IT_IS),)


def write_ensemble(folder: Path, *others: float) -> Path:
    """The network that copies its channel, and others that give the same everywhere."""
    folder.mkdir(parents=True)
    further = {}
    for number, value in enumerate(others, start=2):
        path = folder / f"model-{number}.onnx"
        path.write_bytes(constant(value))
        further[path.name] = sha256_of(path)
    write_bundle(folder, "aims-tbi", channels=T1, further_networks=further)
    write_manifest(folder.parent)
    return folder


def test_probabilities_are_averaged_and_their_spread_is_a_standard_deviation(tmp_path: Path) -> None:
    """1, 0.4 and 0.1 in the ball: a mean of 0.5; 0, 0.4 and 0.1 outside."""
    folder = write_ensemble(tmp_path / "aims-tbi", 0.4, 0.1)
    lesion = ball(GRID, 5.0)
    image = Volume(lesion + np.float32(0), GRID)
    result = segsync.load("aims-tbi", weights=folder, device="cpu").predict({"t1": image}, Settings(tta="none"))
    found, spread = result.probability(), result.uncertainty()
    assert spread is not None
    inside = lesion > 0
    assert found[inside] == pytest.approx(0.5, abs=1e-5)
    assert spread[inside] == pytest.approx(np.std([1, 0.4, 0.1]), abs=1e-3)
    spread[:] = 0  # the caller's own
    again = result.uncertainty()
    assert again is not None
    assert again[inside].min() > 0
    assert (result.statistics.networks, result.statistics.flips) == (3, 1)


def test_mirrored_copies_go_first_then_networks_where_time_ends() -> None:
    """Four windows of a second each for every pass, two networks, two copies: 16 s for all."""
    now = [0.0]

    def network(value: float):  # type: ignore[no-untyped-def]
        def answer(window):  # type: ignore[no-untyped-def]
            now[0] += 1.0
            return np.full_like(window, value)

        return answer

    windows = Windows((8, 8, 8), (4, 4, 4), 0.0, all_flips((2,)))
    array = np.ones((1, 8, 16, 16), np.float32)
    for seconds, mean, networks, note in (
        (100.0, 0.6, 2, None),
        (12.0, 0.6, 2, "deadline: 2 of 4 mirrored passes of all networks"),
        (7.0, 0.2, 1, "deadline: 1 of 2 networks, no mirroring"),
    ):
        now[0] = 0.0
        found, statistics = predict(
            array, [network(0.2), network(1.0)], 1, windows, deadline=seconds, clock=lambda: now[0]
        )
        assert found == pytest.approx(mean), seconds
        assert statistics.networks == networks
        assert statistics.notes == ([note] if note else [])


@pytest.mark.parametrize("fault", ["missing", "altered"])
def test_every_file_of_an_ensemble_is_checked(tmp_path: Path, fault: str) -> None:
    folder = write_ensemble(tmp_path / "aims-tbi", 0.4, 0.1)
    third = folder / "model-3.onnx"
    if fault == "missing":
        third.unlink()
    else:
        third.write_bytes(copying(1) + b" ")
    with pytest.raises(WeightsError, match=r"model-3\.onnx"):
        load_bundle(folder)
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(WeightsError, match=r"model-3\.onnx"):
        load_bundle(folder)


def test_the_report_says_where_networks_disagree_and_the_map_shows_it(cli: Cli, tmp_path: Path) -> None:
    folder = write_ensemble(tmp_path / "weights" / "aims-tbi", 0.1)
    lesion = ball(GRID, 5.0)
    write_image(tmp_path / "t1.nii.gz", lesion, GRID)
    done = cli(
        "predict", "-i", tmp_path / "t1.nii.gz", "-o", tmp_path / "out", "--task", "aims-tbi", "--weights", folder,
        "--report", "--save-uncertainty", "--device", "cpu",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "t1_uncertainty.nii.gz" in files_below(tmp_path / "out")
    assert read(tmp_path / "out" / "t1_uncertainty.nii.gz").array[lesion > 0] == pytest.approx(0.45, abs=1e-3)
    line = f"The 2 networks disagree on {lesion.sum() / 1000:.2f} ml of the mask, and on 0.00 ml beside it"
    assert line in (tmp_path / "out" / "t1_report.json").read_text()
    assert line in (tmp_path / "out" / "t1_report.html").read_text()
