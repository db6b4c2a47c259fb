"""ImageTBAD, dissection of the aorta in CT angiography: one folder with `1_image.nii.gz` and `1_label.nii.gz`."""

from segsync_train.data.layout import DataSet

SETS = (
    DataSet(
        name="imagetbad",
        title="ImageTBAD: type B aortic dissection in CT angiography (100 labelled)",
        url="https://github.com/XiaoweiXu/Dataset_Type-B-Aortic-Dissection",
        licence="see the site",
        channels={"cta": ("**/{case}_image",)},
        label=("**/{case}_label",),
        labels={1: "true lumen", 2: "false lumen", 3: "false lumen thrombus"},
    ),
)
