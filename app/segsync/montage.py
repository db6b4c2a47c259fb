"""The picture of a report: axial slices of the reference image with the outline of what was found.

Slices lie in the plane of acquisition and are shown in the radiological convention: the patient's right is on the
viewer's left, anterior is up. What `drawing` draws are the image's own voxels, enlarged to isotropic pixels.
"""

import math
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from segsync.arrays import LabelMap, Mask, bounding_box
from segsync.bundle import Fixed, ZScore
from segsync.drawing import COLOURS, Colour, Pixels, draw_slice, spread
from segsync.geometry import Grid, Volume, canonical
from segsync.images import suffix_of
from segsync.predict import Result
from segsync.preprocess import tissue

#: Slices in a picture, at most, and how many stand in a row.
SLICES = 12
COLUMNS = 4
#: Pixels that a slice takes, at most.
PANEL_WIDTH, PANEL_HEIGHT = 360, 440
GAP = 14
#: Narrower pictures have no room for their captions.
MIN_WIDTH = 760
#: Black around the patient, in mm.
MARGIN_MM = 10.0
#: The tissue's percentile that is shown white, for contrasts without a unit; black is zero, as air is.
WHITE_PERCENTILE = 99.7
#: Without a lesion: slices that show at least this fraction of the widest slice's tissue.
FULL_SLICE = 0.3
#: Voxels in a plane that are looked at to tell patient from air; more say nothing new.
ENOUGH_VOXELS = 4e6
SCALE_BAR_MM = 50

INK, FAINT, BACKGROUND = (255, 255, 255), (176, 176, 176), (0, 0, 0)


@dataclass(frozen=True)
class Picture:
    """The picture and what its caption needs to say.

    Attributes:
        image: The picture.
        slices: Indices along the axis towards superior.
        lesion_slices: How many slices have any lesion.
        sides: Whether R and L could be marked; a TIFF does not say where the patient's right is.
    """

    image: Image.Image
    slices: tuple[int, ...]
    lesion_slices: int
    sides: bool

    @property
    def shown(self) -> str:
        """Which slices these are, in words."""
        return _shown(len(self.slices), self.lesion_slices)


def colour_of(labels: Mapping[int, str], value: int) -> Colour:
    """The colour of a label: the same in picture and page."""
    return COLOURS[list(labels).index(value) % len(COLOURS)]


def _shown(slices: int, lesion_slices: int) -> str:
    if lesion_slices == 0:
        return f"{slices} slices spread over the head"
    if lesion_slices == 1:
        return "the slice with lesion"
    return f"{'all' if slices == lesion_slices else f'{slices} of'} {lesion_slices} slices with lesion"


def draw(result: Result, summary: str) -> Picture:
    """Draw the montage of a result.

    Args:
        result: Of a case.
        summary: The line below the case's name, as in `38 ml in 2 lesions`.

    Returns:
        An RGB image.
    """
    spec, channel = result.bundle.spec, result.task.reference
    # A network need not read the image that the mask lies on.
    how = next((one.normalisation for one in spec.channels if one.name == channel), ZScore())
    view = _View.of(result.reference, result.mask, how)
    slices, lesion_slices = view.choose()
    source = result.case.channels.get(channel)
    sides = not (isinstance(source, Path) and suffix_of(source) in (".tif", ".tiff"))
    panels = [view.panel(number, spec.labels, sides) for number in slices]
    legend = [(name, colour_of(spec.labels, value)) for value, name in spec.labels.items()]
    image = _sheet(
        panels,
        title=result.case.name,
        summary=summary,
        detail=f"{channel.upper()}, {_shown(len(slices), lesion_slices)}",
        legend=legend if lesion_slices else [],
        pixels_per_mm=view.pixels_per_mm,
    )
    return Picture(image, slices, lesion_slices, sides)


@dataclass(frozen=True)
class _View:
    """A case turned to the canonical axes (superior, posterior, left), without a copy of it."""

    image: Pixels
    mask: LabelMap
    grid: Grid
    shown: Mask
    rows: slice
    columns: slice
    black: float
    white: float

    @classmethod
    def of(cls, reference: Volume, mask: LabelMap, how: ZScore | Fixed) -> "_View":
        upright = canonical(reference)
        image, grid = upright.array, upright.grid
        turned_mask: LabelMap = canonical(Volume(mask, reference.grid)).array.astype(np.uint8, copy=False)
        step = max(1, round(math.sqrt(image.size / ENOUGH_VOXELS)))
        coarse = np.nan_to_num(image[:, ::step, ::step].astype(np.float32), posinf=0.0, neginf=0.0)
        shown = tissue(coarse, how)
        box = shown | (turned_mask[:, ::step, ::step] > 0)
        _, rows, columns = bounding_box(box if box.any() else np.ones_like(box))
        _, dy, dx = grid.spacing_zyx
        black, white = _window(coarse[shown], how)
        return cls(
            image,
            turned_mask,
            grid,
            shown,
            _widened(rows, step, MARGIN_MM / dy, image.shape[1]),
            _widened(columns, step, MARGIN_MM / dx, image.shape[2]),
            black,
            white,
        )

    @property
    def size_mm(self) -> tuple[float, float]:
        """Height and width of what is shown."""
        _, dy, dx = self.grid.spacing_zyx
        return (self.rows.stop - self.rows.start) * dy, (self.columns.stop - self.columns.start) * dx

    @property
    def pixels_per_mm(self) -> float:
        height, width = self.size_mm
        return min(PANEL_HEIGHT / height, PANEL_WIDTH / width)

    def choose(self) -> tuple[tuple[int, ...], int]:
        """The slices to show, from the lowest, and how many have lesion.

        Those with lesion are spread over it; without any, every n-th of the slices that show much of the head is taken.
        """
        areas = np.count_nonzero(self.mask, axis=(1, 2))
        chosen = spread(areas, SLICES)
        if chosen:
            return chosen, int(np.count_nonzero(areas))
        full = np.count_nonzero(self.shown, axis=(1, 2))
        slices = np.flatnonzero(full >= FULL_SLICE * full.max())
        return tuple(int(number) for number in slices[:: math.ceil(slices.size / SLICES)]), 0

    def panel(self, number: int, labels: Mapping[int, str], sides: bool) -> Image.Image:
        """One slice, windowed, with outlines and marks."""
        _, dy, dx = self.grid.spacing_zyx
        labelled = self.mask[number, self.rows, self.columns]
        panel = draw_slice(
            self.image[number, self.rows, self.columns],
            (self.black, self.white),
            [(labelled == value, colour_of(labels, value)) for value in labels],
            pixel_mm=(dy, dx),
            pixels_per_mm=self.pixels_per_mm,
        )
        self._marks(panel, number, sides)
        return panel

    def _marks(self, panel: Image.Image, number: int, sides: bool) -> None:
        pen, font = ImageDraw.Draw(panel), _font(22)
        centre = [number, (self.rows.start + self.rows.stop - 1) / 2, (self.columns.start + self.columns.stop - 1) / 2]
        z = float(self.grid.points(centre)[2])
        marks = [((6, 4), "la", f"z {z:+.0f} mm")]
        if sides:
            middle = panel.height // 2
            marks += [((6, middle), "lm", "R"), ((panel.width - 6, middle), "rm", "L")]
        for place, anchor, text in marks:
            pen.text(place, text, INK, font, anchor, stroke_width=2, stroke_fill=BACKGROUND)


def _window(values: npt.NDArray[np.float32], how: ZScore | Fixed) -> tuple[float, float]:
    """Values shown black and white: for a quantity with a unit the range the network sees, else of the tissue."""
    if isinstance(how, Fixed):
        return how.low, max(how.high, how.low + 1.0)
    if values.size == 0:
        return 0.0, 1.0
    return 0.0, float(np.percentile(values, WHITE_PERCENTILE))  # tissue is above zero, so this is, too


def _widened(side: slice, step: int, margin: float, length: int) -> slice:
    extra = math.ceil(margin)
    return slice(max(0, side.start * step - extra), min(length, side.stop * step + extra))


def _sheet(
    panels: Sequence[Image.Image],
    title: str,
    summary: str,
    detail: str,
    legend: Sequence[tuple[str, Colour]],
    pixels_per_mm: float,
) -> Image.Image:
    """Panels in rows under a title, with the legend and a scale bar below."""
    per_row = min(COLUMNS, len(panels))
    rows = math.ceil(len(panels) / per_row)
    w, h = panels[0].width + GAP, panels[0].height + GAP
    head, foot = 96, 52
    sheet = Image.new("RGB", (max(MIN_WIDTH, per_row * w + GAP), head + rows * h + foot), BACKGROUND)
    left = (sheet.width - per_row * w + GAP) // 2
    for number, panel in enumerate(panels):
        sheet.paste(panel, (left + number % per_row * w, head + number // per_row * h))
    pen = ImageDraw.Draw(sheet)
    room = sheet.width - 28
    pen.text((14, 8), _fitted(title, _font(32), room), INK, _font(32))
    finding = f"{summary}   "
    pen.text((14, 52), finding, INK, _font(26))
    pen.text((14 + _font(26).getlength(finding), 56), detail, FAINT, _font(22))
    _scale_bar(pen, sheet, pixels_per_mm)
    _legend(pen, legend, sheet.height - foot // 2, sheet.width - 320)
    return sheet


def _scale_bar(pen: ImageDraw.ImageDraw, sheet: Image.Image, pixels_per_mm: float) -> None:
    length, y, right = round(SCALE_BAR_MM * pixels_per_mm), sheet.height - 26, sheet.width - 14
    text = f"{SCALE_BAR_MM} mm"
    start = right - round(_font(20).getlength(text)) - 10
    pen.line((start - length, y, start, y), INK, 2)
    for end in (start - length, start):
        pen.line((end, y - 6, end, y + 6), INK, 2)
    pen.text((right, y), text, INK, _font(20), "rm")


def _legend(pen: ImageDraw.ImageDraw, legend: Sequence[tuple[str, Colour]], y: int, room: int) -> None:
    """Coloured frames with the labels' names; those for which there is no room are left out."""
    x, font = 14, _font(20)
    for name, colour in legend:
        text = _fitted(name, font, 300)
        if x + 30 + font.getlength(text) > room:
            pen.text((x, y), "…", FAINT, font, "lm")
            return
        pen.rectangle((x, y - 10, x + 20, y + 10), outline=colour, width=3)
        pen.text((x + 30, y), text, INK, font, "lm")
        x += 30 + math.ceil(font.getlength(text)) + 28


def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont)  # bitmap only where Pillow was built without FreeType
    return font


def _fitted(text: str, font: ImageFont.FreeTypeFont, room: float) -> str:
    """The text in letters that Pillow's own font has, cut in its middle to fit."""
    plain = "".join(
        letter if letter.isascii() and letter.isprintable() else "?"
        for letter in unicodedata.normalize("NFKD", text)
        if not unicodedata.combining(letter)
    )
    keep = len(plain)
    short = plain
    while font.getlength(short) > room and keep > 2:
        keep -= 1
        short = f"{plain[: keep // 2]}…{plain[-(keep - keep // 2) :]}"
    return short
