"""Dictionaries of fingerprints and weighted images over one table of tissue parameters."""

from __future__ import annotations

import functools
import hashlib
import logging
import math
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from mri2qmap.machine.folders import cache_choice
from mri2qmap.mrsignal.epg import Progress, fisp_signal
from mri2qmap.mrsignal.sequence import Sequence
from mri2qmap.mrsignal.subspace import temporal_subspace
from mri2qmap.mrsignal.synthesis import (
    DEFAULT_SYNTHESIS,
    Contrast,
    SpinEchoes,
    check_echoes,
    synthesise,
)
from mri2qmap.mrsignal.table_neighbours import Stencils, stencils
from mri2qmap.storage.atomic import atomic_write
from mri2qmap.storage.cache_size import dictionary_file, make_room, note_use

MOST_PAIRS = 2**18
"""Largest number of values of T1 times values of T2. A step of 0.01 gives 209 000, of which 160 000
have T2 <= T1. Matching interpolates between them."""

CACHE_VERSION = 2  # to be increased whenever the simulation changes, also in rounding

Search = Callable[[torch.Tensor, torch.Tensor, int], tuple[torch.Tensor, torch.Tensor]]
"""Search function with the signature of `mri2qmap.mrsignal.matching.exact_search`."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DictionarySettings:
    """Range and spacing of the lookup table, and parameters of the simulation.

    Attributes
    ----------
    t1_range, t2_range
        Smallest and largest relaxation time [s].
    step
        Ratio of neighbouring values minus one, for T1 and T2.
    coefficients
        Number s of subspace coefficients.
    b1
        Relative transmit field; 1 for nominal flip angles.
    echoes
        Spin echoes of the weighted images, see `check_echoes`.

    Raises
    ------
    ValueError
        If a value is out of range.
    """

    t1_range: tuple[float, float] = (0.1, 4.5)
    t2_range: tuple[float, float] = (0.01, 2.2)
    step: float = 0.08
    coefficients: int = 5
    b1: float = 1.0
    echoes: SpinEchoes = DEFAULT_SYNTHESIS

    def __post_init__(self) -> None:
        for name in ("t1_range", "t2_range"):
            low, high = getattr(self, name)
            if not 0 < low < high:
                raise ValueError(
                    f"{name} must be two ascending positive times [s], got {low} and {high}"
                )
        if not 0.001 <= self.step <= 1:
            raise ValueError(f"step must lie between 0.001 and 1, got {self.step}")
        n_t1, n_t2 = _table_sides(self)
        if n_t1 * n_t2 > MOST_PAIRS:
            raise ValueError(
                f"step {self.step} gives {n_t1} values of T1 and {n_t2} of T2; at most "
                f"{MOST_PAIRS} pairs are supported"
            )
        if not 1 <= self.coefficients <= 20:
            raise ValueError(f"coefficients must lie between 1 and 20, got {self.coefficients}")
        if not 0.2 <= self.b1 <= 2:
            raise ValueError(f"b1 must lie between 0.2 and 2, got {self.b1}")
        check_echoes(self.echoes)


@dataclass(frozen=True)
class LookupTable:
    """Pairs of relaxation times (atoms,) [s], with T2 <= T1."""

    t1: torch.Tensor
    t2: torch.Tensor

    def __len__(self) -> int:
        return len(self.t1)


@dataclass(frozen=True)
class Dictionary:
    """Signals of unit proton density over one lookup table.

    Attributes
    ----------
    lut
        The T1-T2 pairs, D of them.
    basis
        Temporal subspace Phi (frames, s), orthonormal columns.
    mrf_atoms
        Fingerprints in the subspace (D, s): B(Q) = PD * mrf_atoms[j].
    mri_atoms
        Synthesised T1w, T2w and PDw magnitudes (D, 3): S(Q) = |PD| * mri_atoms[j].
    energy_kept
        Fraction of the energy of the fingerprints, each normalised, within the subspace.
    """

    lut: LookupTable
    basis: torch.Tensor
    mrf_atoms: torch.Tensor
    mri_atoms: torch.Tensor
    energy_kept: float

    def to(self, device: torch.device | str) -> Dictionary:
        """Return a copy on another device."""
        return Dictionary(
            LookupTable(self.lut.t1.to(device), self.lut.t2.to(device)),
            self.basis.to(device),
            self.mrf_atoms.to(device),
            self.mri_atoms.to(device),
            self.energy_kept,
        )

    @property
    def pairs(self) -> int:
        """Number of T1-T2 pairs; here equal to the number of atoms."""
        return len(self.lut)

    @functools.cached_property
    def stencils(self) -> Stencils:
        """Neighbours of the T1-T2 pairs, between which atoms are interpolated."""
        return stencils(self.lut.t1[: self.pairs], self.lut.t2[: self.pairs])

    def select(self, voxels: torch.Tensor) -> Dictionary:
        """Return the dictionary for some of the voxels, given as a mask (z, y, x), bool."""
        del voxels  # the atoms are the same for all
        return self

    def adapt_search(self, search: Search) -> Search:
        """Return the search that `match` uses: here over all atoms for every voxel."""
        return search


def _table_sides(settings: DictionarySettings) -> tuple[int, int]:
    """Return the number of values of T1 and of T2."""
    n_t1, n_t2 = (
        math.ceil(math.log(high / low) / math.log1p(settings.step)) + 1
        for low, high in (settings.t1_range, settings.t2_range)
    )
    return n_t1, n_t2


def lookup_table(settings: DictionarySettings) -> LookupTable:
    """Return logarithmically spaced T1-T2 pairs with T2 <= T1, including the ends of the ranges."""
    t1, t2 = (
        torch.logspace(math.log10(low), math.log10(high), count, dtype=torch.float32)
        for (low, high), count in zip(
            (settings.t1_range, settings.t2_range), _table_sides(settings), strict=True
        )
    )
    grid_t1, grid_t2 = torch.meshgrid(t1, t2, indexing="ij")
    keep = grid_t2 <= grid_t1
    return LookupTable(grid_t1[keep], grid_t2[keep])


SUBSPACE_TABLE = DictionarySettings(step=0.1)
"""Of the signals from which `subspace` is computed."""


@functools.lru_cache(maxsize=16)
def subspace(sequence: Sequence, coefficients: int) -> tuple[torch.Tensor, float]:
    """Return the temporal subspace of a sequence, see `temporal_subspace`.

    It is computed from a fixed coarse table at nominal B1, not from the table that is matched, so
    that compressed data can be matched to any dictionary. (A basis for B1 from 0.7 to 1.3 hardly
    changes the maps for such a field, and gives worse maps at B1 = 1, see docs/transmit_field.md.)

    The result is cached and shared; callers must not modify it.

    Returns
    -------
    basis
        (frames, s) float32, orthonormal columns.
    energy_kept
        Fraction of the energy of the normalised fingerprints within the subspace.
    """
    return temporal_subspace(_coarse_signals(sequence), coefficients)


@functools.lru_cache(maxsize=4)
def _coarse_signals(sequence: Sequence) -> torch.Tensor:
    """Return the signals from which `subspace` is computed, for any number of coefficients."""
    lut = lookup_table(SUBSPACE_TABLE)
    return fisp_signal(lut.t1, lut.t2, sequence)


def build_dictionary(
    sequence: Sequence,
    settings: DictionarySettings,
    progress: Progress | None = None,
    device: torch.device | str = "cpu",
) -> Dictionary:
    """Simulate, compress and synthesise a dictionary; `load_dictionary` caches the result.

    The signals are simulated on the device. The dictionary is on the CPU.
    """
    lut = lookup_table(settings)
    basis, energy_kept = subspace(sequence, settings.coefficients)
    times = lut.t1.to(device), lut.t2.to(device)
    atoms = fisp_signal(*times, sequence, settings.b1, progress) @ basis.to(device)
    mri_atoms = _mri_atoms(lut, settings.echoes)
    return Dictionary(lut, basis, atoms.cpu(), mri_atoms, energy_kept)


def _mri_atoms(lut: LookupTable, echoes: SpinEchoes) -> torch.Tensor:
    """Return weighted images (D, 3) of unit proton density."""
    return synthesise(torch.ones_like(lut.t1), lut.t1, lut.t2, echoes=echoes).T.contiguous()


def load_dictionary(
    sequence: Sequence,
    settings: DictionarySettings | None = None,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> Dictionary:
    """Return the dictionary of a sequence, from the disk cache if available.

    The cache is in `cache_folder`. If it cannot be read or written, the dictionary is simulated
    again. If a new dictionary does not fit beside the others, see
    `mri2qmap.storage.cache_size.most_bytes`, those that were not used for the longest time are
    removed.

    The fingerprints, whose simulation takes long, do not depend on the spin echoes. Files therefore
    always contain the weighted images of `DEFAULT_SYNTHESIS`; those of other echoes are computed
    after reading.

    Parameters
    ----------
    sequence
        Flip angles and timing.
    settings
        Settings of the dictionary.
    device
        Device of the result, and of the simulation.
    progress
        Receives the progress of the simulation.
    """
    settings = settings or DictionarySettings()
    echoes, settings = settings.echoes, replace(settings, echoes=DEFAULT_SYNTHESIS)
    name = dictionary_file(_cache_key(sequence, settings))
    shapes = _shapes(sequence, settings)
    folders = cache_choice().readable
    known = (found for folder in folders if (found := _read(folder / name, shapes)) is not None)
    dictionary = next(known, None)
    if dictionary is None:
        logger.info("building the dictionary of %d atoms", shapes["t1"][0])
        dictionary = build_dictionary(sequence, settings, progress, device)
        _keep(name, dictionary)
    if echoes != DEFAULT_SYNTHESIS:
        dictionary = replace(dictionary, mri_atoms=_mri_atoms(dictionary.lut, echoes))
    logger.info(
        "dictionary: %d atoms, %d coefficients keep %.4f %% of the energy",
        len(dictionary.lut),
        dictionary.basis.shape[1],
        100 * dictionary.energy_kept,
    )
    return dictionary.to(device)


def dictionary_is_kept(sequence: Sequence, settings: DictionarySettings) -> bool:
    """Return whether `load_dictionary` would find a file, so that nothing is simulated."""
    settings = replace(settings, echoes=DEFAULT_SYNTHESIS)
    name = dictionary_file(_cache_key(sequence, settings))
    return any((folder / name).is_file() for folder in cache_choice().readable)


def _cache_key(sequence: Sequence, settings: DictionarySettings) -> str:
    described = asdict(settings)
    echoes = dict(zip(Contrast, settings.echoes, strict=True))
    del described["echoes"]
    parts = (CACHE_VERSION, sequence.digest(), described, echoes)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:24]


def _shapes(sequence: Sequence, settings: DictionarySettings) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor of a file."""
    atoms, coefficients = len(lookup_table(settings)), settings.coefficients
    return {
        "t1": (atoms,),
        "t2": (atoms,),
        "basis": (sequence.n_frames, coefficients),
        "mrf_atoms": (atoms, coefficients),
        "mri_atoms": (atoms, len(Contrast)),
    }


def _read(path: Path, shapes: dict[str, tuple[int, ...]]) -> Dictionary | None:
    """Read a dictionary; None if the file does not exist or is damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            kept = float(file.metadata()["energy_kept"])
            # Copies, because the file may be removed while its pages are mapped.
            tensors = {name: file.get_tensor(name).clone() for name in shapes}
        for name, shape in shapes.items():
            if tuple(tensors[name].shape) != shape or not tensors[name].isfinite().all():
                raise ValueError(f"{name} has another shape or is not finite")
    except FileNotFoundError:
        return None
    except Exception as error:  # damaged files cause many types of errors
        logger.warning("cached dictionary %s is unreadable (%s) and is built again", path, error)
        return None
    note_use(path)
    t1, t2, basis, mrf, mri = tensors.values()
    return Dictionary(LookupTable(t1, t2), basis, mrf, mri, kept)


def _keep(name: str, dictionary: Dictionary) -> None:
    """Write a dictionary to the cache; failures are only logged."""
    choice = cache_choice()
    if choice.folder is None or (choice.refused and os.environ.get("MRI2QMAP_CACHE")):
        logger.warning("the dictionary cannot be cached in %s", "; ".join(choice.refused))
    if choice.folder is None:
        return
    try:
        _write(choice.folder / name, dictionary)
        make_room(choice.folder, choice.folder / name)
    except Exception as error:  # a full disk is a SafetensorError, not an OSError
        logger.warning("the dictionary cannot be cached in %s: %s", choice.folder, error)


def _write(path: Path, dictionary: Dictionary) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {
        "t1": dictionary.lut.t1,
        "t2": dictionary.lut.t2,
        "basis": dictionary.basis,
        "mrf_atoms": dictionary.mrf_atoms,
        "mri_atoms": dictionary.mri_atoms,
    }
    with atomic_write(path) as part:  # another process never reads an incomplete file
        save_file(tensors, part, {"energy_kept": repr(dictionary.energy_kept)})
