"""What is drawn and how widely: the settings of the image generator. Lengths in mm, fractions from 0 to 1."""

from pydantic import NonNegativeFloat

from segsync_train.config.ranges import (
    FiveWeights,
    FourWeights,
    Fraction,
    FractionRange,
    NonNegativeRange,
    PositiveCountRange,
    PositiveRange,
    Range,
    ThreeWeights,
    TwoWeights,
    Weights,
)
from segsync_train.config.settings import Frozen


class AnatomyConfig(Frozen):
    """How a head is placed and bent."""

    #: Largest rotation about the left-right (nodding), front-back, and up-down axis, degrees.
    rotation_degrees: tuple[NonNegativeFloat, NonNegativeFloat, NonNegativeFloat] = (20.0, 10.0, 10.0)
    scale: PositiveRange = (0.88, 1.12)
    #: Scale of each axis on top of the common one.
    stretch: PositiveRange = (0.94, 1.06)
    #: Elastic deformation: distance of its control points and standard deviation of their displacement.
    elastic_mm: PositiveRange = (20.0, 60.0)
    elastic_std_mm: NonNegativeRange = (0.0, 3.5)
    #: Displacement of the ventricles' walls: outward in old brains, a little inward in young ones.
    ventricle_mm: Range = (-1.5, 6.0)
    #: Fraction of samples whose ventricles are wider on one side.
    asymmetric: Fraction = 0.0
    #: Exponent on the fraction of fluid at the brain's surface: below 1 widens the sulci.
    atrophy: PositiveRange = (0.8, 2.5)
    #: Air around the brain or head.
    margin_mm: NonNegativeRange = (4.0, 24.0)
    #: Fraction of samples whose field of view ends inside the brain, and how much is lost at either end.
    cut: Fraction = 0.2
    cut_mm: NonNegativeRange = (5.0, 40.0)


class LesionConfig(Frozen):
    """The lesions that are the target, and those that only look like it."""

    none: Fraction = 0.27
    #: Weights of: infarcts of real shapes; scattered emboli alone; both.
    kinds: ThreeWeights = (0.58, 0.17, 0.25)
    #: Weights of one, two, three, four infarcts of real shapes in a brain.
    several: Weights = (0.6, 0.22, 0.12, 0.06)
    #: Size relative to the real one, per axis.
    scale: PositiveRange = (0.5, 1.25)
    #: Largest shift against the real place, rotation in degrees; half are mirrored.
    shift_mm: NonNegativeFloat = 12.0
    rotation_degrees: NonNegativeFloat = 20.0
    #: Fraction of infarcts broken into pieces, and of those kept to the cortical ribbon.
    pieces: Fraction = 0.3
    cortical: Fraction = 0.2
    emboli: PositiveCountRange = (1, 60)
    #: Radius; the smallest are one voxel.
    embolus_mm: PositiveRange = (0.8, 6.0)
    #: Softness of a lesion's border.
    border_mm: PositiveRange = (0.4, 2.5)
    #: Unlabelled: fraction of brains with old infarcts, hyperintense white matter, lacunes or wide perivascular spaces,
    #: microbleeds.
    chronic: Fraction = 0.3
    white_matter: Fraction = 0.6
    lacunes: Fraction = 0.3
    microbleeds: Fraction = 0.15


class AcquisitionConfig(Frozen):
    """The scanner: slices, noise, artefacts, and what was done to the images afterwards."""

    #: Fraction of samples in which the skull is removed and set to zero.
    skull_stripped: Fraction = 0.75
    #: Weights of slices across Z (axial), Y (coronal), X (sagittal).
    slice_axis: ThreeWeights = (0.9, 0.05, 0.05)
    slice_mm: PositiveRange = (1.0, 7.0)
    #: Gap between slices as a fraction of their thickness.
    gap: NonNegativeRange = (0.0, 0.3)
    #: Resolution within the slice: full width at half maximum of the point spread.
    in_plane_mm: PositiveRange = (0.8, 3.0)
    #: Noise: standard deviation relative to the signal of white matter.
    noise: NonNegativeRange = (0.01, 0.08)
    #: Receive coil: number of elements, and exponent on their profile (0: corrected by the scanner, 1: as received).
    coils: PositiveCountRange = (4, 24)
    coil_exponent: NonNegativeRange = (0.0, 1.4)
    corrected: Fraction = 0.3
    #: Smooth variation of brightness besides: standard deviation of its logarithm.
    bias: NonNegativeRange = (0.0, 0.2)
    #: Echo-planar images: displacement per ppm of field deviation, and fraction of samples without any.
    distortion_mm_per_ppm: NonNegativeRange = (0.5, 9.0)
    undistorted: Fraction = 0.15
    #: Difference of shape between the image without and with diffusion weighting (eddy currents, motion).
    eddy_mm: NonNegativeRange = (0.0, 1.5)
    #: Brightness of the ghost half a field of view away.
    ghost: FractionRange = (0.0, 0.06)
    #: Misregistration of an image taken at another time: shift and rotation in degrees.
    shift_mm: NonNegativeFloat = 3.0
    rotation_degrees: NonNegativeFloat = 3.0
    #: Fraction of samples without an optional channel.
    missing: Fraction = 0.12


class T1Acquisition(AcquisitionConfig):
    """A T1 series: mostly whole heads, thin slices in any orientation; nothing echo-planar."""

    skull_stripped: Fraction = 0.35
    slice_axis: ThreeWeights = (0.55, 0.1, 0.35)
    #: Fraction of two-dimensional series, whose slices are `slice_mm` thick; the others are `thin_mm`.
    thick: Fraction = 0.2
    slice_mm: PositiveRange = (2.0, 6.0)
    thin_mm: PositiveRange = (0.8, 1.6)
    in_plane_mm: PositiveRange = (0.7, 2.4)
    noise: NonNegativeRange = (0.008, 0.08)
    coil_exponent: NonNegativeRange = (0.0, 0.9)
    corrected: Fraction = 0.5
    bias: NonNegativeRange = (0.0, 0.2)
    #: Fraction of series with the traces of a moving head.
    motion: Fraction = 0.25
    #: Fraction of whole heads without a face, and with everything outside of the head set to zero.
    defaced: Fraction = 0.5
    blanked: Fraction = 0.3


class TraumaConfig(Frozen):
    """Lesions of a traumatic brain injury, months to years old."""

    none: Fraction = 0.33
    #: Weights of: contusions; axonal injury; both; a lesion of an infarct's shape; that and contusions.
    kinds: FiveWeights = (0.44, 0.08, 0.14, 0.2, 0.14)
    #: Weights of one, two, … contusions, and their radius.
    contusions: Weights = (0.35, 0.27, 0.18, 0.12, 0.08)
    contusion_mm: PositiveRange = (4.0, 30.0)
    #: Fraction of contusions anywhere on the cortex, not at the frontal and temporal poles.
    elsewhere: Fraction = 0.25
    #: Fraction of brains whose contusions are weeks old and still hold bright blood products.
    fresh: Fraction = 0.05
    axonal: PositiveCountRange = (1, 40)
    #: Radius. The challenge deletes what has 50 voxels or fewer.
    axonal_mm: PositiveRange = (2.3, 4.5)


class OldStrokeConfig(Frozen):
    """Infarcts weeks to years old."""

    none: Fraction = 0.1
    #: Weights of: infarcts of real shapes; lacunar infarcts; both; gliosis of white matter alone.
    kinds: FourWeights = (0.56, 0.14, 0.16, 0.14)
    #: Weights of one, two, three infarcts of real shapes.
    several: Weights = (0.72, 0.2, 0.08)
    #: Fraction of shapes from patients in the chronic stage; the others are the (often smaller) ones of the acute
    #: stage.
    chronic_shapes: Fraction = 0.5
    #: Fraction of brains whose infarcts have not yet turned to a cavity.
    subacute: Fraction = 0.2
    lacunes: PositiveCountRange = (1, 4)
    lacune_mm: PositiveRange = (1.5, 8.0)
    gliosis_mm: PositiveRange = (7.0, 28.0)


class AgeingConfig(Frozen):
    """What the years do to a brain, with a lesion or without."""

    #: How much fluid takes brain's place beside fluid; 1 takes what fluid surrounds by half.
    sulci: NonNegativeRange = (0.0, 0.0)
    #: Fraction of real scans whose sulci are filled with the fluid that skull-stripping took.
    filled: Fraction = 0.7


class T1Config(Frozen):
    """What is drawn for the tasks that read T1 alone."""

    acquisition: T1Acquisition = T1Acquisition()
    #: Weights of the sequences: magnetisation-prepared (MPRAGE and its kin); spoiled gradient echo; spin echo.
    sequences: ThreeWeights = (0.7, 0.18, 0.12)
    #: Fraction of samples in which every tissue is brighter or darker than physics has it, and in which nothing is left
    #: of physics.
    altered: Fraction = 0.15
    random: Fraction = 0.04
    #: Fraction of samples over a real scan without lesions instead of a label map, and the people (`sub-02`) whose
    #: scans are kept for validation alone.
    scans: Fraction = 0.0
    held_out: tuple[str, ...] = ()
    #: Gamma of a real scan's brightness, white matter at 1.
    scan_gamma: PositiveRange = (0.75, 1.3)
    #: Weights of the causes: an injury, a stroke.
    causes: TwoWeights = (0.5, 0.5)
    trauma: TraumaConfig = TraumaConfig()
    stroke: OldStrokeConfig = OldStrokeConfig()
    ageing: AgeingConfig = AgeingConfig()
    #: Fraction of brains whose lost tissue draws its surroundings in; by how much at most, and how far that is felt.
    ex_vacuo: Fraction = 0.7
    ex_vacuo_mm: NonNegativeRange = (1.0, 9.0)
    ex_vacuo_reach_mm: PositiveRange = (8.0, 18.0)
    #: Unlabelled: fraction of heads with wide perivascular spaces, and with extra-axial fluid that pushes the
    #: brain aside.
    perivascular: Fraction = 0.5
    extra_axial_fluid: Fraction = 0.25


class SynthesisConfig(Frozen):
    """All settings of the generator; `data.settings` of a recipe changes some."""

    anatomy: AnatomyConfig = AnatomyConfig()
    lesions: LesionConfig = LesionConfig()
    acquisition: AcquisitionConfig = AcquisitionConfig()
    t1: T1Config = T1Config()
