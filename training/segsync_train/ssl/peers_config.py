"""Settings of the pretext tasks; defaults are their papers' where those name them."""

from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from segsync_train.settings import Frozen

MaskRatio = Annotated[float, Field(gt=0, lt=1)]
#: The stage whose cells are masked as a whole, counted from the deepest (-1). In a ViT all have the same cells.
MaskStage = Annotated[int, Field(le=-1)]


class SegSyncConfig(Frozen):
    """3D-SegSync; its settings are `layers`, `views`, `head`, `centring`, `teacher` and `objective` of the run."""

    kind: Literal["segsync"] = "segsync"


class DecoderConfig(Frozen):
    """The transformer that reconstructs and is thrown away; the defaults are MAE's."""

    width: PositiveInt = 512
    depth: PositiveInt = 8
    heads: PositiveInt = 16


class MAEConfig(Frozen):
    """Plain MAE (He et al. 2022)."""

    kind: Literal["mae"] = "mae"
    mask_ratio: MaskRatio = 0.75
    mask_stage: MaskStage = -2
    decoder: DecoderConfig = DecoderConfig()
