"""What was scored and what it cost, kept beside the scores: `evaluate` writes `system.json`, `compare` reads it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any, Literal

import torch
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt

# Only shapes are followed through the network: nothing is computed, whatever the patch's size.
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from segsync_train.config.data import FolderData, SyntheticData
from segsync_train.config.run import RunConfig, TransferConfig
from segsync_train.config.settings import Frozen
from segsync_train.config.training import NetworkConfig, SizeZYX
from segsync_train.data.adapters import DATASETS
from segsync_train.data.layout import CaseFiles
from segsync_train.networks import SegmentationNetwork
from segsync_train.runs.folder import LOG_FILE, read_log

SYSTEM_FILE = "system.json"
#: The paper's names: of networks by their preset, where it is not the xLSTM-UNet's, and of pretext tasks.
XLSTM_UNET = "xLSTM-UNet"
NETWORKS = {
    "nnunet": "3D-nnUNet",
    "resunet": "3D-ResUNet",
    "unet": "3D-UNet",
    "swinunetr": "SwinUNETR",
    "unetr": "UNETR",
    "resenc-m": "ResEnc-M",
    "resenc-l": "ResEnc-L",
    "plainconv": "PlainConvUNet",
    "published-enc": "xLSTM-UNet-Enc as published",
    "published-bot": "xLSTM-UNet-Bot as published",
}
PRETEXTS = {
    "segsync": "3D-SegSync",
    "mae": "MAE",
    "mae-sparse": "Sparse MAE",
    "hiendmae": "Hi-End-MAE",
    "hiendmae-sparse": "Sparse Hi-End-MAE",
    "voco": "VoCo",
    "voco-released": "Released VoCo",
    "swinssl": "SwinSSL",
    "swinssl-released": "Released SwinSSL",
    "swinmm": "SwinMM",
}


class Budget(Frozen):
    """What a network costs, and what was spent on training it."""

    parameters: PositiveInt
    #: 10⁹ floating-point operations of one patch's forward pass: convolutions and matrix products, a multiply-add is 2.
    gflops: NonNegativeFloat
    patch_zyx: SizeZYX
    batch: PositiveInt
    steps: NonNegativeInt
    hours: NonNegativeFloat
    #: Of the trainings that its first weights come from.
    inherited_steps: NonNegativeInt
    inherited_hours: NonNegativeFloat
    #: The pretext task of an inherited encoder's pretraining; None where a fine-tuning made it, or nothing.
    inherited_pretext: str | None = None
    hardware: str
    #: Median of the log, and the largest value in it; None without a log, as beside exported weights.
    seconds_per_step: NonNegativeFloat | None = None
    peak_memory_mib: NonNegativeFloat | None = None


class System(Frozen):
    """What `system.json` holds."""

    format: Literal[1] = 1
    #: The system's name in a comparison; runs that differ in nothing but their seed share it.
    name: str
    #: The data set that was scored, and the one trained on: None where that is not known.
    data: str
    trained_on: str | None = None
    rules: str
    #: Whether mirrored copies were averaged.
    mirror: bool = False
    #: The training's whole settings.
    settings: dict[str, Any] | None = None
    budget: Budget | None = None
    #: The channel that pictures show, and every case's files; what was found in a case, below this folder or absolute.
    reference: str | None = None
    cases: dict[str, CaseFiles]
    masks: dict[str, Path]


def system_name(network: NetworkConfig, transfer: TransferConfig, pretext: str | None) -> str:
    """The paper's name for what a run trains.

    Args:
        network: Its network.
        transfer: What it inherits.
        pretext: Of its encoder's pretraining; None where there was none.

    Returns:
        As in `3D-SegSync-Bottom`, or `MAE, SwinUNETR`.
    """
    network_name = NETWORKS.get(network.preset, XLSTM_UNET)
    if transfer.mode == "none":
        return network_name
    if transfer.mode == "network":
        return f"{network_name}, continued"
    bottom = "-Bottom" if transfer.mode == "bottom" else ""
    if pretext is None:
        return f"{network_name}, encoder continued{bottom}"
    if pretext not in PRETEXTS:
        return f"{network_name} from {pretext}{bottom}"
    own = pretext == "segsync" and network_name == XLSTM_UNET
    return f"{PRETEXTS[pretext]}{bottom}" if own else f"{PRETEXTS[pretext]}{bottom}, {network_name}"


def data_name(data: FolderData | SyntheticData, task: str) -> str:
    """A data set's name: that of its layout, else of its folder; of drawn cases the task's."""
    if isinstance(data, SyntheticData):
        return f"synthetic {task}"
    return data.layout if data.layout in DATASETS else folder_name(data.folder)


def folder_name(folder: Path) -> str:
    """A folder's name; of `labelsTr` and the like its parent's."""
    folder = folder.resolve()
    return folder.parent.name if folder.name.lower().startswith("labels") else folder.name


def system_of(
    cases: Sequence[CaseFiles],
    *,
    name: str,
    task: str,
    reference: str,
    config: RunConfig | None,
    budget: Budget | None,
    data: FolderData | None,
    rules: str,
    mirror: bool,
    masks: bool,
) -> System:
    """The record of a network.

    Args:
        cases: What was scored.
        name: Of the weights, for those whose settings are not known.
        task: Of the weights.
        reference: The channel that pictures show.
        config: Settings of the training, where known.
        budget: Its cost, where known.
        data: Other cases than those of the training's data.
        rules: Name of the metrics' rules.
        mirror: Whether mirrored copies were averaged.
        masks: Whether the masks are kept, in a folder `masks` beside the record.

    Returns:
        What `system.json` holds.
    """
    trained_on = data_name(config.data, config.task) if config else None
    pretext = budget.inherited_pretext if budget else None
    return System(
        name=system_name(config.network, config.transfer, pretext) if config else name,
        data=data_name(data, task) if data else trained_on or task,
        trained_on=trained_on,
        rules=rules,
        mirror=mirror,
        settings=config.model_dump(mode="json") if config else None,
        budget=budget,
        reference=reference,
        cases=resolved(cases),
        masks={case.name: Path("masks", f"{case.name}.nii.gz") for case in cases} if masks else {},
    )


def budget_of(
    network: SegmentationNetwork, patch_zyx: SizeZYX, batch: int, made: Mapping[str, Any], run: Path | None = None
) -> Budget:
    """What a network costs, and what was spent on training it.

    Args:
        network: Built, with any weights.
        patch_zyx: Voxels of a patch.
        batch: Patches in a batch.
        made: The state of its checkpoint.
        run: The folder with its log; None for a system without a run.

    Returns:
        The part of `system.json`.
    """
    log = read_log(run) if run is not None and (run / LOG_FILE).is_file() else []
    speeds = [line["train/steps_per_second"] for line in log if line.get("train/steps_per_second")]
    peaks = [line["train/peak_memory_mib"] for line in log if "train/peak_memory_mib" in line]
    return Budget(
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        gflops=forward_flops(network, patch_zyx) / 1e9,
        patch_zyx=patch_zyx,
        batch=batch,
        steps=made["step"],
        hours=made["hours"],
        inherited_steps=made["inherited"]["steps"],
        inherited_hours=made["inherited"]["hours"],
        inherited_pretext=made["inherited"].get("pretext"),
        hardware=made["hardware"],
        seconds_per_step=1 / median(speeds) if speeds else None,
        peak_memory_mib=max(peaks, default=None),
    )


def forward_flops(network: SegmentationNetwork, patch_zyx: SizeZYX) -> int:
    """Floating-point operations of one patch's forward pass, as torch's counter has them; nothing is computed."""
    was_training = network.training
    network.eval()
    try:
        with FakeTensorMode(allow_non_fake_inputs=True), FlopCounterMode(display=False) as counter, torch.no_grad():
            network(torch.empty(1, network.in_channels, *patch_zyx))
    finally:
        network.train(was_training)
    return int(counter.get_total_flops())


def resolved(cases: Sequence[CaseFiles]) -> dict[str, CaseFiles]:
    """Cases by name, their files by absolute paths: the scores may be read from another folder."""
    return {
        case.name: replace(
            case,
            images={name: path.resolve() for name, path in case.images.items()},
            label=case.label and case.label.resolve(),
            masks={name: tuple(path.resolve() for path in paths) for name, paths in case.masks.items()},
        )
        for case in cases
    }
