"""Limits of memory: the container's own, windows that fit, and what is said where a limit is passed."""

import json
from pathlib import Path

import numpy as np
import pytest

from builders import GRID, LESION, Cli, ball, grid_of, options, write_image
from segsync import control_groups, load, memory
from segsync.bundle import load_bundle_spec
from segsync.errors import ResourceError
from segsync.geometry import TARGET_VOXELS, Volume
from segsync.memory import Budget, Footprint, container_limit, peak_bytes, reset_peak, resident_bytes
from segsync.postprocess import BYTES_A_VOXEL, labels_on
from segsync.sliding_window import LESS_CONTEXT

GIB = 2**30
WEIGHTS = Path(__file__).parents[1] / "weights"


@pytest.mark.parametrize(
    ("groups", "files", "limit"),
    [
        ("0::/", {"memory.max": "8589934592\n"}, 8 * GIB),
        ("0::/", {"memory.max": "max\n"}, None),
        ("0::/job/step", {"job/memory.max": "4294967296\n", "job/step/memory.max": "max\n"}, 4 * GIB),
        ("0::/job/step", {"job/memory.max": "4294967296\n", "job/step/memory.max": "1073741824\n"}, GIB),
        ("4:memory:/docker/ab\n0::/", {"memory/docker/ab/memory.limit_in_bytes": "2147483648"}, 2 * GIB),
        ("4:memory:/docker/ab", {"memory/memory.limit_in_bytes": "2147483648"}, 2 * GIB),
        ("4:memory:/", {"memory/memory.limit_in_bytes": "9223372036854771712"}, None),
        ("", {"memory.max": "8589934592\n"}, 8 * GIB),
        ("0::/", {}, None),
    ],
    ids=["v2", "v2 max", "v2 above", "v2 nested", "v1", "v1 inside", "v1 none", "no list", "none"],
)
def test_the_containers_own_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, groups: str, files: dict[str, str], limit: int | None
) -> None:
    """Of both versions of control groups; the lowest of those above each other counts."""
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "list").write_text(groups)
    monkeypatch.setattr(control_groups, "CGROUP", tmp_path / "list")
    monkeypatch.setattr(control_groups, "CGROUPS", tmp_path)
    assert container_limit() == limit


def test_the_peak_begins_anew() -> None:
    """A case's peak is not that of the case before it."""
    held = bytearray(300_000_000)
    peak = peak_bytes()
    assert min(peak, resident_bytes()) > len(held)
    del held
    reset_peak()
    assert peak_bytes() < peak - 200_000_000


def test_a_label_that_fills_the_grid_takes_what_is_kept_for_it() -> None:
    """16 million voxels, beside the slabs that are interpolated at once."""
    size = (256, 256, 256)
    spec = load_bundle_spec(WEIGHTS / "isles22").model_copy(update={"min_component_ml": 0.1})
    probabilities = np.ones((1, 64, 64, 64), dtype=np.float32)
    held = resident_bytes()
    reset_peak()
    labels, removed = labels_on(probabilities, grid_of((64, 64, 64), (4, 4, 4)), grid_of(size), spec)
    assert labels.mean() > 0.9
    assert not removed
    assert peak_bytes() - held < BYTES_A_VOXEL * labels.size + 20 * TARGET_VOXELS


def budget_of(limit: float, monkeypatch: pytest.MonkeyPatch, held: float = 1.0) -> Budget:
    """1000 bytes a voxel; the process holds `held` GiB and the probe's window."""
    monkeypatch.setattr(memory, "resident_bytes", lambda: int(held * GIB) + 1000 * 32**3)
    return Budget(int(limit * GIB), "--max-memory", Footprint(GIB, 1000.0), (32,) * 3, (64,) * 3, (8,) * 3)


def test_windows_shrink_once_and_then_the_case_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand: 64³ takes 0.244 GiB, 32³ 0.031; images that were read by now count, however they came to be there."""
    assert budget_of(1.3, monkeypatch).largest_window(0, (100,) * 3) == (64, 64, 64)
    assert budget_of(1.2, monkeypatch).largest_window(0, (100,) * 3) == (32, 32, 32)
    assert budget_of(1.3, monkeypatch).largest_window(GIB // 10, (100,) * 3) == (32, 32, 32)
    assert budget_of(1.3, monkeypatch, held=1.1).largest_window(0, (100,) * 3) == (32, 32, 32)
    assert budget_of(1.2, monkeypatch).largest_window(0, (20, 100, 100)) == (24, 64, 64)  # all that it needs
    refused = r"windows of 32×32×32 voxels, half .* found 1.02 GB \(--max-memory\) where about 1.03 GB are needed"
    with pytest.raises(ResourceError, match=refused):
        budget_of(1.02, monkeypatch).largest_window(0, (100,) * 3)


def test_the_lower_of_both_limits_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU windows are not in the container's memory."""
    monkeypatch.setattr(memory, "container_limit", lambda: 4 * GIB)
    monkeypatch.setattr(Footprint, "measure", lambda run, probe: Footprint(0, 1.0))

    def found(limit: int | None, *, gpu: bool = False) -> tuple[int, str] | None:
        budget = Budget.measure(lambda side: None, (16,) * 3, (4,) * 3, limit, gpu=gpu)
        return None if budget is None else (budget.limit, budget.source)

    assert found(None) == found(8 * GIB) == (4 * GIB, "the container's own limit")
    assert found(2 * GIB) == found(2 * GIB, gpu=True) == (2 * GIB, "--max-memory")
    assert found(None, gpu=True) is None


def test_less_context_is_a_warning_of_the_report(
    cli: Cli, tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the log, among the report's warnings and on its page; so is a peak above the limit."""
    grid = grid_of((20, 20, 20))
    write_image(tmp_path / "input" / "p_t1.mha", ball(grid, 8.0), grid)
    monkeypatch.setattr(memory, "container_limit", lambda: None)
    monkeypatch.setattr(memory, "resident_bytes", lambda: 2**29)
    monkeypatch.setattr(memory, "peak_bytes", lambda: 2 * GIB)
    monkeypatch.setattr(Footprint, "measure", lambda run, probe: Footprint(0, 2.0**18))
    arguments = (*options(tmp_path, weights), "--task", "aims-tbi", "--report", "--max-memory", "1")
    done = cli("predict", *arguments)
    assert done.code == 0, done.err
    report = json.loads((tmp_path / "output" / "p_report.json").read_text())
    assert report["run"]["window_size_xyz"] == [8, 8, 8]
    less = f"memory: windows of 8×8×8 instead of 16×16×16; {LESS_CONTEXT}"
    over = "memory: 2.00 GB were held at the peak, above the limit of 1.00 GB (--max-memory)"
    page = (tmp_path / "output" / "p_report.html").read_text()
    for line in (less, over):
        assert line in done.err
        assert line in report["warnings"]
        assert line in page


def test_a_limit_that_leaves_no_room_is_refused(cli: Cli, tmp_path: Path, weights: Path) -> None:
    write_image(tmp_path / "input" / "p_t1.mha", LESION, GRID)
    done = cli("predict", *options(tmp_path, weights), "--task", "aims-tbi", "--max-memory", "0.1")
    assert done.code == 6
    [line] = [line for line in done.err.splitlines() if line.startswith("ERROR")]
    assert "case p: expected memory for windows of" in line
    assert "found 0.10 GB (--max-memory) where about " in line
    assert not (tmp_path / "output").exists()


def test_without_a_limit_nothing_is_measured(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The start stays quick."""
    monkeypatch.setattr(memory, "container_limit", lambda: None)
    monkeypatch.setattr(Footprint, "measure", lambda run, probe: pytest.fail("a window was run"))
    model = load("aims-tbi", weights=weights, device="cpu")
    assert model.predict({"t1": Volume(LESION, GRID)}).warnings == ()
