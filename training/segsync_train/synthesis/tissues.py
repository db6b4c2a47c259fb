"""The tissues a contrast is made of, and the labels (FreeSurfer and extracerebral) that each of them gathers."""

from enum import IntEnum


class Tissue(IntEnum):
    """Rows of an anatomy's tissue fractions. Parenchyma comes first, then fluid and vessels, then what is not brain."""

    CORTEX = 0
    WHITE = 1
    CEREBELLAR_CORTEX = 2
    CEREBELLAR_WHITE = 3
    DEEP_GREY = 4
    IRON_GREY = 5
    BRAINSTEM = 6
    VENTRICLE = 7
    OUTER_CSF = 8
    ARTERY = 9
    VEIN = 10
    BONE = 11
    MARROW = 12
    SOFT = 13
    SKIN = 14
    MUCOSA = 15
    EYE = 16


PARENCHYMA = slice(Tissue.CORTEX, Tissue.VENTRICLE)
#: What is inside the skull: all that remains when a brain is skull-stripped.
INTRACRANIAL = slice(Tissue.CORTEX, Tissue.BONE)

#: Labels of the SynthSeg training maps (Billot et al. 2023, doi:10.1016/j.media.2023.102789). Small labels that stand
#: for lesions and vessels in a healthy map are given the tissue around them.
LABELS: dict[Tissue, tuple[int, ...]] = {
    Tissue.CORTEX: (3, 42),
    Tissue.WHITE: (2, 41, 25, 57, 77),
    Tissue.CEREBELLAR_CORTEX: (8, 47),
    Tissue.CEREBELLAR_WHITE: (7, 46),
    Tissue.DEEP_GREY: (10, 11, 12, 17, 18, 26, 30, 49, 50, 51, 53, 54, 58, 62),
    Tissue.IRON_GREY: (13, 52, 136, 137, 163, 164),
    Tissue.BRAINSTEM: (16, 28, 60, 85),
    Tissue.VENTRICLE: (4, 5, 14, 15, 43, 44, 72),
    Tissue.OUTER_CSF: (24,),
    Tissue.ARTERY: (502,),
    Tissue.VEIN: (514,),
    Tissue.BONE: (515,),
    Tissue.MARROW: (516,),
    Tissue.SOFT: (507, 508, 512, 530),
    Tissue.SKIN: (511,),
    Tissue.MUCOSA: (509,),
    Tissue.EYE: (506,),
}
LATERAL_VENTRICLES = (4, 43)
CEREBRUM_AND_CEREBELLUM = (2, 3, 41, 42, 7, 8, 46, 47)
#: Centres of deep structures in MNI space, (x, y, z) in mm, RAS (Tzourio-Mazoyer et al. 2002, AAL), by label.
MNI_CENTRES_RAS: dict[int, tuple[float, float, float]] = {
    10: (-10.9, -17.6, 8.0),
    49: (13.0, -17.6, 8.1),
    11: (-11.5, 11.0, 9.2),
    50: (14.8, 12.1, 9.4),
    12: (-23.9, 3.9, 2.4),
    51: (27.8, 4.9, 2.5),
    13: (-17.8, 0.0, 0.2),
    52: (21.2, 0.2, 0.2),
    17: (-25.0, -20.7, -10.1),
    53: (29.2, -19.8, -10.3),
    18: (-23.3, -0.7, -17.1),
    54: (27.3, 0.6, -17.5),
}
#: Outline of cerebrum and cerebellum in MNI space, LPS mm in (z, y, x): lower and upper ends.
MNI_OUTLINE_LPS_ZYX = ((-60.0, -70.0, -69.0), (77.0, 104.0, 69.0))
