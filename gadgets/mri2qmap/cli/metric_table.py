"""The table of metrics that ``mri2qmap evaluate`` and the demo print."""

from __future__ import annotations

from typing import Any

TIMES = ("t1", "t2")


def table(result: dict[str, Any]) -> str:
    """Lay the numbers out for people."""
    lines = [f"{'MAPE, white and grey matter [%]':34}{'T1':>8}{'T2':>8}{'T1+T2':>8}"]
    for name, prefix in (
        ("maps", "mape"),
        ("lower bound: matching the truth", "lower_bound_matching"),
        ("lower bound: sampled sphere", "lower_bound_sphere"),
    ):
        values = (result[f"{prefix}_{key}"] for key in ("t1", "t2", "t1_t2"))
        lines.append(f"  {name:32}" + "".join(_cell(v, 8, 1) for v in values))
    lines += ["", f"{'median (truth)':20}{'T1 [ms]':>16}{'T2 [ms]':>16}{'T1 [%]':>9}{'T2 [%]':>9}"]
    for name, tissue in result["tissues"].items():
        cells = "".join(
            f"{_milliseconds(tissue, f'{key}_median', f'{key}_true'):>16}" for key in ("t1", "t2")
        )
        errors = "".join(_cell(tissue.get(f"mape_{key}"), 9, 1) for key in ("t1", "t2"))
        lines.append(f"  {name.replace('_', ' '):18}{cells}{errors}")
    lines += ["", f"{'synthesised images':20}{'T1w':>8}{'T2w':>8}{'PDw':>8}"]
    for name, key in (("PSNR [dB]", "psnr"), ("SSIM [%]", "ssim")):
        values = (result[f"{key}_{contrast}"] for contrast in ("t1w", "t2w", "pdw"))
        lines.append(f"  {name:18}" + "".join(_cell(v, 8, 1) for v in values))
    lines += ["", f"TSMI cosine distance [%]{_cell(result['cosine_distance'], 8, 2)}"]
    return "\n".join([*lines, "", *_structure(result), *_lesions(result["lesions"])])


def _structure(result: dict[str, Any]) -> list[str]:
    """Texture, borders and agreement: what the mean error does not see."""
    texture = [result["texture"][time] for time in TIMES]
    lines = [f"{'texture of white matter':36}" + "".join(f"{t:>16}" for t in ("T1", "T2"))]
    for name, key, digits in (
        ("local deviation / that of truth", "deviation_ratio", 2),
        ("gain of the true texture", "gain", 2),
        ("noise and other texture [%]", "noise", 1),
    ):
        lines.append(f"  {name:34}" + "".join(_cell(t[key], 16, digits) for t in texture))
    for bands in zip(*(t["spectrum"] for t in texture), strict=True):
        if any(band["power_ratio"] is not None for band in bands):
            low, high = bands[0]["wavelength_mm"]
            name = f"power, {low:g} to {high:g} mm (coherence)"
            lines.append(f"  {name:34}" + "".join(f"{_power(band):>16}" for band in bands))
    sharpness = "".join(_cell(result["borders"][time], 16, 2) for time in TIMES)
    spread = "".join(f"{_spread(result['agreement'][time]):>16}" for time in TIMES)
    return [
        *lines,
        f"{'sharpness of white / grey borders':36}{sharpness}",
        f"{'bias +- limits of agreement [%]':36}{spread}",
    ]


def _lesions(lesions: list[dict[str, Any]]) -> list[str]:
    if not lesions:
        return []
    heads = "".join(f"{t + ' [%]':>9}{'contrast':>10}{'CNR':>7}" for t in ("T1", "T2"))
    lines = ["", f"{'lesion':20}{'mm':>6}{'voxels':>8}{heads}"]
    for lesion in lesions:
        name = lesion["name"] or f"label {lesion['label']}"
        cells = "".join(
            _cell(lesion[time]["error"], 9, 1)
            + _cell(lesion[time]["contrast_recovered"], 10, 2)
            + _cell(lesion[time]["contrast_to_noise"], 7, 1)
            for time in TIMES
        )
        diameter = _cell(lesion["diameter_mm"], 6, 1)
        lines.append(f"  {name:18}{diameter}{lesion['voxels']:8}{cells}")
    return [*lines, "  errors of means; contrast to white matter around, 1 as in the truth"]


def _power(band: dict[str, Any]) -> str:
    if band["power_ratio"] is None:
        return "-"
    return f"{band['power_ratio']:.2f} ({_cell(band['coherence'], 0, 2)})"


def _spread(values: dict[str, Any]) -> str:
    return f"{_cell(values['bias'], 0, 1)} +- {_cell(values['limits'], 0, 1)}"


def _cell(value: float | None, width: int, digits: int) -> str:
    return f"{'-':>{width}}" if value is None else f"{value:{width}.{digits}f}"


def _milliseconds(tissue: dict[str, Any], found: str, true: str) -> str:
    if found not in tissue:
        return "-"
    return f"{1e3 * tissue[found]:.0f} ({1e3 * tissue[true]:.0f})"
