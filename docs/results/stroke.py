"""Writes stroke.md and its pictures: `make stroke-results`. Everything the page says is measured here."""

import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from planted_infarcts import AT_ONCE, IMAGES, Tally, planted
from synthetic_cases import ROOT, Row, Scored, arguments_of, scored_cases, section, table, training
from thresholds import dice

import segsync
from segsync.arrays import Mask
from segsync.bundle import ModelSpec, load_bundle
from segsync.geometry import Grid, Volume, resample
from segsync.images import read
from segsync.lesions import measure
from segsync.montage import draw
from segsync.pipeline import Case
from segsync.postprocess import components_of
from segsync.predict import Result, Settings
from segsync_train.runs.folder import commit

HERE = Path(__file__).parent
CASE = ROOT / "test" / "input" / "images"

Images = dict[str, Volume]


def main() -> None:
    arguments = arguments_of(__doc__).parse_args()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")
    logging.getLogger("segsync").setLevel(logging.ERROR)
    bundle = load_bundle(arguments.weights / "isles22", "isles22")
    model = segsync.load("isles22", weights=arguments.weights, device="cpu")

    def run(images: Images) -> Result:
        return model.predict(Case("Bundled case", dict(images)), Settings(tta="none"))

    images = {name: read(next((CASE / f"{name}-brain-mri").glob("*.mha"))) for name in ("dwi", "adc", "flair")}
    plain = run(images)
    picture = HERE.parent / "images" / "bundled-case.png"
    summary = f"{plain.volume_ml:.1f} ml in {len(measure(plain.mask, plain.grid, {1: 'lesion'}))} lesions"
    picture.parent.mkdir(exist_ok=True)
    draw(plain, summary).image.save(picture, optimize=True)
    shifts = [(name, f"{dice(mask, plain.mask > 0):.3f}", f"{ml:.1f}") for name, mask, ml in changes(images, run)]
    spots = [spot_row(tally) for tally in planted(images, run)]
    scored = list(scored_cases(bundle, arguments.sources, arguments.cache, arguments.cases))
    page = render(bundle.spec, plain, list(components(plain, images)), shifts, spots, scored, picture)
    (HERE / "stroke.md").write_text(page, encoding="utf-8")
    sys.stdout.write(f"{HERE / 'stroke.md'}\n")


def components(plain: Result, images: Images) -> Iterator[Row]:
    """Of every component, largest first: volume, how bright it is on DWI beside the brain, and its ADC."""
    dwi, adc = images["dwi"], resample(images["adc"], images["dwi"].grid)
    signal = dwi.array.astype(np.float32)
    brain = signal > 0
    usual = float(np.median(signal[brain]))
    places, count = components_of(plain.mask > 0)
    found = sorted((places == number for number in range(1, count + 1)), key=np.count_nonzero, reverse=True)
    for inside in found:
        yield (
            f"{np.count_nonzero(inside) * dwi.grid.voxel_ml:.2f}",
            f"{float(np.median(signal[inside])) / usual:.1f}",
            f"{float(np.median(adc[inside])):.0f}",
        )
    yield ("the brain", "1.0", f"{float(np.median(adc[brain])):.0f}")


def changes(images: Images, run: Callable[[Images], Result]) -> Iterator[tuple[str, Mask, float]]:
    """What may differ between hospitals, done to the bundled case; masks on the unchanged DWI's grid, volume in ml."""
    dwi, adc, flair = (images[name] for name in ("dwi", "adc", "flair"))
    rng = np.random.default_rng(0)

    def done(name: str, changed: Images) -> tuple[str, Mask, float]:
        result = run(changed)
        back = resample(Volume(result.mask.astype(np.float32), result.grid), dwi.grid) >= 0.5
        return name, back, result.volume_ml

    yield done("FLAIR missing", {"dwi": dwi, "adc": adc})
    for mm in (2.0, 4.0):
        yield done(f"ADC shifted {mm:g} mm to the left", images | {"adc": moved(adc, mm)})
        yield done(f"FLAIR shifted {mm:g} mm to the left", images | {"flair": moved(flair, mm)})
    for fraction in (0.05, 0.1, 0.2):
        noisy = {}
        for name in ("dwi", "adc"):
            array = images[name].array.astype(np.float32)
            level = fraction * float(np.median(array[array > 0]))
            array += level * rng.standard_normal(array.shape).astype(np.float32) * (array > 0)
            noisy[name] = Volume(array, images[name].grid)
        yield done(f"noise of {100 * fraction:g} % of the median in DWI and ADC", images | noisy)
    yield done("ADC in 10⁻³ mm²/s", images | {"adc": Volume(adc.array.astype(np.float32) / 1000, adc.grid)})
    yield done("DWI 40 times brighter", images | {"dwi": Volume(dwi.array.astype(np.float32) * 40, dwi.grid)})
    for mm in (2.4, 7.2, 9.6):
        thick = {name: sliced(images[name], mm) for name in ("dwi", "adc")}
        yield done(f"slices of {mm:g} mm instead of {dwi.grid.spacing_zyx[0]:g}", images | thick)
    yield done("voxels stored right to left, feet last", {name: rotated(volume) for name, volume in images.items()})
    mirrored = {name: Volume(volume.array[:, :, ::-1].copy(), volume.grid) for name, volume in images.items()}
    result = run(mirrored)
    yield "patient mirrored left to right", result.mask[:, :, ::-1] > 0, result.volume_ml


def spot_row(tally: Tally) -> Row:
    """One kind of planted infarcts."""
    return (
        f"{tally.radius_mm:g}", f"{tally.volume_ml:.2f}", f"{tally.dwi:g}", f"{tally.adc:g}",
        f"{tally.found} of {tally.planted}", f"{tally.overlap:.2f}", f"{tally.elsewhere_ml:.2f}",
    )  # fmt: skip


def moved(volume: Volume, mm: float) -> Volume:
    """The image lies `mm` further to the patient's left."""
    x, y, z = volume.grid.origin
    return Volume(volume.array, replace(volume.grid, origin=(x + mm, y, z)))


def sliced(volume: Volume, mm: float) -> Volume:
    """The same field of view in slices of another thickness."""
    size, spacing = volume.grid.size_zyx, volume.grid.spacing_zyx
    count = max(1, round(size[0] * spacing[0] / mm))
    z, y, x = size[0] * spacing[0] / count, spacing[1], spacing[2]
    grid = replace(volume.grid, size_zyx=(count, size[1], size[2]), spacing_zyx=(z, y, x))
    return Volume(resample(volume, grid, antialias=True), grid)


def rotated(volume: Volume) -> Volume:
    """The same image with its voxels numbered the other way along X and Z: the header says so."""
    grid = volume.grid
    matrix = np.array(grid.direction).reshape(3, 3) @ np.diag([-1.0, 1.0, -1.0])
    far = grid.points([grid.size_zyx[0] - 1, 0, grid.size_zyx[2] - 1])
    x, y, z = (float(value) for value in np.ravel(far))
    other = Grid(grid.size_zyx, grid.spacing_zyx, (x, y, z), tuple(matrix.ravel().tolist()))
    return Volume(volume.array[::-1, :, ::-1].copy(), other)


def render(
    spec: ModelSpec,
    plain: Result,
    parts: Sequence[Row],
    shifts: Sequence[Row],
    spots: Sequence[Row],
    scored: Sequence[Scored],
    picture: Path,
) -> str:
    """The page."""
    lesions = measure(plain.mask, plain.grid, {1: "lesion"})
    largest = max(lesions, key=lambda lesion: lesion.volume_ml)
    side = "right" if largest.centroid_lps_mm[0] < 0 else "left"
    lines = [
        "# Stroke: what the shipped `isles22` weights do",
        "",
        f"Written by `make stroke-results` (commit {commit()}, CPU). Weights: {training(spec)}",
        "",
        "## The bundled case",
        "",
        f"One real patient of ISLES'22 without a reference mask. {plain.volume_ml:.1f} ml in {len(lesions)} "
        f"components; the largest, {largest.volume_ml:.1f} ml, lies on the patient's {side} (the image's "
        f"{'left' if side == 'right' else 'right'}).",
        "",
        f"![The outline on DWI](../images/{picture.name})",
        "",
        "Fresh infarcts are bright on DWI with a low ADC; a bright spot at the skull base whose ADC is that of the "
        "brain is more likely an artefact of the air beside it.",
        "",
        *table(("component, ml", "DWI, times the brain's median", "median ADC, 10⁻⁶ mm²/s"), parts),
        "",
        "What changes when the images change. Dice against the mask of the unchanged images:",
        "",
        *table(("change", "Dice", "ml"), shifts),
        "",
        f"Small infarcts put into its healthy tissue, {AT_ONCE} at once in {IMAGES} images of each kind: ellipsoids, "
        "averaged over the voxels as a scanner does; FLAIR stays as it is, as in the first hours. Dice leaves out "
        "what was found before them; *elsewhere* is all else that is newly found.",
        "",
        *table(("mean radius, mm", "volume, ml", "DWI, times", "ADC, times", "found", "Dice", "elsewhere, ml"), spots),
        "",
        "## Synthetic cases",
        "",
        *section(spec, scored),
        "",
        "## Not shown",
        "",
        "Labelled patients: [real people](real.md). Where synthetic images are unlike a scanner's, these "
        "figures say nothing.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
