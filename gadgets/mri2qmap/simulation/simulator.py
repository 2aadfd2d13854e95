"""Simulation of a fingerprinting scan of an anatomy.

Every tissue has its own signal evolution: k-space is the sum over tissues of the transform of the
tissue's image, weighted in each frame by the tissue's extended-phase-graph signal (for a
non-uniform transmit field see `tissues_in_field`). The signals are not projected onto the temporal
subspace, so the simulation does not use the model of the reconstruction (no inverse crime).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import torch
from numpy.typing import NDArray

from mri2qmap.anatomy.sources import ICBM, load_anatomy
from mri2qmap.anatomy.voxel_model import Region, TissueFractions
from mri2qmap.errors import Mri2QmapError
from mri2qmap.mrsignal.dictionary import subspace
from mri2qmap.mrsignal.sequence import Sequence, default_sequence
from mri2qmap.operators.nufft import Nufft
from mri2qmap.pipeline.geometry import Vector
from mri2qmap.pipeline.progress import Reporter
from mri2qmap.simulation.coils import coil_sensitivities, noise_covariance, receive_field
from mri2qmap.simulation.components import Grid, scan_anatomy
from mri2qmap.simulation.mrd_writer import RawScan
from mri2qmap.simulation.quantitative_scan import QuantitativeTruth
from mri2qmap.simulation.trajectory import (
    DEFAULT_EXPONENT,
    FULL_DENSITY,
    plan_sampling,
    spiral_projections,
)
from mri2qmap.simulation.transmit_field import LARGEST_SPREAD

COEFFICIENTS = 5
"""Number of subspace coefficients of the true TSMI and of its noise."""

OBJECT_DENSITY = 0.5
"""Proton density above which a voxel belongs to the object."""

NUFFT_TOLERANCE = 1e-6  # smaller than that of the reconstruction

NOISE_SAMPLES = 8192
"""Minimum number of noise samples of each coil."""


class NoiseModel(StrEnum):
    """Origin of the noise."""

    AUTO = "auto"
    TSMI = "tsmi"
    RECEIVER = "receiver"


class Orientation(StrEnum):
    """Orientation of the scan axes z, y, x in the patient."""

    AXIAL = "axial"
    CORONAL = "coronal"
    SAGITTAL = "sagittal"


_DIRECTIONS: dict[Orientation, tuple[Vector, Vector, Vector]] = {
    Orientation.AXIAL: ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    Orientation.CORONAL: ((1, 0, 0), (0, 0, -1), (0, 1, 0)),
    Orientation.SAGITTAL: ((0, 1, 0), (0, 0, -1), (-1, 0, 0)),
}


@dataclass(frozen=True)
class SimulationSettings:
    """Settings of a simulation.

    Attributes
    ----------
    anatomy
        See `mri2qmap.anatomy.sources.load_anatomy`.
    region
        Part of the anatomy that is scanned.
    matrix
        Number of voxels (z, y, x), even.
    field_of_view
        Extent (z, y, x) [m].
    coils
        Number of receive coils.
    acceleration
        Acceleration R: 3.8 / R complex samples per voxel and coil.
    groups
        Number of readout groups; chosen automatically if None, see `plan_sampling`.
    noise
        Noise level, see `noise_model`.
    noise_model
        ``tsmi``: white complex Gaussian noise is added to every coefficient image of the TSMI
        before sampling, with a standard deviation of `noise` times the signal amplitude
        (`signal_amplitude`), as in the paper's single-coil model. ``receiver``: white Gaussian
        noise of correlated receivers is added to every sample; its level gives the same standard
        deviation of each coefficient after an ideal combination of a fully sampled (R = 1) scan.
        ``auto``: ``tsmi`` for one coil, ``receiver`` for several.
    phase
        Largest value of a smooth object phase [rad].
    b1_spread
        The relative transmit field varies from 1 - `b1_spread` to 1 + `b1_spread` over the object,
        see `transmit_field`; 0 gives a uniform field of 1.
    density_exponent
        See `mri2qmap.simulation.trajectory.spiral_arm`.
    orientation
        Plane of the y and x axes of the arrays.
    oblique
        Additional rotation angles [rad] about the patient's left, posterior and head axes, in this
        order.
    seed
        Seed of all random numbers.

    Raises
    ------
    Mri2QmapError
        If a value is out of range.
    """

    anatomy: str = ICBM
    region: Region = Region.BRAIN
    matrix: tuple[int, int, int] = (64, 64, 64)
    field_of_view: Vector = (0.192, 0.192, 0.192)
    coils: int = 8
    acceleration: float = 4.0
    groups: int | None = None
    noise: float = 0.25
    noise_model: NoiseModel = NoiseModel.AUTO
    phase: float = 1.0
    b1_spread: float = 0.0
    density_exponent: float = DEFAULT_EXPONENT
    orientation: Orientation = Orientation.AXIAL
    oblique: Vector = (0.0, 0.0, 0.0)
    seed: int = 0

    def __post_init__(self) -> None:
        checks: list[tuple[str, object, bool, str]] = [
            (
                "matrix",
                self.matrix,
                all(4 <= n <= 1024 and n % 2 == 0 for n in self.matrix),
                _even_numbers(self.matrix),
            ),
            (
                "field of view",
                self.field_of_view,
                all(0.004 <= f <= 1 for f in self.field_of_view),
                "0.004 to 1 m (metres, not mm)",
            ),
            ("coils", self.coils, 1 <= self.coils <= 128, "1 to 128"),
            ("acceleration", self.acceleration, 0.05 <= self.acceleration <= 1000, "0.05 to 1000"),
            ("groups", self.groups, self.groups is None or self.groups >= 1, "1 or more"),
            ("noise", self.noise, 0 <= self.noise < math.inf, "a number of 0 or more"),
            ("phase", self.phase, abs(self.phase) <= 30, "-30 to 30 rad (radians, not degrees)"),
            (
                "b1_spread",
                self.b1_spread,
                0 <= self.b1_spread <= LARGEST_SPREAD,
                f"0 to {LARGEST_SPREAD}",
            ),
            ("density exponent", self.density_exponent, 0.5 <= self.density_exponent <= 2, "0.5-2"),
            ("oblique", self.oblique, all(map(math.isfinite, self.oblique)), "finite angles"),
            ("seed", self.seed, self.seed >= 0, "0 or more"),
        ]
        for name, value, valid, expected in checks:
            if not valid:
                raise Mri2QmapError(f"simulation: {name} is {value}; expected {expected}")

    @property
    def effective_noise_model(self) -> NoiseModel:
        """Noise model after the resolution of ``auto``."""
        if self.noise_model is not NoiseModel.AUTO:
            return self.noise_model
        return NoiseModel.TSMI if self.coils == 1 else NoiseModel.RECEIVER

    def directions(self) -> NDArray[np.float64]:
        """Return rows read_dir, phase_dir and slice_dir (3, 3) (LPS)."""
        (ca, cb, cc), (sa, sb, sc) = np.cos(self.oblique), np.sin(self.oblique)
        about_left = np.array([[1, 0, 0], [0, ca, -sa], [0, sa, ca]])
        about_posterior = np.array([[cb, 0, sb], [0, 1, 0], [-sb, 0, cb]])
        about_head = np.array([[cc, -sc, 0], [sc, cc, 0], [0, 0, 1]])
        rotation = about_head @ about_posterior @ about_left
        return np.asarray(np.array(_DIRECTIONS[self.orientation], dtype=float) @ rotation.T)


def _even_numbers(matrix: tuple[int, ...]) -> str:
    """Say which numbers of voxels are expected, with those next to odd ones."""
    odd = sorted({n for n in matrix if 4 < n < 1024 and n % 2})
    near = "".join(f", {n - 1} or {n + 1} instead of {n}" for n in odd)
    return f"even numbers from 4 to 1024{near}"


@dataclass(frozen=True)
class Simulation:
    """A simulated scan and its ground truth.

    Attributes
    ----------
    scan
        Content of the ISMRMRD file.
    truth
        Tissue fractions or quantitative maps on the grid of the scan.
    tsmi
        Noiseless TSMI (s, z, y, x) complex64, without coil sensitivities.
    receive_field
        Sensitivity of the prewhitened array (z, y, x), see `coils.receive_field`.
    amplitude
        Signal amplitude that the noise level refers to, see `signal_amplitude`.
    noise_std
        Standard deviation of the complex noise: of each coefficient image for the TSMI model, of
        each sample for the receiver model (mean over coils).
    b1
        Relative transmit field (z, y, x); None if it is uniform.
    """

    scan: RawScan
    truth: TissueFractions | QuantitativeTruth
    tsmi: NDArray[np.complex64]
    receive_field: NDArray[np.float32]
    amplitude: float
    noise_std: float
    b1: NDArray[np.float32] | None = None


def simulate(
    settings: SimulationSettings,
    sequence: Sequence | None = None,
    report: Reporter | None = None,
    device: torch.device | str = "cpu",
) -> Simulation:
    """Simulate a scan.

    Parameters
    ----------
    settings
        Settings.
    sequence
        Timing and flip angles (default: `default_sequence`).
    report
        Receives messages and progress.
    device
        Device of the non-uniform Fourier transforms, which take most of the time.

    Raises
    ------
    Mri2QmapError
        If the anatomy cannot be used, or the settings are inconsistent.
    """
    report = report or Reporter()
    sequence = sequence or default_sequence()
    rng = np.random.default_rng(settings.seed)
    plan = plan_sampling(settings.matrix, sequence.n_frames, settings.acceleration, settings.groups)
    report.log(str(plan))
    anatomy = load_anatomy(settings.anatomy, head=settings.region is Region.HEAD)
    grid = Grid(settings.region, settings.matrix, settings.field_of_view, settings.directions())
    truth, components, signals, b1 = scan_anatomy(anatomy, grid, settings.b1_spread, sequence)
    report.log(f"anatomy {truth.name}: {truth.composition}")
    images = components * object_phase(settings.matrix, settings.phase)
    basis = subspace(sequence, min(COEFFICIENTS, sequence.n_frames))[0].numpy()
    tsmi = np.tensordot(basis.T @ signals.T, images, 1).astype(np.complex64)

    maps = coil_sensitivities(truth.geometry, settings.coils)
    trajectory = spiral_projections(plan, settings.matrix, settings.density_exponent)
    amplitude = signal_amplitude(tsmi, truth.proton_density())
    receiver = settings.effective_noise_model is NoiseModel.RECEIVER
    covariance = noise_covariance(settings.coils, rng) if receiver else None
    field = receive_field(maps, covariance)
    noise_std = settings.noise * amplitude
    if receiver:
        noise_std *= sample_noise_scale(field, truth.proton_density(), sequence.n_frames)
    elif noise_std > 0:
        # Noise images are sampled like tissues, with the basis vectors as signal evolutions.
        noise = _complex_noise(rng, (basis.shape[1], *settings.matrix)) * noise_std
        images = np.concatenate([images, noise])
        signals = np.concatenate([signals, basis.T])
    kspace = sample(images.astype(np.complex64), signals, maps, trajectory, report, device)
    noise_scans = np.zeros((0, settings.coils, plan.samples), dtype=np.complex64)
    if covariance is not None and noise_std > 0:
        mixing = noise_std * np.linalg.cholesky(covariance)
        for group in kspace:
            group += mixing.astype(np.complex64) @ _complex_noise(rng, group.shape)
        count = math.ceil(NOISE_SAMPLES / plan.samples)
        noise_scans = mixing.astype(np.complex64) @ _complex_noise(
            rng, (count, settings.coils, plan.samples)
        )
    protocol = f"{settings.region} {truth.name} R={settings.acceleration:g}"
    raw = RawScan(kspace, trajectory, noise_scans, sequence, truth.geometry, truth.name, protocol)
    return Simulation(raw, truth, tsmi, field, amplitude, noise_std, b1)


def sample(
    images: NDArray[np.complex64],
    signals: NDArray[np.float32],
    maps: NDArray[np.complex64],
    trajectory: NDArray[np.float32],
    report: Reporter | None = None,
    device: torch.device | str = "cpu",
) -> NDArray[np.complex64]:
    """Sample a sum of images with different signal evolutions.

    Parameters
    ----------
    images
        (component, z, y, x) complex64.
    signals
        Signal evolution of each component (component, frame).
    maps
        Coil sensitivities (coil, z, y, x).
    trajectory
        (groups, frames, samples, 3) [cycles/voxel].
    report
        Receives the progress.
    device
        Device of the transforms.

    Returns
    -------
        (groups, frames, coils, samples) complex64.
    """
    report = report or Reporter()
    groups, frames, samples, _ = trajectory.shape
    nufft = Nufft(
        torch.from_numpy(trajectory.reshape(-1, 3)),
        (images.shape[1], images.shape[2], images.shape[3]),
        device,
        NUFFT_TOLERANCE,
    )
    kspace = np.zeros((groups, frames, len(maps), samples), dtype=np.complex64)
    steps = [(coil, component) for coil in range(len(maps)) for component in range(len(images))]
    for coil, component in report.progress(steps, "sampling"):
        image = torch.from_numpy(maps[coil] * images[component]).to(device)
        spectrum = nufft.forward(image).cpu().numpy().reshape(groups, frames, samples)
        kspace[:, :, coil] += spectrum * signals[component][:, None]
    return kspace


def object_phase(matrix: tuple[int, int, int], largest: float) -> NDArray[np.complex64]:
    """Return a smooth phase factor (z, y, x) with angles from -`largest` to `largest` [rad]."""
    z, y, x = np.meshgrid(*((np.arange(n) - n // 2) / (n / 2) for n in matrix), indexing="ij")
    shape = 0.5 * x + 0.3 * y - 0.4 * z**2 + 0.4 * x * y * z - 0.3 * y**2
    return np.asarray(np.exp(1j * largest * shape / np.abs(shape).max()), dtype=np.complex64)


def signal_amplitude(tsmi: NDArray[np.complex64], density: NDArray[np.float32]) -> float:
    """Return the mean magnitude of the TSMI over all coefficients and object voxels.

    Object voxels have a proton density above `OBJECT_DENSITY`. With this definition, white complex
    noise of 25 % in every coefficient, without other errors, gives matching errors (MAPE of T1/T2)
    of 8.2/13.3 % for a ball of 109 mm at 1.7 mm, and of 8.2/13.9 % at 1 mm. Noise levels relative
    to the mean of each coefficient, or to the norm over coefficients, give results far from those
    of the paper.
    """
    inside = density > OBJECT_DENSITY
    return float(np.abs(tsmi[:, inside]).mean())


def sample_noise_scale(
    field: NDArray[np.float32], density: NDArray[np.float32], frames: int
) -> float:
    """Return the ratio of the noise of a k-space sample to that of a coefficient of the full scan.

    A scan with 3.8 samples per voxel and an array of sensitivity S (`coils.receive_field`) measures
    each coefficient with the weight S^2 3.8 / L, because the basis vectors have unit norm over L
    frames and the transform is unitary. Receiver noise s then gives s sqrt(L / 3.8) / S after an
    ideal combination. S is the root mean square over the object.
    """
    inside = density > OBJECT_DENSITY
    sensitivity = math.sqrt(float((field[inside] ** 2).mean()))
    return sensitivity * math.sqrt(FULL_DENSITY / frames)


def _complex_noise(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.complex64]:
    """Return white complex Gaussian noise of variance 1, half of it in each part."""
    parts = rng.standard_normal((*shape, 2), dtype=np.float32) * np.float32(math.sqrt(0.5))
    noise: NDArray[np.complex64] = parts.view(np.complex64)[..., 0]
    return noise
