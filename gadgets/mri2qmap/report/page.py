"""The page: one HTML file that needs nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from html import escape
from importlib import resources

from mri2qmap.report.charts import (
    histogram_chart,
    memory_chart,
    waterfall_chart,
)
from mri2qmap.report.colours import colour_table, gradient
from mri2qmap.report.content import TITLES, ReportContent, scan_rows
from mri2qmap.report.convergence import convergence_drawings
from mri2qmap.report.drawing import Drawing
from mri2qmap.report.findings import Finding, Light
from mri2qmap.report.pictures import figure
from mri2qmap.report.tissue_ranges import published_range
from mri2qmap.report.volumes import embedded

VIEWER = "viewer.js"
LICENCES = "viewer.licences.txt"
_BUILD = "make viewer"
_NAMES = {Light.GREEN: "green", Light.AMBER: "amber", Light.RED: "red", Light.NOTE: "note"}
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data: blob:; connect-src data: blob:; worker-src blob:; font-src data:"
)
"""What the page may load: nothing but what it holds."""


def page(content: ReportContent, viewer: str | None = None) -> str:
    """Return the report as HTML.

    Parameters
    ----------
    content
        What it says.
    viewer
        The built viewer, see `built_viewer`; None: the page has fixed slices only.
    """
    sections = [
        _summary(content),
        _maps(content, viewer),
        _tissues(content),
        _section("Scan and data", _pairs(scan_rows(content))),
        _convergence(content),
        _resources(content),
        _settings(content),
        _log(content),
        _about(content, viewer),
    ]
    style = _resource("page.css")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<link rel="icon" href="data:,">'
        f"<title>MRI2Qmap report: {escape(content.identity)}</title><style>{style}</style></head>\n"
        f"<body><main>{''.join(sections)}</main>{_viewer_parts(content, viewer)}</body></html>\n"
    )


def built_viewer() -> str | None:
    """Return the script of the viewer; None if it was not built."""
    file = resources.files(__package__).joinpath(VIEWER)
    return file.read_text(encoding="utf-8") if file.is_file() else None


def _summary(content: ReportContent) -> str:
    run = content.run
    seconds = run.number("total_s")
    where = "at a server" if run.at_server else "on this machine"
    facts = [
        f"pipeline {run.pipeline}",
        f"reconstructed {where}" + ("" if seconds is None else f" in {seconds:.0f} s"),
        *([f"{content.made:%Y-%m-%d %H:%M} UTC"] if content.made else []),
        f"mri2qmap {run.versions.get('mri2qmap', 'of unknown version')}",
    ]
    serious = [f for f in content.findings if f.light is not Light.GREEN]
    fine = [f for f in content.findings if f.light is Light.GREEN]
    checked = f"<details><summary>{len(fine)} checks passed</summary>{_list(fine)}</details>"
    return (
        f"<header><h1>MRI2Qmap report</h1><p>{escape(content.identity)}</p>"
        f'<p class="faint">{escape(" · ".join(facts))}</p>'
        '<p class="warn">Research software: not for diagnostic use.</p></header>'
        f'<section class="light {_NAMES[content.light]}"><h2>'
        f'<span class="lamp" aria-hidden="true"></span>{_NAMES[content.light].capitalize()}: '
        f"{TITLES[content.light]}</h2>{_list(serious)}{checked if fine else ''}</section>"
    )


def _list(found: Iterable[Finding]) -> str:
    items = "".join(
        f'<li class="{_NAMES[f.light]}"><b>{_NAMES[f.light]}</b> <span>{escape(f.text)}'
        + (f"<small>{escape(f.rule)}</small>" if f.rule else "")
        + "</span></li>"
        for f in found
    )
    return f'<ul class="findings">{items}</ul>' if items else ""


def _maps(content: ReportContent, viewer: str | None) -> str:
    if not content.volumes:
        return _section(
            "Maps",
            "<p>The maps are not known here as numbers: they are in the files of this folder.</p>",
        )
    note = (
        ""
        if viewer is not None
        else f"<p>These are fixed slices: the interactive viewer was not built when the program "
        f"was installed. <code>{_BUILD}</code> in the checkout builds it, with npm.</p>"
    )
    figures = "".join(figure(content, volume) for volume in content.volumes)
    return _section(
        "Maps",
        f'<div id="viewer" hidden></div><p id="viewer-note" hidden></p>{note}'
        "<h3>Slices through the middle</h3><p class='faint'>Radiological convention: the patient's "
        "right is on the left. Black: no value.</p>"
        f'<div class="gallery">{figures}</div>',
    )


def _tissues(content: ReportContent) -> str:
    if not content.histograms:
        return ""
    charts = [
        histogram_chart("T1", content.histograms["T1"], content.peaks, content.field),
        histogram_chart("T2", content.histograms["T2"], content.peaks, content.field),
    ]
    words = (
        "Lines: the two peaks of the histogram of T1, taken for white and grey matter, and the "
        "peaks of T2 of the voxels around them. "
    )
    if content.field is None:
        words += "No published ranges are known for this field strength."
    else:
        words += f"Shaded: published ranges of healthy adults at {content.field:g} T."
    beyond = ", ".join(
        f"{h.beyond} voxels have {name} above {len(h.counts) * h.width:g} ms"
        for name, h in content.histograms.items()
    )
    return _section(
        "White and grey matter",
        f'{_charts(charts)}<p class="faint">{escape(words)} Not drawn: {beyond}.</p>'
        f"{_tissue_table(content)}",
    )


def _tissue_table(content: ReportContent) -> str:
    if not content.peaks:
        return (
            "<p>White and grey matter were not told apart: the histogram of T1 has no two peaks."
            "</p>"
        )
    rows = []
    for peak in content.peaks:
        for time, value in (("T1", peak.t1), ("T2", peak.t2)):
            row = [f"{time} of {peak.tissue}", "none" if value is None else f"{value:.0f} ms"]
            if content.field is None:
                row += ["none known", ""]
            else:
                known = published_range(content.field, time, peak.tissue)  # type: ignore[arg-type]
                fits = value is not None and known.holds(value)
                row += [f"{known.low:.0f} to {known.high:.0f} ms", "within" if fits else "outside"]
                row[-1] = row[-1] if value is not None else "not compared"
            rows.append(row)
    return _table(("Tissue", "Peak", "Published range", "Peak is"), rows)


def _convergence(content: ReportContent) -> str:
    steps = content.run.iterations
    if not steps:
        return ""

    found = convergence_drawings(steps)
    words = (
        "Primal: how far images and prior are apart, relative to the images. Dual: how much the "
        "prior still changes. CG residual: how well each iteration solves its linear system. "
        "Sigma: noise level that the denoiser is told. Each on a logarithmic axis."
    )
    return _section("Convergence", f'{_charts(found)}<p class="faint">{words}</p>')


def _resources(content: ReportContent) -> str:
    run = content.run
    waterfall = waterfall_chart(run.busy, run.number("last_acquisition_s"))
    drawings = [] if waterfall is None else [waterfall]
    if run.peak_bytes:
        drawings.append(memory_chart(run.peak_bytes, run.number("memory", "planned_bytes")))
    if not drawings:
        return ""
    wait = run.number("last_acquisition_to_last_map_s")
    if all(entry.during is not None for entry in run.busy):
        words = "Blue: computed while the scan was read. Orange: after the last readout."
    else:
        words = "How much of this was computed while the scan was read was not recorded."
    if wait is not None:
        words += f" The last map came {wait:.1f} s after the last readout."
    return _section("Time and memory", f'{_charts(drawings)}<p class="faint">{words}</p>')


def _settings(content: ReportContent) -> str:
    run = content.run
    changed = [(f"{c.gadget}.{c.name}", c.value, c.default) for c in run.changed_settings]
    if changed:
        text = _table(("Setting", "Value", "Default"), changed)
    elif run.gadgets:
        text = "<p>All settings are the defaults.</p>"
    else:
        text = "<p>The settings of the server's gadgets are not known here.</p>"
    versions = _pairs(list(run.versions.items()))
    return _section(
        "Settings and versions",
        f"<h3>Settings that are not the default</h3>{text}"
        f"<details><summary>Versions</summary>{versions}</details>",
    )


def _log(content: ReportContent) -> str:
    lines = "".join(f"<li>{escape(line)}</li>" for line in content.run.log)
    if not lines:
        return ""
    return _section(
        "Log of the gadgets",
        f"<details><summary>{len(content.run.log)} lines</summary><ul>{lines}</ul>"
        "<p>run.json has the whole log.</p></details>",
    )


def _about(content: ReportContent, viewer: str | None) -> str:
    words = (
        "<p>Colours: Lipari for T1, Navia for T2 (Fuderer et al., Magn Reson Med 2025; Crameri, "
        "Scientific colour maps, doi:10.5281/zenodo.1243862, MIT licence). No patient data are in "
        "this page; the DICOM files of this folder have what the scan's header has.</p>"
    )
    licences = resources.files(__package__).joinpath(LICENCES)
    if content.volumes and viewer is not None and licences.is_file():
        text = escape(licences.read_text(encoding="utf-8"))
        words += (
            "<details><summary>Licences of the viewer (NiiVue and what it contains)</summary>"
            f"<pre>{text}</pre></details>"
        )
    return f"<footer>{words}</footer>"


def _viewer_parts(content: ReportContent, viewer: str | None) -> str:
    """Return the volumes and the script that shows them."""
    if viewer is None or not content.volumes:
        return ""
    data = embedded(content.volumes)
    shown = [volume for volume in content.volumes if volume.name in data]
    settings = {
        "centre": list(content.centre),
        "leftOut": [v.label for v in content.volumes if v.name not in data],
        "tables": {
            name: colour_table(name).tolist() for name in sorted({v.colours for v in shown})
        },
        "volumes": [
            {
                "name": v.name,
                "label": v.label,
                "unit": v.unit,
                "step": v.step,
                "decimals": v.decimals,
                "window": list(v.window),
                "colours": v.colours,
                "gradient": gradient(v.colours),
                "affine": v.affine.tolist(),
            }
            for v in shown
        ],
    }
    text = json.dumps(settings).replace("<", "\\u003c")
    parts = [
        f'<script type="application/octet-stream" id="data-{name}">{base64}</script>'
        for name, base64 in data.items()
    ]
    return (
        f'<script type="application/json" id="viewer-settings">{text}</script>\n'
        + "\n".join(parts)
        + f"\n<script>{viewer}</script>"
    )


def _section(title: str, inside: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{inside}</section>"


def _charts(drawings: Sequence[Drawing]) -> str:
    inside = "".join(
        f"<figure><figcaption>{escape(d.title)}</figcaption>{d.svg()}</figure>" for d in drawings
    )
    return f'<div class="charts">{inside}</div>'


def _pairs(rows: Sequence[tuple[str, str]]) -> str:
    inside = "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in rows)
    return f"<dl>{inside}</dl>"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    inside = "".join(
        "<tr>" + "".join(f"<td>{_breakable(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f'<div class="scroll"><table><tr>{top}</tr>{inside}</table></div>'


def _breakable(text: str) -> str:
    """Escape a text; the names of settings in it may continue on the next line."""
    return escape(text).replace("_", "_<wbr>").replace(".", ".<wbr>")


def _resource(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
