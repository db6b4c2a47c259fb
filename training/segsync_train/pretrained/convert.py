"""`segsync-train import`: weights of others as a checkpoint that `transfer` takes, with a table of what became of each.

checkpoint.safetensors   the tensors by this project's names          tensors.csv   every tensor of both sides
settings.yaml            the network and `transfer` of a fine-tuning: `base: DIR/settings.yaml` starts from them
"""

import csv
import io
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from rich.table import Table
from torch import Tensor

from segsync.atomic import why_not
from segsync.errors import InputError, OutputError, WeightsError
from segsync_train.config.run import RunConfig
from segsync_train.config.settings import check_settings
from segsync_train.networks import SegmentationNetwork
from segsync_train.networks.build import build_network
from segsync_train.networks.transformers import SWIN_MULTIPLE, VIT_TOKEN
from segsync_train.pretrained.files import ForeignWeights, read_weights
from segsync_train.pretrained.layouts import Layout, configuration, layout_of
from segsync_train.runs.checkpoints import save_checkpoint
from segsync_train.trainer.transfer import weights_of

CHECKPOINT, SETTINGS, TABLE = "checkpoint.safetensors", "settings.yaml", "tensors.csv"
TAKEN, OTHER_SHAPE, UNKNOWN, ANEW = "taken", "left out: another shape", "left out: not in the network", "starts anew"


@dataclass(frozen=True)
class Row:
    """A tensor of the file (`theirs`), of the network (`ours`) or of both."""

    theirs: str
    ours: str
    shape: str
    what: str


@dataclass(frozen=True)
class Imported:
    """What an import made: the network's settings, and what became of every tensor."""

    folder: Path
    layout: Layout
    network: dict[str, Any]
    rows: tuple[Row, ...]

    def table(self) -> Table:
        """Tensors counted by the part of the network and what became of them."""
        table = Table(title=f"{self.layout.writers} → {self.layout.preset}")
        for heading in ("part", "tensors", "what became of them"):
            table.add_column(heading)
        counted = Counter((_part(row.ours or row.theirs), row.what) for row in self.rows)
        for (part, what), count in counted.items():
            table.add_row(part, str(count), what)
        return table


def convert(
    path: Path, folder: Path, *, name: str | None = None, patch_zyx: tuple[int, int, int] | None = None
) -> Imported:
    """Bring a file of weights into a folder.

    Args:
        path: The file.
        folder: Of the checkpoint and its settings.
        name: What comparisons call them; None: the file's.
        patch_zyx: That the weights were trained with, where their network depends on it and the file does not say.

    Returns:
        What became of every tensor.

    Raises:
        WeightsError: The file is of no known layout, of another dimension, or lacks a part of the encoder.
        OutputError: The folder cannot be written.
    """
    found = read_weights(path)
    _check_dimension(found)
    layout = layout_of(found)
    try:
        overrides = layout.overrides(found)
        patch = patch_zyx or _patch(found, layout, overrides)
    except (LookupError, StopIteration) as error:  # of a tensor by whose shape the network is told
        lacking = f" ({error})" if str(error) else ""
        raise WeightsError(
            f"{path}: expected all tensors of {layout.writers}, found a part of them{lacking}; give the whole file"
        ) from error
    image = next((found.tensors[key] for key in layout.image if key in found.tensors), None)
    if image is None:
        raise WeightsError(f"{path}: expected the convolution that sees the image, found no {layout.image[0]}")
    network = {"preset": layout.preset, "overrides": overrides}
    built = _built(path, network, patch, image.shape[1], _heads(found))
    tensors, rows = _matched(found, layout, built)
    _check_encoder(path, rows, str(built.encoder_at))
    state = {
        "kind": "import", "name": name or path.stem, "layout": layout.writers, "source": path.name, "step": 0,
        "hours": 0.0, "config": {"patch_zyx": patch, "network": network},
    }  # fmt: skip
    save_checkpoint(folder / CHECKPOINT, {f"network/{key}": tensor for key, tensor in tensors.items()}, state)
    _write(folder, network, rows)
    return Imported(folder, layout, network, tuple(rows))


def parse_patch(text: str | None) -> tuple[int, int, int] | None:
    """`--patch 128,128,128`; raises InputError for anything else."""
    if text is None:
        return None
    sides = text.split(",")
    if len(sides) != 3 or not all(side.strip().isdigit() and int(side) for side in sides):
        raise InputError(f"--patch: expected three sides, as 128,128,128, found {text!r}")
    z, y, x = map(int, sides)
    return z, y, x


def _check_dimension(found: ForeignWeights) -> None:
    kernels = Counter(tensor.ndim - 2 for tensor in found.tensors.values() if tensor.ndim in (4, 5))
    if kernels and not kernels[3]:
        raise WeightsError(f"{found.path}: expected a network of three dimensions, found kernels of two")


def _patch(found: ForeignWeights, layout: Layout, overrides: dict[str, Any]) -> tuple[int, int, int]:
    """The patch that the network is built for: the file's own, or else one that its positions or strides tell."""
    planned = configuration(found.beside).get("patch_size", ())
    if len(planned) == 3:
        z, y, x = (int(side) for side in planned)
        return z, y, x
    if layout.preset == "unetr":
        table = next(t for key, t in found.tensors.items() if str(layout.renamed(key)).endswith("position_embeddings"))
        side = round(table.numel() / table.shape[-1]) ** (1 / 3)
        z, y, x = (round(side) * token for token in VIT_TOKEN)
        return z, y, x
    if layout.preset == "swinunetr":
        z, y, x = (2 * side for side in SWIN_MULTIPLE)
        return z, y, x
    strides = overrides["strides_zyx"]
    z, y, x = (4 * math.prod(stride[axis] for stride in strides) for axis in range(3))
    return z, y, x


def _heads(found: ForeignWeights) -> int:
    """Labels with background of the file's network; 2 where it has no head."""
    names = [key for key in found.tensors if key.endswith(("seg_layers.0.weight", "out.conv.conv.weight"))]
    return found.tensors[names[0]].shape[0] if names else 2


def _built(
    path: Path, network: dict[str, Any], patch: Sequence[int], channels: int, outputs: int
) -> SegmentationNetwork:
    """The network that the file's settings describe."""
    settings = {
        "name": "import", "task": "import", "data": {"kind": "folder", "folder": "."},
        "channels": [{"name": f"image{number}", "normalisation": {"kind": "zscore"}} for number in range(channels)],
        "labels": {number: f"label{number}" for number in range(1, max(2, outputs))},
        "spacing_zyx": [1, 1, 1], "patch_zyx": list(patch), "network": network, "steps": 1,
    }  # fmt: skip
    try:
        return build_network(check_settings(RunConfig, settings, str(path)))
    except InputError as error:
        raise WeightsError(f"{path}: expected weights of a network that can be built: {error}") from error


def _matched(
    found: ForeignWeights, layout: Layout, network: SegmentationNetwork
) -> tuple[dict[str, Tensor], list[Row]]:
    """The tensors by this project's names, and what became of each of both sides."""
    own = weights_of(network)
    aliases = network.state_dict().keys() - own.keys()
    taken: dict[str, Tensor] = {}
    rows = []
    for theirs, tensor in found.tensors.items():
        ours = layout.renamed(theirs)
        if ours in aliases or theirs.startswith("decoder.encoder."):
            continue  # the same tensor under a second name
        shape = str(tuple(tensor.shape))
        if ours is None or ours not in own:
            rows.append(Row(theirs, "", shape, UNKNOWN))
        elif tensor.numel() == own[ours].numel() and tensor.squeeze().shape == own[ours].squeeze().shape:
            taken[ours] = tensor.reshape(own[ours].shape)
            rows.append(Row(theirs, ours, shape, TAKEN))
        else:
            rows.append(Row(theirs, ours, f"{shape}, network {tuple(own[ours].shape)}", OTHER_SHAPE))
    named = {row.ours for row in rows}
    # MONAI's ViT blocks hold a cross-attention that is never used: no file need have it.
    rows += [Row("", key, str(tuple(t.shape)), ANEW) for key, t in own.items() if key not in named]
    unused = {key: torch.zeros(own[key].shape) for key in own if "cross_attn" in key}
    return {**unused, **taken}, rows


def _check_encoder(path: Path, rows: Sequence[Row], at: str) -> None:
    """Every tensor of the encoder is there, or none of it is used."""
    inside = [row for row in rows if row.ours.startswith(at) and "cross_attn" not in row.ours]
    lacking = [row for row in inside if row.what != TAKEN]
    if lacking:
        first = lacking[0]
        raise WeightsError(
            f"{path}: expected all {len(inside)} tensors of the encoder, found {len(inside) - len(lacking)}; the first "
            f"that is not there is {first.ours.removeprefix('network.')} {first.shape}; give the settings' own network"
        )


def _write(folder: Path, network: dict[str, Any], rows: Sequence[Row]) -> None:
    settings = {
        "network": network,
        "transfer": {"mode": "full", "checkpoint": str(folder.resolve() / CHECKPOINT)},
    }
    table = io.StringIO()
    writer = csv.writer(table)
    writer.writerow(("file", "network", "shape", "what"))
    writer.writerows((row.theirs, row.ours, row.shape, row.what) for row in rows)
    try:
        (folder / SETTINGS).write_text(yaml.safe_dump(settings, sort_keys=False, default_flow_style=None))
        (folder / TABLE).write_text(table.getvalue())
    except OSError as error:
        raise OutputError(f"{folder}: expected to write the settings, found {why_not(folder, error)}") from error


def _part(name: str) -> str:
    """The part of a network that a tensor is of, as a line of the summary."""
    words = name.removeprefix("network.").split(".")
    return ".".join(words[:2]) if words[0] in ("encoder", "decoder", "swinViT", "vit") else words[0]
