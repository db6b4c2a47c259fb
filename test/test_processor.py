"""As many threads as a process really gets processors: affinity, quotas, and what others take."""

import logging
import math
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import SimpleITK as sitk
from typer.testing import CliRunner

from segsync import control_groups, processor
from segsync.cli import app
from segsync.processor import Sample, allowed, choose_threads, fitting, say_threads, threads


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """A process that has not chosen yet, on eight processors, in no container; what it sets is put back."""
    before = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    monkeypatch.setattr(processor, "_choice", processor._Choice())
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    monkeypatch.setattr(control_groups, "CGROUP", tmp_path / "cgroup")
    monkeypatch.setattr(control_groups, "CGROUPS", tmp_path)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    yield
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(before)


def test_a_machine_with_many_cores_starts_no_more_threads_than_the_platform_allows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """128 processes and threads in all, for three libraries."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(96)))
    assert 3 * allowed() < 128


@pytest.mark.parametrize(("quota", "expected"), [("250000 100000", 3), ("50000 100000", 1), ("max 100000", 8)])
def test_a_container_with_a_quota_starts_no_more_threads_than_may_run(
    quota: str, expected: int, tmp_path: Path
) -> None:
    """`docker run --cpus 2.5`, 0.5, and none."""
    (tmp_path / "cpu.max").write_text(f"{quota}\n")
    assert allowed() == expected


def test_the_job_of_a_cluster_counts_with_all_groups_above_it(tmp_path: Path) -> None:
    """Slurm's: the quota stands at the job, the process runs in a step below; and version 1 with its two files."""
    step = tmp_path / "slurm" / "job_7" / "step_0"
    step.mkdir(parents=True)
    (tmp_path / "cgroup").write_text("0::/slurm/job_7/step_0\n")
    (step / "cpu.max").write_text("max 100000\n")
    (step.parent / "cpu.max").write_text("400000 100000\n")
    assert allowed() == 4
    group = tmp_path / "cpu,cpuacct" / "docker"
    group.mkdir(parents=True)
    (tmp_path / "cgroup").write_text("4:cpu,cpuacct:/docker\n")
    (group / "cpu.cfs_quota_us").write_text("200000\n")
    (group / "cpu.cfs_period_us").write_text("100000\n")
    assert allowed() == 2
    (group / "cpu.cfs_quota_us").write_text("-1\n")
    assert allowed() == 8


def test_a_busy_neighbour_has_its_processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processors, and between two looks a second apart: cpu0 1 s for us, cpu1 0.9 s for another, niced or not."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    stat = tmp_path / "stat"
    monkeypatch.setattr(processor, "STAT", stat)
    stat.write_text("cpu 0 0 0 0 0 0 0 0 0 0\ncpu0 10 0 0 50 0 0 0 0\ncpu1 0 0 10 5 0 0 0 0\ncpu2 9 9 9 9 9 9 9 9\n")
    busy = Sample.now().all
    assert busy == pytest.approx(0.2)
    stat.write_text("cpu 0 0 0 0 0 0 0 0 0 0\ncpu0 110 0 0 50 0 0 0 0\ncpu1 45 45 10 9 6 0 0 0\ncpu2 0 0 0 0 0 0 0 0\n")
    first, second = Sample(5.0, 1.0, busy), Sample(6.0, 2.0, Sample.now().all)
    assert first.taken(second) == pytest.approx(0.9)
    assert fitting(2, 2, first.taken(second)) == 1


@pytest.mark.parametrize(
    ("processors", "allowed_", "taken", "expected"),
    [(2, 2, 0.0, 2), (2, 2, 0.3, 2), (2, 2, 2.0, 1), (64, 16, 60.0, 4), (64, 3, 20.0, 3), (1, 1, 5.0, 1)],
)
def test_threads_fit_into_what_is_left(processors: int, allowed_: int, taken: float, expected: int) -> None:
    assert fitting(processors, allowed_, taken) == expected


def test_where_the_system_says_little_its_load_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """macOS: a load of three, one of it ourselves."""
    monkeypatch.setattr(os, "getloadavg", lambda: (3.0, 0.0, 0.0))
    assert Sample(0.0, 0.0, math.nan).taken(Sample(2.0, 2.0, math.nan)) == pytest.approx(2.0)


def test_what_is_chosen_is_said_once_and_kept(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(Sample, "taken", lambda self, until: 5.2)
    assert threads() == 3
    monkeypatch.setattr(Sample, "taken", lambda self, until: 0.0)
    assert threads() == 3
    say_threads()
    say_threads()
    assert caplog.messages == [
        "3 of 8 processors are used (other processes keep 5.2 of them busy); --threads changes it"
    ]
    assert sitk.ProcessObject.GetGlobalDefaultNumberOfThreads() == 3


def test_a_word_of_the_users_comes_before_the_load(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Sample, "taken", lambda self, until: 8.0)
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert threads() == 5
    choose_threads(2)
    assert threads() == 2


def test_the_option_is_in_every_command_that_computes() -> None:
    for command in ("predict", "run", "serve"):
        assert CliRunner().invoke(app, [command, "--threads", "0"]).exit_code == 2
    CliRunner().invoke(app, ["predict", "--threads", "2", "-i", "nowhere", "-o", "nowhere"])
    assert threads() == 2
