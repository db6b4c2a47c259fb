"""Settings of the pretext tasks; defaults are those of their papers, or else of the code released with them."""

import math
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from segsync_train.config.settings import Frozen
from segsync_train.config.training import SizeZYX

MaskRatio = Annotated[float, Field(gt=0, lt=1)]
#: The stage whose cells are masked as a whole, counted from the deepest (-1). In a ViT all have the same cells.
MaskStage = Annotated[int, Field(le=-1)]


class SegSyncConfig(Frozen):
    """3D-SegSync; its settings are `layers`, `views`, `head`, `centring`, `teacher` and `objective` of the run."""

    kind: Literal["segsync"] = "segsync"


class DecoderConfig(Frozen):
    """The transformer that reconstructs and is thrown away; the defaults are those of MAE's released code."""

    width: PositiveInt = 512
    depth: PositiveInt = 8
    heads: PositiveInt = 16

    @model_validator(mode="after")
    def _divides(self) -> "DecoderConfig":
        if self.width % self.heads:
            raise ValueError(f"a width of {self.width} does not divide into {self.heads} heads")
        return self


class AutoencoderConfig(Frozen):
    """What masked autoencoders have in common."""

    mask_ratio: MaskRatio = 0.75
    mask_stage: MaskStage = -2
    #: Masked cells stay masked in every layer of an encoder of convolutions (SparK): without it they are seen around
    #: after a few. Needs `mask_stage` -1, so that the deepest map consists of whole cells.
    sparse: bool = False
    decoder: DecoderConfig = DecoderConfig()

    @model_validator(mode="after")
    def _whole_cells(self) -> "AutoencoderConfig":
        if self.sparse and self.mask_stage != -1:
            raise ValueError(f"sparse needs cells of the deepest stage: set mask_stage to -1, found {self.mask_stage}")
        return self

    def window_zyx(self, patch_zyx: SizeZYX) -> SizeZYX:
        """Voxels (Z, Y, X) of a window: the patch."""
        return patch_zyx


class MAEConfig(AutoencoderConfig):
    """Plain MAE (He et al. 2022)."""

    kind: Literal["mae"] = "mae"


class HiEndMAEConfig(AutoencoderConfig):
    """Hi-End-MAE (Tang et al. 2025)."""

    kind: Literal["hiendmae"] = "hiendmae"
    #: The released code's for a ViT 1536 wide (for one of 768: 384 and 12 heads); `depth` is of the first blocks.
    decoder: DecoderConfig = DecoderConfig(width=528, depth=2, heads=16)


class VoCoConfig(Frozen):
    """VoCo (Wu et al. 2024). A window holds all base crops side by side."""

    kind: Literal["voco"] = "voco"
    #: The loss of the code released later, with a teacher, in place of the paper's.
    released: bool = False
    #: Base crops along Z, Y and X; the paper's are 4 × 4 in the axial plane.
    bases_zyx: SizeZYX = (1, 4, 4)
    #: Random crops of each volume.
    crops: PositiveInt = 2
    #: Probability of each axis of each crop to be mirrored.
    mirror: Annotated[float, Field(ge=0, le=1)] = 0.2
    #: Magnification: a crop of patch / zoom voxels becomes a patch. Above 1 the window fits into smaller volumes.
    zoom: PositiveFloat = 1.0
    #: λ, the weight of the regularisation.
    regularisation: NonNegativeFloat = 1.0
    #: Of the projector.
    width: PositiveInt = 2048

    @model_validator(mode="after")
    def _several(self) -> "VoCoConfig":
        if math.prod(self.bases_zyx) < 2:
            raise ValueError("bases_zyx: expected two base crops or more, found one")
        return self

    def side_zyx(self, patch_zyx: SizeZYX) -> SizeZYX:
        """Voxels (Z, Y, X) of a crop before it is magnified."""
        z, y, x = (math.ceil(side / self.zoom) for side in patch_zyx)
        return z, y, x

    def window_zyx(self, patch_zyx: SizeZYX) -> SizeZYX:
        """Voxels (Z, Y, X) of a window."""
        z, y, x = (n * side for n, side in zip(self.bases_zyx, self.side_zyx(patch_zyx), strict=True))
        return z, y, x


class SwinSSLConfig(Frozen):
    """The pretraining of Swin UNETR (Tang et al. 2022)."""

    kind: Literal["swinssl"] = "swinssl"
    #: Boxes of noise and of other volumes, as the released code has them, in place of hidden cells.
    released: bool = False
    #: Of the hidden cells.
    mask_ratio: MaskRatio = 0.3
    mask_stage: MaskStage = -2
    #: t of the contrastive term, and the width of the vectors that it compares.
    temperature: PositiveFloat = 0.5
    width: PositiveInt = 512
    #: Weights λ1 to λ3 of the terms.
    inpainting: NonNegativeFloat = 1.0
    contrast: NonNegativeFloat = 1.0
    rotation: NonNegativeFloat = 1.0

    def window_zyx(self, patch_zyx: SizeZYX) -> SizeZYX:
        """Voxels (Z, Y, X) of a window: square in plane, so that it can be rotated."""
        side = max(patch_zyx[1:])
        return patch_zyx[0], side, side


class SwinMMConfig(Frozen):
    """SwinMM (Wang et al. 2023)."""

    kind: Literal["swinmm"] = "swinmm"
    #: Views of each volume: as many of its three orientations.
    views: Literal[2, 3] = 2
    mask_ratio: MaskRatio = 0.5
    mask_stage: MaskStage = -2
    temperature: PositiveFloat = 0.5
    width: PositiveInt = 512
    #: Weights of the terms.
    reconstruction: NonNegativeFloat = 1.0
    rotation: NonNegativeFloat = 1.0
    contrast: NonNegativeFloat = 1.0
    mutual: NonNegativeFloat = 1.0

    def window_zyx(self, patch_zyx: SizeZYX) -> SizeZYX:
        """Voxels (Z, Y, X) of a window: a cube, so that it can be seen from every side."""
        side = max(patch_zyx)
        return side, side, side
