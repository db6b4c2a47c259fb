"""ASOCA, coronary CT angiography (CTCA) of the Coronary Atlas: NRRD, images and annotations in folders of their own.

`Normal/CTCA/Normal_1.nrrd` and `Normal/Annotations/Normal_1.nrrd`; `Diseased` alike.
"""

from segsync_train.data.layout import DataSet

SETS = (
    DataSet(
        name="asoca",
        title="ASOCA: coronary arteries in CT angiography, normal and diseased (40 labelled, 20 test)",
        url="https://asoca.grand-challenge.org",
        licence="by agreement, for research",
        channels={"cta": ("**/CTCA/{case}",)},
        label=("**/Annotations/{case}",),
        labels={1: "coronary arteries"},
    ),
)
