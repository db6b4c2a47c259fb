"""Writes real.md and its pictures: `make real-results`. What the shipped weights do on real people.

No image here was trained on. `--t1 NAME=FILE` adds the T1 image of a person without a lesion, as packages ship them.
"""

import argparse
import logging
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from synthetic_cases import ROOT, Row, table

import segsync
from segsync.arrays import Mask
from segsync.bundle import load_bundle
from segsync.drawing import PREDICTED, REFERENCE, draw_slice, grey_window, spread
from segsync.geometry import Grid, Volume, canonical
from segsync.images import read
from segsync.lesions import measure
from segsync.predict import Result
from segsync_train.config.data import SyntheticData
from segsync_train.config.run import RunConfig
from segsync_train.data.sources import SyntheticSource
from segsync_train.evaluation.metrics import RULES, Scores, score
from segsync_train.runs.folder import commit

DOCS = Path(__file__).parents[1]
BUNDLED = ROOT / "test" / "input" / "images"
#: First seed of the lesions that are drawn into people who were not trained on.
DRAWN = 31_000
SLICES = 5

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Shown:
    """A row of the picture, all upright: the image, the mask, and the reference where there is one."""

    title: str
    image: Volume
    mask: Mask
    reference: Mask | None = None


def shown_of(title: str, file: Path, mask: Mask, reference: Mask | None = None) -> Shown:
    """A row of the picture, its voxels brought into the order of a patient seen from below, nose up."""
    image = read(file)

    def upright(array: Mask) -> Mask:
        turned: Mask = canonical(Volume(array, image.grid)).array.astype(np.bool_)
        return turned

    return Shown(title, canonical(image), upright(mask), None if reference is None else upright(reference))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, default=ROOT / "weights")
    parser.add_argument("--data", type=Path, default=ROOT / "data")
    parser.add_argument("--cache", type=Path, default=ROOT / "test" / "output" / "synthesis-cache")
    parser.add_argument("--drawn", type=int, default=36, help="lesions drawn into people who were not trained on")
    parser.add_argument("--t1", action="append", default=[], metavar="NAME=FILE", help="a T1 image without a lesion")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")
    logging.getLogger("segsync").setLevel(logging.ERROR)
    lines = [
        "# Real people: what the shipped weights do",
        "",
        f"Written by `make real-results` (commit {commit()}, CPU), with the settings that `segsync predict` has by "
        "itself. None of these images was trained on. They are few: a hospital's own cases come first.",
        "",
        *acute(arguments.weights, arguments.data),
    ]
    lines += [
        "",
        *old("isles26", arguments),
        "",
        "## Not known",
        "",
        "How the weights do on haemorrhage, tumours, children, fields below 1.5 T, and on scanners unlike these. "
        "For `isles24` (CT) no real image was at hand.",
    ]
    page = DOCS / "results" / "real.md"
    page.write_text("\n".join(lines) + "\n", encoding="utf-8")
    sys.stdout.write(f"{page}\n")


def acute(weights: Path, data: Path) -> list[str]:
    """The labelled acute strokes, and the bundled one without a reference: lines of Markdown; draws the picture."""
    model = segsync.load("isles22", weights=weights, device="cpu")
    rows: list[Row] = []
    shown = []
    for folder in sorted((data / "isles22-validation").iterdir()):
        files = {part: folder / f"{folder.name}_{part}.nii.gz" for part in ("dwi", "adc", "lesion-msk")}
        log.info("isles22: %s", folder.name)
        result = model.predict({"dwi": files["dwi"], "adc": files["adc"]})
        reference = np.asarray(read(files["lesion-msk"]).array, np.float32) > 0
        rows.append(row(folder.name.removeprefix("sub-"), scores_of(reference, result)))
        shown.append(shown_of(folder.name.removeprefix("sub-"), files["dwi"], result.mask > 0, reference))
    images = {name: next((BUNDLED / f"{name}-brain-mri").glob("*.mha")) for name in ("dwi", "adc", "flair")}
    result = model.predict(images)
    found = measure(result.mask, result.grid, {1: "lesion"})
    rows.append(("the bundled case", "no mask", f"{result.volume_ml:.1f}", "–", "–", str(len(found)), "–"))
    shown.append(shown_of("the bundled case", images["dwi"], result.mask > 0))
    picture = DOCS / "images" / "real-isles22.png"
    pictures(shown).savefig(picture, dpi=100)
    return [
        "## Acute strokes in DWI and ADC: `isles22`",
        "",
        "Two labelled patients of ISLES'22, who chose the operating point as well, and the bundled one.",
        "",
        *table(("case", "reference, ml", "predicted, ml", "Dice", "lesions", "predicted lesions", "lesion F1"), rows),
        "",
        f"![Contours on DWI](../images/{picture.name})",
        "",
        "DWI in the slices with most of the lesion: reference in blue, network in orange.",
    ]


def old(task: str, arguments: argparse.Namespace) -> list[str]:
    """People without a lesion, lesions drawn into them, and the old stroke without a mask: lines of Markdown."""
    model = segsync.load(task, weights=arguments.weights, device="cpu")
    config = RunConfig.model_validate(load_bundle(arguments.weights / task, task).spec.provenance["config"])
    if not isinstance(config.data, SyntheticData):
        raise ValueError(f"{task}: expected weights trained on drawn lesions, found {config.data.kind}")
    people = {name: arguments.data / "t1-ds002748" / f"{name}_T1w.nii.gz" for name in config.data.settings.t1.held_out}
    people |= {name: Path(file) for name, _, file in (given.partition("=") for given in arguments.t1)}
    shown: list[Shown] = []
    healthy: list[Row] = []
    for name, file in people.items():
        log.info("%s: %s", task, name)
        result = model.predict({"t1": file})
        found = measure(result.mask, result.grid, {1: "lesion"})
        healthy.append((name, f"{result.volume_ml:.2f}", str(len(found))))
        if result.volume_ml > 0 and len(shown) < 3:
            shown.append(shown_of(f"{name}, no lesion", file, result.mask > 0))
    clean = sum(row[1] == "0.00" for row in healthy)
    scored = list(drawn_into(model, config, config.data, arguments))
    stroke = arguments.data / "chronic-stroke-sample" / "stroke_T1.nii.gz"
    result = model.predict({"t1": stroke})
    shown.insert(0, shown_of("old stroke, no mask", stroke, result.mask > 0))
    picture = DOCS / "images" / f"real-{task}.png"
    pictures(shown).savefig(picture, dpi=100)
    return [
        "## Old strokes and injuries in T1: `isles26` and `aims-tbi`",
        "",
        "One network serves both tasks. The threshold and least confidence were chosen on these people and on the old "
        "stroke below, so that both flatter.",
        "",
        f"People without a lesion, whose scans were kept apart: nothing is marked in {clean} of {len(healthy)}.",
        "",
        *table(("person", "marked, ml", "components"), healthy),
        "",
        "Lesions drawn into the scans of these people (real anatomy, drawn lesions), and the same scans without any:",
        "",
        *table(("reference", "cases", "mean Dice", "mean predicted, ml"), list(by_size(scored))),
        "",
        f"An old stroke of the left hemisphere that has no reference mask: {result.volume_ml:.1f} ml.",
        "",
        f"![Contours on T1](../images/{picture.name})",
    ]


def drawn_into(
    model: segsync.Model, config: RunConfig, data: SyntheticData, arguments: argparse.Namespace
) -> Iterator[Scores]:
    """Scores of lesions drawn into the people of `held_out`, through the same call as a patient's image."""
    settings = data.settings.model_copy(update={"t1": data.settings.t1.model_copy(update={"scans": 1.0})})
    data = data.model_copy(update={"sources": arguments.data, "settings": settings})
    generator = SyntheticSource(config.task, config.case_spec, data, config.seed, arguments.cache).generator
    for number in range(arguments.drawn):
        case = generator(DRAWN + number, held_out=True)
        z, y, x = case.target.shape
        grid = Grid((z, y, x), (case.spacing_mm,) * 3, (0.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))
        log.info("%s: drawn lesion %d of %d", config.task, number + 1, arguments.drawn)
        yield scores_of(case.target.numpy() > 0, model.predict({"t1": Volume(case.images[0].numpy(), grid)}))


def by_size(scored: Sequence[Scores]) -> Iterator[Row]:
    """A row for each range of volumes."""
    for low, high in ((0.0, 0.0), (0.0, 2.0), (2.0, 15.0), (15.0, np.inf)):
        group = [one for one in scored if (one.volume_ml == 0 if high == 0 else low < one.volume_ml <= high)]
        title = "no lesion" if high == 0 else f"over {low:g} ml" if np.isinf(high) else f"up to {high:g} ml"
        if group:
            mean, predicted = np.mean([one.dice for one in group]), np.mean([one.predicted_ml for one in group])
            yield title, str(len(group)), f"{mean:.2f}", f"{predicted:.1f}"


def scores_of(reference: Mask, result: Result) -> Scores:
    """By the rules of ISLES'22."""
    return score(reference, result.mask > 0, result.grid.spacing_zyx, RULES["isles22"])


def row(name: str, scores: Scores) -> Row:
    """Of a labelled case."""
    return (
        name, f"{scores.volume_ml:.1f}", f"{scores.predicted_ml:.1f}", f"{scores.dice:.2f}", str(scores.lesions),
        str(scores.predicted_lesions), f"{scores.lesion_f1:.2f}",
    )  # fmt: skip


def pictures(shown: Sequence[Shown]) -> Figure:
    """A row a case, in the slices that hold most of reference and mask."""
    figure = Figure(figsize=(2.1 * SLICES, 2.4 * len(shown)), layout="constrained")
    axes = np.atleast_2d(figure.subplots(len(shown), SLICES))
    for one in axes.flat:
        one.set_axis_off()
    for line, case in zip(axes, shown, strict=True):
        masks = (
            [(case.mask, PREDICTED)]
            if case.reference is None
            else [(case.reference, REFERENCE), (case.mask, PREDICTED)]
        )
        either = np.any([mask for mask, _ in masks], axis=0)
        areas = np.count_nonzero(either if either.any() else case.image.array, axis=(1, 2))
        window = (0.0, grey_window(case.image.array, (0.0, 99.7))[1])
        for axis, z in zip(line, spread(areas, SLICES), strict=False):
            outlines = [(mask[z], colour) for mask, colour in masks]
            pixel_mm = case.image.grid.spacing_zyx[1:]
            axis.imshow(draw_slice(case.image.array[z], window, outlines, pixel_mm=pixel_mm, pixels_per_mm=2.0))
        line[0].set_title(case.title, fontsize=9, loc="left")
    return figure


if __name__ == "__main__":
    main()
