"""ISLES 2018: acute CT perfusion, a few slices each, the infarct on DWI as label; folders as in 2015.

`TRAINING/case_1/SMIR.Brain.XX.O.CT_CBF.345563/SMIR.Brain.XX.O.CT_CBF.345563.nii`
"""

from segsync_train.data.layout import DataSet


def _image(kind: str) -> tuple[str, ...]:
    files = f"{{case}}/SMIR.Brain*.{kind}.*/SMIR.Brain*.{kind}.*"
    return f"**/{{part}}/{files}", files


SETS = (
    DataSet(
        name="isles18",
        title="ISLES 2018: infarct core in CT perfusion (94 labelled, 62 test)",
        url="https://www.smir.ch/ISLES/Start2018",
        licence="by registration, for research",
        channels={
            "ncct": _image("CT"),
            "cbf": _image("CT_CBF"),
            "cbv": _image("CT_CBV"),
            "mtt": _image("CT_MTT"),
            "tmax": _image("CT_Tmax"),
        },
        label=_image("OT"),
        labels={1: "lesion"},
        note="The raw perfusion series (CT_4DPWI) is four-dimensional and not read.",
    ),
)
