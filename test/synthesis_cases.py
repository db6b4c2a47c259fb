"""A head of ellipsoids with FreeSurfer's labels and two lesion masks: sources that the generator reads in a second."""

from pathlib import Path

import numpy as np

from segsync.images import write
from segsync_train.synthesis import SynthesisSources
from segsync_train.synthesis.phantom import grid_of, head_labels, inside, places

VOXEL_MM = 3.0


def write_sources(folder: Path, size: float = 1.0) -> SynthesisSources:
    """Folders as `SynthesisSources.below` expects them, each with one small file; returns them.

    size: of the head, relative to a person's; the masks stay in standard space.
    """
    sources = SynthesisSources.below(folder)
    write(head_labels(VOXEL_MM), grid_of(VOXEL_MM, size), sources.label_maps / "head.nii.gz")
    for path, middle, radii in (
        (sources.acute_masks / "acute.nii.gz", (-38, -10, 20), (16, 20, 14)),
        (sources.chronic_masks / "chronic.nii.gz", (40, -5, 12), (22, 32, 20)),
    ):
        write(inside(places(VOXEL_MM), middle, radii).astype(np.uint8), grid_of(VOXEL_MM), path)
    return sources
