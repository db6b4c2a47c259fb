"""Fixtures that more than one test file uses."""

import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from builders import Cli, Outcome, write_weights
from segsync.cli import main

# The suite draws the same examples every time, so that a change is judged by what it changes; `make fuzz` draws others.
settings.register_profile("suite", derandomize=True, deadline=None)
settings.register_profile("fuzz", deadline=None)
settings.load_profile("suite")

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"


def pytest_configure(config: pytest.Config) -> None:
    """Of several workers each has one core, so that their threads do not wait for each other's."""
    worker = getattr(config, "workerinput", None)
    if worker is not None:
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[int(worker["workerid"].removeprefix("gw")) % len(cores)]})


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data beside the checkout; tests that need it are skipped without it."""
    if not SHARED_DATA.is_dir():
        pytest.skip("no shared data beside the checkout")
    return SHARED_DATA


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of every task whose network copies the reference channel; not to be changed."""
    return write_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture(autouse=True)
def put_back_logging() -> Iterator[None]:
    """What a command sets up for its own process is put back: handlers, and the levels of both packages."""
    root = logging.getLogger()
    loggers = [root, *map(logging.getLogger, ("segsync", "segsync_train"))]
    handlers, levels = root.handlers[:], [logger.level for logger in loggers]
    yield
    root.handlers[:] = handlers
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Cli:
    """Runs `segsync ARGUMENT...` in this process, as the installed command does; libraries' output is caught."""

    def run(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["segsync", *map(str, arguments)])
        capfd.readouterr()
        try:
            main()
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else int(error.code is not None)
        else:
            code = 0
        return Outcome(code, *capfd.readouterr())

    return run
