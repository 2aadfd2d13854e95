"""Gadget: MRI2Qmap, the plug-and-play ADMM with a denoiser of weighted images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from mri2qmap.denoiser.checkpoint import load_denoiser, model_path
from mri2qmap.denoiser.tsmi_wiener import TsmiWiener
from mri2qmap.denoiser.volume import admm_denoiser
from mri2qmap.errors import Mri2QmapError
from mri2qmap.files.b1_map import dictionary_loader
from mri2qmap.machine.file_access import ModelFile
from mri2qmap.machine.value_checks import refuse_unless_counts, refuse_unless_seeds
from mri2qmap.mrsignal.matching_settings import MatchingSettings
from mri2qmap.normal_equations import NormalEquations, collect_normal_equations
from mri2qmap.pipeline.item_flow import ItemFlow
from mri2qmap.pipeline.items import (
    AdjointTsmi,
    CoilMaps,
    Consistency,
    Item,
    ToeplitzKernels,
    Tsmi,
    WeightedImages,
)
from mri2qmap.pipeline.scan_header import ScanInfo
from mri2qmap.pipeline.scan_limits import SCAN_LIMITS
from mri2qmap.recon.consistency import prior_consistency
from mri2qmap.recon.plug_and_play import Denoise, plug_and_play
from mri2qmap.recon.plug_and_play_parameters import PlugAndPlayParameters
from mri2qmap.recon.saved_state import StateWithGenerator


@dataclass(frozen=True)
class PnpAdmmSettings(MatchingSettings, PlugAndPlayParameters):
    """Settings of `pnp_admm`: those of the matching, of the algorithm, and of the denoisers.

    Attributes
    ----------
    denoiser
        Name of a model in the models folder, or the path of a checkpoint, for the weighted images.
        "none" leaves this prior out, which gives MRF-ADMM.
    patch
        Edge of the patches that are denoised at a time [voxels].
    seed
        Seed of the random shifts of the patches.
    consistency
        Whether the maps include how far the data alone are from them, in units of the noise, see
        `prior_consistency`. Without a denoiser and total variation, what the data are compared with
        is the dictionary alone.
    """

    denoiser: ModelFile = "small"
    patch: int = 64
    seed: int = 0
    consistency: bool = False

    def __post_init__(self) -> None:
        MatchingSettings.__post_init__(self)
        PlugAndPlayParameters.__post_init__(self)
        refuse_unless_counts(self, "patch", least=8, most=SCAN_LIMITS.side)
        refuse_unless_seeds(self, "seed")

    @property
    def item_flow(self) -> ItemFlow:
        """Items that the gadget consumes and yields."""
        system = (CoilMaps, AdjointTsmi, ToeplitzKernels)
        images = () if self.denoiser == "none" else (WeightedImages,)
        compared = (Consistency,) if self.consistency else ()
        return ItemFlow((*system, Tsmi), (Tsmi, *images, *compared), ends=system)

    def input_files(self) -> dict[str, Path]:
        """See `MatchingSettings.input_files`."""
        models = {} if self.denoiser == "none" else {"denoiser": model_path(self.denoiser)}
        return super().input_files() | models


def pnp_admm(items: Iterator[Item], scan: ScanInfo, settings: PnpAdmmSettings) -> Iterator[Item]:
    """Refine X0 by Algorithm 1 of the paper; yield X as a `Tsmi` and V as `WeightedImages`.

    Consumes `CoilMaps`, `AdjointTsmi`, `ToeplitzKernels` and the initial `Tsmi`. Without a
    denoiser, no weighted images are yielded. With the setting `consistency`, X is compared with X0
    in a `Consistency`. Other items are passed on.

    Raises
    ------
    Mri2QmapError
        If a part of the system or the initial TSMI is missing, if the denoiser or a B1 map cannot
        be used, if the iterations diverge, or if the TSMI has too few coefficients for the
        consistency.
    """
    generator = torch.Generator().manual_seed(settings.seed)
    denoise, final_denoiser = _denoisers(settings, scan, generator)  # reports a missing model now
    load = dictionary_loader(scan, settings, "pnp_admm")
    system = NormalEquations(spare_memory=scan.spare_memory)
    yield from collect_normal_equations(items, system, "pnp_admm")
    if system.solution is None:
        raise Mri2QmapError(
            "pnp_admm: no initial TSMI arrived; the pipeline needs toeplitz_cg before this gadget"
        )
    dictionary = load(system.solution)
    compared = system.solution.tsmi if settings.consistency else None
    step_done = scan.report.steps(settings.iterations + settings.nonlocal_iterations, "ADMM")
    try:
        result = plug_and_play(
            system.gram(scan.processes),
            system.adjoint.tsmi,
            system.release_solution().tsmi,
            dictionary,
            denoise,
            settings,
            on_iteration=step_done,
            search=settings.searcher(),
            final_denoiser=final_denoiser,
            guided_filter=partial(TsmiWiener, processes=scan.processes),
            store=StateWithGenerator(scan.state_stores["pnp_admm"], generator),
            processes=scan.processes,
        )
    except FloatingPointError as error:
        raise Mri2QmapError(
            f"pnp_admm: the iterations diverge ({error}); try a smaller coupling or sigma_start"
        ) from error
    geometry = system.adjoint.geometry
    yield Tsmi(result.tsmi, geometry)
    if result.images is not None:
        t1w, t2w, pdw = result.weights
        yield WeightedImages(result.images, (t1w, t2w, pdw), geometry, settings.echoes)
    if compared is not None:
        try:
            consistency = prior_consistency(compared, result.tsmi, result.match, dictionary)
        except ValueError as error:
            raise Mri2QmapError(f"pnp_admm: consistency: {error}") from error
        yield Consistency(consistency, geometry)


def _denoisers(
    settings: PnpAdmmSettings, scan: ScanInfo, generator: torch.Generator
) -> tuple[Denoise, Denoise] | tuple[None, None]:
    """Denoisers for the loop and for the images at the end."""
    if settings.denoiser == "none":
        return None, None
    network = load_denoiser(settings.denoiser, scan.device, patch=settings.patch).network
    of_the_end = torch.Generator().manual_seed(settings.seed)
    processes = scan.processes
    return (
        admm_denoiser(network, generator, settings.patch, processes=processes),
        admm_denoiser(network, of_the_end, settings.patch, flip_average=True, processes=processes),
    )
