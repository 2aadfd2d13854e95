"""Settings of different gadgets that contradict each other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mri2qmap.errors import Mri2QmapError
from mri2qmap.mrsignal.matching_settings import SHARED
from mri2qmap.mrsignal.uncertainty import min_coefficients
from mri2qmap.pipeline.settings import set_also
from mri2qmap.recon.consistency import MIN_COEFFICIENTS

SettingsByGadget = Mapping[str, Mapping[str, Any]]


def refuse_contradictions(
    settings: SettingsByGadget,
    place: str,
    overrides: Mapping[str, Mapping[str, str]] | None = None,
) -> None:
    """Refuse gadgets whose known settings contradict each other.

    Parameters
    ----------
    settings
        Values by property, by gadget.
    place
        Where they were read, for messages.
    overrides
        By gadget: the properties among them that replace those of the file, as text.

    Raises
    ------
    Mri2QmapError
        Naming the properties, their values, the gadgets and what to change.
    """
    _refuse_unequal(settings, place, overrides or {})
    _refuse_unknown_uncertainty(settings, place)
    _refuse_unknown_consistency(settings, place)


def _refuse_unequal(
    settings: SettingsByGadget, place: str, overrides: Mapping[str, Mapping[str, str]]
) -> None:
    """Gadgets that match to dictionaries need the same ones."""
    found: list[str] = []
    to_add: list[str] = []
    changed_in: set[str] = set()
    for name in SHARED:
        values = {gadget: own[name] for gadget, own in settings.items() if name in own}
        if len(set(values.values())) < 2:
            continue
        listed = ", ".join(f'{gadget}: "{value}"' for gadget, value in values.items())
        found.append(f"{name} ({listed})")
        for changed in (gadget for gadget in values if name in overrides.get(gadget, {})):
            changed_in.add(changed)
            text = overrides[changed][name]
            to_add += [f"{other}.{name}={text}" for other in values if other != changed]
    if found:
        advice = set_also(*to_add) if len(changed_in) == 1 else "give all of them the same"
        raise Mri2QmapError(
            f"{place}: the gadgets that match disagree on {', '.join(found)}; {advice}"
        )


def _refuse_unknown_uncertainty(settings: SettingsByGadget, place: str) -> None:
    """Standard deviations need residuals, and few coefficients leave none."""
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


def _refuse_unknown_consistency(settings: SettingsByGadget, place: str) -> None:
    """The comparison needs the data alone, enough coefficients, and a gadget that takes its map."""
    if not settings.get("pnp_admm", {}).get("consistency", False):
        return
    names = list(settings)
    later = names[names.index("pnp_admm") + 1 :]
    if later and "combined_matching" not in later:  # without any, the rest is not known yet
        raise Mri2QmapError(
            f"{place}: pnp_admm.consistency needs combined_matching after pnp_admm, which makes it "
            f"one of the maps; found after it: {', '.join(later)}. Add combined_matching, or set "
            "pnp_admm.consistency=false"
        )
    prior = settings.get("toeplitz_cg", {}).get("prior", "none")
    if prior != "none":
        raise Mri2QmapError(
            f"{place}: pnp_admm.consistency compares with the data alone, but toeplitz_cg.prior is "
            f'"{prior}"; set toeplitz_cg.prior=none, or pnp_admm.consistency=false'
        )
    coefficients = settings.get("subspace_compression", {}).get("coefficients")
    if coefficients is not None and coefficients < MIN_COEFFICIENTS:
        raise Mri2QmapError(
            f"{place}: pnp_admm.consistency needs subspace_compression.coefficients of "
            f"{MIN_COEFFICIENTS} or more, found {coefficients}: fewer do not tell a change of T1 "
            "from one of T2"
        )
