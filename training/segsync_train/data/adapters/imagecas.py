"""ImageCAS, coronary arteries in CT angiography: `1.img.nii.gz` and `1.label.nii.gz`, in one folder or in several."""

from segsync_train.data.layout import DataSet

SETS = (
    DataSet(
        name="imagecas",
        title="ImageCAS: coronary arteries in CT angiography (1,000 labelled)",
        url="https://github.com/XiaoweiXu/ImageCAS-A-Large-Scale-Dataset-and-Benchmark-for-Coronary-Artery-Segmentation-based-on-CT",
        licence="see the site",
        channels={"cta": ("**/{case}.img",)},
        label=("**/{case}.label",),
        labels={1: "coronary arteries"},
    ),
)
