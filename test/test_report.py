"""The report: files that say what is in the mask, and a page that nothing hostile gets out of."""

import csv
import json
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segmented import AXIAL, coloured, phantom, result_of
from segsync.drawing import COLOURS
from segsync.errors import OutputError
from segsync.montage import draw
from segsync.page import summary
from segsync.record import Report, record
from segsync.report import write_report

# --- files -----------------------------------------------------------------------------------------------------------


def test_json_round_trip_says_what_is_in_the_mask(tmp_path: Path) -> None:
    reference, lesion = phantom()
    result = result_of(
        reference, lesion, metadata={"age": 71, "nihss": float("nan"), "site": ["é", "\udcff"]}, warnings=("look here",)
    )
    paths = write_report(result, tmp_path / "out" / "sub-01", {"overlap": 0.5, "input": Path("in"), "deadline": None})
    assert [path.name for path in paths] == [
        f"sub-01_{name}" for name in ("report.json", "lesions.csv", "montage.png", "report.html")
    ]
    assert sorted(paths) == sorted((tmp_path / "out").iterdir())
    text = paths[0].read_text(encoding="utf-8")
    report = Report.model_validate_json(text)
    assert f"{report.model_dump_json(indent=2)}\n" == text
    raw = json.loads(text, parse_constant=lambda constant: pytest.fail(f"{constant} is no JSON"))
    assert raw["format"] == 1
    assert raw["metadata"] == {"age": 71, "nihss": None, "site": ["é", "\\udcff"]}
    assert raw["arguments"] == {"overlap": 0.5, "input": "in", "deadline": None}
    assert raw["channels"] == {"t1": None}
    volume = lesion.sum() * 12.0 / 1000
    assert (report.lesion_count, report.volume_ml, report.lesions[0].volume_ml) == pytest.approx((1, volume, volume))
    assert report.labels[1].probability_volume_ml == pytest.approx(0.75 * volume)
    assert report.labels[1].peak_probability == 0.75
    assert report.reference.size_xyz == (50, 60, 30)
    assert (report.run.windows, report.run.skipped_windows, report.run.mirrored_passes) == (6, 2, 2)
    assert report.run.window_size_xyz == (32, 24, 16)
    assert (report.weights.threshold, report.weights.min_component_ml) == (0.35, 0.02)
    assert report.warnings == ("look here",)
    assert report.run.notes == ("deadline: 2 of 8 mirrored passes",)
    assert report.weights.sha256 == "0123456789abcdef" * 4
    assert report.versions["python"] == ".".join(map(str, sys.version_info[:3]))
    assert {"segsync", "numpy", "SimpleITK"} <= set(report.versions)


def test_each_label_has_its_own_volume_on_the_models_grid_as_well(tmp_path: Path) -> None:
    """Voxels of 12 mm³ in the mask; the network's are twice as long along each axis, 96 mm³."""
    reference, _ = phantom()
    mask = np.zeros(AXIAL.size_zyx, dtype=np.uint8)
    mask[4, 4, 4:6] = mask[9, 9, 9] = 1
    mask[20, 30, 30:34] = 2
    coarse = replace(AXIAL, size_zyx=(2, 2, 2), spacing_zyx=(6.0, 4.0, 4.0))
    probabilities = np.zeros((2, 2, 2, 2), dtype=np.float32)
    probabilities[:, 0, 0, 0] = 0.5, 0.25
    result = replace(
        result_of(reference, mask, labels={1: "core", 2: "rim"}), model_probabilities=probabilities, model_grid=coarse
    )
    json_path, *_, html_path = write_report(result, tmp_path / "case", {})
    core, rim = Report.model_validate_json(json_path.read_bytes()).labels.values()
    assert (core.lesion_count, core.volume_ml) == pytest.approx((2, 3 * 0.012))
    assert (rim.lesion_count, rim.volume_ml) == pytest.approx((1, 4 * 0.012))
    assert (core.probability_volume_ml, rim.probability_volume_ml) == pytest.approx((0.5 * 0.096, 0.25 * 0.096))
    assert (core.peak_probability, rim.peak_probability) == (0.5, 0.25)
    shown = (
        "0.084 ml total volume 3 lesions 0.048 ml largest lesion 6 mm its largest diameter 0.036 ml core 0.048 ml rim"
    )
    text = "".join(read_page(html_path).text.split())
    assert shown.replace(" ", "") in text
    assert "1rim0.0486.04+14.0+1.0+20.0" in text, "the largest first; its middle x, y, z"
    assert "3core0.0120.01−31.0−41.0−13.0" in text
    # A card and a row for each lesion.
    html = html_path.read_text(encoding="utf-8")
    assert [html.count(f"rgb{colour}") for colour in COLOURS[:2]] == [3, 2]


@pytest.mark.parametrize(
    ("volume_ml", "said"), [(0.0123, "0.012 ml"), (1.234, "1.23 ml"), (38.16, "38.2 ml"), (123.4, "123 ml")]
)
def test_a_volume_is_said_in_three_digits(volume_ml: float, said: str) -> None:
    report = record(result_of(*phantom()), [], {}).model_copy(update={"volume_ml": volume_ml, "lesion_count": 1})
    assert summary(report) == f"{said} in 1 lesion"


def test_csv_has_the_lesions_of_the_json_and_no_formula(tmp_path: Path) -> None:
    reference, _ = phantom()
    mask = np.zeros(AXIAL.size_zyx, dtype=np.uint8)
    mask[10:14, 20:24, 20:24] = 1
    mask[20, 30, 30] = 2
    name = '=HYPERLINK("http://x")'
    result = result_of(reference, mask, labels={1: "core", 2: "@a, b"}, name=name)
    json_path, csv_path, *_ = write_report(result, tmp_path / "case", {})
    report = Report.model_validate_json(json_path.read_bytes())
    with csv_path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["case"] for row in rows] == [f"'{name}"] * 2
    assert [(int(row["lesion"]), row["label_name"], int(row["voxels"])) for row in rows] == [
        (1, "core", 64),
        (2, "'@a, b", 1),
    ]
    for row, lesion in zip(rows, report.lesions, strict=True):
        assert float(row["volume_ml"]) == pytest.approx(lesion.volume_ml, rel=1e-5)
        assert float(row["largest_diameter_mm"]) == pytest.approx(lesion.largest_diameter_mm, abs=1e-3)
        centroid = [float(row[f"centroid_{axis}_lps_mm"]) for axis in "xyz"]
        assert centroid == pytest.approx(lesion.centroid_lps_mm, abs=1e-3)


def test_a_report_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    result = result_of(*phantom())
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match=r"file/sub-01_report\.json"):
        write_report(result, tmp_path / "file" / "sub-01", {})
    out = tmp_path / "out"
    (out / "sub-01_montage.png" / "full").mkdir(parents=True)
    with pytest.raises(OutputError, match=r"sub-01_montage\.png"):
        write_report(result, out / "sub-01", {})
    assert [path.name for path in out.iterdir()] == ["sub-01_montage.png"]


# --- page ------------------------------------------------------------------------------------------------------------


class Reader(HTMLParser):
    """Collects what a browser would act on, and the text it would show."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def read_page(path: Path) -> Reader:
    reader = Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    return reader


def test_nothing_hostile_gets_out_of_the_page(tmp_path: Path) -> None:
    reference, lesion = phantom()
    attack = "\"><script>alert(1)</script><img src=http://x onerror='alert(2)'>$style\u202egnp\x00"
    result = result_of(
        reference,
        lesion,
        labels={1: attack},
        name=attack,
        source=Path(f"/data/{attack}\udcff.nii.gz"),
        metadata={attack: [attack]},
        warnings=(attack,),
    )
    *_, html_path = write_report(result, tmp_path / "case", {"input": attack, attack: 1})
    page = read_page(html_path)
    assert {tag for tag, _ in page.tags}.isdisjoint(
        {"script", "iframe", "object", "embed", "link", "base", "form", "a"}
    )
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(images) == 1
    assert (images[0]["src"] or "").startswith("data:image/png;base64,")
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert "\u202e" not in page.text
    assert "\x00" not in page.text
    assert page.text.count("<script>alert(1)</script>") >= 6, "shown as text wherever it was given"


def test_page_says_what_was_found(tmp_path: Path) -> None:
    reference, lesion = phantom()
    result = result_of(reference, lesion, warnings=("channel t1: covers 71% of the patient",))
    *_, html_path = write_report(result, tmp_path / "case", {})
    text = read_page(html_path).text
    for expected in (
        "For research, not for care",
        f"{result.volume_ml:.2f} ml",
        "1 warning",
        "covers 71%",
        "2 of 8 mirrored passes",
        "mean of 2 mirrored passes",
        "0123456789abcdef" * 4,
        "patient's right is on the left",
    ):
        assert expected in text
    assert "No lesion found" not in text


def test_page_without_a_lesion(tmp_path: Path) -> None:
    reference, lesion = phantom()
    result = result_of(reference, np.zeros_like(lesion))
    result = replace(result, model_probabilities=result.model_probabilities + np.float32(0.31))
    json_path, csv_path, png_path, html_path = write_report(result, tmp_path / "case", {})
    assert Report.model_validate_json(json_path.read_bytes()).lesion_count == 0
    assert len(csv_path.read_text(encoding="utf-8").splitlines()) == 1
    assert "No lesion found" in read_page(html_path).text
    assert "31%highest probability anywhere" in read_page(html_path).text
    with Image.open(png_path) as image:
        assert not any(coloured(image.convert("RGB"), colour).any() for colour in COLOURS)


def test_many_lesions_are_summed_up(tmp_path: Path) -> None:
    reference, _ = phantom()
    mask = np.zeros(AXIAL.size_zyx, dtype=np.uint8)
    mask[15, ::4, ::5] = 1  # 150 single voxels of 0.012 ml
    _, csv_path, _, html_path = write_report(result_of(reference, mask), tmp_path / "case", {})
    assert len(csv_path.read_text(encoding="utf-8").splitlines()) == 151
    assert "100 smaller ones, 1.20 ml together, are listed in case_lesions.csv" in read_page(html_path).text


@pytest.mark.parametrize("name", ["scan.tif", "SCAN.TIFF"])
def test_sides_are_not_claimed_for_a_tiff(name: str, tmp_path: Path) -> None:
    reference, lesion = phantom()
    result = result_of(reference, lesion, source=Path(name))
    assert not draw(result, "x").sides
    *_, html_path = write_report(result, tmp_path / "case", {})
    assert "right is not known" in read_page(html_path).text
