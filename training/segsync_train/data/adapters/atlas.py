"""ATLAS, chronic stroke in T1: v1.2 (a folder a site, subject and visit, one mask a lesion) and v2.0 (BIDS, one mask).

v1.2: `Site3/031865/t01/031865_t1w_deface_stx.nii.gz`, or `c0001/c0001s0004t01/c0001s0004t01_t1w_stx.nii.gz`; beside it
`…_LesionSmooth_stx.nii.gz` and, for further lesions, `…_LesionSmooth_1_stx.nii.gz`: smoothed masks, united here.

v2.0: `Training/R001/sub-r001s001/ses-1/anat/sub-r001s001_ses-1_space-MNI152NLin2009aSym_T1w.nii.gz`, and
`…_label-L_desc-T1lesion_mask.nii.gz`; `Testing` has no masks.

R2.1 and R3.0 (ISLES'26), a folder a centre: in standard space
`ATLAS3_Training_Preprocessed/R001/sub-r001s001/ses-1/anat/sub-r001s001_ses-1_space-MNI152NLin2009aSym_desc-brainnorm_T1w`
and `…_label-lesion_desc-T1lesion_mask`; as acquired `ATLAS3_Training_Raw/…_space-orig_desc-brain_T1w`, likewise.
"""

from segsync_train.data.layout import DataSet

_SPACE = "**/{case}_space-MNI152NLin2009aSym"
_ORIGINAL = "**/{case}_space-orig"
#: The centre is the folder above the subject's.
_SITE = r"([^/]+)/sub-[^/]+/ses-"


def _release3(name: str, title: str, space: str, image: str) -> DataSet:
    return DataSet(
        name=name,
        title=f"ATLAS R2.1 and R3.0, {title}: stroke lesions in T1, ISLES'26 (R3.0: 1,453 labelled, 55 centres)",
        url="https://doi.org/10.5281/zenodo.19856506",
        licence="by data use agreement",
        channels={"t1": (f"{space}_desc-{image}_T1w",)},
        label=(f"{space}_label-lesion_desc-T1lesion_mask",),
        labels={1: "lesion"},
        site=_SITE,
        task="isles26",
        note="The centre is kept: data.group: site keeps whole centres on one side of a split.",
    )


SETS = (
    DataSet(
        name="atlas12",
        title="ATLAS v1.2: stroke lesions in T1 (304, of them 229 in standard space with masks)",
        url="https://fcon_1000.projects.nitrc.org/indi/retro/atlas.html",
        licence="by data use agreement",
        channels={"t1": ("**/{case}/{visit}/{case}_t1w*_stx", "**/{case}_t1w*_stx")},
        masks={"lesion": ("**/{case}/{visit}/{case}_LesionSmooth*_stx", "**/{case}_LesionSmooth*_stx")},
        labels={1: "lesion"},
        subject=r"(c\d+s\d+)t\d+/|([^/]+)/t\d+/",
        site=r"(site *\d+)/|(c\d+)s\d+t\d+/",
    ),
    DataSet(
        name="atlas20",
        title="ATLAS v2.0: stroke lesions in T1 (655 labelled, 300 test; 316 held back)",
        url="https://fcon_1000.projects.nitrc.org/indi/retro/atlas.html",
        licence="by data use agreement",
        channels={"t1": (f"{_SPACE}_T1w",)},
        label=(f"{_SPACE}_label-L_desc-T1lesion_mask",),
        labels={1: "lesion"},
        site=_SITE,
    ),
    _release3("atlas30", "standard space", _SPACE, "brainnorm"),
    _release3("atlas30-native", "as acquired", _ORIGINAL, "brain"),
)
