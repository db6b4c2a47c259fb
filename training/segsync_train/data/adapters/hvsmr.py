"""HVSMR-2.0, congenital heart disease in MRI: `cropped/pat0_cropped.nii.gz` and `cropped/pat0_cropped_seg.nii.gz`.

`cropped_norm` has the same images with normalised intensities under other names (`pat0_cropped_norm`); they are not
read, since preprocessing normalises.
"""

from segsync_train.data.layout import DataSet

SETS = (
    DataSet(
        name="hvsmr2",
        title="HVSMR-2.0: whole heart in congenital heart disease, MRI (60 labelled)",
        url="https://doi.org/10.6084/m9.figshare.25226366",
        licence="CC BY 4.0",
        channels={"mr": ("**/{case}_cropped",)},
        label=("**/{case}_cropped_seg",),
        labels={
            1: "left ventricle",
            2: "right ventricle",
            3: "left atrium",
            4: "right atrium",
            5: "aorta",
            6: "pulmonary artery",
            7: "superior vena cava",
            8: "inferior vena cava",
        },
    ),
)
