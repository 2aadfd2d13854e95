"""Weighted images synthesised from quantitative maps (paper, equation 5)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import torch


class Contrast(StrEnum):
    """Weighted contrasts, in the order used in arrays."""

    T1W = "T1w"
    T2W = "T2w"
    PDW = "PDw"


@dataclass(frozen=True)
class SpinEcho:
    """Repetition time and echo time of a spin echo [s]."""

    repetition_time: float
    echo_time: float

    def milliseconds(self) -> tuple[float, float]:
        """Return repetition time and echo time [ms], as used in DICOM and MRD."""
        return round(1e3 * self.repetition_time, 6), round(1e3 * self.echo_time, 6)


SpinEchoes = tuple[SpinEcho, SpinEcho, SpinEcho]
"""Spin echo of each contrast, in the order of `Contrast`."""

DEFAULT_SYNTHESIS: SpinEchoes = (
    SpinEcho(0.5, 0.010),
    SpinEcho(5.0, 0.100),
    SpinEcho(5.0, 0.010),
)
LONGEST_TIME = 60.0
"""Longest repetition time [s]; larger values are probably in milliseconds."""


def check_echoes(echoes: SpinEchoes) -> None:
    """Validate the times of the spin echoes.

    Raises
    ------
    ValueError
        If a time is not positive and finite, a repetition time is longer than `LONGEST_TIME`, or an
        echo time is not shorter than its repetition time; the message names the setting.
    """
    for contrast, echo in zip(Contrast, echoes, strict=True):
        suffix = contrast.lower()
        if not 0 < echo.repetition_time <= LONGEST_TIME:
            raise ValueError(
                f"tr_{suffix} must be between 0 and {LONGEST_TIME:g} s, got "
                f"{echo.repetition_time:g}"
            )
        if not 0 < echo.echo_time < echo.repetition_time:
            raise ValueError(
                f"te_{suffix} must be between 0 and tr_{suffix} = {echo.repetition_time:g} s, "
                f"got {echo.echo_time:g}"
            )


def spin_echo(
    proton_density: torch.Tensor, t1: torch.Tensor, t2: torch.Tensor, echo: SpinEcho
) -> torch.Tensor:
    """Return the spin-echo magnitude |PD| (1 - exp(-TR/T1)) exp(-TE/T2) (paper, equation 5).

    Parameters
    ----------
    proton_density
        Proton density, real or complex, of any shape.
    t1, t2
        Relaxation times of the same shape [s].
    echo
        Repetition and echo time.

    Returns
    -------
        Magnitude image, real, of the same shape; zero where T2 is zero (no match).
    """
    saturation = -torch.expm1(-echo.repetition_time / t1)
    return proton_density.abs() * saturation * torch.exp(-echo.echo_time / t2)


def synthesise(
    proton_density: torch.Tensor,
    t1: torch.Tensor,
    t2: torch.Tensor,
    *,
    echoes: SpinEchoes = DEFAULT_SYNTHESIS,
) -> torch.Tensor:
    """Return all contrasts, stacked along a new first axis; see `spin_echo`."""
    return torch.stack([spin_echo(proton_density, t1, t2, echo) for echo in echoes])
