"""Small files of weights by the layouts that others publish: names and nesting from the code that writes them."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from monai.networks.nets import UNETR, SwinUNETR
from torch import Tensor, nn

from segsync_train.networks.published import PublishedConfig, PublishedName, PublishedXLSTMUNet

PATCH = (32, 32, 32)
STRIDES = [[1, 1, 1], [2, 2, 2], [2, 2, 2]]


def nnunet_file(path: Path, *, plain: bool = False, encoder_only: bool = False, channels: int = 1) -> nn.Module:
    """nnU-Net's `checkpoint_final.pth` with its plans and NumPy's numbers, or nnssl's encoder alone; the network."""
    torch.manual_seed(1)
    arguments: dict[str, Any] = {
        "n_stages": 3, "features_per_stage": [4, 8, 8], "kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3]],
        "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2]], "conv_bias": True,
    }  # fmt: skip
    blocks = [1, 2, 1]
    network: nn.Module = (PlainConvUNet if plain else ResidualEncoderUNet)(
        channels, 3, [4, 8, 8], nn.Conv3d, arguments["kernel_sizes"], arguments["strides"], blocks, 3, [1, 1],
        conv_bias=True, norm_op=nn.InstanceNorm3d, norm_op_kwargs={"eps": 1e-5, "affine": True}, nonlin=nn.LeakyReLU,
        nonlin_kwargs={"inplace": True}, deep_supervision=True,
    )  # fmt: skip
    plan = {"patch_size": list(PATCH), "architecture": {"arch_kwargs": arguments}}
    if encoder_only:
        torch.save(
            {
                "network_weights": network.encoder.state_dict(),  # type: ignore[union-attr]
                "nnssl_adaptation_plan": {"architecture_plans": {"arch_kwargs": arguments}, "key_to_stem": "stem"},
            },
            path,
        )
        return network
    made = {
        "network_weights": network.state_dict(), "logging": {"mean_fg_dice": [np.float64(0.5), np.float32(0.25)]},
        "optimizer_state": {}, "grad_scaler_state": None, "_best_ema": np.float64(0.5), "current_epoch": 3,
        "init_args": {"plans": {"configurations": {"3d_fullres": plan}}, "configuration": "3d_fullres", "fold": 0,
                      "device": torch.device("cpu")},
        "trainer_name": "nnUNetTrainer", "inference_allowed_mirroring_axes": (0, 1, 2),
    }  # fmt: skip
    torch.save(made, path)
    return network


def published_file(path: Path, name: PublishedName) -> nn.Module:
    """The xLSTM-UNet in nnU-Net's file; three of four stages halved."""
    torch.manual_seed(2)
    config = PublishedConfig((4, 4, 8, 72), ((1, 1, 1), *((2, 2, 2),) * 3), (2, 1, 1, 1), (1, 1, 2))
    network = PublishedXLSTMUNet(name, config, 1, 2, PATCH)
    plan = {"patch_size": list(PATCH), "pool_op_kernel_sizes": [list(stride) for stride in config.strides_zyx]}
    arguments = {"plans": {"configurations": {"3d_fullres": plan}}, "configuration": "3d_fullres"}
    torch.save({"network_weights": network.state_dict(), "init_args": arguments}, path)
    return network


def swin_file(path: Path, kind: str) -> nn.Module:
    """`model_swinvit.pt` (DataParallel, `fc1`), SwinMM's (`swinViT`), VoCo's (flat, V2) or a whole SwinUNETR's."""
    torch.manual_seed(3)
    network: Any = SwinUNETR(1, 2, feature_size=12, window_size=4, use_v2=kind == "voco")
    inner = network.swinViT.state_dict()
    heads = {"rotation_head.weight": torch.ones(4, 192), "contrastive_head.weight": torch.ones(512, 192)}
    state: dict[str, Tensor]
    if kind == "swinvit":
        released = {f"module.{name}".replace(".mlp.linear", ".mlp.fc"): t for name, t in inner.items()}
        torch.save({"state_dict": released | {f"module.{name}": t for name, t in heads.items()}}, path)
    elif kind == "swinmm":
        state = {f"swinViT.{name}": t for name, t in inner.items()} | heads
        torch.save({"epoch": 3, "state_dict": state, "optimizer": {}}, path)
    elif kind == "voco":
        torch.save({f"module.backbone.swinViT.{name}": t for name, t in inner.items()}, path)
    else:
        torch.save({"state_dict": network.state_dict()}, path)
    encoder: nn.Module = network.swinViT
    return encoder


def hiendmae_file(path: Path) -> nn.Module:
    """A ViT by timm's names in a masked autoencoder, with its decoder; the same weights in MONAI's ViT."""
    torch.manual_seed(4)
    network: Any = UNETR(1, 2, PATCH, feature_size=4, hidden_size=24, mlp_dim=32, num_heads=12, qkv_bias=True)
    state = {}
    for name, tensor in network.vit.state_dict().items():
        if "cross_attn" in name:
            continue
        released = name.replace("patch_embedding.patch_embeddings.", "patch_embed.proj.")
        released = released.replace(".mlp.linear", ".mlp.fc").replace(".attn.out_proj.", ".attn.proj.")
        at_top = name == "patch_embedding.position_embeddings"
        state["module.encoder_pos_embed" if at_top else f"module.encoder.{released}"] = tensor
    state |= {"module.mask_token": torch.zeros(1, 1, 8), "module.decoder.blocks.0.norm1.weight": torch.ones(8)}
    torch.save({"epoch": 1, "state_dict": state}, path)
    encoder: nn.Module = network.vit
    return encoder
