"""`docs/results/heart.py --smoke`: every system trained, scored and compared on six hearts; no image leaves them."""

import argparse
import sys
from pathlib import Path

import heart


def test_every_system_is_on_the_page_and_no_image_of_a_heart(shared_data: Path, tmp_path: Path) -> None:
    """A second call trains nothing again, and gives the same page."""
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
    for one in heart.SYSTEMS:
        assert f"| {one.name} |" in page
    assert "3D-SegSync against xLSTM-UNet from scratch" in page
    assert "2 and 2 seeds" in page
    assert not list((tmp_path / "docs" / "images").glob("*cases*"))
    weights = sorted((tmp_path / "runs").rglob("last.safetensors"))
    before = [file.stat().st_mtime_ns for file in weights]
    heart.main([*arguments, "--smoke"])
    assert before == [file.stat().st_mtime_ns for file in weights]
    # But for the commit, which the first line names.
    assert path.read_text().partition(" on ACDC")[2] == page.partition(" on ACDC")[2]


def test_what_is_tried_is_never_tried_on_the_test_hearts(shared_data: Path, tmp_path: Path) -> None:
    options = argparse.Namespace(data=shared_data / "acdc", smoke=False, explore=False)
    whole = heart.divided(options)
    options.explore = True
    tried = heart.divided(options)
    assert (len(whole.training), len(whole.test)) == (79, 20)
    assert (len(tried.training), len(tried.test)) == (64, 15)
    assert not set(whole.test) & {*tried.training, *tried.test}
    assert whole.training == (*tried.training, *tried.test)
    sys.modules.pop("heart")
