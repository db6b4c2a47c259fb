"""What is kept beside scores: the system by the paper's name, its data sets, and its cost counted by hand."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from segsync.errors import InputError
from segsync_train.comparison.grouping import group_runs
from segsync_train.comparison.montage import montage_figure
from segsync_train.comparison.scores import read_run
from segsync_train.config.data import FolderData
from segsync_train.config.run import RunConfig
from segsync_train.config.settings import check_settings
from segsync_train.evaluation.evaluate import evaluate, parse_channels
from segsync_train.evaluation.system import System, data_name, forward_flops, system_name
from segsync_train.networks.baselines import Baseline
from segsync_train.networks.build import build_network
from segsync_train.trainer.finetune import finetune
from training_cases import run_config, write_cases


def config_of(preset: str, mode: str) -> RunConfig:
    transfer = {"mode": mode, "checkpoint": None if mode == "none" else "best.safetensors"}
    return run_config(Path("cases"), network={"preset": preset}, transfer=transfer)


@pytest.mark.parametrize(
    ("preset", "mode", "pretext", "name"),
    [
        ("enc", "full", "segsync", "3D-SegSync"),
        ("tiny", "bottom", "segsync", "3D-SegSync-Bottom"),
        ("tiny", "full", "mae", "MAE, xLSTM-UNet"),
        ("swinunetr", "full", "voco", "VoCo, SwinUNETR"),
        ("tiny", "full", None, "xLSTM-UNet, encoder continued"),
        ("default", "none", None, "xLSTM-UNet"),
        ("swinunetr", "none", None, "SwinUNETR"),
        ("nnunet", "none", None, "3D-nnUNet"),
        ("unet", "network", None, "3D-UNet, continued"),
    ],
)
def test_runs_have_the_papers_names(preset: str, mode: str, pretext: str | None, name: str) -> None:
    """Encoders of two pretext tasks are two systems: `compare` would take them for seeds of one."""
    config = config_of(preset, mode)
    assert system_name(config.network, config.transfer, pretext) == name


def test_data_sets_are_named_by_their_layout_else_by_their_folder() -> None:
    def named(folder: str, layout: str) -> str:
        return data_name(FolderData(folder=Path(folder), layout=layout), "task")

    assert named("anywhere/MMWHS", "mmwhs-ct") == "mmwhs-ct"
    assert named("anywhere/Task04_Hippocampus", "nnunet") == "Task04_Hippocampus"


def test_operations_are_those_of_the_layers() -> None:
    """A 3³ convolution of 2 into 4 channels on 8³ voxels: 2 · 27 · 2 · 4 · 512, and nothing is computed."""

    class One(torch.nn.Module):
        in_channels = 2

        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Conv3d(2, 4, 3, padding=1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x)  # type: ignore[no-any-return]

    network: Baseline = One()  # type: ignore[assignment]
    assert forward_flops(network, (8, 8, 8)) == 2 * 27 * 2 * 4 * 512
    assert network.training


def test_a_run_and_its_scores_on_other_data_are_recorded(tmp_path: Path) -> None:
    config = run_config(write_cases(tmp_path / "ct"), steps=2, validation={"every": 2, "overlays": 0})
    finetune(config, tmp_path / "run")
    evaluate(tmp_path / "run", tmp_path / "own", masks=True)
    other = write_cases(tmp_path / "mr", 2)
    # What a folder in nnU-Net's format calls its channels does not matter: they are numbered.
    evaluate(tmp_path / "run", tmp_path / "cross", data=other, channels={"t1": "mr"})
    own, cross = (
        check_settings(System, json.loads((tmp_path / name / "system.json").read_text()), name)
        for name in ("own", "cross")
    )
    assert (own.name, own.data, own.trained_on) == ("xLSTM-UNet", "ct", "ct")
    assert (cross.data, cross.trained_on, sorted(cross.cases)) == ("mr", "ct", ["case0", "case1"])
    assert own.budget is not None
    assert own.budget.parameters == sum(parameter.numel() for parameter in build_network(config).parameters())
    assert (own.budget.steps, own.budget.inherited_steps) == (2, 0)
    assert own.budget.seconds_per_step is not None
    assert own.budget.peak_memory_mib is not None
    assert own.budget.peak_memory_mib > 50  # torch alone takes more
    (name,) = own.masks
    assert (tmp_path / "own" / own.masks[name]).is_file()
    assert own.cases[name].label == tmp_path / "ct" / "labelsTr" / f"{name}.nii.gz"
    assert cross.masks == {}
    # What evaluation wrote can be compared and drawn.
    shutil.copytree(tmp_path / "own", tmp_path / "copy")
    (setting,) = group_runs([read_run(str(tmp_path / "own")), read_run(f"the same={tmp_path / 'copy'}")], "xLSTM-UNet")
    figure = montage_figure(setting)
    assert figure is not None
    assert [axes.get_title() for axes in figure.axes[:4]] == ["image", "truth", "xLSTM-UNet", "the same"]
    with pytest.raises(InputError, match=r"--channel: expected a channel of the model \(t1\), found t2"):
        evaluate(tmp_path / "run", tmp_path / "cross", data=other, channels={"t2": "mr"})
    with pytest.raises(InputError, match="--channel: expected MODEL=DATA, as in ct=mr, found 'ct'"):
        parse_channels(["ct"])
    with pytest.raises(InputError, match="--channel: expected ct once, found mr and t1; leave one"):
        parse_channels(["ct=mr", "ct=t1"])
