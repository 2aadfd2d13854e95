"""The page of a check of a GPU, in Markdown."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

_GIB = 2**30
_TITLES = {
    "tests": "Tests marked cuda",
    "parity": "Maps of the GPU and of the CPU",
    "whole": "A large scan, from raw data to DICOM",
    "steps": "Steps",
}


def page(found: dict[str, Any]) -> str:
    """Return the page of what was found."""
    lines = ["# Check of a GPU", ""]
    card = found["card"]
    if card:
        memory = card["memory_bytes"] / _GIB
        lines.append(f"{card['name']}, {memory:.0f} GiB, CUDA {card['cuda']}, {_versions(found)}.")
    else:
        lines.append("Nothing was run. Missing:")
        lines += ["", *(f"* {line}" for line in found["lacking"])]
    lines += ["", f"`make gpu-check` took {found['seconds']:.0f} s.", ""]
    rows = [
        (_TITLES[name], part["status"], _seconds(part.get("seconds")))
        for name, part in found["parts"].items()
    ]
    lines += _table(("part", "status", "time [s]"), rows)
    writers = {"tests": _tests, "parity": _parity, "whole": _whole, "steps": _steps}
    for name, part in found["parts"].items():
        if part["status"] == "not run":
            continue
        lines += ["", f"## {_TITLES[name]}", ""]
        if part.get("error"):
            lines += [f"{part['status']}: `{_one_line(part['error'])}`", ""]
        lines += writers[name](part["steps"])
    return "\n".join(lines).rstrip("\n") + "\n"


def _versions(found: dict[str, Any]) -> str:
    shown = ("torch", "cufinufft", "cupy")
    return ", ".join(f"{name} {found['versions'][name] or 'not installed'}" for name in shown)


def _tests(steps: dict[str, Any]) -> list[str]:
    if "counts" not in steps:
        return [steps.get("left out", "No test was run."), ""]
    counts = steps["counts"]
    line = ", ".join(f"{number} {name}" for name, number in counts.items())
    return [line + ".", "", *(f"* {name}" for name in steps.get("failed", []))]


def _parity(steps: dict[str, Any]) -> list[str]:
    head = ("pipeline", "matrix", "coils", "voxels", "T1 within a step [%]")
    head += ("T2 within a step [%]", "same mask [%]")
    rows = [
        (
            name,
            f"{r['matrix']}^3",
            r["coils"],
            r["voxels"],
            f"{100 * r['t1_within_a_step']:.2f}",
            f"{100 * r['t2_within_a_step']:.2f}",
            f"{100 * r['same_mask']:.2f}",
        )
        for name, r in steps.items()
    ]
    note = "Steps are those of the table of T1 and T2. Networks are in float32 on both."
    return [*_table(head, rows), "", note]


def _whole(steps: dict[str, Any]) -> list[str]:
    lines = []
    if "simulation" in steps:
        made = steps["simulation"]
        lines += [f"{made['scan']}; simulated in {made['seconds']:.1f} s.", ""]
    for name, run in steps.items():
        if name == "simulation":
            continue
        bound = run["bound_bytes"]
        title = name if bound is None else f"{name} of {bound / 1e9:g} GB"
        if "refused" in run:
            lines += [f"**{title}**: refused: {run['refused']}", ""]
            continue
        lines += [
            f"**{title}**: {run['total_s']:.1f} s, of which {_seconds(run['ready_s'])} s before "
            f"the first acquisition and {_seconds(run['last_acquisition_to_last_map_s'])} s after "
            f"the last one; peak {run['peak_bytes'] / _GIB:.2f} GiB; {run['dicom_files']} DICOM "
            "files.",
            "",
        ]
        rows = [
            (gadget, _seconds(g["busy_s"]), f"{g['peak_bytes'] / _GIB:.2f}", g["iterations"])
            for gadget, g in run["gadgets"].items()
        ]
        lines += [*_table(("gadget", "time [s]", "peak [GiB]", "iterations"), rows), ""]
    return lines


def _steps(steps: dict[str, Any]) -> list[str]:
    rows = [
        (name, "failed", "", "", "")
        if "error" in s
        else (
            name,
            f"{1000 * s['seconds']:.2f}",
            f"{1000 * s['shortest_s']:.2f} to {1000 * s['longest_s']:.2f}",
            f"{s['bytes'] / 1e9:.3f}",
            f"{s['bytes_per_s'] / 1e9:.1f}",
        )
        for name, s in steps.items()
    ]
    head = ("step", "median [ms]", "from, to [ms]", "least traffic [GB]", "bandwidth [GB/s]")
    note = (
        "The least traffic counts each array that must be read or written once, and a Fourier "
        "transform as three passes; for the denoiser, inputs, outputs and weights of all "
        "convolutions."
    )
    return [*_table(head, rows), "", note]


def _table(head: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> list[str]:
    lines = [head, ("---",) * len(head), *rows]
    return ["| " + " | ".join(map(str, line)) + " |" for line in lines]


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def _one_line(text: str) -> str:
    return " ".join(text.replace("`", "'").split())
