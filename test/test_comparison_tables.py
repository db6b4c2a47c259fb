"""The comparison's tables: what a cell says, the tests and the cost beside a score, and the paper's own numbers."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from score_folders import CASES, SYSTEMS, rows_of, setting_of, write_scores
from segsync_train.comparison.cells import best, interval, p_value, signed
from segsync_train.comparison.frames import statistics_of, summary_of
from segsync_train.comparison.order import HOLDS, REVERSED, UNDECIDED, order_table, pairs
from segsync_train.comparison.page import Chapter, page
from segsync_train.comparison.published import of_data, published
from segsync_train.comparison.scores import DICE, HD95, MEAN, METRICS
from segsync_train.comparison.table import Bold, Section, Table
from segsync_train.comparison.tables import budget_table

PAPER = Path(__file__).parents[2] / "shared" / "paper" / "tables"


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
