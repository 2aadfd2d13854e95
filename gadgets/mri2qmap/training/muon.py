"""Muon optimiser: momentum with orthogonalised steps.

The weights of a convolution form a matrix (outputs x inputs and taps). Steps of Adam are dominated
by a few of its singular directions; Muon gives all of them the same magnitude. PyTorch's own Muon
accepts only matrices and computes in bfloat16, which is slow on processors without native support.

References
----------
K. Jordan et al., Muon: an optimizer for hidden layers in neural networks (2024).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # steep at zero; maps singular values to 0.7-1.2
_NEWTON_SCHULZ_STEPS = 5


class Muon(torch.optim.Optimizer):
    """Stochastic gradient descent with orthogonalised Nesterov momentum.

    Parameters
    ----------
    parameters : iterable of Tensor
        Tensors with at least two axes; all axes but the first are flattened.
    lr : float
        Learning rate: spectral norm of a step, for matrices with at least as many columns as rows.
    momentum : float
        Decay of the momentum.
    """

    def __init__(
        self, parameters: Iterable[Tensor], lr: float = 0.02, momentum: float = 0.95
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Take one step along the present gradients."""
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

    A quintic Newton-Schulz iteration, x <- (a + b x x^T + c (x x^T)^2) x, which needs only matrix
    products. The polynomials are multiplied first and applied to x once, because they are square
    with the shorter side of x.
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
    result: Tensor = x.T if tall else x
    return result
