"""ISLES 2016: perfusion and diffusion MRI before treatment, the final infarct as label; folders as in 2015.

`training_1/VSD.Brain.XX.O.MR_ADC.127014/VSD.Brain.XX.O.MR_ADC.127014.nii`. ISLES 2017 has the same layout.
"""

from segsync_train.data.layout import DataSet


def _image(kind: str) -> tuple[str, ...]:
    files = f"{{case}}/VSD.Brain*.{kind}.*/VSD.Brain*.{kind}.*"
    return f"**/{{part}}/{files}", files


SETS = (
    DataSet(
        name="isles16",
        title="ISLES 2016: lesion outcome from perfusion and diffusion MRI (30 labelled, 19 test)",
        url="https://www.smir.ch/ISLES/Start2016",
        licence="by registration, for research",
        channels={
            "adc": _image("MR_ADC"),
            "mtt": _image("MR_MTT"),
            "rcbf": _image("MR_rCBF"),
            "rcbv": _image("MR_rCBV"),
            "tmax": _image("MR_Tmax"),
            "ttp": _image("MR_TTP"),
        },
        label=_image("OT"),
        labels={1: "lesion"},
        note="The raw perfusion series (MR_4DPWI) is four-dimensional and not read.",
    ),
)
