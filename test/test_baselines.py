"""The baselines: nnU-Net's own plans come out of the rules, and every network behaves alike."""

from pathlib import Path
from typing import Any

import pytest
import torch

from segsync.errors import InputError
from segsync_train.export.export import compare
from segsync_train.networks.baselines import plan
from segsync_train.networks.build import build_network
from segsync_train.networks.onnx_file import write_onnx
from segsync_train.trainer.finetune import finetune
from training_cases import run_config, write_cases

NAMES = ("nnunet", "resunet", "unet")


def test_the_plan_of_an_isotropic_patch_is_nnunets() -> None:
    """128³ at 1 mm: six stages, 4 voxels a side at the bottom, widths 32 to 320."""
    found = plan((128, 128, 128), (1.0, 1.0, 1.0))
    assert found.strides_zyx == ((1, 1, 1), *((2, 2, 2),) * 5)
    assert set(found.kernels_zyx) == {(3, 3, 3)}
    assert found.widths == (32, 64, 128, 256, 320, 320)


def test_the_plan_of_thick_slices_is_nnunets() -> None:
    """28×256×256 voxels of 3×0.6×0.6 mm (nnU-Net's ACDC-like case): slices are not mixed until pixels are as large."""
    found = plan((28, 256, 256), (3.0, 0.6, 0.6))
    assert found.strides_zyx == ((1, 1, 1), (1, 2, 2), (1, 2, 2), (2, 2, 2), (2, 2, 2), (1, 2, 2), (1, 2, 2))
    assert found.kernels_zyx == ((1, 3, 3), (1, 3, 3), *((3, 3, 3),) * 5)


@pytest.mark.parametrize(
    ("patch", "spacing", "strides"),
    [
        # A short axis is soon halved no more and then has the finest voxels: the others' kernels stay 3 wide.
        ((16, 128, 128), (1.0, 1.0, 1.0), ((2, 2, 2), (2, 2, 2), (1, 2, 2), (1, 2, 2), (1, 2, 2))),
        ((80, 192, 160), (1.0, 1.0, 1.0), ((2, 2, 2), (2, 2, 2), (2, 2, 2), (2, 2, 2), (1, 2, 2))),
        # An axis alone is not halved from 8 to 4 (nnU-Net's plan of ACDC).
        ((20, 256, 224), (10.0, 1.25, 1.25), ((1, 2, 2), (1, 2, 2), (1, 2, 2), (2, 2, 2), (2, 2, 2))),
    ],
)
def test_the_plan_of_sides_that_differ_is_nnunets(patch: Any, spacing: Any, strides: Any) -> None:
    found = plan(patch, spacing)
    assert found.strides_zyx == ((1, 1, 1), *strides)
    assert found.kernels_zyx == ((1 if spacing[0] > 2 * spacing[1] else 3, 3, 3),) * 3 + ((3, 3, 3),) * 3


@pytest.mark.parametrize("name", NAMES)
def test_a_baseline_trains_in_the_same_loop_and_exports_as_the_xlstm_unet_does(name: Any, tmp_path: Path) -> None:
    cases = write_cases(tmp_path / "cases", 3)
    config = run_config(cases, network={"preset": name}, steps=2, patch_zyx=[16, 16, 16], ema=None)
    assert finetune(config, tmp_path / "run").finished
    network = build_network(config).eval()
    images = torch.randn(1, 1, *(2 * side for side in network.multiple_zyx))
    assert network(images).shape == (1, 2, *images.shape[2:])
    outputs = network.train()(images)
    assert isinstance(outputs, list)
    torch.testing.assert_close(outputs[0], network.finest(images))
    write_onnx(network.eval(), tmp_path / "model.onnx", half_weights=False)
    assert compare(network, tmp_path / "model.onnx", [images.numpy()]).within((1e-4, 0.999))


def test_what_a_baseline_cannot_do_is_said(tmp_path: Path) -> None:
    overrides = {"preset": "nnunet", "overrides": {"widths": [4, 8]}}
    with pytest.raises(InputError, match=r"network\.overrides: expected none for nnunet"):
        build_network(run_config(tmp_path, network=overrides))
