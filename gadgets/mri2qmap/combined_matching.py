"""Gadget: dictionary matching of TSMI and weighted images, which gives the parameter maps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from mri2qmap.errors import Mri2QmapError
from mri2qmap.files.b1_map import dictionary_loader
from mri2qmap.machine.value_checks import refuse_unless_one_of, refuse_unless_positive
from mri2qmap.mrsignal.dictionary import Dictionary
from mri2qmap.mrsignal.matching import Match, at_table_end, match
from mri2qmap.mrsignal.matching_settings import MatchingSettings
from mri2qmap.mrsignal.synthesis import Contrast, SpinEchoes
from mri2qmap.mrsignal.uncertainty import match_uncertainty
from mri2qmap.pipeline.item_flow import ItemFlow
from mri2qmap.pipeline.items import (
    FIELD_KEPT,
    FIELD_REMOVED,
    Consistency,
    Item,
    ParameterMaps,
    Tsmi,
    WeightedImages,
)
from mri2qmap.pipeline.scan_header import ScanInfo
from mri2qmap.recon.object_mask import SIGNAL, object_mask
from mri2qmap.recon.receive_field import receive_field
from mri2qmap.recon.variation_uncertainty import variation_uncertainty

ReceiveField = Literal["removed", "mapped", "kept"]

_NOISE_LEFT = 1 / 3
"""Share of the noise that remains where weighted images are matched too: MRI2Qmap averages it over
neighbours."""


@dataclass(frozen=True)
class CombinedMatchingSettings(MatchingSettings):
    """Settings of `combined_matching`, in addition to those of `MatchingSettings`.

    Attributes
    ----------
    uncertainty
        Whether the maps include standard deviations of T1 and T2: the larger one of those that
        noise (`match_uncertainty`) and the variation of the maps (`variation_uncertainty`) make
        likely.
    uncertainty_factor
        Factor of these standard deviations.
    receive_field
        "removed": proton density and synthesised images are divided by the receive field, which is
        estimated from proton density and T1 (`mri2qmap.recon.receive_field`); "mapped": the same,
        and the field is one of the maps; "kept": they are proportional to the field.
    """

    uncertainty: bool = False
    uncertainty_factor: float = 1.0
    receive_field: ReceiveField = "removed"

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_unless_one_of(self, "receive_field", ReceiveField)
        refuse_unless_positive(self, "uncertainty_factor")

    @property
    def item_flow(self) -> ItemFlow:
        """Items that the gadget consumes and yields."""
        return ItemFlow((Tsmi,), (ParameterMaps,), ends=(Tsmi, WeightedImages, Consistency))


def combined_matching(
    items: Iterator[Item], scan: ScanInfo, settings: CombinedMatchingSettings
) -> Iterator[Item]:
    """Convert a `Tsmi` and optional `WeightedImages` to `ParameterMaps`.

    Without weighted images, this is plain dictionary matching. The map of a `Consistency` becomes
    one of the maps. Other items are passed on.

    Raises
    ------
    Mri2QmapError
        If no TSMI arrives, a B1 map cannot be used, the spin echoes of the weighted images differ
        from the settings, or the TSMI has too few coefficients for the uncertainty.
    """
    load = dictionary_loader(scan, settings, "combined_matching")
    tsmi: Tsmi | None = None
    weighted: WeightedImages | None = None
    compared: Consistency | None = None
    for item in items:
        if isinstance(item, Tsmi):
            tsmi = item
        elif isinstance(item, WeightedImages):
            weighted = item
        elif isinstance(item, Consistency):
            compared = item
        else:
            yield item
    if tsmi is None:
        raise Mri2QmapError(
            "combined_matching: no TSMI arrived; the pipeline needs toeplitz_cg, pnp_admm or a "
            "gridding subspace_compression before this gadget"
        )
    if weighted is not None and weighted.echoes != settings.echoes:
        raise Mri2QmapError(
            f"combined_matching: the weighted images have {_format_echoes(weighted.echoes)}, but "
            f"the settings are {_format_echoes(settings.echoes)}; pnp_admm and combined_matching "
            "need the same values"
        )
    dictionary = load(tsmi)
    images, weights = None, (0.0, 0.0, 0.0)
    if weighted is not None:
        images, weights = weighted.images, weighted.weights
    matched = match(
        tsmi.tsmi, dictionary, images, weights, settings.searcher(), processes=scan.processes
    )
    inside = object_mask(matched.proton_density.abs().cpu().numpy(), SIGNAL)
    t1_std = t2_std = None
    if settings.uncertainty:
        try:
            t1_std, t2_std = _deviations(matched, inside, dictionary, weights, settings)
        except ValueError as error:
            raise Mri2QmapError(f"combined_matching: uncertainty: {error}") from error
    _log_table_limits(matched, inside, dictionary, scan)
    maps = ParameterMaps(
        t1=matched.t1,
        t2=matched.t2,
        proton_density=matched.proton_density,
        match_quality=matched.quality,
        weighted=matched.weighted_images(dictionary),
        geometry=tsmi.geometry,
        echoes=settings.echoes,
        t1_std=t1_std,
        t2_std=t2_std,
        consistency=None if compared is None else compared.map,
        receive_field=FIELD_KEPT,
    )
    yield maps if settings.receive_field == "kept" else _without_receive_field(maps, scan, settings)


def _without_receive_field(
    maps: ParameterMaps, scan: ScanInfo, settings: CombinedMatchingSettings
) -> ParameterMaps:
    density = maps.proton_density
    estimate = receive_field(
        density.abs().cpu().numpy(), maps.t1.cpu().numpy(), maps.geometry.voxel_size
    )
    if estimate is None:
        scan.report.log(
            "combined_matching: the object has too few voxels for an estimate of the receive "
            "field, which stays in the proton density"
        )
        return maps
    field = torch.from_numpy(estimate).to(density.device)
    return replace(
        maps,
        proton_density=density / field,
        weighted=maps.weighted / field,
        receive_field=FIELD_REMOVED,
        receive_field_map=field if settings.receive_field == "mapped" else None,
    )


def _deviations(
    matched: Match,
    inside: NDArray[np.bool_],
    dictionary: Dictionary,
    weights: Sequence[float],
    settings: CombinedMatchingSettings,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the standard deviations of T1 and T2 [s] (z, y, x)."""
    of_noise = match_uncertainty(matched, dictionary, weights, _NOISE_LEFT if any(weights) else 1.0)
    mask = torch.from_numpy(inside).to(matched.t1.device)
    of_variation = variation_uncertainty(matched.t1, matched.t2, mask)
    first, second = (
        settings.uncertainty_factor * torch.maximum(noise, variation)
        for noise, variation in zip(of_noise, of_variation, strict=True)
    )
    return first, second


def _format_echoes(echoes: SpinEchoes) -> str:
    """Format the times with the names of the settings."""
    return ", ".join(
        f"tr_{contrast.lower()} {echo.repetition_time:g}, te_{contrast.lower()} {echo.echo_time:g}"
        for contrast, echo in zip(Contrast, echoes, strict=True)
    )


def _log_table_limits(
    matched: Match, inside: NDArray[np.bool_], dictionary: Dictionary, scan: ScanInfo
) -> None:
    """Log the number of voxels of the object at the limits of the table."""
    ends = at_table_end(matched.t1, matched.t2, dictionary.lut).cpu().numpy()[inside]
    if ends.size:
        scan.report.measure(at_table_limit=float(ends.mean()))
    if ends.any():
        lut = dictionary.lut
        scan.report.log(
            f"combined_matching: {ends.sum()} voxels ({100 * ends.mean():.1f} % of those with "
            f"signal) are at a limit of the table, T1 {lut.t1.min():g} to {lut.t1.max():g} s, T2 "
            f"{lut.t2.min():g} to {lut.t2.max():g} s: their relaxation times may be outside it"
        )
