"""Networks of others, exactly: their sizes, their plans, and a step of training."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from segsync.errors import InputError
from segsync_train.config.run import LossConfig, RunConfig
from segsync_train.config.settings import load_settings
from segsync_train.networks.baselines import Baseline, plan
from segsync_train.networks.build import build_network
from segsync_train.networks.mlstm import mlstm_recurrent
from segsync_train.networks.published import PublishedConfig, PublishedXLSTMUNet, _Cell
from segsync_train.networks.resenc import ResEncConfig
from segsync_train.trainer.finetune import finetune
from segsync_train.trainer.losses import SegmentationLoss
from training_cases import run_config, write_cases

CONFIGS = Path(__file__).parents[1] / "training" / "configs"
SMALL: dict[str, dict[str, Any]] = {
    "published-enc": {
        "widths": [4, 4, 4, 8], "strides_zyx": [[1, 1, 1], [2, 2, 2], [2, 2, 2], [1, 1, 1]],
        "encoder_blocks": [1, 1, 1, 1], "decoder_blocks": [1, 1, 1],
    },
    "published-bot": {
        "widths": [4, 8], "strides_zyx": [[1, 1, 1], [2, 2, 2]], "encoder_blocks": [2, 1], "decoder_blocks": [1],
    },
    "resenc-m": {"widths": [4, 8], "strides_zyx": [[1, 1, 1], [2, 2, 2]]},
    "plainconv": {"widths": [4, 8], "strides_zyx": [[1, 1, 1], [2, 2, 2]]},
}  # fmt: skip


@pytest.mark.parametrize(("name", "millions"), [("published-enc", 43.70), ("published-bot", 42.09)])
def test_the_published_xlstm_unets_have_the_published_sizes(name: Any, millions: float) -> None:
    """Six stages at 128³, one channel: what the paper's code has."""
    with torch.device("meta"):
        network = PublishedXLSTMUNet(name, PublishedConfig(), 1, 2, (128, 128, 128))
    assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(millions, abs=0.005)


def test_names_are_those_that_the_published_code_writes() -> None:
    """Some of every part; at 4³ voxels and 320 channels the deepest block's features are the 64 voxels."""
    with torch.device("meta"):
        enc = PublishedXLSTMUNet("published-enc", PublishedConfig(), 1, 2, (128, 128, 128)).state_dict()
        bot = PublishedXLSTMUNet("published-bot", PublishedConfig(), 1, 2, (128, 128, 128)).state_dict()
    shapes = {
        "encoder.stem.0.conv3.weight": (32, 1, 1, 1, 1),
        "encoder.stem.1.conv1.all_modules.0.weight": (32, 32, 3, 3, 3),
        "encoder.xlstm_layers.0.conv2.norm.weight": (32,),
        "encoder.xlstm_layers.3.vil.layer.q_proj.weight": (128, 4, 4),
        "encoder.xlstm_layers.5.vil.layer.proj_up.weight": (256, 64),
        "encoder.xlstm_layers.5.vil.layer.mlstm_cell.fgate.weight": (4, 384),
        "decoder.encoder.stages.5.0.conv1.weight": (320, 320, 3, 3, 3),
        "decoder.upsample_layers.0.conv.weight": (320, 320, 1, 1, 1),
        "decoder.seg_layers.4.weight": (2, 32, 1, 1, 1),
    }
    assert {name: tuple(enc[name].shape) for name in shapes} == shapes
    assert tuple(bot["xlstm.vil.layer.mlstm_cell.outnorm.weight"].shape) == (640,)
    assert not any("xlstm_layers" in name for name in bot)


def test_the_published_cell_is_the_recurrence_with_gates_that_have_no_cap() -> None:
    torch.manual_seed(0)
    cell = _Cell(8, 2)
    with torch.no_grad():
        cell.igate.bias.add_(20.0)
    q, k, v = torch.randn(3, 2, 5, 8).unbind(0)
    joint = torch.cat([q, k, v], -1)
    i, f = cell.igate(joint).transpose(1, 2), cell.fgate(joint).transpose(1, 2)
    by_head = [t.reshape(2, 5, 2, 4).transpose(1, 2) for t in (q, k, v)]
    hidden = mlstm_recurrent(by_head[0], by_head[1], by_head[2], i, f)
    normed = nn.functional.group_norm(hidden.transpose(1, 2).reshape(10, 8), 2).reshape(2, 5, 8)
    torch.testing.assert_close(cell(q, k, v), normed, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", SMALL)
def test_they_train_in_the_same_loop(name: str, tmp_path: Path) -> None:
    cases = write_cases(tmp_path / "cases", 2)
    config = run_config(cases, network={"preset": name, "overrides": SMALL[name]}, steps=1, ema=None,
                        data={"kind": "folder", "folder": str(cases), "validation": 0.5},
                        validation={"every": 1, "overlays": 0})  # fmt: skip
    assert finetune(config, tmp_path / "run").finished
    network = build_network(config)
    assert isinstance(network, Baseline)
    image = torch.randn(1, 1, 8, 8, 8)
    outputs = network.train()(image)
    assert isinstance(outputs, list)
    assert len(outputs) == len(SMALL[name]["widths"]) - 1
    assert torch.equal(network.eval()(image), network.finest(image))


def test_resenc_l_is_nnunets_of_its_planner() -> None:
    """160³ at 1 mm, what OpenMind pretrains: six stages of 1, 3, 4, 6, 6, 6 residual blocks; 102 million parameters."""
    config = ResEncConfig().planned("resenc-l", plan((160, 160, 160), (1.0, 1.0, 1.0)))
    assert config.widths == (32, 64, 128, 256, 320, 320)
    assert config.encoder_blocks == (1, 3, 4, 6, 6, 6)
    assert config.decoder_blocks == (1, 1, 1, 1, 1)
    wrong = {"preset": "resenc-m", "overrides": {**SMALL["resenc-m"], "widths": [4, 8, 8]}}
    with pytest.raises(InputError, match=r"network\.overrides: widths: expected it to fit 2 strides_zyx"):
        build_network(run_config(Path("x"), network=wrong))


def test_nnunets_recipe_is_nnunets() -> None:
    config = load_settings(RunConfig, CONFIGS / "finetune-nnunet.yaml")
    optimiser = config.optimiser
    assert (optimiser.kind, optimiser.lr, optimiser.momentum, optimiser.schedule) == ("sgd", 0.01, 0.99, "poly")
    assert (config.batch, config.steps, config.foreground) == (2, 250 * 1000, 0.33)
    # A rotation of 0.2 and a scaling of 0.2, each on its own: 1 − 0.8².
    assert config.augmentation.rotate_zoom == pytest.approx(1 - 0.8**2)
    assert not config.loss.coarsest


def test_the_coarsest_output_counts_only_where_it_is_asked_for() -> None:
    """Weights 1 and ½ of three outputs, together 1; the third can be anything."""
    target = torch.randint(0, 2, (1, 8, 8, 8))
    fine, middle = torch.randn(1, 2, 8, 8, 8), torch.randn(1, 2, 4, 4, 4)
    loss = SegmentationLoss(LossConfig(coarsest=False))
    found = [loss([fine, middle, scale * torch.randn(1, 2, 2, 2, 2)], target) for scale in (0.0, 100.0)]
    assert torch.equal(*found)
    alone = SegmentationLoss(LossConfig())
    torch.testing.assert_close(found[0], alone([fine, middle], target))
