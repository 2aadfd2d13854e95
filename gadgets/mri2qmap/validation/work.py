"""How much work a reconstruction is, in units of short computations that can be timed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from mri2qmap.mrsignal.dictionary import dictionary_is_kept, lookup_table
from mri2qmap.mrsignal.field_dictionary import SIMULATED_FIELDS
from mri2qmap.mrsignal.matching_settings import MatchingSettings
from mri2qmap.operators.toeplitz import n_pairs
from mri2qmap.pipeline.buffer_sizes import batch_size
from mri2qmap.pipeline.pipeline_file import Pipeline
from mri2qmap.pipeline.scan_header import ScanInfo
from mri2qmap.pnp_admm import PnpAdmmSettings
from mri2qmap.recon.coil_maps import CALIBRATION_CONTRASTS
from mri2qmap.subspace_compression import SHORTEST_BATCH, SubspaceCompressionSettings
from mri2qmap.toeplitz_cg import ToeplitzCgSettings

_FLIPS = 8
"""Passes of a network that averages over flips."""
_DENSITY_STEPS = 10
"""Transforms of the density compensation of the gridded output."""
_SHARE_OF_STEPS = (0.25, 0.5, 1.0)
"""Steps of conjugate gradients within an ADMM, over the most that are allowed: they end earlier
once the residual is small, in simulated scans after a half."""
_SHARE_OF_FIRST_STEPS = (0.5, 1.0, 1.0)
"""The same before the ADMM."""


@dataclass(frozen=True)
class Amount:
    """Least, likely and most work of a kind."""

    low: float = 0.0
    likely: float = 0.0
    high: float = 0.0

    @classmethod
    def exactly(cls, amount: float) -> Amount:
        """Return an amount that is known."""
        return cls(amount, amount, amount)

    def __add__(self, other: Amount) -> Amount:
        return Amount(self.low + other.low, self.likely + other.likely, self.high + other.high)

    def __mul__(self, factor: float) -> Amount:
        return Amount(self.low * factor, self.likely * factor, self.high * factor)


@dataclass
class Work:
    """Work of the stages that take the time of a reconstruction.

    Attributes
    ----------
    gram
        Products with the Toeplitz gram [coils times voxels].
    matching
        Comparisons [voxels times atoms].
    atoms_simulated
        Atoms of the dictionaries that are not in the cache.
    variation
        Steps of a total variation or of the low rank of blocks [voxels times coefficients].
    similarity, filtering
        Search of the non-local prior, and applications of its filter [voxels times coefficients].
    spreading
        Samples of non-uniform transforms.
    transforms
        Voxels of non-uniform transforms.
    denoising
        Patches of the network of each gadget [voxels].
    voxels
        Voxels of the maps.
    """

    gram: Amount = field(default_factory=Amount)
    matching: Amount = field(default_factory=Amount)
    atoms_simulated: Amount = field(default_factory=Amount)
    variation: Amount = field(default_factory=Amount)
    similarity: Amount = field(default_factory=Amount)
    filtering: Amount = field(default_factory=Amount)
    spreading: Amount = field(default_factory=Amount)
    transforms: Amount = field(default_factory=Amount)
    denoising: dict[str, Amount] = field(default_factory=dict)
    voxels: int = 0


def work_of(
    pipeline: Pipeline,
    scan: ScanInfo,
    samples: int,
    virtual_coils: int,
    padded: Callable[[str], int],
) -> Work:
    """Count the work of a reconstruction.

    Parameters
    ----------
    pipeline, scan
        What runs.
    samples
        Samples of a coil in the whole scan.
    virtual_coils
        Coils after compression.
    padded
        Returns the voxels of all patches of the network of a gadget.
    """
    settings = {node.name: node.settings for node in pipeline.nodes}
    compression = settings.get("subspace_compression", SubspaceCompressionSettings())
    voxels, s = math.prod(scan.matrix), compression.coefficients
    work = Work(voxels=voxels)
    _count_transforms(work, scan, compression, samples, virtual_coils)
    cg = settings.get("toeplitz_cg")
    if isinstance(cg, ToeplitzCgSettings):
        _count_least_squares(work, cg, virtual_coils * voxels, s * voxels, padded)
    admm = settings.get("pnp_admm")
    features = {}
    if isinstance(admm, PnpAdmmSettings):
        _count_admm(work, admm, virtual_coils * voxels, s * voxels, padded)
        features["pnp_admm"] = admm.iterations + 2
    if "combined_matching" in settings:
        features["combined_matching"] = 1
    _count_dictionaries(work, scan, settings, features, s)
    return work


def _count_transforms(
    work: Work,
    scan: ScanInfo,
    compression: SubspaceCompressionSettings,
    samples: int,
    coils: int,
) -> None:
    """Coil calibration, adjoint and kernels."""
    voxels, s = work.voxels, compression.coefficients
    one_group = samples / max(1, (scan.expected_readouts or 0) // scan.sequence.n_frames)
    spread: float = s * coils * samples + (coils > 1) * coils * CALIBRATION_CONTRASTS * one_group
    if compression.output == "gridded":
        transformed: float = (s * coils + _DENSITY_STEPS) * voxels
        spread += _DENSITY_STEPS * samples
    else:
        batch = batch_size(scan, compression.batch_samples)
        halves = max(0.0, math.log2(max(1.0, min(samples, batch) / SHORTEST_BATCH)))
        batches = max(1, math.ceil(samples / batch)) + halves
        kernels = math.ceil(n_pairs(s) / 2)  # two real ones are one complex transform
        spread += kernels * samples
        # the double grid, and the transforms of its lags to frequencies
        transformed = batches * (s * coils + 2 * 8 * kernels) * voxels
    work.spreading += Amount.exactly(spread)
    work.transforms += Amount.exactly(transformed)


def _count_least_squares(
    work: Work, cg: ToeplitzCgSettings, product: int, tsmi: int, padded: Callable[[str], int]
) -> None:
    low, likely, high = _SHARE_OF_FIRST_STEPS
    work.gram += Amount(low, likely, high) * (cg.iterations * product)
    if cg.prior == "none":
        return
    if cg.prior == "artefact_removal":
        work.denoising["toeplitz_cg"] = Amount.exactly(_FLIPS * padded("toeplitz_cg"))
        return
    parameters = cg.parameters()
    steps = parameters.iterations * parameters.cg_iterations
    work.gram += Amount(*_SHARE_OF_STEPS) * (steps * product)
    if cg.prior == "denoiser":
        voxels = parameters.iterations * padded("toeplitz_cg")
        work.denoising["toeplitz_cg"] = Amount.exactly(voxels)
    else:
        shifts = 2 if cg.prior == "low_rank" and cg.shifted else 1
        work.variation += Amount.exactly(shifts * parameters.iterations * tsmi)


def _count_admm(
    work: Work, admm: PnpAdmmSettings, product: int, tsmi: int, padded: Callable[[str], int]
) -> None:
    updates = admm.iterations + admm.nonlocal_iterations
    work.gram += Amount(*_SHARE_OF_STEPS) * (updates * admm.cg_iterations * product)
    if admm.nonlocal_iterations:
        work.similarity += Amount.exactly(tsmi)
        work.filtering += Amount.exactly(admm.nonlocal_iterations * tsmi)
    if admm.total_variation:
        work.variation += Amount.exactly(admm.iterations * tsmi)
    if admm.denoiser != "none":
        passes = admm.iterations + _FLIPS
        work.denoising["pnp_admm"] = Amount.exactly(passes * padded("pnp_admm"))


def _count_dictionaries(
    work: Work, scan: ScanInfo, settings: dict[str, Any], times: dict[str, int], s: int
) -> None:
    simulated: set[Any] = set()
    for gadget, matches in times.items():
        own = settings[gadget]
        assert isinstance(own, MatchingSettings)
        dictionary = own.dictionary(s)
        atoms = len(lookup_table(dictionary))
        work.matching += Amount.exactly(matches * work.voxels * atoms)
        if dictionary in simulated:
            continue
        simulated.add(dictionary)
        if own.b1_map:
            work.atoms_simulated += Amount(0, SIMULATED_FIELDS * atoms, SIMULATED_FIELDS * atoms)
        elif not dictionary_is_kept(scan.sequence, dictionary):
            work.atoms_simulated += Amount.exactly(atoms)
