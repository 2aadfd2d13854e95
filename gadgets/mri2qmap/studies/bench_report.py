"""Tables of the denoiser benchmark, in Markdown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from mri2qmap.mrsignal.synthesis import Contrast
from mri2qmap.studies.candidates import Candidate
from mri2qmap.studies.classical_denoisers import PREFILTER
from mri2qmap.studies.denoiser_bench import Score, Timing, in_columns, margins
from mri2qmap.studies.prior_bench import NO_PRIOR, MapErrors, PriorBenchSettings

_CONTRASTS = " / ".join(Contrast)


BM4D_NOTE = (
    "bm4d: Y. Makinen, S. Marchesini, A. Foi, J Synchrotron Radiat 29:829 (2022); M. Maggioni, V. "
    "Katkovnik, K. Egiazarian, A. Foi, IEEE Trans Image Process 22:119 (2013). Its licence "
    "requires that publications of results made with it name the authors"
)

PREFILTER_NOTE = (
    f"{PREFILTER}: the untrained filter of all contrasts that is the first stage of our networks. "
    "It is not among the published denoisers with which networks are compared. Contrasts without "
    "images are zero in it, as in the networks"
)

ACQUIRED_NOTE = (
    "acquired images, resampled to 1 mm, a cube at the centre of each head. The reference of their "
    "PSNR is the acquired image, which has noise of its own: even a perfect denoiser would have a "
    "finite PSNR"
)


def denoising_report(
    scores: Sequence[Score],
    candidates: Sequence[Candidate],
    times: Mapping[str, Sequence[Timing]],
    side: int,
    notes: Sequence[str],
) -> str:
    """Report of everything that was measured without a reconstruction.

    Parameters
    ----------
    scores, times
        Results of `measure_psnr` and `measure_times`.
    candidates
        The denoisers.
    side
        Edge of the patch that was timed [voxels].
    notes
        Lines below the tables.
    """
    classical = [c.name for c in candidates if not c.trained and c.name != PREFILTER]
    if "bm4d" in classical:
        notes = [*notes, BM4D_NOTE]
    if any(c.name == PREFILTER for c in candidates):
        notes = [*notes, PREFILTER_NOTE]
    parts = [
        "# Denoisers",
        f"## PSNR [dB], {_CONTRASTS}",
        psnr_tables(scores, classical),
    ]
    if chosen := settings_table(scores, candidates):
        parts += ["## Settings chosen by comparison with the reference", chosen]
    parts += ["## Time", time_table(times, candidates, side)]
    parts.append("\n".join(f"- {note}." for note in notes))
    return "\n\n".join(parts) + "\n"


def reconstruction_report(errors: Sequence[MapErrors], settings: PriorBenchSettings) -> str:
    """Report of the complete reconstructions, with the settings of the scan."""
    p, n = settings.parameters, settings.matrix
    weights = " ".join(f"{weight:g}" for weight in p.weights)
    text = (
        f"One coil, {n} x {n} x {n} voxels, {settings.region} of {settings.field_of_view:g} m, "
        f"R = {settings.acceleration:g}, noise {settings.noise:g}, seed {settings.seed}; "
        f"{p.iterations} iterations of up to {p.cg_iterations} preconditioned CG steps, coupling "
        f"{p.coupling:g}, weights {weights}, sigma {p.sigma_start:g} to {p.sigma_end:g}, "
        f"total variation {p.total_variation:g}. MRF-ADMM has plain CG steps and no total "
        f"variation; with total variation it has a strength of {settings.variation_alone:g}. "
        f"LRTV has {settings.lrtv.iterations} iterations of up to {settings.lrtv.cg_iterations} "
        "preconditioned steps. "
        "MAPE over white and grey matter, T1 + T2 = sum [%]."
    )
    return f"## As a prior\n\n{text}\n\n{reconstruction_table(errors)}\n"


def psnr_tables(scores: Sequence[Score], classical: Sequence[str]) -> str:
    """PSNR of each denoiser at each noise level, with a table for each group of volumes.

    Parameters
    ----------
    scores
        Results.
    classical
        Names of the denoisers with which networks are compared.
    """
    parts = []
    for group in dict.fromkeys(score.group for score in scores):
        of_group = [score for score in scores if score.group == group]
        sigmas = list(dict.fromkeys(score.sigma for score in of_group))
        rows = {
            name: [in_columns(s.psnr, "{:.2f}") for s in of_group if s.denoiser == name]
            for name in dict.fromkeys(score.denoiser for score in of_group)
        }
        for score, gain, rivals in margins(of_group, classical):
            cell = f"{in_columns(gain, '{:+.2f}')} ({_short(rivals)})"
            rows.setdefault(f"{score.denoiser} - best classical", []).append(cell)
        header = ["denoiser", *(f"sigma {sigma:g}" for sigma in sigmas)]
        table = _table(header, [[name, *cells] for name, cells in rows.items()])
        parts.append(f"### {group}\n\n{table}")
    return "\n\n".join(parts)


def settings_table(scores: Sequence[Score], candidates: Sequence[Candidate]) -> str:
    """Settings that were chosen by comparison with the reference; empty if there are none."""
    tuned = {c.name: c.parameter for c in candidates if c.parameter}
    rows = [
        [
            score.group,
            f"{score.denoiser}: {tuned[score.denoiser]}",
            f"{score.sigma:g}",
            in_columns(score.settings, "{:g}"),
        ]
        for score in scores
        if score.denoiser in tuned
    ]
    return _table(["images", "parameter", "sigma", _CONTRASTS], rows) if rows else ""


def time_table(
    times: Mapping[str, Sequence[Timing]], candidates: Sequence[Candidate], side: int
) -> str:
    """Times for a patch of one contrast, and of all contrasts; CPU times in brackets."""
    rows = [
        [c.name, *(f"{t.seconds:.3g} ({t.cpu_seconds:.3g})" for t in times[c.name]), c.where]
        for c in candidates
        if c.name in times
    ]
    header = ["denoiser", "one contrast [s] (CPU)", "all three [s] (CPU)", "on"]
    return f"Patch of {side} x {side} x {side} voxels.\n\n{_table(header, rows)}"


def reconstruction_table(errors: Sequence[MapErrors]) -> str:
    """T1 and T2 MAPE of each method and subject, the mean, and its ratio to MRF-ADMM."""
    subjects = list(dict.fromkeys(e.subject for e in errors))
    methods = list(dict.fromkeys(e.method for e in errors))
    found = {(e.subject, e.method): e for e in errors}

    def mean(method: str) -> float:
        return sum(found[subject, method].both for subject in subjects) / len(subjects)

    rows = []
    for method in methods:
        results = [found[subject, method] for subject in subjects]
        cells = [_errors(e) for e in results]
        seconds = sum(e.seconds for e in results) / len(results)
        ratio = mean(method) / mean(NO_PRIOR)
        rows.append([method, *cells, _number(mean(method)), f"{ratio:.2f}", f"{seconds:.0f}"])
    header = ["prior", *subjects, "mean T1+T2", f"/ {NO_PRIOR}", "time [s]"]
    return _table(header, rows)


def _errors(errors: MapErrors) -> str:
    if math.isnan(errors.both):
        return "diverged"
    return f"{errors.t1:.1f} + {errors.t2:.1f} = {errors.both:.1f}"


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.1f}"


def _short(names: Mapping[Contrast, str]) -> str:
    """Join the names of all contrasts, "-" for one without images; one name if all are the same."""
    if len(set(names.values())) == 1:
        return next(iter(names.values()))
    return ", ".join(names.get(contrast, "-") for contrast in Contrast)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown table with padded columns, readable as plain text."""
    lines = [list(header), *map(list, rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    text = [
        "| " + " | ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) + " |"
        for line in lines
    ]
    text.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(text)
