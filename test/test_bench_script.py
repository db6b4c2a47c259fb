"""`make bench`: what it says of peers, without measuring anything."""

import sys

from sections import Pair, Section, compared, slower
from start import closure


def test_what_is_slower_than_a_peer_is_said_first_and_the_rest_is_left_out() -> None:
    case = compared("Case", [Pair("a window", "torch", 1.0, 1.2), Pair("memory", "torch", 300.0, 240.0, "MiB")])
    steps = compared("Steps", [Pair("a step", "nnU-Net", 4.0, 1.0), Pair("nearly", "nnU-Net", 1.0, 0.999)])
    found = slower([case, steps, Section("Growth", ("voxels",), (("1",),))])
    assert [row[:2] for row in found.rows] == [("Steps", "a step"), ("Case", "memory")], "the furthest behind first"
    assert found.rows[0][2:] == ("4.00 s", "1.00 s", "0.25", "nnU-Net")
    assert "| Case | memory | 300 MiB | 240 MiB | 0.80 | torch |" in found.markdown()
    assert slower([]).note == "Nothing in this run."


def test_the_installed_size_counts_what_an_extra_asks_for_and_no_other() -> None:
    installed = closure("segsync-isles[cpu]", sys.path)
    assert {"segsync-isles", "onnxruntime", "numpy", "simpleitk", "pydantic-core"} <= set(installed)
    assert not {"torch", "openvino", "monai", "pytest"} & set(installed)
    assert "torch" in closure("monai", sys.path)
