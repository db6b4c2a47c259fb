"""The report as one HTML file that needs nothing else: no script, no font, no network.

Everything that comes from outside (file names, JSON inputs, model cards) is escaped, and a content security policy
forbids whatever would slip through.
"""

import base64
import html
import json
from collections.abc import Iterable, Mapping, Sequence
from string import Template

from pydantic import JsonValue

from segsync.lesions import Lesion
from segsync.montage import Colour, Picture, colour_of
from segsync.record import Report, WeightsRecord

#: Rows of the table; further lesions are summed up in one line, the CSV has them all.
ROWS = 50
#: Values of more lines than this are folded away; the JSON has them as well.
FOLDED = 40

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --faint: #59636e; --line: #d5dbe1; --paper: #fff; --card: #f5f7f9;
  --alert: #fff4d6; --alert-line: #d99a00; --alert-ink: #5c4100; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8ebee; --faint: #9aa5b1; --line: #343c45; --paper: #14181c;
  --card: #1d2329; --alert: #3a2e0c; --alert-line: #d99a00; --alert-ink: #ffe2a0; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 64rem; margin: 0 auto; padding: 1.5rem 1rem 3rem; }
header { display: flex; flex-wrap: wrap; gap: .4rem 1.5rem; margin-bottom: .4rem;
  align-items: baseline; justify-content: space-between; }
h1 { margin: 0; font-size: 1.6rem; line-height: 1.25; overflow-wrap: anywhere; }
h2 { margin: 2.2rem 0 .6rem; font-size: 1.15rem; }
p { margin: .3rem 0; }
.faint, figcaption, small { color: var(--faint); }
.research { border: 1px solid var(--line); border-radius: 1rem; padding: .1rem .8rem; font-size: .9rem; }
.alert { margin: 1.2rem 0; padding: .8rem 1rem; background: var(--alert); color: var(--alert-ink);
  border-left: .35rem solid var(--alert-line); border-radius: .3rem; overflow-wrap: anywhere; }
.alert ul { margin: .3rem 0 0; padding-left: 1.2rem; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: .8rem; margin: 1.2rem 0; }
.figures div { background: var(--card); border: 1px solid var(--line); border-radius: .5rem; padding: .7rem 1rem; }
.figures b { display: block; font-size: 1.6rem; white-space: nowrap;
  line-height: 1.2; font-variant-numeric: tabular-nums; }
figure { margin: 1.2rem 0 0; }
figure img { display: block; width: 100%; min-width: 44rem; height: auto; background: #000; border-radius: .5rem; }
figcaption { margin-top: .5rem; font-size: .92rem; }
.swatch { display: inline-block; width: .8em; height: .8em; border: .2em solid; border-radius: .15em;
  margin-right: .4em; vertical-align: -.05em; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .95rem; }
th, td { padding: .4rem .6rem; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
thead th { border-bottom: 2px solid var(--line); white-space: nowrap; vertical-align: bottom; }
thead small { display: block; font-weight: normal; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.facts th { width: 12rem; font-weight: 600; white-space: nowrap; }
.facts td { overflow-wrap: anywhere; unicode-bidi: isolate; }
pre { margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; font-size: .85rem; }
@media (max-width: 34rem) { .facts th, .facts td { display: block; width: auto; border-bottom: 0; padding: .1rem 0; }
  .facts td { border-bottom: 1px solid var(--line); padding-bottom: .5rem; } }
@media print { :root { color-scheme: light; --ink: #000; --faint: #444; --line: #bbb; --paper: #fff; --card: #fff;
  --alert: #fff; --alert-ink: #000; } body { font-size: 10.5pt; } main { max-width: none; padding: 0; }
  figure, tr, .alert, .figures { break-inside: avoid; } h2 { break-after: avoid; }
  figure img { min-width: 0; max-width: 100%; max-height: 13.5cm; width: auto; margin: 0 auto;
    print-color-adjust: exact; }
  .wide { overflow: visible; } }
"""

PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<title>$case: segsync report</title>
<style>$style</style>
</head>
<body>
<main>
<header><h1><bdi>$case</bdi></h1><span class="research">For research, not for care</span></header>
<p class="faint">$title</p>
$alerts
$figures
<figure><div class="wide"><img src="data:image/png;base64,$picture" alt="$alt"></div>
<figcaption>$caption</figcaption></figure>
<h2>Lesions</h2>
$lesions
<h2>Where this comes from</h2>
<table class="facts">$facts</table>
</main>
</body>
</html>
""")


def page(report: Report, picture: Picture, png: bytes, csv_name: str) -> str:
    """The HTML page of a report.

    picture: the montage; png: the same as a file's bytes; csv_name: the file that lists every lesion.
    """
    return PAGE.substitute(
        case=_shown(report.case),
        style=STYLE,
        title=_shown(report.task_title),
        alerts=_alerts(report),
        figures=_figures(report),
        picture=base64.b64encode(png).decode("ascii"),
        alt=_shown(f"Axial slices of {report.reference.channel}: {summary(report)}"),
        caption=_caption(report, picture),
        lesions=_lesions(report, csv_name),
        facts=_facts(report),
    )


def summary(report: Report) -> str:
    """The finding in a few words: `38.2 ml in 5 lesions`, or `No lesion found`."""
    if not report.lesion_count:
        return "No lesion found"
    return f"{_ml(report.volume_ml)} in {_count(report.lesion_count, 'lesion')}"


def _shown(text: str) -> str:
    """Text from outside, escaped; characters that are not seen (controls, changes of direction) are made to be."""
    return html.escape("".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text))


def _ml(volume: float) -> str:
    digits = 0 if volume >= 100 else 1 if volume >= 10 else 2 if volume >= 1 else 3
    return f"{volume:.{digits}f} ml"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _alerts(report: Report) -> str:
    boxes = []
    if report.warnings:
        count = _count(len(report.warnings), "warning")
        boxes.append(f'<div class="alert" role="alert"><strong>{count}</strong>{_list(report.warnings)}</div>')
    if report.run.notes:
        boxes.append(f'<div class="alert"><strong>Notes of the run</strong>{_list(report.run.notes)}</div>')
    return "\n".join(boxes)


def _list(lines: Iterable[str]) -> str:
    return f"<ul>{''.join(f'<li>{_shown(line)}</li>' for line in lines)}</ul>"


def _figures(report: Report) -> str:
    if not report.lesion_count:
        peak = max(label.peak_probability for label in report.labels.values())
        figures = [("No lesion found", "in this image"), (f"{peak:.0%}", "highest probability anywhere")]
    else:
        largest = report.lesions[0]
        figures = [
            (_ml(report.volume_ml), "total volume"),
            (str(report.lesion_count), "lesion" if report.lesion_count == 1 else "lesions"),
            (_ml(largest.volume_ml), "largest lesion"),
            (f"{largest.largest_diameter_mm:.0f} mm", "its largest diameter"),
        ]
    rows = [[f"<div><b>{_shown(value)}</b>{_shown(what)}</div>" for value, what in figures]]
    if len(report.labels) > 1 and report.lesion_count:
        names = {value: label.name for value, label in report.labels.items()}
        by_label = [
            f"<div><b>{_ml(label.volume_ml)}</b>{_swatch(colour_of(names, value))}{_shown(label.name)}</div>"
            for value, label in report.labels.items()
        ]
        rows.append(by_label)
    return "\n".join(f'<div class="figures">{"".join(cards)}</div>' for cards in rows)


def _swatch(colour: Colour) -> str:
    return f'<span class="swatch" style="border-color: rgb{colour}"></span>'


def _caption(report: Report, picture: Picture) -> str:
    channel = _shown(report.reference.channel.upper())
    where = (
        "The patient's right is on the left of each picture, anterior is up."
        if picture.sides
        else "Which side is the patient's right is not known: the image's format does not say."
    )
    drawn = "The outlines show what was segmented." if report.lesion_count else "No lesion found."
    return (
        f"{drawn} {channel}, {picture.shown}, cut along the axial plane of the acquisition. {where} "
        "z is given at the slice's centre."
    )


def _lesions(report: Report, csv_name: str) -> str:
    if not report.lesions:
        return "<p>None.</p>"
    names = {value: label.name for value, label in report.labels.items()}
    several = len(names) > 1
    label_head = "<th>Label</th>" if several else ""
    head = (
        f'<tr><th class="n">No.</th>{label_head}<th class="n">Volume<small>ml</small></th>'
        '<th class="n">Largest diameter<small>mm</small></th><th class="n">Voxels</th>'
        '<th class="n">Centroid x<small>mm, + left</small></th><th class="n">y<small>mm, + posterior</small></th>'
        '<th class="n">z<small>mm, + superior</small></th></tr>'
    )
    rows = "".join(_row(lesion, names if several else None) for lesion in report.lesions[:ROWS])
    table = f'<div class="wide"><table><thead>{head}</thead><tbody>{rows}</tbody></table></div>'
    rest = report.lesions[ROWS:]
    more = ""
    if rest:
        volume = _ml(sum(lesion.volume_ml for lesion in rest))
        more = f"<p>{len(rest)} smaller ones, {volume} together, are listed in {_shown(csv_name)}.</p>"
    return (
        f'{table}{more}<p class="faint"><small>A lesion is one 26-connected component of the mask. Its largest '
        "diameter is the greatest distance between the centres of two of its voxels. Coordinates are the "
        "image's own (LPS): x is not measured from the midline of the brain.</small></p>"
    )


def _row(lesion: Lesion, names: Mapping[int, str] | None) -> str:
    label = ""
    if names is not None:
        label = f"<td>{_swatch(colour_of(names, lesion.label))}{_shown(lesion.label_name)}</td>"
    x, y, z = lesion.centroid_lps_mm
    numbers = [
        f"{lesion.volume_ml:.3f}",
        f"{lesion.largest_diameter_mm:.1f}",
        str(lesion.voxels),
        *(f"{mm:+.1f}".replace("-", "−") for mm in (x, y, z)),
    ]
    cells = "".join(f'<td class="n">{number}</td>' for number in numbers)
    return f'<tr><td class="n">{lesion.number}</td>{label}{cells}</tr>'


def _facts(report: Report) -> str:
    run, weights, grid = report.run, report.weights, report.reference
    size = "×".join(str(side) for side in grid.size_xyz)
    spacing = "×".join(f"{mm:.2f}" for mm in grid.spacing_xyz_mm)
    window = "×".join(str(side) for side in run.window_size_xyz)
    ensemble = f"mean of {run.networks} networks, " if run.networks > 1 else ""
    mirrored = "no mirroring" if run.mirrored_passes <= 1 else f"mean of {run.mirrored_passes} mirrored passes"
    probability = "; ".join(
        f"{label.name}: up to {label.peak_probability:.0%}, summing to {_ml(label.probability_volume_ml)}"
        for label in report.labels.values()
    )
    facts: list[tuple[str, str]] = [
        ("Images", _lines(f"{name}: {path or 'given in memory'}" for name, path in report.channels.items())),
        ("Reference grid", _shown(f"{grid.channel}: {size} voxels of {spacing} mm")),
        ("Task", _shown(report.task)),
        ("Network", _lines((weights.name, f"licence {weights.licence}", f"sha256 {weights.sha256}", weights.folder))),
        ("Decision", _shown(_decision(weights))),
        ("Probability", _shown(probability)),
        *([("Agreement", _shown(report.agreement))] if report.agreement else []),
        (
            "Run",
            _lines(
                (
                    f"on {run.device}, {ensemble}{mirrored}",
                    f"{_count(run.windows, 'window')} of {window} voxels, overlap {run.overlap:.0%}; "
                    f"{run.skipped_windows} without tissue skipped",
                )
            ),
        ),
        ("Time", _shown(", ".join(f"{name} {seconds:.2f} s" for name, seconds in report.seconds.items()))),
        ("Versions", _shown(", ".join(f"{name} {version}" for name, version in report.versions.items()))),
        ("Written", _shown(report.written.strftime("%Y-%m-%d %H:%M UTC"))),
    ]
    held: Sequence[tuple[str, dict[str, JsonValue]]] = (
        ("Arguments", report.arguments),
        ("Metadata", report.metadata),
        ("Training", weights.provenance),
    )
    facts += [(name, _pretty(values)) for name, values in held if values]
    return "".join(f'<tr><th scope="row">{name}</th><td>{value}</td></tr>' for name, value in facts)


def _decision(weights: WeightsRecord) -> str:
    sure = weights.min_component_confidence
    unsure = f", lesions whose probability nowhere reaches {sure:g} left out" if sure else ""
    return f"threshold {weights.threshold:g}, smallest lesion {weights.min_component_ml:g} ml{unsure}"


def _lines(lines: Iterable[str]) -> str:
    return "<br>".join(f"<bdi>{_shown(line)}</bdi>" for line in lines)


def _pretty(values: dict[str, JsonValue]) -> str:
    lines = json.dumps(values, indent=2, ensure_ascii=False).splitlines()
    block = f"<pre>{chr(10).join(_shown(line) for line in lines)}</pre>"
    return block if len(lines) <= FOLDED else f"<details><summary>{len(lines)} lines</summary>{block}</details>"
