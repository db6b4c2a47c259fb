"""Every data set in miniature: the files of its official layout, each an image of a few voxels."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from builders import grid_of, write_image
from segsync.images import suffix_of

GRID = grid_of((4, 5, 6), (3.0, 1.0, 1.0))
#: Another grid than GRID.
MOVED = grid_of((4, 5, 6), (3.0, 1.0, 1.0), origin=(0.0, 0.0, 0.0))


@dataclass(frozen=True)
class Tree:
    """A data set in miniature: images by case and channel, labels by case, and files that belong to no case's input.

    stored: a value in the label map, and what it must become.
    """

    images: dict[str, dict[str, str]]
    labels: dict[str, tuple[str, ...]]
    others: tuple[str, ...] = ()
    stored: tuple[int, int] = (1, 1)


def smir(folder: str, kinds: dict[str, str], prefix: str, first: int) -> dict[str, str]:
    """One case of the SMIR archive: a folder an image, named with a number of its own."""
    names = {channel: f"{prefix}.XX.O.{kind}.{first + i}" for i, (channel, kind) in enumerate(kinds.items())}
    return {channel: f"{folder}/{name}/{name}.nii" for channel, name in names.items()}


SISS = {"flair": "MR_Flair", "dwi": "MR_DWI", "t1": "MR_T1", "t2": "MR_T2"}
PERFUSION = {
    "adc": "MR_ADC",
    "mtt": "MR_MTT",
    "rcbf": "MR_rCBF",
    "rcbv": "MR_rCBV",
    "tmax": "MR_Tmax",
    "ttp": "MR_TTP",
}
CTP = {"ncct": "CT", "cbf": "CT_CBF", "cbv": "CT_CBV", "mtt": "CT_MTT", "tmax": "CT_Tmax"}


def isles24(case: str) -> dict[str, str]:
    head = f"train/derivatives/{case}/ses-01"
    maps = {
        name: f"{head}/perfusion-maps/{case}_ses-01_space-ncct_{name}.nii.gz" for name in ("tmax", "cbf", "cbv", "mtt")
    }
    return {
        "ncct": f"train/raw_data/{case}/ses-01/{case}_ses-01_ncct.nii.gz",
        "cta": f"{head}/{case}_ses-01_space-ncct_cta.nii.gz",
        **maps,
    }


ATLAS2 = "sub-r001s001_ses-1_space-MNI152NLin2009aSym"
#: Releases 2.1 and 3.0: centre, subject and session.
R3 = "ATLAS3_Training"
CENTRES = (("R001", "sub-r001s001", 1), ("R001", "sub-r001s001", 2), ("R052", "sub-r052s003", 1))

TREES = {
    "isles15": Tree(
        {
            "SISS2015_Training-1": smir("SISS2015_Training/1", SISS, "VSD.Brain", 70613),
            "SISS2015_Training-28": smir("SISS2015_Training/28", SISS, "VSD.Brain", 70801),
            "SISS2015_Testing-1": smir("SISS2015_Testing/1", SISS, "VSD.Brain", 70901),
        },
        {
            "SISS2015_Training-1": ("SISS2015_Training/1/VSD.Brain.XX.O.OT.70622/VSD.Brain.XX.O.OT.70622.nii",),
            "SISS2015_Training-28": ("SISS2015_Training/28/VSD.Brain.XX.O.OT.70829/VSD.Brain.XX.O.OT.70829.nii",),
        },
    ),
    "isles16": Tree(
        {
            "training_1": smir("training_1", PERFUSION, "VSD.Brain", 127014),
            "test_3": smir("test_3", PERFUSION, "VSD.Brain", 127300),
        },
        {"training_1": ("training_1/VSD.Brain.XX.O.OT.128021/VSD.Brain.XX.O.OT.128021.nii",)},
        others=("training_1/VSD.Brain.XX.O.MR_4DPWI.127015/VSD.Brain.XX.O.MR_4DPWI.127015.nii",),
    ),
    "isles18": Tree(
        {
            "TRAINING-case_1": smir("TRAINING/case_1", CTP, "SMIR.Brain", 345562),
            "TESTING-case_1": smir("TESTING/case_1", CTP, "SMIR.Brain", 346001),
        },
        {"TRAINING-case_1": ("TRAINING/case_1/SMIR.Brain.XX.O.OT.345566/SMIR.Brain.XX.O.OT.345566.nii",)},
        others=("TRAINING/case_1/SMIR.Brain.XX.O.CT_4DPWI.345561/SMIR.Brain.XX.O.CT_4DPWI.345561.nii",),
    ),
    "isles22": Tree(
        {
            "sub-strokecase0001_ses-0001": {
                "dwi": "sub-strokecase0001/ses-0001/dwi/sub-strokecase0001_ses-0001_dwi.nii.gz",
                "adc": "sub-strokecase0001/ses-0001/dwi/sub-strokecase0001_ses-0001_adc.nii.gz",
                "flair": "sub-strokecase0001/ses-0001/anat/sub-strokecase0001_ses-0001_FLAIR.nii.gz",
            },
            "sub-strokecase0002_ses-0001": {
                "dwi": "rawdata/sub-strokecase0002/ses-0001/sub-strokecase0002_ses-0001_dwi.nii.gz",
                "adc": "rawdata/sub-strokecase0002/ses-0001/sub-strokecase0002_ses-0001_adc.nii.gz",
            },
        },
        {
            f"sub-strokecase000{n}_ses-0001": (
                f"derivatives/sub-strokecase000{n}/ses-0001/sub-strokecase000{n}_ses-0001_msk.nii.gz",
            )
            for n in (1, 2)
        },
    ),
    "isles24": Tree(
        {"sub-stroke0001": isles24("sub-stroke0001"), "sub-stroke0012": isles24("sub-stroke0012")},
        {
            "sub-stroke0001": ("train/derivatives/sub-stroke0001/ses-02/sub-stroke0001_ses-02_lesion-msk.nii.gz",),
            "sub-stroke0012": (
                "train/derivatives/sub-stroke0012/ses-02/sub-stroke0012_ses-02_space-ncct_lesion-msk.nii.gz",
            ),
        },
        others=(
            "train/raw_data/sub-stroke0001/ses-01/sub-stroke0001_ses-01_cta.nii.gz",
            "train/raw_data/sub-stroke0001/ses-01/sub-stroke0001_ses-01_ctp.nii.gz",
            "train/raw_data/sub-stroke0001/ses-02/sub-stroke0001_ses-02_dwi.nii.gz",
            "train/derivatives/sub-stroke0001/ses-01/sub-stroke0001_ses-01_space-ncct_lvo-msk.nii.gz",
            "train/derivatives/sub-stroke0012/ses-02/sub-stroke0012_ses-02_lesion-msk.nii",
        ),
    ),
    "atlas12": Tree(
        {
            "031865-t01": {"t1": "Site3/031865/t01/031865_t1w_deface_stx.nii.gz"},
            "031865-t02": {"t1": "Site3/031865/t02/031865_t1w_deface_stx.nii.gz"},
            "c0001s0004t01": {"t1": "standard_part1/c0001/c0001s0004t01/c0001s0004t01_t1w_stx.nii.gz"},
        },
        {
            "031865-t01": (
                "Site3/031865/t01/031865_LesionSmooth_1_stx.nii.gz",
                "Site3/031865/t01/031865_LesionSmooth_stx.nii.gz",
            ),
            "031865-t02": ("Site3/031865/t02/031865_LesionSmooth_stx.nii.gz",),
            "c0001s0004t01": ("standard_part1/c0001/c0001s0004t01/c0001s0004t01_LesionSmooth_stx.nii.gz",),
        },
        stored=(255, 1),
    ),
    "atlas20": Tree(
        {
            "sub-r001s001_ses-1": {"t1": f"Training/R001/sub-r001s001/ses-1/anat/{ATLAS2}_T1w.nii.gz"},
            "sub-r002s009_ses-1": {
                "t1": "Testing/R002/sub-r002s009/ses-1/anat/sub-r002s009_ses-1_space-MNI152NLin2009aSym_T1w.nii.gz"
            },
        },
        {"sub-r001s001_ses-1": (f"Training/R001/sub-r001s001/ses-1/anat/{ATLAS2}_label-L_desc-T1lesion_mask.nii.gz",)},
    ),
    "atlas30": Tree(
        {
            f"{subject}_ses-{session}": {
                "t1": f"{R3}_Preprocessed/{centre}/{subject}/ses-{session}/anat/"
                f"{subject}_ses-{session}_space-MNI152NLin2009aSym_desc-brainnorm_T1w.nii.gz"
            }
            for centre, subject, session in CENTRES
        },
        {
            f"{subject}_ses-{session}": (
                f"{R3}_Preprocessed/{centre}/{subject}/ses-{session}/anat/"
                f"{subject}_ses-{session}_space-MNI152NLin2009aSym_label-lesion_desc-T1lesion_mask.nii.gz",
            )
            for centre, subject, session in CENTRES
        },
    ),
    "atlas30-native": Tree(
        {
            f"{subject}_ses-{session}": {
                "t1": f"{R3}_Raw/{centre}/{subject}/ses-{session}/anat/"
                f"{subject}_ses-{session}_space-orig_desc-brain_T1w.nii.gz"
            }
            for centre, subject, session in CENTRES
        },
        {
            f"{subject}_ses-{session}": (
                f"{R3}_Raw/{centre}/{subject}/ses-{session}/anat/"
                f"{subject}_ses-{session}_space-orig_label-lesion_desc-T1lesion_mask.nii.gz",
            )
            for centre, subject, session in CENTRES
        },
    ),
    "aims-tbi": Tree(
        {"scan_0001": {"t1": "scan_0001_T1.nii.gz"}, "scan_0132": {"t1": "scan_0132_T1.nii.gz"}},
        {"scan_0001": ("scan_0001_Lesion.nii.gz",), "scan_0132": ("scan_0132_Lesion.nii.gz",)},
        stored=(3, 1),
    ),
    "mmwhs-ct": Tree(
        {
            "train_1001": {"ct": "ct_train/ct_train_1001_image.nii.gz"},
            "train_1002": {"ct": "ct_train/ct_train_1002_image.nii.gz"},
            "test_2001": {"ct": "ct_test/ct_test_2001_image.nii.gz"},
        },
        {f"train_{n}": (f"ct_train/ct_train_{n}_label.nii.gz",) for n in (1001, 1002)},
        others=("mr_train/mr_train_1001_image.nii.gz", "mr_train/mr_train_1001_label.nii.gz"),
        stored=(850, 7),
    ),
    "mmwhs-mr": Tree(
        {f"train_{n}": {"mr": f"mr_train/mr_train_{n}_image.nii.gz"} for n in (1010, 1011)},
        {f"train_{n}": (f"mr_train/mr_train_{n}_label.nii.gz",) for n in (1010, 1011)},
        stored=(421, 2),
    ),
    "whspp-ct": Tree(
        {
            "train-Case1001": {"ct": "A ct_train/Case1001_image.nii.gz"},
            "train-Case2001": {"ct": "B ct_train/Case2001_image.nii.gz"},
            "val-Case4001": {"ct": "ct_val/Case4001_image.nii.gz"},
        },
        {
            "train-Case1001": ("A ct_train/Case1001_label.nii.gz",),
            "train-Case2001": ("B ct_train/Case2001_label.nii.gz",),
        },
        others=("C and D mr_train/Case3001_image.nii.gz",),
        stored=(205, 1),
    ),
    "whspp-mr": Tree(
        {f"train-Case{n}": {"mr": f"C and D mr_train/Case{n}_image.nii.gz"} for n in (3001, 3002)},
        {f"train-Case{n}": (f"C and D mr_train/Case{n}_label.nii.gz",) for n in (3001, 3002)},
        others=("A ct_train/Case1001_image.nii.gz",),
        stored=(600, 5),
    ),
    "hvsmr2": Tree(
        {"pat0": {"mr": "cropped/pat0_cropped.nii.gz"}, "pat59": {"mr": "cropped/pat59_cropped.nii.gz"}},
        {"pat0": ("cropped/pat0_cropped_seg.nii.gz",), "pat59": ("cropped/pat59_cropped_seg.nii.gz",)},
        others=("cropped/pat0_cropped_seg_endpoints.nii.gz", "cropped_norm/pat0_cropped_norm.nii.gz"),
        stored=(8, 8),
    ),
    "imagecas": Tree(
        {"1": {"cta": "1-200/1.img.nii.gz"}, "201": {"cta": "201-400/201.img.nii.gz"}},
        {"1": ("1-200/1.label.nii.gz",), "201": ("201-400/201.label.nii.gz",)},
    ),
    "imagetbad": Tree(
        {"1": {"cta": "1_image.nii.gz"}, "126": {"cta": "126_image.nii.gz"}},
        {"1": ("1_label.nii.gz",), "126": ("126_label.nii.gz",)},
        stored=(3, 3),
    ),
    "asoca": Tree(
        {
            "Normal_1": {"cta": "Normal/CTCA/Normal_1.nrrd"},
            "Diseased_20": {"cta": "Diseased/CTCA/Diseased_20.nrrd"},
            "Normal_42": {"cta": "Testset_Normal/CTCA/Normal_42.nrrd"},
        },
        {
            "Normal_1": ("Normal/Annotations/Normal_1.nrrd",),
            "Diseased_20": ("Diseased/Annotations/Diseased_20.nrrd",),
        },
    ),
    "totalsegmentator": Tree(
        {"s0000": {"ct": "s0000/ct.nii.gz"}, "s0001": {"ct": "s0001/ct.nii.gz"}},
        {
            case: (f"{case}/segmentations/aorta.nii.gz", f"{case}/segmentations/heart.nii.gz")
            for case in ("s0000", "s0001")
        },
    ),
}


def put(path: Path, array: npt.NDArray[np.generic]) -> None:
    """Write an image; under another name first, since ITK's writer takes `1.img.nii.gz` for two files."""
    whole = write_image(path.with_name(f"new{suffix_of(path)}"), array, GRID)
    whole.rename(path)


def build(tree: Tree, folder: Path) -> Path:
    """Write the tree: images of noise, label maps with one stored value, what belongs to no input as images."""
    rng = np.random.default_rng(0)
    label = np.zeros(GRID.size_zyx, np.int16)
    label[1:3, 1:3, 1:3] = tree.stored[0]
    images = [path for case in tree.images.values() for path in case.values()]
    for path in (*images, *tree.others):
        put(folder / path, (100 + 10 * rng.standard_normal(GRID.size_zyx)).astype(np.float32))
    for path in (path for paths in tree.labels.values() for path in paths):
        put(folder / path, label)
    leftover = folder / "__MACOSX" / images[0]
    leftover.parent.mkdir(parents=True)
    leftover.write_bytes(b"Mac OS X")
    return folder


def noise() -> npt.NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal(GRID.size_zyx).astype(np.float32)
