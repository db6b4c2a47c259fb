"""`segsync-train compare`: every file from folders of scores, tables that say what the scores say, clear refusals."""

import base64
import csv
import io
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from builders import grid_of, write_image
from score_folders import CASES, write_scores
from segsync.errors import InputError
from segsync_train.cli import main
from segsync_train.comparison.cells import best, interval, p_value, signed
from segsync_train.comparison.frames import read_frames, statistics_of, summary_of, within
from segsync_train.comparison.grouping import group_runs, reference_of
from segsync_train.comparison.montage import chosen_cases, montage_figure
from segsync_train.comparison.order import HOLDS, REVERSED, UNDECIDED, order_table, pairs
from segsync_train.comparison.page import Chapter, page
from segsync_train.comparison.published import of_data, published
from segsync_train.comparison.scores import DICE, HD95, MEAN, METRICS, Setting, read_run, read_runs
from segsync_train.comparison.table import Bold, Section, Table
from segsync_train.comparison.tables import budget_table, data_table
from segsync_train.data.layout import CaseFiles

HOW_TO = Path(__file__).parents[1] / "docs" / "how-to"
PAPER = Path(__file__).parents[2] / "shared" / "paper" / "tables"
SYSTEMS = {"3D-SegSync": 0.93, "xLSTM-UNet": 0.9, "3D-UNet": 0.85}
GRID = grid_of((4, 12, 12), (3.0, 1.0, 1.0))


def rows_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))


def forget(folder: Path, *places: tuple[str, str]) -> None:
    """Take the distances of some (case, label) out of a folder's scores, as where nothing was found."""
    rows = rows_of(folder / "cases.csv")
    for row in rows:
        if (row["case"], row["label"]) in places:
            row.update(hd_mm="", hd95_mm="", assd_mm="")
    with (folder / "cases.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def setting_of(*folders: Path, reference: str = "3D-SegSync") -> Setting:
    (setting,) = group_runs([read_run(str(folder)) for folder in folders], reference)
    return setting


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["segsync-train", "compare", *map(str, arguments)])
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


# --- reading and grouping --------------------------------------------------------------------------------------------


def test_seeds_are_averaged_case_by_case_and_labels_within_a_case(tmp_path: Path) -> None:
    folders = [write_scores(tmp_path / f"{seed}", "3D-SegSync", 0.9, seed=seed) for seed in range(2)]
    setting = setting_of(*folders, write_scores(tmp_path / "other", "3D-UNet", 0.8))
    by_hand = {
        (row["case"], row["label"], seed): float(row["dice"])
        for seed, folder in enumerate(folders)
        for row in rows_of(folder / "cases.csv")
    }
    case = setting.cases[3]
    anterior = (by_hand[case, "1", 0] + by_hand[case, "1", 1]) / 2
    posterior = (by_hand[case, "2", 0] + by_hand[case, "2", 1]) / 2
    assert setting.of(DICE, 1)[0, 3] == pytest.approx(anterior)
    assert setting.of(DICE, MEAN)[0, 3] == pytest.approx((anterior + posterior) / 2)
    assert dict(setting.labels) == {0: "mean of labels", 1: "anterior", 2: "posterior"}


def test_who_misses_a_label_gains_nothing_by_it(tmp_path: Path) -> None:
    """The distance to a label that one system, or one of its seeds, missed is not left out of its means."""
    folders = [write_scores(tmp_path / f"{seed}", "3D-SegSync", 0.9, seed=seed) for seed in range(2)]
    other = write_scores(tmp_path / "other", "3D-UNet", 0.8)
    first, second, third = CASES[:3]
    forget(folders[1], (first, "1"))
    # In the second case nobody has a distance: the reference has no such label.
    for folder in (*folders, other):
        forget(folder, (second, "2"))
    setting = setting_of(*folders, other)
    hd95 = setting.of(HD95, MEAN)
    assert np.isnan(hd95[0, 0])
    assert np.isnan(setting.of(HD95, 1)[0, 0])
    assert np.isfinite(hd95[1, 0])
    assert hd95[0, 1] == setting.of(HD95, 1)[0, 1]
    assert setting.cases[2] == third
    assert hd95[0, 2] == pytest.approx(setting.values[METRICS.index(HD95), 0, 1:, 2].mean())


def test_a_label_that_no_reference_holds_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """In one fold it may be absent; only where no fold holds it, it goes."""
    folders = [
        write_scores(tmp_path / f"{name}{fold}", name, 0.9, cases=[f"case{fold}{n}" for n in range(2)])
        for name in ("3D-SegSync", "3D-UNet")
        for fold in range(2)
    ]

    def empty(*wanted: Path) -> None:
        for folder in wanted:
            rows = rows_of(folder / "cases.csv")
            for row in rows:
                if row["label"] == "2":
                    row.update(dice="1", hd_mm="", hd95_mm="", assd_mm="", volume_ml="0", lesions="0")
            with (folder / "cases.csv").open("w", newline="") as file:
                writer = csv.DictWriter(file, rows[0])
                writer.writeheader()
                writer.writerows(rows)

    empty(*folders[::2])
    assert [set(run.labels) for run in read_runs([str(folder) for folder in folders])] == [{1, 2}] * 4
    empty(*folders)
    runs = read_runs([str(folder) for folder in folders])
    assert [set(run.labels) for run in runs] == [{1}] * 4
    assert f"{folders[0]}: label 2 (posterior): no reference holds it; it is left out" in caplog.text
    (setting,) = group_runs(runs, "3D-SegSync")
    assert dict(setting.labels) == {1: "anterior"}
    assert float(setting.of(DICE).max()) < 1


def test_folds_are_put_together(tmp_path: Path) -> None:
    halves = [
        write_scores(tmp_path / f"{fold}", "3D-SegSync", 0.9, cases=[f"case{fold}{n}" for n in range(3)])
        for fold in range(2)
    ]
    whole = write_scores(tmp_path / "whole", "3D-UNet", 0.8, cases=[f"case{f}{n}" for f in range(2) for n in range(3)])
    assert len(setting_of(*halves, whole).cases) == 6


def test_a_name_before_the_folder_is_the_systems(tmp_path: Path) -> None:
    folder = write_scores(tmp_path / "scores", "xLSTM-UNet", 0.9)
    assert read_run(str(folder)).name == "xLSTM-UNet"
    assert read_run(f"5 % of the labels={folder}").name == "5 % of the labels"
    odd = write_scores(tmp_path / "lr=0.1", "xLSTM-UNet", 0.9)
    assert read_run(str(odd)).name == "xLSTM-UNet"


def test_the_reference_comes_first_and_other_data_are_a_setting_of_their_own(tmp_path: Path) -> None:
    folders = [write_scores(tmp_path / name, name, skill) for name, skill in reversed(SYSTEMS.items())]
    crossed = write_scores(tmp_path / "x", "3D-UNet", 0.5, trained_on="mmwhs-ct")
    own, other = group_runs([read_run(str(folder)) for folder in (*folders, crossed)], "xLSTM-UNet")
    assert own.systems == ("xLSTM-UNet", "3D-UNet", "3D-SegSync")
    assert (other.title, other.systems) == ("hippocampus, trained on mmwhs-ct", ("3D-UNet",))


def test_runs_that_cannot_be_compared_are_told_in_one_line(tmp_path: Path) -> None:
    one = write_scores(tmp_path / "one", "3D-SegSync", 0.9)

    def refused(match: str, *folders: object) -> None:
        with pytest.raises(InputError, match=match) as error:
            group_runs([read_run(str(folder)) for folder in folders], "3D-SegSync")
        assert "\n" not in str(error.value)

    (tmp_path / "empty").mkdir()
    refused(r"empty: expected scores of segsync-train evaluate .* found no cases\.csv", tmp_path / "empty")
    refused("at least two systems, found 3D-SegSync alone", one)
    refused("one: expected every run once, found it twice", one, one)
    fewer = write_scores(tmp_path / "fewer", "3D-UNet", 0.8, cases=["case00", "case01"])
    refused(r"same cases of every system, found 8 of 3D-SegSync and 2 of 3D-UNet \(no case02\)", one, fewer)
    seed = write_scores(tmp_path / "seed", "3D-SegSync", 0.9, cases=["case00", "case01"], seed=1)
    other = write_scores(tmp_path / "other", "3D-UNet", 0.8)
    refused("3D-SegSync: expected every case in 2 of its 2 runs, found case case02 in 1", one, seed, other)
    labels = write_scores(tmp_path / "labels", "3D-UNet", 0.8, labels={1: "lesion"})
    refused(r"labels: expected the labels of .*one \(1 anterior, 2 posterior\), found 1 lesion", one, labels)
    rules = write_scores(tmp_path / "rules", "3D-UNet", 0.8, rules="aims-tbi")
    refused(r"rules: expected the rules of .*one \(isles22\), found aims-tbi", one, rules)
    settings = {"seed": 1, "steps": 200, "data": {"kind": "folder", "folder": "x", "labelled": 1.0}}
    longer = write_scores(tmp_path / "longer", "3D-SegSync", 0.9, settings=settings)
    refused(r"longer: expected a seed or fold .* found steps 200 instead of 100; name one .*NAME=", one, longer, other)
    text = (other / "cases.csv").read_text().replace("hd95_mm", "hd90_mm")
    (other / "cases.csv").write_text(text)
    refused(r"cases\.csv: line 2: .* found 'hd95_mm'", one, other)
    (other / "cases.csv").write_text("\n".join((one / "cases.csv").read_text().splitlines()[:-1]))
    refused(r"cases\.csv: expected a line for each case and label, found 15 lines of 2 labels", one, other)
    (other / "system.json").write_text("{}")
    refused(r"system\.json: name: Field required", one, other)


# --- cells and tables ------------------------------------------------------------------------------------------------


def test_the_best_is_bold_as_it_is_shown() -> None:
    nan = float("nan")
    column = statistics_of(np.array([[0.9, 0.9004], [0.9001, 0.9], [0.8, 0.8], [nan, nan]]))
    cells = best(column, DICE)
    assert [isinstance(cell, Bold) for cell in cells] == [True, True, False, False]
    assert cells == ["0.900 ± 0.000", "0.900 ± 0.000", "0.800 ± 0.000", "–"]
    distances = statistics_of(np.array([[4.0, 6.0], [1.0, nan]]))
    assert best(distances, HD95) == ["5.00 ± 1.41", "1.00 (n=1)"]
    assert isinstance(best(distances, HD95)[1], Bold)
    assert not isinstance(best(column[:1], DICE)[0], Bold)  # alone, nobody is best


def test_numbers_in_cells() -> None:
    assert (p_value(0.0004), p_value(0.0123), p_value(float("nan"))) == ("<0.001", "0.012", "–")
    assert (signed(-0.5, 2), signed(0.25, 2)) == ("−0.50", "+0.25")
    assert interval(-0.02, -0.031, -0.004, DICE) == "−0.020 [−0.031, −0.004]"
    assert interval(-0.02, float("nan"), float("nan"), DICE) == "−0.020"


def test_a_table_in_markdown_latex_and_html() -> None:
    row = (Bold("a_b & c"), "<0.001", "−1.0 ± 5 %")
    table = Table("t", "Tit|le", ("System", "p", "[x]"), (Section("first", (row,)),), "A note.")
    assert table.markdown().splitlines()[2:6] == [
        "| System | p | [x] |",
        "| --- | ---: | ---: |",
        "| *first* |  |  |",
        r"| **a\_b & c** | \<0.001 | −1.0 ± 5 % |",
    ]
    latex = table.latex()
    assert r"\textbf{a\_b \& c} & $<$0.001 & $-$1.0 $\pm$ 5 \% \\" in latex
    assert r"System & p & {[}x{]} \\" in latex
    assert r"\multicolumn{3}{l}{\textit{first}} \\" in latex
    assert latex.index(r"\toprule") < latex.index(r"\midrule") < latex.index(r"\bottomrule")
    html = page("<title>", "x", [Chapter("y", tables=(table,))])
    assert '<td><b>a_b &amp; c</b></td><td class="n">&lt;0.001</td>' in html
    assert "<title>&lt;title&gt;</title>" in html
    words = replace(table, words=(0, 1))
    assert words.markdown().splitlines()[3] == "| --- | --- | ---: |"
    assert r"\begin{tabular}{llr}" in words.latex()
    assert "<td>&lt;0.001</td>" in page("", "", [Chapter("", tables=(words,))])


def test_tests_are_corrected_over_the_other_systems(tmp_path: Path) -> None:
    setting = setting_of(*(write_scores(tmp_path / name, name, skill) for name, skill in SYSTEMS.items()))
    summary = summary_of([setting], "3D-SegSync").set_index(["label", "metric", "system"])
    assert set(summary["p"].dropna().index.unique("system")) == {"xLSTM-UNet", "3D-UNet"}
    worst = summary.loc[MEAN, "dice", "3D-UNet"]
    assert worst["p"] == pytest.approx(2 / 2**8)  # worse in each of eight cases
    assert worst["p_holm"] == pytest.approx(2 * 2 / 2**8)
    assert worst["effect"] == -1
    assert worst["low"] < worst["difference"] < worst["high"] < 0
    assert summary_of([setting], "nnU-Net")["p"].isna().all()


def test_the_cost_stands_beside_the_score(tmp_path: Path) -> None:
    folders = [write_scores(tmp_path / f"{seed}", "3D-SegSync", 0.9, seed=seed) for seed in range(2)]
    setting = setting_of(*folders, write_scores(tmp_path / "other", "3D-UNet", 0.8, budget=None))
    table = budget_table([setting], summary_of([setting], "3D-SegSync"))
    first, second = (dict(zip(table.head, row, strict=True)) for row in table.sections[0].rows)
    assert (first["runs"], first["parameters 10⁶"], first["GFLOP a patch"]) == ("2", "1.25", "134.2")
    assert (first["steps"], first["s a step"], first["peak GiB"], first["hours"]) == ("100", "2", "2.00", "1.5")
    assert first["Dice"].startswith("0.8")
    assert (second["parameters 10⁶"], second["hardware"]) == ("–", "–")


def test_published_numbers_are_the_papers() -> None:
    if not PAPER.is_dir():
        pytest.skip("no paper beside the checkout")
    rows = published()
    assert [sum(row.table == number for row in rows) for number in range(1, 10)] == [42, 5, *(6,) * 7]
    names = dict(zip((metric.key for metric in METRICS), ("dice", "hd", "hd95", "assd", "vol_diff"), strict=True))
    for path in PAPER.glob("table*.csv"):
        ours = {row.system: row for row in rows if f"table{row.table}_" in path.name}
        for theirs in rows_of(path):
            for key, name in names.items():
                assert ours[theirs["model"]].values[key][0] == float(theirs[name])
    # Table 1 repeats the Dice of the paper's own system, in two digits; of others the paper contradicts itself.
    overview = {row.data: row.values["dice"][0] for row in rows if (row.table, row.system) == (1, "3D-SegSync")}
    own = [row for row in rows if row.table > 2 and row.system == "3D-SegSync"]
    assert max(abs(overview[row.data] - row.values["dice"][0]) for row in own) < 0.01
    peers = {row.system: row for row in of_data(rows, "mmwhs-ct")}
    assert len(peers) == 10
    assert (peers["SwinMM"].p, peers["SwinMM"].values["dice"]) == ("0.002", (0.91, 0.03))


def test_the_papers_order_is_held_against_ours(tmp_path: Path) -> None:
    """One pair each way, one undecided; systems with a backbone go by its pretext's name."""
    skills = {"3D-SegSync": 0.8, "3D-UNet": 0.9, "VoCo, A": 0.7, "SwinMM, A": 0.6, "SwinSSL, B": 0.5, "MAE, A": 0.4}
    setting = setting_of(*(write_scores(tmp_path / name, name, skill) for name, skill in skills.items()))
    found = {(pair.ahead, pair.behind): pair for pair in pairs(setting, published())}
    # Of the paper's tables one has the pretexts, without 3D-UNet; none has MAE; A and B are no pair.
    peers = ("VoCo, A", "SwinMM, A", "SwinSSL, B")
    expected = {("3D-SegSync", "3D-UNet"), ("VoCo, A", "SwinMM, A"), *(("3D-SegSync", peer) for peer in peers)}
    assert set(found) == expected
    turned = found["3D-SegSync", "3D-UNet"]
    assert (turned.verdict, found["VoCo, A", "SwinMM, A"].verdict) == (REVERSED, HOLDS)
    assert turned.published == pytest.approx(0.087135, abs=1e-6)  # by hand, from Tables 3 to 9
    assert turned.p == pytest.approx(5 * 2 / 2**8)  # one sign in each of eight cases, five pairs
    few = [write_scores(tmp_path / f"few {name}", name, skills[name], cases=CASES[:5]) for name in list(skills)[:2]]
    assert [pair.verdict for pair in pairs(setting_of(*few), published())] == [UNDECIDED]  # p cannot be below 1/16
    table = order_table(setting, list(found.values()))
    assert [section.title.partition(":")[2] for section in table.sections] == [" 4 of 5 pairs", " 1 of 5 pairs"]


# --- data frames -----------------------------------------------------------------------------------------------------


def test_the_frames_hold_what_the_files_and_the_tables_say(tmp_path: Path) -> None:
    """By hand from `cases.csv`: two seeds of one system, their mean in each case; and ranks that sum to one."""
    seeds = [write_scores(tmp_path / f"{seed}", "3D-SegSync", 0.9, seed=seed) for seed in range(2)]
    frames = read_frames([*seeds, write_scores(tmp_path / "other", "3D-UNet", 0.8)])
    by_hand = [float(row["hd95_mm"]) for seed in seeds for row in rows_of(seed / "cases.csv") if row["label"] == "2"]
    own = frames.scores.query("system == '3D-SegSync' and name == 'posterior'")
    assert own["case"].tolist() == list(CASES)
    assert own["hd95_mm"].tolist() == pytest.approx(np.reshape(by_hand, (2, 8)).mean(axis=0))
    row = frames.summary.query("system == '3D-UNet' and name == 'posterior' and metric == 'hd95_mm'").iloc[0]
    other = frames.scores.query("system == '3D-UNet' and name == 'posterior'")["hd95_mm"]
    assert row["difference"] == pytest.approx(other.mean() - own["hd95_mm"].mean())
    assert (row["cases"], row["compared"], row["seeds"], row["reference_seeds"]) == (8, 8, 1, 2)
    dice = frames.ranks.query("metric == 'dice'").set_index("system")
    assert dice["rank"].to_dict() == {"3D-SegSync": 1, "3D-UNet": 2}
    assert (dice["at_1"] + dice["at_2"]).tolist() == pytest.approx([1, 1])
    setting = group_runs(read_runs([str(folder) for folder in (*seeds, tmp_path / "other")]), "3D-SegSync")[0]
    table = data_table(setting, within(frames.summary, setting), "3D-SegSync", ())
    cell = table.sections[2].rows[1][1 + METRICS.index(HD95)]
    assert cell.startswith(f"{other.mean():.2f} ± {other.std():.2f}")


def test_the_how_tos_frames_are_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The block of Python in docs/how-to/compare.md, word for word, beside two folders of scores."""
    block = (HOW_TO / "compare.md").read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(tmp_path)
    for name, skill in (("pretrained", 0.9), ("scratch", 0.8)):
        write_scores(tmp_path / "runs" / "scores" / name, name, skill)
    told: dict[str, Any] = {}
    exec(block, told)
    assert told["worst"]["system"].tolist()[0] == "scratch"
    assert told["difference"]["name"].tolist() == ["mean of labels", "anterior", "posterior"]
    assert (told["difference"]["low"] > 0).all()
    assert told["ranks"].loc["pretrained", ("rank", "dice")] == 1


# --- pictures --------------------------------------------------------------------------------------------------------


def square(first: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """A plate in slice 2, from `first` along X on."""
    array = np.zeros(GRID.size_zyx, np.uint8)
    array[2, 3:7, first : first + 4] = 1
    return array


def with_masks(tmp_path: Path, names: dict[str, float]) -> list[Path]:
    """Scores of systems whose masks lie one voxel further on than the truth, the second's two, and so on."""
    cases = ("a", "b", "c", "d", "e")
    files = {}
    for case in cases:
        image, label = tmp_path / f"{case}-t1.nii.gz", tmp_path / f"{case}-label.nii.gz"
        write_image(image, np.full(GRID.size_zyx, 50.0, np.float32), GRID)
        write_image(label, square(3), GRID)
        files[case] = CaseFiles(case, {"t1": image}, label)
    masks = {case: Path("masks", f"{case}.nii.gz") for case in cases}
    folders = []
    for place, (name, skill) in enumerate(names.items(), start=1):
        about: dict[str, Any] = {
            "data": "mmwhs-ct",
            "labels": {1: "ball"},
            "files": files,
            "masks": masks,
            "reference": "t1",
        }
        folders.append(write_scores(tmp_path / name, name, skill, cases=cases, **about))
        for path in masks.values():
            write_image(folders[-1] / path, square(3 + place), GRID)
    return folders


def test_masks_are_drawn_where_they_are(tmp_path: Path) -> None:
    setting = setting_of(*with_masks(tmp_path, {"3D-SegSync": 0.9, "3D-UNet": 0.8}))
    figure = montage_figure(setting)
    assert figure is not None
    panels = figure.axes[:4]
    assert [axes.get_title() for axes in panels] == ["image", "truth", "3D-SegSync", "3D-UNet"]
    pictures = [np.asarray(axes.images[0].get_array()) for axes in panels]
    for picture, first in zip(pictures, (None, 3, 4, 5), strict=True):
        coloured = np.ptp(picture, axis=2)[15::30, 15::30] > 25  # the middles of voxels, 30 pixels each
        expected = np.zeros_like(coloured) if first is None else square(first)[2] > 0
        assert np.array_equal(coloured, expected)
    shown = [axes.get_ylabel() for axes in figure.axes[::4]]
    assert shown == list(chosen_cases(setting))
    order = np.argsort(setting.of(DICE).mean(axis=0))
    assert shown == [setting.cases[order[place]] for place in (1, 2, 3)]  # quartiles of five


def test_many_systems_stand_in_several_rows(tmp_path: Path) -> None:
    names = [f"system {number}" for number in range(9)]
    figure = montage_figure(setting_of(*with_masks(tmp_path, dict.fromkeys(names, 0.9)), reference=names[0]))
    assert figure is not None
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["image", "truth", *names, ""] * 3  # two rows of six a case, the last panel empty
    heights = [axes.get_position().y0 for axes in figure.axes[:12]]
    assert min(heights[:6]) > max(heights[6:])


def test_pictures_are_left_out_where_images_are_gone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folders = with_masks(tmp_path, {"3D-SegSync": 0.9, "3D-UNet": 0.8})
    for path in tmp_path.glob("*-label.nii.gz"):
        path.unlink()
    assert montage_figure(setting_of(*folders)) is None
    assert "no pictures of mmwhs-ct: " in caplog.text


# --- the whole -------------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """Everything on a page that could load something, and the text of its headings."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]


def test_every_file_is_written_and_says_what_the_scores_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = with_masks(tmp_path, SYSTEMS)
    crossed: dict[str, Any] = {"data": "mmwhs-mr", "trained_on": "mmwhs-ct", "labels": {1: "ball"}}
    folders += [write_scores(tmp_path / f"x-{name}", name, skill - 0.2, **crossed) for name, skill in SYSTEMS.items()]
    out = tmp_path / "out"
    assert run(monkeypatch, *folders, "-o", out, "--paper") == 0
    assert capsys.readouterr().out == f"{out / 'index.html'}\n"
    settings = ("mmwhs-ct", "mmwhs-mr-from-mmwhs-ct")
    names = ("overview", "budget", *(f"data-{setting}" for setting in settings))
    tables = [f"{name}.{ending}" for name in names for ending in ("csv", "md", "tex")]
    assert sorted(path.name for path in (out / "tables").iterdir()) == sorted(tables)
    figures = {"by-data", "across", "significance", "ranking", "cases-mmwhs-ct", *(f"labels-{s}" for s in settings)}
    assert {path.stem for path in (out / "figures").iterdir()} == figures
    for row in rows_of(out / "tables" / "data-mmwhs-ct.csv"):
        if row["metric"] == "dice":
            dice = [float(one["dice"]) for one in rows_of(tmp_path / row["system"] / "cases.csv")]
            assert float(row["mean"]) == pytest.approx(np.mean(dice), rel=1e-4)
            assert float(row["sd"]) == pytest.approx(np.std(dice, ddof=1), rel=1e-4)
            assert (row["p"] == "") == (row["system"] == "3D-SegSync")
    markdown = (out / "tables" / "data-mmwhs-ct.md").read_text()
    assert "| SwinMM (published) | 0.910 ± 0.030 | 17.33 ± 2.80 |" in markdown
    assert "mmwhs-ct: the paper's order" in markdown
    assert "published" not in (out / "tables" / "data-mmwhs-mr-from-mmwhs-ct.md").read_text()
    text = (out / "index.html").read_text(encoding="utf-8")
    shown = Page(text)
    assert shown.tags.count("img") == len(figures)
    assert all(source.startswith("data:image/png;base64,") for source in shown.sources)
    assert "script" not in shown.tags
    assert not re.search(r"url\(|@import|https?:", text)
    for source in shown.sources:
        picture = Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2])))
        assert min(picture.size) > 300


def test_the_command_refuses_in_one_line_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one = write_scores(tmp_path / "one", "3D-SegSync", 0.9)
    assert run(monkeypatch, one, "-o", tmp_path / "out") == 3
    assert capsys.readouterr().err.count("\n") == 1
    other = write_scores(tmp_path / "other", "3D-UNet", 0.8)
    assert run(monkeypatch, one, other, "-o", tmp_path / "out", "--reference", "UNet") == 3
    assert "--reference: expected one of 3D-SegSync, 3D-UNet, found 'UNet'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    (tmp_path / "file").write_text("")
    assert run(monkeypatch, one, other, "-o", tmp_path / "file") == 5


def test_without_the_papers_system_the_first_is_the_reference() -> None:
    assert reference_of(["3D-UNet", "3D-SegSync"], None) == "3D-SegSync"
    assert reference_of(["3D-UNet", "3D-SegSync"], "3D-UNet") == "3D-UNet"
    assert reference_of(["mine", "theirs"], None) == "mine"
