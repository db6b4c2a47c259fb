"""ISLES 2015, sub-acute lesions (SISS): one folder a case, in it one folder an image, named after the archive's number.

`Training/1/VSD.Brain.XX.O.MR_DWI.70614/VSD.Brain.XX.O.MR_DWI.70614.nii`. Everything lies on the FLAIR's grid, 1 mm.
"""

from segsync_train.data.layout import DataSet


def _image(kind: str) -> tuple[str, ...]:
    files = f"{{case}}/VSD.Brain*.{kind}.*/VSD.Brain*.{kind}.*"
    return f"**/{{part}}/{files}", files


SETS = (
    DataSet(
        name="isles15",
        title="ISLES 2015 SISS: sub-acute ischaemic stroke, MRI (28 labelled, 36 test)",
        url="https://www.smir.ch/ISLES/Start2015",
        licence="by registration, for research",
        channels={
            "flair": _image("MR_Flair"),
            "dwi": _image("MR_DWI"),
            "t1": _image("MR_T1"),
            "t2": _image("MR_T2"),
        },
        label=_image("OT"),
        labels={1: "lesion"},
    ),
)
