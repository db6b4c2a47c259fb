"""AIMS-TBI: one folder with `scan_0001_T1.nii.gz` and `scan_0001_Lesion.nii.gz`; every value above 0 is lesion."""

from segsync_train.data.layout import DataSet

SETS = (
    DataSet(
        name="aims-tbi",
        title="AIMS-TBI: lesions of moderate to severe traumatic brain injury in T1",
        url="https://aims-tbi.grand-challenge.org",
        licence="by registration, for research",
        channels={"t1": ("**/{case}_T1",)},
        label=("**/{case}_Lesion",),
        labels={1: "lesion"},
        values=dict.fromkeys(range(1, 256), 1),
        note="Many scans have no lesion; their mask is empty, not missing.",
    ),
)
