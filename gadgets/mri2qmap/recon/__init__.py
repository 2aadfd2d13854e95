"""Reconstruction of time-series of MR images (TSMI) in a temporal subspace.

A TSMI has the shape (s, z, y, x): s subspace coefficients of each voxel, complex64. Each algorithm
is a function in the module of its name, for example ``from mri2qmap.recon.lrtv import lrtv``:

====================  ===========================================================================
module                algorithm
====================  ===========================================================================
`conjugate_gradient`  least squares; `LeastSquares` builds its normal equations from samples
`lrtv`                total variation of the TSMI, by ADMM
`llr`                 locally low rank, by ADMM
`mrf_pnp`             a denoiser of the TSMI, by ADMM
`plug_and_play`       MRI2Qmap: fingerprints of a dictionary and a denoiser of weighted images, by
                      ADMM; MRF-ADMM without the denoiser
====================  ===========================================================================

`consistency` compares the result of `plug_and_play` with the data alone, `object_mask` tells where
the object is, `receive_field` estimates what of the proton density is sensitivity of the coils. The
names below can be imported from this package: the shared ADMM (`TsmiUpdate`, `solve_regularised`)
with the `IterationStatistics` that each iteration reports, regularisers (`Regulariser` and its
subclasses), parameters, and the preparation of coil maps and of density compensation. Their modules
are imported when a name is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mri2qmap.machine.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from mri2qmap.recon.admm import AdmmIteration, TsmiUpdate, solve_regularised
    from mri2qmap.recon.coil_maps import calibration_images, resize_maps, walsh_maps
    from mri2qmap.recon.conjugate_gradient import CgOutcome
    from mri2qmap.recon.gridding import density_compensation
    from mri2qmap.recon.iteration_statistics import IterationStatistics
    from mri2qmap.recon.least_squares import LeastSquares
    from mri2qmap.recon.llr import LlrParameters
    from mri2qmap.recon.locally_low_rank import LocallyLowRank
    from mri2qmap.recon.mrf_pnp import DenoiserRegulariser
    from mri2qmap.recon.nuclear_variation import NuclearVariation
    from mri2qmap.recon.plug_and_play import Iteration, PlugAndPlayResult
    from mri2qmap.recon.plug_and_play_parameters import PlugAndPlayParameters
    from mri2qmap.recon.regulariser import Regulariser, SplitParameters
    from mri2qmap.recon.total_variation import TotalVariation

__all__ = [
    "AdmmIteration",
    "CgOutcome",
    "DenoiserRegulariser",
    "Iteration",
    "IterationStatistics",
    "LeastSquares",
    "LlrParameters",
    "LocallyLowRank",
    "NuclearVariation",
    "PlugAndPlayParameters",
    "PlugAndPlayResult",
    "Regulariser",
    "SplitParameters",
    "TotalVariation",
    "TsmiUpdate",
    "calibration_images",
    "density_compensation",
    "resize_maps",
    "solve_regularised",
    "walsh_maps",
]

_MODULES = {
    "AdmmIteration": "admm",
    "CgOutcome": "conjugate_gradient",
    "DenoiserRegulariser": "mrf_pnp",
    "Iteration": "plug_and_play",
    "IterationStatistics": "iteration_statistics",
    "LeastSquares": "least_squares",
    "LlrParameters": "llr",
    "LocallyLowRank": "locally_low_rank",
    "NuclearVariation": "nuclear_variation",
    "PlugAndPlayParameters": "plug_and_play_parameters",
    "PlugAndPlayResult": "plug_and_play",
    "Regulariser": "regulariser",
    "SplitParameters": "regulariser",
    "TotalVariation": "total_variation",
    "TsmiUpdate": "admm",
    "calibration_images": "coil_maps",
    "density_compensation": "gridding",
    "resize_maps": "coil_maps",
    "solve_regularised": "admm",
    "walsh_maps": "coil_maps",
}

__getattr__, __dir__ = lazy_exports(__name__, _MODULES)
