"""Writes stroke.md and its pictures: `make stroke-results`. Everything the page says is measured here."""

import argparse
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import ndimage

import segsync
from segsync.bundle import ModelSpec, load_bundle
from segsync.engine import Device, Engine
from segsync.geometry import Array, Grid, Volume, resample
from segsync.images import read
from segsync.lesions import measure
from segsync.montage import draw
from segsync.postprocess import remove_small
from segsync.predict import Result, Settings
from segsync.sliding_window import Windows, predict
from segsync_train.config import RunConfig, SyntheticData
from segsync_train.data.cases import LabelledCase
from segsync_train.data.sources import SyntheticSource
from segsync_train.metrics import RULES, Scores, score
from segsync_train.runs import commit

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
CASE = ROOT / "test" / "input" / "images"
#: First word of the seeds of the test cases. Those of training, of validation and of the choice of the operating point
#: (21) are others.
TEST = 22
SIZES_ML = ((0.0, 1.0), (1.0, 10.0), (10.0, 50.0), (50.0, np.inf))

Mask = npt.NDArray[np.bool_]
Images = dict[str, Volume]
Row = tuple[str, ...]

log = logging.getLogger(__name__)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, default=ROOT / "weights")
    parser.add_argument("--sources", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--cases", type=int, default=24)
    parser.add_argument("--cache", type=Path, default=ROOT / "test" / "output" / "synthesis-cache")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")
    logging.getLogger("segsync").setLevel(logging.ERROR)
    bundle = load_bundle(arguments.weights / "isles22", "isles22")
    model = segsync.load("isles22", weights=arguments.weights, device="cpu")

    def run(images: Images) -> Result:
        return model.predict(dict(images), Settings(tta="none"))

    images = {name: read(next((CASE / f"{name}-brain-mri").glob("*.mha"))) for name in ("dwi", "adc", "flair")}
    plain = run(images)
    picture = HERE.parent / "images" / "bundled-case.png"
    summary = f"{plain.volume_ml:.1f} ml in {len(measure(plain.mask, plain.grid, {1: 'lesion'}))} lesions"
    picture.parent.mkdir(exist_ok=True)
    draw(plain, summary).image.save(picture, optimize=True)
    shifts = [(name, f"{dice(mask, plain.mask > 0):.3f}", f"{ml:.1f}") for name, mask, ml in changes(images, run)]
    config = RunConfig.model_validate(bundle.spec.provenance["config"])
    data = config.data.model_copy(update={"sources": arguments.sources})
    if not isinstance(data, SyntheticData):
        parser.error(f"{bundle.folder}: expected weights trained on synthetic images, found {data.kind}")
    source = SyntheticSource(config, data, arguments.cache)
    engine = Engine(bundle, Device())
    scored = [scored_case(case, bundle.spec, engine) for case in test_cases(source, arguments.cases)]
    page = render(bundle.spec, plain, shifts, scored, picture)
    (HERE / "stroke.md").write_text(page, encoding="utf-8")
    sys.stdout.write(f"{HERE / 'stroke.md'}\n")


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
    for share in (0.05, 0.1, 0.2):
        noisy = {}
        for name in ("dwi", "adc"):
            array = images[name].array.astype(np.float32)
            level = share * float(np.median(array[array > 0]))
            array += level * rng.standard_normal(array.shape).astype(np.float32) * (array > 0)
            noisy[name] = Volume(array, images[name].grid)
        yield done(f"noise of {100 * share:g} % of the median in DWI and ADC", images | noisy)
    yield done("ADC in 10⁻³ mm²/s", images | {"adc": Volume(adc.array.astype(np.float32) / 1000, adc.grid)})
    yield done("DWI 40 times brighter", images | {"dwi": Volume(dwi.array.astype(np.float32) * 40, dwi.grid)})
    for mm in (2.4, 7.2, 9.6):
        thick = {name: sliced(images[name], mm) for name in ("dwi", "adc")}
        yield done(f"slices of {mm:g} mm instead of {dwi.grid.spacing_zyx[0]:g}", images | thick)
    yield done("voxels stored right to left, feet last", {name: turned(volume) for name, volume in images.items()})
    mirrored = {name: Volume(volume.array[:, :, ::-1].copy(), volume.grid) for name, volume in images.items()}
    result = run(mirrored)
    yield "patient mirrored left to right", result.mask[:, :, ::-1] > 0, result.volume_ml


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


def turned(volume: Volume) -> Volume:
    """The same image with its voxels numbered the other way along X and Z: the header says so."""
    grid = volume.grid
    matrix = np.array(grid.direction).reshape(3, 3) @ np.diag([-1.0, 1.0, -1.0])
    far = grid.points([grid.size_zyx[0] - 1, 0, grid.size_zyx[2] - 1])
    x, y, z = (float(value) for value in np.ravel(far))
    other = Grid(grid.size_zyx, grid.spacing_zyx, (x, y, z), tuple(matrix.ravel().tolist()))
    return Volume(volume.array[::-1, :, ::-1].copy(), other)


@dataclass(frozen=True)
class Scored:
    """One synthetic case: the network's scores, and those of the best threshold, chosen with the truth at hand."""

    network: Scores
    oracle: Scores


def test_cases(source: SyntheticSource, count: int) -> Iterator[LabelledCase]:
    """Cases that neither training nor validation has seen."""
    for number in range(count):
        log.info("synthetic case %d of %d", number + 1, count)
        yield source.draw(TEST, number)


def scored_case(case: LabelledCase, spec: ModelSpec, engine: Engine) -> Scored:
    """The network with its threshold and smallest component, as in the container, on the model's grid."""
    windows = Windows(spec.patch_zyx, spec.multiple_zyx, 0.5)
    probabilities, _ = predict(case.image, engine, 1, windows, tissue=case.tissue)
    z, y, x = case.label.shape
    grid = Grid((z, y, x), case.spacing_zyx, (0.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))
    found, _ = remove_small((probabilities[0] >= spec.threshold).astype(np.uint8), grid, spec.min_component_ml)
    truth, rules = case.label > 0, RULES["isles22"]
    oracle = best_threshold(case.image[0], case.image[1], truth)
    return Scored(*(score(truth, mask, case.spacing_zyx, rules) for mask in (found > 0, oracle)))


def best_threshold(dwi: Array, adc: Array, truth: Mask) -> Mask:
    """The mask DWI > a and ADC < b of the largest Dice, a and b chosen for this very case with its truth at hand.

    Speckles are taken out (opening) where that helps.
    """
    best, best_dice = np.zeros_like(truth), 1.0 if not truth.any() else 0.0
    if not truth.any():
        return best
    for a in np.quantile(dwi[dwi > dwi.min()], np.linspace(0.5, 0.999, 40)):
        for b in np.quantile(adc[truth], (0.5, 0.7, 0.85, 0.95, 1.0)):
            rough = (dwi > a) & (adc <= b)
            for mask in (rough, ndimage.binary_opening(rough)):
                value = dice(mask, truth)
                if value > best_dice:
                    best, best_dice = mask, value
    return best


def dice(a: Mask, b: Mask) -> float:
    both = int(a.sum()) + int(b.sum())
    return 2 * int((a & b).sum()) / both if both else 1.0


def render(spec: ModelSpec, plain: Result, shifts: Sequence[Row], scored: Sequence[Scored], picture: Path) -> str:
    """The page."""
    lesions = measure(plain.mask, plain.grid, {1: "lesion"})
    largest = max(lesions, key=lambda lesion: lesion.volume_ml)
    side = "right" if largest.centroid_lps_mm[0] < 0 else "left"
    made = spec.provenance
    false_ml = [case.network.predicted_ml for case in scored if case.network.lesions == 0]
    lines = [
        "# Stroke: what the shipped `isles22` weights do",
        "",
        "Written by `make stroke-results` "
        f"(commit {commit()}, CPU). Weights: {made['parameters'] / 1e6:.2f} million parameters, {made['steps']} steps "
        f"in {made['training_hours']:g} hours on {made['hardware']} after {made['inherited']['steps']} steps in "
        f"{made['inherited']['hours']:g} hours, synthetic images alone "
        "([card](../../weights/isles22/MODEL_CARD.md)).",
        "",
        "## The bundled case",
        "",
        f"One real patient of ISLES'22 without a reference mask. {plain.volume_ml:.1f} ml in {len(lesions)} "
        f"components; the largest, {largest.volume_ml:.1f} ml, lies on the patient's {side} (the image's "
        f"{'left' if side == 'right' else 'right'}).",
        "",
        f"![The outline on DWI](../images/{picture.name})",
        "",
        "What changes when the images change. Dice against the mask of the unchanged images:",
        "",
        *table(("change", "Dice", "ml"), shifts),
        "",
        "## Synthetic cases",
        "",
        f"{len(scored)} cases of seeds that were used neither in training nor in validation, metrics of ISLES'22, "
        "mean ± standard deviation over cases. *Best threshold* is the mask DWI > a, ADC < b (opened where that helps) "
        "with a and b chosen for each single case with its reference at hand: nobody can do so well on a patient.",
        "",
        *table(
            (
                "lesion volume",
                "cases",
                "Dice",
                "best threshold's Dice",
                "lesion F1",
                "count difference",
                "volume difference, ml",
            ),
            [by_size(scored, low, high) for low, high in SIZES_ML],
        ),
        "",
        f"In {len(false_ml)} cases without any lesion the network finds {np.mean(false_ml):.2f} ml on average, nothing "
        f"at all in {false_ml.count(0.0)} of them.",
        "",
        "## Not shown",
        "",
        "No labelled patient was used here or in training. Where synthetic images are unlike a scanner's, these "
        "figures say nothing.",
    ]
    return "\n".join(lines) + "\n"


def by_size(scored: Sequence[Scored], low: float, high: float) -> Row:
    """One row of the table: cases whose lesions together have this volume."""
    group = [case for case in scored if case.network.lesions and low <= case.network.volume_ml < high]
    title = f"{low:g} to {high:g} ml" if np.isfinite(high) else f"over {low:g} ml"
    columns = (
        ([case.network.dice for case in group], 2),
        ([case.oracle.dice for case in group], 2),
        ([case.network.lesion_f1 for case in group], 2),
        ([case.network.lesion_count_difference for case in group], 1),
        ([case.network.volume_difference_ml for case in group], 1),
    )
    shown = (f"{np.mean(v):.{d}f} ± {np.std(v, ddof=1):.{d}f}" if len(v) > 1 else "–" for v, d in columns)
    return (title, str(len(group)), *shown)


def table(head: Row, rows: Sequence[Row]) -> list[str]:
    """Markdown."""
    return [f"| {' | '.join(row)} |" for row in (head, ("---",) * len(head), *rows)]


if __name__ == "__main__":
    main()
