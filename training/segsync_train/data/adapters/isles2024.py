"""ISLES 2024: BIDS. Acute CT in `raw_data` and, brought to the plain CT's grid, in `derivatives`; infarct at follow-up.

`raw_data/sub-stroke0001/ses-01/sub-stroke0001_ses-01_ncct.nii.gz`,
`derivatives/sub-stroke0001/ses-01/sub-stroke0001_ses-01_space-ncct_cta.nii.gz`, maps in `perfusion-maps` beside it, and
`derivatives/sub-stroke0001/ses-02/sub-stroke0001_ses-02_lesion-msk.nii.gz`, later
`…_space-ncct_lesion-msk`. The released archive has both of sub-stroke0142: the other one lies on the follow-up's grid.
The challenge's page writes `rawdata` and `ses-0001`.
"""

from segsync_train.data.layout import DataSet

_ACUTE = "**/derivatives/{case}/ses-*1/"
_FOLLOW_UP = "**/derivatives/{case}/ses-*2/{case}_ses-*"

SETS = (
    DataSet(
        name="isles24",
        title="ISLES 2024: final infarct from acute CT, CT angiography and perfusion maps (149 labelled)",
        url="https://isles-24.grand-challenge.org",
        licence="CC BY-NC-SA 4.0",
        channels={
            "ncct": ("**/raw*data/{case}/ses-*1/{case}_ses-*_ncct",),
            "cta": (f"{_ACUTE}{{case}}_ses-*_space-ncct_cta",),
            **{
                name: (f"{_ACUTE}perfusion-maps/{{case}}_ses-*_space-ncct_{name}",)
                for name in ("tmax", "cbf", "cbv", "mtt")
            },
        },
        label=(f"{_FOLLOW_UP}_space-ncct_lesion-msk", f"{_FOLLOW_UP}_lesion-msk"),
        labels={1: "lesion"},
        # Of the acute session alone: what came later is the outcome.
        clinical=("**/phenotype/{case}/ses-*1/*",),
        optional=("tmax", "cbf", "cbv", "mtt"),
        note="Nine of the 149 cases have no perfusion maps. The 4D perfusion CT is not read; age and NIHSS are, "
        "where a channel is a scalar.",
    ),
)
