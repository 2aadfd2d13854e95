"""Time and memory that the simulation of the dictionaries of a scan takes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from mri2qmap.mrsignal.dictionary import SUBSPACE_TABLE, lookup_table
from mri2qmap.mrsignal.field_dictionary import SIMULATED_FIELDS
from mri2qmap.mrsignal.matching_settings import MatchingSettings
from mri2qmap.pipeline.findings import scan_error
from mri2qmap.pipeline.scan_header import ScanInfo
from mri2qmap.pipeline.scan_limits import SCAN_LIMITS

if TYPE_CHECKING:
    from mri2qmap.pipeline.pipeline_file import GadgetNode


def refuse_long_simulations(scan: ScanInfo, nodes: Iterable[GadgetNode]) -> None:
    """Refuse a scan whose dictionaries would take hours.

    Parameters
    ----------
    scan
        Scan header.
    nodes
        Gadgets of the pipeline with their settings.

    Raises
    ------
    Mri2QmapError
        If the simulation has more than `ScanLimits.states`; the message names the gadget.
    """
    n_frames = scan.sequence.n_frames
    for node in nodes:
        if not isinstance(node.settings, MatchingSettings):
            continue
        pairs = _pairs(node.settings)
        fields = SIMULATED_FIELDS if node.settings.b1_map else 1
        # a configuration state per frame and order; orders beyond half of the train do not matter
        states = pairs * fields * n_frames**2 // 4
        if states > SCAN_LIMITS.states:
            raise scan_error(
                "simulation-too-long",
                f"gadget {node.name}",
                f"the dictionary of {pairs} pairs of T1 and T2"
                f"{f' at {fields} fields' if fields > 1 else ''} for {n_frames} frames needs "
                f"{states:.1e} steps of simulation",
                f"at most {SCAN_LIMITS.states:.1e} are supported",
                "use a coarser atom_step",
            )


def simulation_bytes(scan: ScanInfo, nodes: Iterable[GadgetNode]) -> int:
    """Return the memory of the simulation of subspace and dictionary [bytes].

    Parameters
    ----------
    scan
        Scan header.
    nodes
        Known gadgets of the pipeline with their settings.
    """
    known = [node.settings for node in nodes if isinstance(node.settings, MatchingSettings)]
    pairs = max((_pairs(settings) for settings in known), default=_pairs(MatchingSettings()))
    of_subspace = len(lookup_table(SUBSPACE_TABLE))
    n_frames = scan.sequence.n_frames
    signals = 2 * 4 * pairs + (4 + 2 * 8) * of_subspace  # parts and whole; single and double
    return n_frames * signals + 3 * 8 * min(n_frames, of_subspace) ** 2


def _pairs(settings: MatchingSettings) -> int:
    return len(lookup_table(settings.dictionary(1)))
