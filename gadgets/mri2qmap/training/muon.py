"""Muon: momentum whose steps are orthogonal matrices (K. Jordan et al., 2024).

A convolution's weights form a matrix (outputs x inputs and taps). Adam's steps are dominated by a
few of its directions; Muon gives all of them the same length. PyTorch's own Muon takes matrices
only, and works in bfloat16, which processors without it emulate slowly.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # steep at zero: singular values of 0.7 to 1.2 suffice
_NEWTON_SCHULZ_STEPS = 5


class Muon(torch.optim.Optimizer):
    """Momentum, made orthogonal.

    Parameters
    ----------
    parameters : iterable of Tensor
        Of two axes or more; all but the first count as one.
    lr : float
        Learning rate: the spectral norm of a step, for matrices that are wider than tall.
    momentum : float
        Share of the past in the (Nesterov) momentum.
    """

    def __init__(
        self, parameters: Iterable[Tensor], lr: float = 0.02, momentum: float = 0.95
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Take one step along the gradients that are there."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["momentum"] = torch.zeros_like(parameter)
                mean = state["momentum"].lerp_(parameter.grad, 1 - group["momentum"])
                direction = parameter.grad.lerp(mean, group["momentum"]).flatten(1)
                tall = math.sqrt(max(1.0, direction.shape[0] / direction.shape[1]))
                step = orthogonalise(direction).reshape(parameter.shape)
                parameter.add_(step, alpha=-group["lr"] * tall)


def orthogonalise(matrix: Tensor) -> Tensor:
    """Replace the singular values of a matrix (m, n) by values near 1.

    A quintic Newton-Schulz iteration, x <- (a + b x x^T + c (x x^T)^2) x, which needs products
    only. The polynomials are collected first and applied once: they are as small as the shorter
    side, x is much longer.
    """
    a, b, c = _NEWTON_SCHULZ
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / x.norm().clamp_min(torch.finfo(x.dtype).tiny)
    start = x @ x.T
    product = torch.eye(len(x), dtype=x.dtype, device=x.device)
    for _ in range(_NEWTON_SCHULZ_STEPS):
        gram = product @ start @ product.T
        product = a * product + (b * gram + c * gram @ gram) @ product
    x = product @ x
    return x.T if tall else x
