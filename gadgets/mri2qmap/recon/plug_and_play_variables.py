"""Variables of the iterations of `plug_and_play`."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mri2qmap.mrsignal.dictionary import Dictionary
from mri2qmap.mrsignal.matching import Match
from mri2qmap.recon.nuclear_variation import NuclearVariation
from mri2qmap.recon.saved_state import State


@dataclass
class PlugAndPlayVariables:
    """Variables of the iterations, and how many of these are done.

    Attributes
    ----------
    iterations
        t.
    tsmi, tsmi_multiplier
        X and U (s, z, y, x).
    synthesised, image_multiplier
        S(Q) and W (3, z, y, x).
    weights
        w, after normalisation; zeros without a denoiser.
    """

    iterations: int
    tsmi: torch.Tensor
    tsmi_multiplier: torch.Tensor
    synthesised: torch.Tensor
    image_multiplier: torch.Tensor
    weights: tuple[float, ...]

    @classmethod
    def at_start(
        cls,
        initial_tsmi: torch.Tensor,
        estimate: Match,
        dictionary: Dictionary,
        weights: tuple[float, ...],
        with_images: bool,
    ) -> PlugAndPlayVariables:
        """From X0 and its match; with a prior on weighted images or without."""
        synthesised = estimate.weighted_images(dictionary)
        if not with_images:
            weights = (0.0,) * len(synthesised)
        else:
            weights = normalised_weights(weights, estimate.tsmi(dictionary), synthesised)
        return cls(
            0,
            initial_tsmi,
            torch.zeros_like(initial_tsmi),
            synthesised,
            torch.zeros_like(synthesised),
            weights,
        )

    @classmethod
    def restored(cls, state: State) -> PlugAndPlayVariables:
        """From what `state` returned."""
        return cls(
            int(state["iterations"]),
            state["tsmi"],
            state["tsmi_multiplier"],
            state["synthesised"],
            state["image_multiplier"],
            tuple(state["weights"].tolist()),
        )

    def state(self, variation: NuclearVariation | None) -> State:
        """What `restored` and the regulariser need to go on."""
        own = {name: value for name, value in vars(self).items() if torch.is_tensor(value)}
        counts = {
            "iterations": torch.tensor(self.iterations),
            "weights": torch.tensor(self.weights, dtype=torch.float64),
        }
        return own | counts | ({} if variation is None else dict(variation.state()))

    def scale_multipliers(self, ratio: float) -> None:
        """Multiply U and W with the ratio of the last penalty to the next one."""
        self.tsmi_multiplier *= ratio
        self.image_multiplier *= ratio


def normalised_weights(
    weights: tuple[float, ...], fingerprints: torch.Tensor, synthesised: torch.Tensor
) -> tuple[float, ...]:
    """Modality weights in units of ||Xh||^2 / ||Vh_i||^2 (paper, Algorithm 1, line 4)."""
    energy = float(fingerprints.abs().square().sum())
    return tuple(
        weight * energy / max(float(image.square().sum()), torch.finfo(torch.float32).tiny)
        for weight, image in zip(weights, synthesised, strict=True)
    )
