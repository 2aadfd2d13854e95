"""Denoisers as priors: errors of the maps of complete reconstructions."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from mri2qmap.anatomy.tissues import GREY_MATTER, WHITE_MATTER
from mri2qmap.anatomy.voxel_model import Region
from mri2qmap.denoiser.tsmi_wiener import TsmiWiener
from mri2qmap.errors import Mri2QmapError
from mri2qmap.evaluation.lower_bounds import match_voxels, within_sampled_sphere
from mri2qmap.evaluation.metrics import mape
from mri2qmap.mrsignal.dictionary import Dictionary
from mri2qmap.mrsignal.matching import match
from mri2qmap.mrsignal.sequence import Sequence as PulseSequence
from mri2qmap.mrsignal.synthesis import Contrast
from mri2qmap.pipeline.progress import Reporter
from mri2qmap.recon.least_squares import LeastSquares
from mri2qmap.recon.lrtv import lrtv
from mri2qmap.recon.plug_and_play import Denoise, plug_and_play
from mri2qmap.recon.plug_and_play_parameters import PlugAndPlayParameters, noise_schedule
from mri2qmap.recon.regulariser import SplitParameters
from mri2qmap.simulation.simulator import Simulation, SimulationSettings, simulate
from mri2qmap.studies.candidates import Candidate, SettingAt
from mri2qmap.studies.result_table import Cell, ResultTable

START = "CG start"
NO_PRIOR = "MRF-ADMM (no prior)"
VARIATION_ONLY = "MRF-ADMM with total variation"
LRTV = "LRTV"
ORACLE = "oracle (true images)"
LOWER_BOUNDS = ("lower bound: matching the truth", "lower bound: truth in sampled sphere")

RECONSTRUCTION_KEY = ("subject", "content", "scan", "method", "version", "settings", "parameters")
RECONSTRUCTION_VALUES = ("mape_t1", "mape_t2", "mape_t1_t2", "seconds")

_SMALLEST_MATRIX = 8


@dataclass(frozen=True)
class PriorBenchSettings:
    """Settings of the scan and of the reconstruction.

    Attributes
    ----------
    matrix
        Voxels along each side, even.
    field_of_view
        Extent along each side [m].
    region
        Part of the anatomy that is scanned.
    acceleration, noise, seed
        See `SimulationSettings`; the scan has one coil.
    parameters
        Parameters of the reconstruction, the same for all priors; by default without the non-local
        prior, which reduces their differences.
    lrtv
        Parameters of LRTV.
    variation_alone
        Strength of the total variation without a denoiser. Without images that show the edges, it
        must be weaker.

    Raises
    ------
    Mri2QmapError
        If the scan cannot be simulated with these settings.
    """

    matrix: int = 64
    field_of_view: float = 0.11
    region: Region = Region.BALL
    acceleration: float = 2.0
    noise: float = 0.25
    seed: int = 0
    parameters: PlugAndPlayParameters = field(
        default_factory=lambda: PlugAndPlayParameters(nonlocal_iterations=0)
    )
    lrtv: SplitParameters = field(default_factory=SplitParameters)
    variation_alone: float = 8.0

    def __post_init__(self) -> None:
        if self.matrix < _SMALLEST_MATRIX or self.matrix % 2:
            raise Mri2QmapError(
                f"matrix {self.matrix}: an even number of {_SMALLEST_MATRIX} or more is expected"
            )
        self.scan("")  # checks the other settings of the scan

    def scan(self, anatomy: str) -> SimulationSettings:
        """Settings of the simulation of one subject."""
        return SimulationSettings(
            anatomy=anatomy,
            region=self.region,
            matrix=(self.matrix,) * 3,
            field_of_view=(self.field_of_view,) * 3,
            coils=1,
            acceleration=self.acceleration,
            noise=self.noise,
            seed=self.seed,
        )


@dataclass(frozen=True)
class MapErrors:
    """Errors of one reconstruction of one subject.

    Attributes
    ----------
    subject, method
        Names of the subject and of the method.
    t1, t2
        MAPE over white and grey matter [%]; NaN if the iterations diverged.
    seconds
        Duration of the reconstruction [s].
    """

    subject: str
    method: str
    t1: float
    t2: float
    seconds: float

    @property
    def both(self) -> float:
        """Sum of the errors of T1 and T2 [%]."""
        return self.t1 + self.t2


@dataclass(frozen=True)
class _Problem:
    """Normal equations of a scan, X0, and the truth (z, y, x)."""

    system: LeastSquares
    start: torch.Tensor
    tsmi: NDArray[np.complex64]
    t1: NDArray[np.float32]
    t2: NDArray[np.float32]
    mask: NDArray[np.bool_]


@dataclass(frozen=True)
class _Method:
    """A row of the table: its name, the function that computes T1 and T2, and all that it uses."""

    name: str
    maps: Callable[[_Problem], tuple[NDArray[np.float32], NDArray[np.float32]]]
    parameters: PlugAndPlayParameters | SplitParameters | None = None
    version: str = ""
    settings: str = ""


class PriorBench:
    """Reconstructs subjects with each prior.

    Parameters
    ----------
    settings
        Scan and reconstruction.
    sequence, dictionary
        Sequence of the scan, and its dictionary on the device of the reconstruction.
    table
        Table with the columns `RECONSTRUCTION_KEY` and `RECONSTRUCTION_VALUES`. Results that it
        contains are not computed again; new results are added immediately.
    report
        Receives progress and log lines.
    """

    def __init__(
        self,
        settings: PriorBenchSettings,
        sequence: PulseSequence,
        dictionary: Dictionary,
        table: ResultTable,
        report: Reporter | None = None,
    ) -> None:
        self._settings = settings
        self._sequence = sequence
        self._dictionary = dictionary
        self._table = table
        self._report = report or Reporter()

    def run(
        self, label_maps: Sequence[Path], priors: Sequence[tuple[Candidate, SettingAt]]
    ) -> list[MapErrors]:
        """Reconstruct all subjects with all priors and with the methods of comparison.

        Parameters
        ----------
        label_maps
            One file for each subject.
        priors
            Denoisers, each with a function that returns its setting for a contrast and a noise
            level.

        Returns
        -------
            Errors of all methods, subject by subject.

        Raises
        ------
        Mri2QmapError
            If a label map cannot be used, or contains no white or grey matter.
        """
        methods = self._methods(priors)
        return [errors for path in label_maps for errors in self._subject(path, methods)]

    def _subject(self, path: Path, methods: Sequence[_Method]) -> Iterator[MapErrors]:
        name = path.name.partition(".")[0]
        scan = {
            **{key: getattr(self._settings, key) for key in ("matrix", "field_of_view", "region")},
            **{key: getattr(self._settings, key) for key in ("acceleration", "noise", "seed")},
            "sequence": self._sequence.digest()[:12],
            "atoms": len(self._dictionary.lut),
        }
        content = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
        problem: _Problem | None = None
        for method in methods:
            start: tuple[Cell, ...] = (name, content, json.dumps(scan), method.name)
            parameters = "" if method.parameters is None else json.dumps(asdict(method.parameters))
            key = (*start, method.version, method.settings, parameters)
            if self._table.get(key) is None:
                problem = problem or self._problem(path)
                why = self._table.outdated(key)
                begin = time.perf_counter()
                t1, t2 = method.maps(problem)
                seconds = time.perf_counter() - begin
                first, second = (
                    mape(found, true, problem.mask) if np.isfinite(found).all() else math.nan
                    for found, true in ((t1, problem.t1), (t2, problem.t2))
                )
                self._table.put({key: (first, second, first + second, seconds)})
                self._report.log(f"{name}, {method.name}: {first:.2f} + {second:.2f} %{why}")
            first, second, _, seconds = (float(x) for x in self._table.get(key) or ())
            yield MapErrors(name, method.name, first, second, seconds)

    def _problem(self, path: Path) -> _Problem:
        self._report.log(f"simulating {path.name}")
        simulation = simulate(self._settings.scan(str(path)), self._sequence, self._report)
        truth = simulation.truth
        mask = truth.pure(WHITE_MATTER) | truth.pure(GREY_MATTER)
        if not mask.any():
            raise Mri2QmapError(
                f"{path}: no voxel contains more than 90 % white or grey matter; use smaller "
                "voxels (more of them, or a smaller field of view)"
            )
        system = _least_squares(simulation, self._dictionary)
        return _Problem(system, system.solve(), simulation.tsmi, truth.t1(), truth.t2(), mask)

    def _methods(self, priors: Sequence[tuple[Candidate, SettingAt]]) -> list[_Method]:
        """All rows of the table, in order."""
        parameters = self._settings.parameters
        plain = replace(
            parameters, total_variation=0.0, nonlocal_iterations=0, preconditioned=False
        )
        variation = replace(parameters, total_variation=self._settings.variation_alone)
        with_variation = _Method(
            VARIATION_ONLY,
            lambda p: self._reconstruct(p, None, VARIATION_ONLY, variation),
            variation,
        )
        return [
            _Method(START, lambda p: self._match(p.start)),
            _Method(NO_PRIOR, lambda p: self._reconstruct(p, None, NO_PRIOR, plain), plain),
            *([with_variation] if parameters.total_variation else []),
            _Method(LRTV, self._lrtv, self._settings.lrtv),
            *(self._method_of(candidate, setting_at) for candidate, setting_at in priors),
            _Method(ORACLE, self._oracle, parameters),
            _Method(LOWER_BOUNDS[1], lambda p: self._lower_bound(p, within_sampled_sphere(p.tsmi))),
            _Method(LOWER_BOUNDS[0], lambda p: self._lower_bound(p, p.tsmi)),
        ]

    def _method_of(self, candidate: Candidate, setting_at: SettingAt) -> _Method:
        parameters = self._settings.parameters
        levels = noise_schedule(parameters)
        chosen = [[setting_at(contrast, sigma) for sigma in levels] for contrast in Contrast]
        # A digest of the settings, which are those of the PSNR table. The final images have another
        # noise level, for which the setting is interpolated between these.
        digest = hashlib.sha256(json.dumps(chosen).encode()).hexdigest()[:12]
        return _Method(
            candidate.name,
            lambda p: self._reconstruct(
                p,
                candidate.prior(setting_at),
                candidate.name,
                final_denoiser=candidate.final_denoiser and candidate.final_denoiser(setting_at),
            ),
            parameters,
            candidate.version,
            digest if candidate.parameter else "",
        )

    def _reconstruct(
        self,
        problem: _Problem,
        denoise: Denoise | None,
        name: str,
        parameters: PlugAndPlayParameters | None = None,
        final_denoiser: Denoise | None = None,
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        parameters = parameters or self._settings.parameters
        step_done = self._report.steps(parameters.iterations, name)
        try:
            result = plug_and_play(
                problem.system.gram,
                problem.system.adjoint,
                problem.start,
                self._dictionary,
                denoise,
                parameters,
                on_iteration=step_done,
                final_denoiser=final_denoiser,
                guided_filter=TsmiWiener,
            )
        except FloatingPointError:  # the iterations diverge: the result is NaN
            diverged = np.full_like(problem.t1, np.nan)
            return diverged, diverged
        return self._match(result.tsmi, result.images, result.weights)

    def _lrtv(self, problem: _Problem) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        parameters, system = self._settings.lrtv, problem.system
        step_done = self._report.steps(parameters.iterations, LRTV)
        tsmi = lrtv(
            system.gram,
            system.adjoint,
            problem.start,
            parameters,
            on_iteration=step_done,
        )
        return self._match(tsmi)

    def _oracle(self, problem: _Problem) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        tsmi = torch.from_numpy(problem.tsmi).to(problem.start.device)
        images = match(tsmi, self._dictionary).weighted_images(self._dictionary)
        return self._reconstruct(problem, lambda noisy, sigma: images, ORACLE)

    def _match(
        self,
        tsmi: torch.Tensor,
        images: torch.Tensor | None = None,
        weights: Sequence[float] = (0.0,) * len(Contrast),
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        found = match(tsmi, self._dictionary, images, weights)
        return found.t1.cpu().numpy(), found.t2.cpu().numpy()

    def _lower_bound(
        self, problem: _Problem, tsmi: NDArray[np.complex64]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        return match_voxels(tsmi, problem.mask, self._dictionary.to("cpu"))


def _least_squares(simulation: Simulation, dictionary: Dictionary) -> LeastSquares:
    """Normal equations of all samples of a scan with one coil."""
    device = dictionary.basis.device
    kspace, trajectory = simulation.scan.kspace, simulation.scan.trajectory
    groups, n_frames, coils, samples = kspace.shape
    frames = torch.arange(n_frames)[None, :, None].expand(groups, n_frames, samples)
    matrix = simulation.truth.geometry.matrix
    return LeastSquares.of_samples(
        torch.from_numpy(kspace).permute(2, 0, 1, 3).reshape(coils, -1).to(device),
        torch.from_numpy(trajectory.reshape(-1, 3)).to(device),
        frames.reshape(-1).to(device),
        dictionary.basis,
        matrix,
    )
