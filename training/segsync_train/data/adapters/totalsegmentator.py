"""TotalSegmentator, CT of all body parts: `s0000/ct.nii.gz`, and a binary mask a structure in `s0000/segmentations`.

Which structures a run learns is said by the names in its settings (`labels: {1: heart, 2: aorta}`): 104 in version 1,
117 in version 2. The others are background.
"""

from segsync_train.data.layout import DataSet

SETS = (
    DataSet(
        name="totalsegmentator",
        title="TotalSegmentator: CT with a mask for each of 104 or 117 structures (1,204 in v1, 1,228 in v2)",
        url="https://doi.org/10.5281/zenodo.6802613",
        licence="CC BY 4.0",
        channels={"ct": ("**/{case}/ct",)},
        masks={"{structure}": ("**/{case}/segmentations/{structure}",)},
        labels={},
        unlabelled=(),
    ),
)
