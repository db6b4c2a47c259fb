"""How others name their weights: which network a file is of, its settings, and this project's name of each tensor.

Every layout follows the public code that writes it. A name that `renamed` maps to None belongs to the pretraining alone
(a projection head, a mask token) or is one that this project's network does not have.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from segsync.errors import WeightsError
from segsync_train.networks.transformers import VIT_TOKEN
from segsync_train.pretrained.files import ForeignWeights

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Layout:
    """How others name their weights.

    Attributes:
        writers: Who writes files of this layout.
        preset: Of the network.
        matches: By the names.
        overrides: The network's, by shapes, names and what stands beside the tensors.
        renamed: A tensor's name in this project.
        image: Names of the tensors (out, in, z, y, x) that see the image, the first there is.
    """

    writers: str
    preset: str
    matches: Callable[[Tensors], bool]
    overrides: Callable[[ForeignWeights], dict[str, Any]]
    renamed: Callable[[str], str | None]
    image: tuple[str, ...]


def layout_of(found: ForeignWeights) -> Layout:
    """The layout of a file; raises WeightsError if it is unknown."""
    for layout in LAYOUTS:
        if layout.matches(found.tensors):
            return layout
    names = ", ".join(list(found.tensors)[:3])
    known = "; ".join(layout.writers for layout in LAYOUTS)
    raise WeightsError(f"{found.path}: expected weights of {known}; found {len(found.tensors)} tensors ({names}, …)")


def _count(names: Tensors, pattern: str) -> int:
    """How many different numbers stand in the names at the pattern's group."""
    return len({match[1] for name in names if (match := re.search(pattern, name))})


# nnU-Net v2 and nnssl: the names of the library that both build their networks with.


def _nnunet_names(names: Tensors) -> bool:
    return any(re.match(r"(encoder\.)?stages\.0\.", name) for name in names) and any("convs." in n for n in names)


def _nnunet_renamed(name: str) -> str | None:
    if name.startswith("decoder.encoder."):
        return None  # the encoder once more
    return f"network.{name}" if name.startswith(("encoder.", "decoder.")) else f"network.encoder.{name}"


def _nnunet_overrides(found: ForeignWeights, blocks: str) -> dict[str, Any]:
    """By the file's own plan where it keeps one, else by names and shapes and halves at every stage."""
    names = found.tensors
    plan = _architecture(found.beside)
    stages = _count(names, r"(?:^|encoder\.)stages\.(\d+)\.")
    at = "encoder.stages" if any(name.startswith("encoder.") for name in names) else "stages"
    firsts = [_first_convolution(names, f"{at}.{stage}.") for stage in range(stages)]
    strides = plan.get("strides") or [[1, 1, 1], *[[2, 2, 2]] * (stages - 1)]
    kernels = plan.get("kernel_sizes") or [list(weight.shape[2:]) for weight in firsts]
    overrides = {
        "widths": [weight.shape[0] for weight in firsts],
        "strides_zyx": [_three(stride) for stride in strides],
        "kernels_zyx": [_three(kernel) for kernel in kernels],
        "encoder_blocks": [_count(names, rf"{re.escape(at)}\.{stage}\.{blocks}") for stage in range(stages)],
    }
    decoder = [_count(names, rf"decoder\.stages\.{stage}\.convs\.(\d+)\.") for stage in range(stages - 1)]
    return {**overrides, "decoder_blocks": decoder} if all(decoder) else overrides


def _architecture(beside: Mapping[str, Any]) -> Mapping[str, Any]:
    """The network's arguments of nnU-Net's plans or of nnssl's adaptation plan; empty without plans."""
    adaptation = beside.get("nnssl_adaptation_plan")
    if isinstance(adaptation, Mapping):
        return _arguments(adaptation.get("architecture_plans"))
    return _arguments(configuration(beside).get("architecture"))


def _arguments(architecture: Any) -> Mapping[str, Any]:
    found = architecture.get("arch_kwargs") if isinstance(architecture, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _first_convolution(names: Tensors, prefix: str) -> Tensor:
    return next(t for name, t in names.items() if name.startswith(prefix) and t.ndim == 5 and max(t.shape[2:]) > 1)


def _three(value: Any) -> list[int]:
    return [int(value)] * 3 if isinstance(value, int) else [int(part) for part in value]


# xLSTM-UNet: nnU-Net's file, its own network.


def _published_overrides(found: ForeignWeights) -> dict[str, Any]:
    names = found.tensors
    stages = _count(names, r"^encoder\.stages\.(\d+)\.")
    plan = configuration(found.beside).get("pool_op_kernel_sizes")
    blocks = {"encoder": range(stages), "decoder": range(stages - 2, -1, -1)}
    counts = {
        part: [_count(names, rf"^{part}\.stages\.{stage}\.(\d+)\.") for stage in order]
        for part, order in blocks.items()
    }
    return {
        "widths": [names[f"encoder.stages.{stage}.0.conv1.weight"].shape[0] for stage in range(stages)],
        "strides_zyx": [_three(s) for s in plan or [[1, 1, 1], *[[2, 2, 2]] * (stages - 1)]],
        "encoder_blocks": counts["encoder"],
        "decoder_blocks": counts["decoder"],
    }


def configuration(beside: Mapping[str, Any]) -> Mapping[str, Any]:
    """The configuration of nnU-Net's plans that a file was trained with; empty without plans."""
    arguments = beside.get("init_args")
    plans = arguments.get("plans") if isinstance(arguments, Mapping) else None
    found = plans.get("configurations", {}).get(arguments.get("configuration")) if isinstance(plans, Mapping) else None  # type: ignore[union-attr]
    return found if isinstance(found, Mapping) else {}


def _published_renamed(name: str) -> str | None:
    return None if name.startswith("decoder.encoder.") else f"network.{name}"


# SwinUNETR, its pretraining `model_swinvit.pt`, SwinMM, and VoCo (with `use_v2`).


def _swin_name(name: str) -> str:
    """A name as it stands below `swinViT.`, whichever of the releases wrote it; others as they are."""
    name = re.sub(r"^(swinViT|swin_vit|encoder(?=\.(layers\d|patch_embed)))\.", "", name)
    # One release holds a stage's layers one level deeper.
    name = re.sub(r"^(layers\dc?\.0)\.0\.", r"\1.", name)
    return re.sub(r"\.mlp\.fc([12])\.", r".mlp.linear\1.", name)


def _swin_renamed(name: str) -> str | None:
    inner = _swin_name(name)
    if re.match(r"(patch_embed|layers\dc?)\.", inner):
        return f"network.swinViT.{inner}"
    return f"network.{name}" if re.match(r"(encoder\d+|decoder\d+|out)\.", name) else None


def _swin_overrides(found: ForeignWeights) -> dict[str, Any]:
    names = {_swin_name(name): tensor for name, tensor in found.tensors.items()}
    tables = [names[f"layers{stage}.0.blocks.0.attn.relative_position_bias_table"] for stage in range(1, 5)]
    return {
        "feature_size": names["patch_embed.proj.weight"].shape[0],
        "depths": [_count(names, rf"^layers{stage}\.0\.blocks\.(\d+)\.") for stage in range(1, 5)],
        "num_heads": [table.shape[1] for table in tables],
        "window_size": (round(tables[0].shape[0] ** (1 / 3)) + 1) // 2,
        "use_v2": any(name.startswith("layers1c.") for name in names),
    }


# Hi-End-MAE: a ViT as timm has it; and MONAI's own ViT.


def _vit_renamed(name: str) -> str | None:
    if name.startswith("vit."):
        return f"network.{name}"
    if name in ("encoder_pos_embed", "encoder.pos_embed", "pos_embed"):
        return "network.vit.patch_embedding.position_embeddings"
    inner = name.removeprefix("encoder.")
    inner = re.sub(r"^patch_embed\.proj\.", "patch_embedding.patch_embeddings.", inner)
    inner = re.sub(r"\.mlp\.fc([12])\.", r".mlp.linear\1.", inner)
    inner = re.sub(r"\.attn\.proj\.", ".attn.out_proj.", inner)
    return f"network.vit.{inner}" if re.match(r"(patch_embedding|blocks|norm)\.", inner) else None


def _vit_overrides(found: ForeignWeights) -> dict[str, Any]:
    names = {_vit_renamed(name) or "": tensor for name, tensor in found.tensors.items()}
    tokens = names.get("network.vit.patch_embedding.patch_embeddings.weight")
    if tokens is None or tuple(tokens.shape[2:]) != VIT_TOKEN:
        size = "none" if tokens is None else tuple(tokens.shape[2:])
        raise WeightsError(f"{found.path}: expected a ViT with tokens of {VIT_TOKEN} voxels, found {size}")
    width = tokens.shape[0]
    return {
        "hidden_size": width,
        "mlp_dim": names["network.vit.blocks.0.mlp.linear1.weight"].shape[0],
        # No shape tells the number of heads: the ViT-B's 12, else the 16 of larger ones.
        "num_heads": 12 if width % 12 == 0 and width <= 768 else 16,
        "qkv_bias": "network.vit.blocks.0.attn.qkv.bias" in names,
    }


LAYOUTS = (
    Layout(
        "xLSTM-UNet (UXlstmEnc)", "published-enc", lambda names: any("xlstm_layers." in name for name in names),
        _published_overrides, _published_renamed, ("encoder.stem.0.conv1.weight",),
    ),
    Layout(
        "xLSTM-UNet (UXlstmBot)", "published-bot", lambda names: any(name.startswith("xlstm.vil.") for name in names),
        _published_overrides, _published_renamed, ("encoder.stem.0.conv1.weight",),
    ),
    Layout(
        "nnU-Net v2 or nnssl (ResEnc)", "resenc-l",
        lambda names: _nnunet_names(names) and any("stem.convs." in name for name in names),
        lambda found: _nnunet_overrides(found, r"blocks\.(\d+)\."), _nnunet_renamed,
        ("encoder.stem.convs.0.conv.weight", "stem.convs.0.conv.weight"),
    ),
    Layout(
        "nnU-Net v2 (PlainConvUNet)", "plainconv", _nnunet_names,
        lambda found: _nnunet_overrides(found, r"\d+\.convs\.(\d+)\."), _nnunet_renamed,
        ("encoder.stages.0.0.convs.0.conv.weight", "stages.0.0.convs.0.conv.weight"),
    ),
    Layout(
        "MONAI's SwinUNETR, model_swinvit.pt, SwinMM or VoCo", "swinunetr",
        lambda names: any(_swin_name(name).startswith("layers1.0.blocks.0.") for name in names),
        _swin_overrides, _swin_renamed,
        ("patch_embed.proj.weight", "swinViT.patch_embed.proj.weight", "swin_vit.patch_embed.proj.weight",
         "encoder.patch_embed.proj.weight"),
    ),
    Layout(
        "Hi-End-MAE or MONAI's ViT", "unetr",
        lambda names: any(re.match(r"(encoder\.|vit\.)?blocks\.0\.attn\.qkv\.weight", name) for name in names),
        _vit_overrides, _vit_renamed,
        ("encoder.patch_embed.proj.weight", "patch_embed.proj.weight",
         "vit.patch_embedding.patch_embeddings.weight", "patch_embedding.patch_embeddings.weight"),
    ),
)  # fmt: skip
