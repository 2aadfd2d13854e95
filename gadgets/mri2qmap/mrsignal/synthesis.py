"""Weighted images synthesised from quantitative maps (paper, equation 5)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import torch


class Contrast(StrEnum):
    """The weighted contrasts, in the order in which arrays hold them."""

    T1W = "T1w"
    T2W = "T2w"
    PDW = "PDw"


@dataclass(frozen=True)
class SpinEcho:
    """Repetition time and echo time of a spin echo [s]."""

    repetition_time: float
    echo_time: float


DEFAULT_SYNTHESIS: Mapping[Contrast, SpinEcho] = {
    Contrast.T1W: SpinEcho(0.5, 0.010),
    Contrast.T2W: SpinEcho(5.0, 0.100),
    Contrast.PDW: SpinEcho(5.0, 0.010),
}


def spin_echo(
    proton_density: torch.Tensor, t1: torch.Tensor, t2: torch.Tensor, echo: SpinEcho
) -> torch.Tensor:
    """Spin-echo magnitude |PD| (1 - exp(-TR/T1)) exp(-TE/T2) (paper, equation 5).

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


def synthesise(proton_density: torch.Tensor, t1: torch.Tensor, t2: torch.Tensor) -> torch.Tensor:
    """All contrasts of `DEFAULT_SYNTHESIS`, stacked along a new first axis."""
    return torch.stack(
        [spin_echo(proton_density, t1, t2, echo) for echo in DEFAULT_SYNTHESIS.values()]
    )
