"""Bounds of scans, and of the simulation of their dictionaries.

They hold for scans in files and from peers alike. What they allow is well beyond any MR
fingerprinting scan; what they refuse would take hours or all memory before its first image.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ScanLimits:
    """Largest scan.

    Attributes
    ----------
    frames
        Frames of a readout group, 500 to 3000 in published scans. 8192 at the shortest plausible TR
        take longer than 4 s; at 5 ms, 40 s without another inversion, after which the magnetisation
        of all tissues is in its steady state.
    groups
        Readout groups: the counters of ISMRMRD have 16 bits.
    readouts
        Frames times groups. A million readouts of 5 ms take 87 minutes.
    unannounced
        Readouts of a scan whose header does not announce as many; 131,072 of 5 ms take 11 minutes.
    side
        Voxels along an axis; 2048 of the finest plausible ones, 0.3 mm, are 0.6 m.
    voxels
        Voxels of the volume, 1024^3.
    coils
        Receive channels; the largest arrays have 128, some prototypes 256.
    states
        Pairs of T1 and T2 times configuration states in the simulation of a dictionary. The default
        table for 8192 frames and a B1 map takes 10^12, an hour of one processor core; for 1000
        frames without a map 10^9.
    """

    frames: int = 2**13
    groups: int = 2**16
    readouts: int = 2**20
    unannounced: int = 2**17
    side: int = 2**11
    voxels: int = 2**30
    coils: int = 2**10
    states: int = 2**40


SCAN_LIMITS = ScanLimits()
