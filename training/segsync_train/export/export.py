"""From a run to weights that `segsync` opens: model.onnx, model.json, MODEL_CARD.md; compared with torch first."""

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch

from segsync.arrays import Array
from segsync.atomic import whole_folder, why_not
from segsync.bundle import CARD_FILE, MODEL_FILE, SPEC_FILE, ModelSpec, sha256_of, write_manifest
from segsync.errors import InputError, OutputError, WeightsError
from segsync.postprocess import of_any_label
from segsync_train.config.run import RunConfig
from segsync_train.data.sources import open_data
from segsync_train.evaluation.operating_point import FILE, OperatingPoint, read_operating_point
from segsync_train.export.card import model_card
from segsync_train.export.ensemble import check_alike, common_axes, common_multiple, network_files, record
from segsync_train.networks import SegmentationNetwork
from segsync_train.networks.onnx_file import OPSET, Probabilities, write_onnx
from segsync_train.runs.checkpoints import Checkpoint, load_checkpoint
from segsync_train.runs.devices import Processes
from segsync_train.runs.folder import RunFolder
from segsync_train.trainer.transfer import trained_network

log = logging.getLogger(__name__)

#: Real cases on which the file is compared with the network.
CASES = 2
#: Largest difference of a probability and smallest Dice of the masks: float32 weights, then float16 ones. Rounding has
#: reached 7e-6 in a trained network.
EXACT, HALVED = (1e-4, 0.9999), (2e-2, 0.99)


@dataclass(frozen=True)
class Agreement:
    """How far torch and ONNX Runtime are apart: largest difference of a probability, smallest Dice of the masks."""

    largest_difference: float
    smallest_dice: float

    def within(self, limits: tuple[float, float]) -> bool:
        """Whether the file may be kept."""
        return self.largest_difference <= limits[0] and self.smallest_dice >= limits[1]


@dataclass(frozen=True)
class Member:
    """A run's network that is to be exported, by itself or in an ensemble."""

    run: Path
    checkpoint: Checkpoint
    config: RunConfig
    network: SegmentationNetwork

    @classmethod
    def of(cls, run: Path, checkpoint: Path | None) -> "Member":
        """Read a run; raises WeightsError for a damaged checkpoint, InputError for what torch alone runs."""
        found = load_checkpoint(checkpoint or RunFolder(run).best)
        config, network = trained_network(found)
        if config.network.preset in ("swinunetr", "unetr", "published-enc", "published-bot"):
            raise InputError(
                f"{found.path}: expected a network that is exported, found {config.network.preset!r}, which trains and "
                "is evaluated in torch alone; train an xLSTM-UNet, nnunet, resunet or unet for weights to be exported"
            )
        return cls(run, found, config, network)


def export(
    runs: Path | Sequence[Path],
    weights: Path,
    *,
    licence: str = "Apache-2.0",
    checkpoint: Path | None = None,
    operating_point: Path | None = None,
    task: str | None = None,
) -> Path:
    """Write the best networks of runs to `weights/<task>` and update `weights/manifest.json`.

    Each file is kept only if ONNX Runtime and torch agree on random windows of several sizes and on validation cases of
    its run; its weights are float16 if that agrees as well.

    Args:
        runs: A run, or several for an ensemble, whose probabilities are averaged.
        weights: Folder of all tasks' weights.
        licence: SPDX identifier.
        checkpoint: Another one than the best; for a single run.
        operating_point: Folder that `tune` wrote it to; None: the run's own, which those of an ensemble must share.
        task: Another task that the same network serves; None: the one it was trained for.

    Returns:
        The task's folder.

    Raises:
        InputError: The runs of an ensemble need different images, grids or windows, or chose different points.
        WeightsError: Torch and ONNX Runtime do not agree, or a checkpoint is damaged.
        OutputError: Nothing can be written.
    """
    folders = [runs] if isinstance(runs, Path) else list(runs)
    if checkpoint is not None and len(folders) > 1:
        raise InputError(f"--checkpoint: expected a single run, found {len(folders)}; leave it out")
    members = [Member.of(run, checkpoint) for run in folders]
    _check_members(members)
    first = members[0]
    config, found, network = first.config, first.checkpoint, first.network
    point = _shared_point(members, operating_point)
    task = task or config.task
    folder = weights / task
    try:
        with whole_folder(folder, replace=True) as part:
            names = network_files(len(members))
            agreements = [_write_member(one, part / name, point) for one, name in zip(members, names, strict=True)]
            multiple = common_multiple([member.network.multiple_zyx for member in members])
            needs = config.inference_spec(multiple, point.decision)
            spec = ModelSpec(
                **dict(needs) | {"mirror_axes": common_axes([member.config.mirror_axes for member in members])},
                name=config.name,
                task=task,
                region_model=None if config.region_model is None else config.region_model.name,
                sha256=sha256_of(part / MODEL_FILE),
                further_networks={name: sha256_of(part / name) for name in names[1:]},
                opset=OPSET,
                licence=licence,
                provenance=_provenance(found.state, network, agreements[0], point)
                | record(_records(members, agreements)),
            )
            (part / SPEC_FILE).write_text(spec.model_dump_json(indent=2) + "\n", encoding="utf-8")
            (part / CARD_FILE).write_text(model_card(spec, config.card), encoding="utf-8")
        write_manifest(weights)
    except OSError as error:
        raise OutputError(f"{folder}: expected to write the weights, found {why_not(weights, error)}") from error
    return folder


def _check_members(members: Sequence[Member]) -> None:
    check_alike([(member.run, member.config) for member in members])
    if len({member.run.resolve() for member in members}) < len(members):
        raise InputError(f"{members[0].run}: expected every run once, found one twice; take one away")


def _shared_point(members: Sequence[Member], chosen: Path | None) -> OperatingPoint:
    if chosen is not None:
        if not (chosen / FILE).is_file():
            raise InputError(f"{chosen}: no {FILE}; run segsync-train tune")
        return read_operating_point(chosen)
    points = [read_operating_point(member.run) for member in members]
    for member, point in zip(members, points, strict=True):
        if point.decision != points[0].decision:
            raise InputError(
                f"{member.run}: expected the operating point of {members[0].run} ({points[0].decision}), found "
                f"{point.decision}; give --operating-point FOLDER, one chosen for the ensemble"
            )
    return points[0]


def _write_member(member: Member, path: Path, point: OperatingPoint) -> dict[str, Agreement]:
    inputs = _random_inputs(member.network) + _real_inputs(member.config, member.run)
    return _write_network(
        member.network, path, inputs, point.threshold, member.checkpoint.path, overlapping=bool(member.config.regions)
    )


def _records(members: Sequence[Member], agreements: Sequence[dict[str, Agreement]]) -> list[dict[str, Any]]:
    """What is known of each network."""
    return [
        {"run": member.run.resolve().name, **_training(member.checkpoint.state), "agreement": _as_json(agreement)}
        for member, agreement in zip(members, agreements, strict=True)
    ]


def _write_network(
    network: SegmentationNetwork,
    path: Path,
    inputs: list[Array],
    threshold: float,
    checkpoint: Path,
    *,
    overlapping: bool,
) -> dict[str, Agreement]:
    """Write the network with float16 weights, or with float32 ones where halving them changes what it says.

    Returns:
        How the file agrees with torch, by the kind of its weights; the last one is kept.

    Raises:
        WeightsError: Even with float32 weights it differs from torch by more than is allowed.
    """
    agreements = {}
    for name, limits in (("float32", EXACT), ("float16", HALVED)):
        model = write_onnx(network, path, half_weights=name == "float16", overlapping=overlapping)
        agreements[name] = compare(network, path, inputs, threshold, overlapping=overlapping)
        log.info("%s weights: %s, %d nodes", name, agreements[name], len(model.graph.node))
        if agreements[name].within(limits):
            continue
        found = f"{agreements[name].largest_difference:.2g} and Dice {agreements[name].smallest_dice:.4f}"
        if name == "float32":
            raise WeightsError(
                f"{checkpoint}: with {name} weights ONNX Runtime differs from torch by {found}, allowed are "
                f"{limits[0]:g} and {limits[1]}; nothing was exported"
            )
        log.warning("float16 weights differ by %s; float32 weights are kept, twice the size", found)
        write_onnx(network, path, half_weights=False, overlapping=overlapping)
        del agreements[name]
    return agreements


def compare(
    network: SegmentationNetwork, path: Path, inputs: list[Array], threshold: float = 0.5, *, overlapping: bool = False
) -> Agreement:
    """Run both on each input (N, C, Z, Y, X); a mask is where the foreground's probabilities reach the threshold.

    overlapping: whether labels overlap (regions).
    """
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    wrapped = Probabilities(network, overlapping=overlapping).eval()
    differences, dices = [0.0], [1.0]
    for image in inputs:
        with torch.inference_mode():
            expected = wrapped(torch.from_numpy(image)).numpy()
        found = session.run(None, {"image": image})[0]
        differences.append(float(np.abs(found - expected).max()))
        a, b = (
            np.stack([of_any_label(one, overlapping=overlapping) for one in sample]) >= threshold
            for sample in (found, expected)
        )
        both = int(a.sum()) + int(b.sum())
        dices.append(2 * int((a & b).sum()) / both if both else 1.0)
    # NumPy's maximum, unlike Python's, is NaN where one of them is.
    return Agreement(float(np.max(differences)), float(np.min(dices)))


def _random_inputs(network: SegmentationNetwork) -> list[Array]:
    """Windows of several sizes and one batch of two, seeded."""
    rng = np.random.default_rng(0)
    counts = ((1, 2, 2, 2), (2, 3, 2, 4), (1, 1, 5, 3))
    shapes = [
        (n, network.in_channels, *(c * m for c, m in zip(count, network.multiple_zyx, strict=True)))
        for n, *count in counts
    ]
    return [rng.standard_normal(shape).astype(np.float32) for shape in shapes]


def _real_inputs(config: RunConfig, run: Path) -> list[Array]:
    """The training patch in the middle of validation cases."""
    cases = open_data(config, run, Processes()).validation[:CASES]
    inputs = []
    for case in cases:
        image = np.array(case.image)
        pad = [(0, max(0, side - have)) for side, have in zip(config.patch_zyx, image.shape[1:], strict=True)]
        image = np.pad(image, [(0, 0), *pad])
        first = [(have - side) // 2 for side, have in zip(config.patch_zyx, image.shape[1:], strict=True)]
        window = tuple(slice(f, f + side) for f, side in zip(first, config.patch_zyx, strict=True))
        inputs.append(np.ascontiguousarray(image[(None, slice(None), *window)]))
    return inputs


def _provenance(
    state: Any, network: SegmentationNetwork, agreements: dict[str, Agreement], point: OperatingPoint
) -> dict[str, Any]:
    """What `model.json` keeps of the training."""
    return {
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        **_training(state),
        "torch": version("torch"),
        "operating_point": point.model_dump(mode="json"),
        "agreement": _as_json(agreements),
        "config": _without_folders(state["config"]),
    }


def _training(state: Any) -> dict[str, Any]:
    """How far a network was trained, by which commit and where, and how well it did."""
    return {
        "commit": state["commit"],
        "hardware": state["hardware"],
        "steps": state["step"],
        "training_hours": round(state["hours"], 2),
        "inherited": {key: state["inherited"][key] for key in ("steps", "hours")},
        "validation_score": state["best"],
    }


def _as_json(agreements: dict[str, Agreement]) -> dict[str, Any]:
    return {name: asdict(agreement) for name, agreement in agreements.items()}


def _without_folders(config: dict[str, Any]) -> dict[str, Any]:
    """The settings with files and folders by their names: where they lay is of no use to anyone else."""
    data, checkpoint = dict(config["data"], cache=None), config["transfer"]["checkpoint"]
    for key in data.keys() & {"folder", "sources"}:
        data[key] = Path(data[key]).name
    named = checkpoint and str(Path(Path(checkpoint).parent.name, Path(checkpoint).name))
    region = config.get("region_model") and Path(config["region_model"]).name
    return {
        **config,
        "data": data,
        "region_model": region,
        "transfer": {**config["transfer"], "checkpoint": named},
    }
