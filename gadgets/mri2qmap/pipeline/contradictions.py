"""Settings of different gadgets that contradict each other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mri2qmap.errors import Mri2QmapError
from mri2qmap.mrsignal.matching_settings import SHARED
from mri2qmap.mrsignal.uncertainty import min_coefficients

SettingsByGadget = Mapping[str, Mapping[str, Any]]


def refuse_contradictions(settings: SettingsByGadget, place: str) -> None:
    """Refuse gadgets whose settings contradict each other, as far as these are known.

    Parameters
    ----------
    settings
        Values by property, by gadget.
    place
        Where they were read, for messages.

    Raises
    ------
    Mri2QmapError
        Naming the properties, their values and the gadgets.
    """
    for name in SHARED:
        values = {gadget: own[name] for gadget, own in settings.items() if name in own}
        if len(set(values.values())) > 1:
            found = ", ".join(f'{gadget}: "{value}"' for gadget, value in values.items())
            raise Mri2QmapError(
                f"{place}: the gadgets that match disagree on {name} ({found}); give all the same"
            )
    _refuse_unknown_uncertainty(settings, place)


def _refuse_unknown_uncertainty(settings: SettingsByGadget, place: str) -> None:
    """Standard deviations come from residuals, which few coefficients do not leave."""
    coefficients = settings.get("subspace_compression", {}).get("coefficients")
    wanted = settings.get("combined_matching", {}).get("uncertainty", False)
    with_images = settings.get("pnp_admm", {}).get("denoiser", "none") != "none"
    if not wanted or coefficients is None or with_images:
        return
    if coefficients < min_coefficients():
        raise Mri2QmapError(
            f"{place}: combined_matching.uncertainty needs "
            f"subspace_compression.coefficients of {min_coefficients()} or more, found "
            f"{coefficients}: fewer leave no residual to estimate the noise from"
        )
