"""Whole hearts in CT and MRI: MM-WHS 2017, and its larger successor WHS++ (CARE 2024 and later).

MM-WHS: `ct_train/ct_train_1001_image.nii.gz` and `…_label.nii.gz`, `ct_test/ct_test_2001_image.nii.gz`; `mr_…` alike.
WHS++: `A ct_train/Case1001_image.nii.gz`, `C and D mr_train/Case3001_image.nii.gz`, `ct_val`, `mr_val`.
Both store the same values. One label map of MM-WHS has voxels of 421 where 420 is meant.
"""

from collections.abc import Mapping

from segsync_train.data.layout import DataSet

LABELS = {
    1: "left ventricular myocardium",
    2: "left atrium",
    3: "left ventricle",
    4: "right atrium",
    5: "right ventricle",
    6: "ascending aorta",
    7: "pulmonary artery",
}
VALUES: Mapping[int, int] = {205: 1, 420: 2, 421: 2, 500: 3, 550: 4, 600: 5, 820: 6, 850: 7}


def _mmwhs(modality: str, short: str) -> DataSet:
    return DataSet(
        name=f"mmwhs-{short}",
        title=f"MM-WHS 2017: whole heart, {modality} (20 labelled, 40 test)",
        url="https://zmiclab.github.io/zxh/0/mmwhs",
        licence="by registration, for research",
        channels={short: (f"**/{short}_{{case}}_image",)},
        label=(f"**/{short}_{{case}}_label",),
        labels=LABELS,
        values=VALUES,
        unlabelled=("test",),
    )


def _whs(modality: str, short: str, count: int) -> DataSet:
    return DataSet(
        name=f"whspp-{short}",
        title=f"WHS++ (CARE): whole heart, {modality} ({count} labelled)",
        url="https://zmic.org.cn/care_2024/track5",
        licence="by agreement, for research",
        channels={short: (f"**/*{short}_{{part}}/{{case}}_image",)},
        label=(f"**/*{short}_{{part}}/{{case}}_label",),
        labels=LABELS,
        values=VALUES,
        site=rf"(?:^|/)([^/]+) {short}_[^/]+/",
    )


SETS = (
    _mmwhs("CT", "ct"),
    _mmwhs("MRI", "mr"),
    _whs("CT", "ct", 40),
    _whs("MRI", "mr", 46),
)
