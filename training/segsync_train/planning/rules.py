"""From a fingerprint to settings. Every rule says its reason, which stands beside the value in the file.

Most rules are nnU-Net's, in our own words and code, after Isensee et al. 2021 (Nature Methods 18:203, supplement) and
the documentation of nnU-Net v2; where this project does otherwise, the reason says so.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from segsync.arrays import SizeZYX, Triple
from segsync.errors import InputError
from segsync.units import CT, QUANTITIES
from segsync_train.config.run import RunConfig
from segsync_train.config.settings import check_settings
from segsync_train.networks.baselines import plan as topology
from segsync_train.networks.published import PublishedConfig
from segsync_train.networks.xlstm_unet import XLSTMUNetConfig, preset
from segsync_train.planning.fingerprint import ChannelFingerprint, Fingerprint
from segsync_train.planning.memory import Need, too_small, training_memory

SOURCE = "nnU-Net"
#: An axis with so many times the finest spacing, and so many times fewer voxels than the others, is anisotropic.
ANISOTROPY = 3.0
#: Percentile of an anisotropic axis's spacings that becomes the target: the median would throw most slices away.
FINE_PERCENTILE = 10.0
#: The patch starts with as many voxels as a cube of this side, on a GPU and on a CPU (where time is what ends first).
FIRST_SIDE = {"gpu": 256, "cpu": 64}
#: A batch sees no more than this fraction of all voxels of the set.
BATCH_FRACTION = 0.05
LARGEST_BATCH = {"gpu": 16, "cpu": 4}
#: Steps: nnU-Net's 1000 epochs of 250; patches of each case that are enough, and the most steps.
PATCHES_PER_CASE = {"gpu": 2000, "cpu": 100}
MOST_STEPS = {"gpu": 250_000, "cpu": 10_000}
#: Fraction of a case that its labels fill below which half of the patches are centred on them.
SMALL_LESIONS = 0.005
SIDES = re.compile(r"(?:^|[^a-z])(left|right|l|r|lh|rh)(?:[^a-z]|$)", re.IGNORECASE)
NETWORKS = {"gpu": "default", "cpu": "tiny"}
#: Presets whose strides follow from the patch, and those that are given strides.
OWN_STRIDES = ("nnunet", "resunet", "unet", "resenc-m", "resenc-l", "plainconv")
TRANSFORMERS = {"swinunetr": 32, "unetr": 16}
PUBLISHED = ("published-enc", "published-bot")
GIVEN_STRIDES = ("tiny", "compact", "small", "default", "enc", "bot", *PUBLISHED)
PLANNED = (*GIVEN_STRIDES, *OWN_STRIDES, *TRANSFORMERS)


@dataclass(frozen=True)
class Wanted:
    """What a person says of a plan.

    Attributes:
        task: Name of the exported weights' task.
        kind: `gpu` or `cpu`.
        memory: Bytes.
        memory_said: The words that said so.
        network: A preset; None chooses one.
        folds: Of a cross-validation.
        optional: Channels that cases may lack.
    """

    task: str
    kind: str
    memory: float
    memory_said: str
    network: str | None = None
    folds: int = 5
    optional: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """Settings of a run as YAML has them, in their order, and the reason of each by its key."""

    settings: Mapping[str, Any]
    reasons: Mapping[str, str]
    config: RunConfig
    median_size_zyx: SizeZYX


def target_spacing(found: Fingerprint) -> tuple[Triple, str]:
    """The spacing that cases are brought to: the median of each axis, finer across thick slices."""
    spacings, sizes = found.spacings(), found.sizes()
    target, size = np.median(spacings, axis=0), np.median(sizes, axis=0)
    worst = int(target.argmax())
    others = [axis for axis in range(3) if axis != worst]
    thick = target[worst] >= ANISOTROPY * target.min() and size[worst] * ANISOTROPY <= size[others].min()
    reason = f"{SOURCE}: the median of each axis"
    if thick:
        fine = float(np.percentile(spacings[:, worst], FINE_PERCENTILE))
        target[worst] = max(fine, float(target[others].max()))
        reason += (
            f"; {'ZYX'[worst]} has thick slices ({np.median(spacings[:, worst]):.3g} mm), so the "
            f"{FINE_PERCENTILE:g}th percentile, which loses fewer of them"
        )
    z, y, x = (round(float(value), 3) for value in target)
    return (z, y, x), reason


def median_size(found: Fingerprint, spacing: Triple) -> SizeZYX:
    """The median size of the cases at a spacing, in voxels."""
    z, y, x = (max(1, round(side)) for side in np.median(found.sizes() * found.spacings() / np.array(spacing), axis=0))
    return z, y, x


def normalisation(name: str, channel: ChannelFingerprint) -> tuple[dict[str, Any], str]:
    """How a channel is brought to the network's scale."""
    if name in (*CT, "ct"):
        values, where = channel.labelled or channel.tissue, "labels"
    elif name in QUANTITIES:
        values, where = channel.tissue, "patient"
    else:
        return {"kind": "zscore"}, f"{name}: no unit, so by each image's own mean and spread ({SOURCE}: z-score)"
    if values is None or values.high <= values.low or values.sd <= 0:
        raise InputError(
            f"channel {name}: expected values that differ, found the same in every voxel; check the images"
        )
    digits = 1 if values.high - values.low > 10 else 3
    low, high, mean, sd = (round(value, digits) for value in (values.low, values.high, values.mean, values.sd))
    unit = QUANTITIES[name].unit if name in QUANTITIES else "HU"
    reason = f"{name}: {unit}, so the same bounds for all: 0.5th to 99.5th percentile, mean and SD within the {where} "
    reason += f"of all cases ({SOURCE}'s rule for CT" + (")" if name not in QUANTITIES else ", here of all tissue)")
    return {"kind": "fixed", "low": low, "high": high, "mean": mean, "std": sd}, reason


def mirror_axes(labels: Mapping[int, str]) -> tuple[list[int], str]:
    """Axes that may be mirrored: left to right alone, unless a label names a side."""
    sided = [name for name in labels.values() if SIDES.search(name)]
    if sided:
        return [], f"none: the label {sided[0]!r} names a side"
    return [2], f"left and right alone, as bodies are nearly alike there ({SOURCE} mirrors all three axes)"


def foreground(found: Fingerprint) -> tuple[float, str]:
    """Fraction of the patches that are centred on a label."""
    filled = [
        case.volume_ml * 1000 / math.prod(size * mm for size, mm in zip(case.size_zyx, case.spacing_zyx, strict=True))
        for case in found.cases.values()
        if case.volume_ml
    ]
    share = float(np.median(filled))
    if share < SMALL_LESIONS:
        return 0.5, f"half, since labels fill {100 * share:.2g} % of a case ({SOURCE}: a third)"
    return 0.33, f"{SOURCE}: a third"


def steps_of(cases: int, batch: int, kind: str) -> tuple[int, str]:
    """Training steps, by the number of cases."""
    count = min(MOST_STEPS[kind], max(1000, PATCHES_PER_CASE[kind] * cases // batch))
    most = "nnU-Net's 1000 epochs of 250" if kind == "gpu" else "a CPU's hours, not a GPU's days"
    each = f"{PATCHES_PER_CASE[kind]} patches of each of {cases} training cases"
    return count, f"{each}, and {MOST_STEPS[kind]} steps at most: {most}"


def make_plan(found: Fingerprint, wanted: Wanted) -> Plan:
    """The settings that follow from a fingerprint.

    Args:
        found: What the cases are like.
        wanted: What a person said.

    Returns:
        Settings that `finetune` and `crossval` take as they are.

    Raises:
        InputError: No patch fits into the memory, there is one group alone, or a channel is constant.
    """
    if found.groups < 2:
        raise InputError(
            f"{found.folder}: expected two groups of cases or more (data.group: {found.group}), found "
            f"{found.groups} in {len(found.cases)} cases; give more cases or another --group"
        )
    if wanted.network is not None and wanted.network not in PLANNED:
        raise InputError(f"--network: expected one of {', '.join(PLANNED)}, found {wanted.network!r}")
    folds = min(wanted.folds, found.groups)
    spacing, spacing_reason = target_spacing(found)
    size = median_size(found, spacing)
    how = {name: normalisation(name, channel) for name, channel in found.channels.items()}
    mirror, mirror_reason = mirror_axes(found.labels)
    share, share_reason = foreground(found)
    baseline = wanted.network in OWN_STRIDES
    settings: dict[str, Any] = {
        "name": wanted.task,
        "task": wanted.task,
        "data": {
            "kind": "folder", "folder": found.folder, "layout": found.layout, "folds": folds, "fold": 0,
            "group": found.group,
        },
        "channels": [
            {"name": name, "normalisation": rule, **({"optional": True} if name in wanted.optional else {})}
            for name, (rule, _) in how.items()
        ],
        "reference": next(iter(found.channels)),
        "labels": dict(found.labels),
        **({"regions": {value: list(union) for value, union in found.regions.items()}} if found.regions else {}),
        **({"ignore": found.ignore} if found.ignore is not None else {}),
        "spacing_zyx": list(spacing),
        "patch_zyx": [1, 1, 1],
        "network": {"preset": wanted.network or NETWORKS[wanted.kind]},
        "batch": 2,
        "steps": 1000,
        "foreground": share,
        "mirror_axes": mirror,
        "optimiser": SGD if baseline else ADAMW,
        "augmentation": {"flip": 0.5 if mirror else 0.0},
        "validation": {"every": 250, "overlap": 0.25},
        "ema": 0.998,
        "workers": 8 if wanted.kind == "gpu" else 1,
        "device": "auto" if wanted.kind == "gpu" else "cpu",
    }  # fmt: skip
    patch, reasons, need = _patch(settings, size, spacing, wanted)
    settings |= patch
    settings["batch"], reasons["batch"] = _batch(settings["patch_zyx"], found, size, need, wanted)
    training = len(found.cases) * (folds - 1) // folds
    settings["steps"], reasons["steps"] = steps_of(max(1, training), settings["batch"], wanted.kind)
    settings["ema"], reasons["ema"] = ema_of(settings["steps"])
    settings["validation"] = {"every": max(250, settings["steps"] // 20), "overlap": 0.25}
    reasons |= {
        "data": f"{folds} folds; kept together: {found.group} ({found.groups} of them in {len(found.cases)} cases)",
        "channels": "\n".join(reason for _, reason in how.values()),
        "spacing_zyx": spacing_reason,
        "foreground": share_reason,
        "mirror_axes": mirror_reason,
        "optimiser": f"{SOURCE}'s" if baseline else "this project's, for the xLSTM-UNet",
        "regions": f"{SOURCE}'s regions: each label has a probability of its own, later ones are written over earlier",
        "ignore": f"{SOURCE}'s ignore label: what nobody labelled is left out",
    }
    return Plan(settings, reasons, checked(settings), size)


def ema_of(steps: int) -> tuple[float, str]:
    """Decay of the running mean of the weights, and why: the untrained network must be forgotten at the end."""
    return round(1 - 1 / min(500, max(2, steps // 8)), 4), "the mean of the last eighth of the steps, of 500 at most"


SGD = {"kind": "sgd", "lr": 0.01, "momentum": 0.99, "weight_decay": 3e-5, "schedule": "poly"}
ADAMW = {"kind": "adamw", "lr": 0.001, "weight_decay": 0.01, "warmup_steps": 50, "schedule": "cosine"}


def checked(settings: Mapping[str, Any]) -> RunConfig:
    """The settings as a run reads them."""
    return check_settings(RunConfig, settings, "the plan")


def _network(settings: Mapping[str, Any], patch: SizeZYX, spacing: Triple) -> tuple[dict[str, Any], SizeZYX]:
    """The network for a patch and what the patch's sides must be multiples of."""
    name = settings["network"]["preset"]
    if name in TRANSFORMERS:
        return {"preset": name}, (TRANSFORMERS[name],) * 3
    strides = topology(patch, spacing).strides_zyx
    if name in OWN_STRIDES:
        strides = strides[:4] if name == "unet" else strides
        return {"preset": name}, _product(strides)
    base = PublishedConfig() if name in PUBLISHED else preset(name, 1, 2)  # channels change no stage
    stages = min(len(base.widths), len(strides))
    overrides = _shortened(base, stages) | {"strides_zyx": [list(stride) for stride in strides[:stages]]}
    return {"preset": name, "overrides": overrides}, _product(strides[:stages])


def _shortened(base: XLSTMUNetConfig | PublishedConfig, stages: int) -> dict[str, Any]:
    """What changes in a preset with fewer stages: the deepest go, and ViL blocks stay in the deepest that are left."""
    gone = len(base.widths) - stages
    if not gone:
        return {}
    changed: dict[str, Any] = {"widths": list(base.widths[:stages])}
    if isinstance(base, XLSTMUNetConfig):
        changed["vil_stages"] = [stage - gone for stage in base.vil_stages if stage >= gone]
    if base.encoder_blocks:
        changed["encoder_blocks"] = list(base.encoder_blocks[:stages])
    if base.decoder_blocks:
        changed["decoder_blocks"] = list(base.decoder_blocks[: stages - 1])
    return changed


def _product(strides: Any) -> SizeZYX:
    z, y, x = np.prod(np.array(strides), axis=0).tolist()
    return z, y, x


def _fitted(settings: Mapping[str, Any], patch: SizeZYX, spacing: Triple) -> tuple[dict[str, Any], SizeZYX]:
    """`network` and `patch_zyx` where the patch is widened to what the network's strides divide."""
    network, multiple = _network(settings, patch, spacing)
    z, y, x = (math.ceil(side / step) * step for side, step in zip(patch, multiple, strict=True))
    return {"network": network, "patch_zyx": [z, y, x]}, multiple


def _patch(
    settings: Mapping[str, Any], size: SizeZYX, spacing: Triple, wanted: Wanted
) -> tuple[dict[str, Any], dict[str, str], Need]:
    """The largest patch that fits.

    It starts as a cube in mm, clipped to the median case, and loses the side that is largest beside the case.
    """
    edge = FIRST_SIDE[wanted.kind] * math.prod(spacing) ** (1 / 3)
    z, y, x = (max(8, min(case, round(edge / mm))) for case, mm in zip(size, spacing, strict=True))
    patch = (z, y, x)
    need: Need | None = None
    measured = 1  # voxels that the need was found for
    while True:
        fitted, multiple = _fitted(settings, patch, spacing)
        sides = fitted["patch_zyx"]
        voxels = math.prod(sides)
        if need is None or need.fixed + 2 * need.patch * voxels / measured <= wanted.memory:
            need, measured = _need(settings, fitted, wanted), voxels
            if need.of(2) <= wanted.memory:
                break
        smaller = [side - step for side, step in zip(sides, multiple, strict=True)]
        room = [axis for axis in range(3) if smaller[axis] >= max(8, 2 * multiple[axis])]
        if not room:
            raise too_small(wanted.memory_said, _need(settings, fitted, wanted).of(2))
        axis = max(room, key=lambda axis: sides[axis] / size[axis])
        z, y, x = (smaller[n] if n == axis else sides[n] for n in range(3))
        patch = (z, y, x)
    reasons = {
        "patch_zyx": f"{SOURCE}: as large as {wanted.memory_said} ({wanted.kind.upper()}) holds with a batch of 2, in "
        f"the shape of the median case ({' × '.join(map(str, size))}); {need.of(2) / 1e9:.1f} GB estimated",
        "network": f"{SOURCE}: an axis is halved while 4 voxels are left in the deepest stage, thick slices later",
    }
    return fitted, reasons, need


def _need(settings: Mapping[str, Any], fitted: Mapping[str, Any], wanted: Wanted) -> Need:
    return training_memory(checked({**settings, **fitted}), half=wanted.kind == "gpu")


def _batch(patch: Sequence[int], found: Fingerprint, size: SizeZYX, need: Need, wanted: Wanted) -> tuple[int, str]:
    """The batch: 2, more where memory is left."""
    whole = len(found.cases) * math.prod(size)
    most = min(LARGEST_BATCH[wanted.kind], int(BATCH_FRACTION * whole / math.prod(patch)))
    fitting = int((wanted.memory - need.fixed) / need.patch)
    batch = max(2, min(most, fitting))
    reason = f"{SOURCE}: at least 2; more where memory is left, up to {BATCH_FRACTION:.0%} of all voxels"
    return batch, f"{reason}; {need.of(batch) / 1e9:.1f} GB estimated"
