"""ISLES 2022: BIDS, images in `rawdata` (earlier: at the top), masks in `derivatives`.

`rawdata/sub-strokecase0001/ses-0001/dwi/sub-strokecase0001_ses-0001_dwi.nii.gz`, with or without the folders `dwi` and
`anat`; `derivatives/sub-strokecase0001/ses-0001/sub-strokecase0001_ses-0001_msk.nii.gz`. FLAIR has its own grid.
"""

from segsync_train.data.layout import DataSet

SETS = (
    DataSet(
        name="isles22",
        title="ISLES 2022: acute and sub-acute ischaemic stroke, DWI, ADC and FLAIR (250 labelled)",
        url="https://doi.org/10.5281/zenodo.7153326",
        licence="CC BY-SA 4.0",
        channels={name: (f"**/{{case}}_{name}",) for name in ("dwi", "adc", "flair")},
        optional=("flair",),
        label=("**/derivatives/**/{case}_msk",),
        labels={1: "lesion"},
    ),
)
