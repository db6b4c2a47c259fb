"""MODEL_CARD.md: what a person must know before using weights, the limits first."""

from collections.abc import Mapping
from typing import Any

from segsync.bundle import ModelSpec
from segsync_train.config.run import CardConfig

#: Where nothing was said of a run's data.
UNKNOWN = "not stated by whoever trained it"
#: What networks other than the xLSTM-UNet are called, by their preset.
BASELINES = {
    "nnunet": "A 3D nnU-Net",
    "resunet": "A 3D U-Net with a residual encoder",
    "unet": "A 3D U-Net",
    "swinunetr": "A SwinUNETR",
    "unetr": "A UNETR",
    "resenc-m": "nnU-Net's ResEnc-M network",
    "resenc-l": "nnU-Net's ResEnc-L network",
    "plainconv": "nnU-Net's PlainConvUNet",
}


def model_card(spec: ModelSpec, card: CardConfig) -> str:
    """The card of exported weights: the run's own words, and the figures that export measured."""
    provenance = spec.provenance
    point = provenance["operating_point"]
    stored, agreement = list(provenance["agreement"].items())[-1]
    channels = ", ".join(f"{c.name}{' (optional)' if c.optional else ''}" for c in spec.channels)
    unions = {value: f" (region of {', '.join(map(str, union))})" for value, union in spec.regions.items()}
    labels = ", ".join(f"{value} {name}{unions.get(value, '')}" for value, name in spec.labels.items())
    chosen = (
        f"on {point['cases']} validation cases Dice {point['dice']:.3f}, lesion F1 {point['lesion_f1']:.3f}"
        if point["cases"]
        else "not chosen, the default"
    )
    baseline = BASELINES.get(provenance["config"]["network"]["preset"])
    paper = "3D-SegSync (MIDL 2025)"
    relation = f"which {paper} is compared with" if baseline else f"the architecture of {paper}"
    lines = [
        f"# {spec.name}",
        "",
        "**For research, not for care.** Not a medical device; no clinical decision may rest on it.",
        "",
        f"- **Trained on:** {card.trained_on or UNKNOWN}",
        f"- **Evaluated on:** {card.evaluated_on or UNKNOWN}",
        f"- **Not evaluated on:** {card.not_evaluated_on or UNKNOWN}",
        "",
        "## What it is",
        "",
        f"{baseline or 'An xLSTM-UNet'} of {provenance['parameters'] / 1e6:.2f} million parameters for the task "
        f"`{spec.task}`, {relation}. {stored} weights, computed in float32 on a CPU."
        + (f" An ensemble, the mean of {len(provenance['networks'])} networks." if "networks" in provenance else ""),
        "",
        "| | |",
        "|---|---|",
        f"| Input | {channels} |",
        *(
            [f"| Region model | `{spec.region_model}`, beside these weights: voxels outside its mask are set to 0 |"]
            if spec.region_model
            else []
        ),
        f"| Output | {labels} |",
        f"| Spacing (z, y, x) | {' × '.join(f'{s:g}' for s in spec.spacing_zyx)} mm |",
        f"| Window (z, y, x) | {' × '.join(str(s) for s in spec.patch_zyx)} voxels |",
        f"| Threshold | {spec.decision_in_words}; {chosen} |",
        f"| Training | {_training(provenance)} |",
        f"| Code | commit {provenance['commit']}, torch {provenance['torch']} |",
        f"| torch against ONNX Runtime | largest difference of a probability {agreement['largest_difference']:.1g}, "
        f"smallest Dice of the masks {agreement['smallest_dice']:.4f} |",
        f"| Licence | {spec.licence} |",
        "",
        "The whole configuration stands in `model.json`, the checksums in `../manifest.json`.",
    ]
    if card.attribution:
        lines += ["", "## Attribution", "", card.attribution]
    return "\n".join(lines) + "\n"


def _training(provenance: Mapping[str, Any]) -> str:
    return "; ".join(map(_steps, provenance.get("networks", [provenance])))


def _steps(trained: Mapping[str, Any]) -> str:
    done = f"{trained['steps']} steps, {trained['training_hours']:g} hours on {trained['hardware']}"
    before = trained["inherited"]
    return f"{done}, from weights of {before['steps']} steps, {before['hours']:.2g} hours" if before["steps"] else done
