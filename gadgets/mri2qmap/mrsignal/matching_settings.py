"""Settings shared by the gadgets that match dictionaries."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mri2qmap.machine.file_access import InputFile
from mri2qmap.machine.value_checks import refuse_unless_one_of
from mri2qmap.mrsignal.dictionary import DictionarySettings, Search
from mri2qmap.mrsignal.field_dictionary import MOST_LEVELS
from mri2qmap.mrsignal.group_matching import GroupSearch
from mri2qmap.mrsignal.matching import exact_search
from mri2qmap.mrsignal.synthesis import DEFAULT_SYNTHESIS, SpinEcho, SpinEchoes

SearchName = Literal["exact", "groups"]

SHARED = (
    "atom_step",
    "b1",
    "b1_map",
    "tr_t1w",
    "te_t1w",
    "tr_t2w",
    "te_t2w",
    "tr_pdw",
    "te_pdw",
)
"""Settings that must be equal in all gadgets of a pipeline, because they describe the scan and the
tissue parameters. The settings of the search may differ."""

_T1W, _T2W, _PDW = DEFAULT_SYNTHESIS


@dataclass(frozen=True)
class MatchingSettings:
    """Settings of dictionary matching; those in `SHARED` must be equal throughout a pipeline.

    Attributes
    ----------
    atom_step
        Spacing of T1 and T2 in the lookup table (ratio of neighbours minus one). The maps are
        interpolated between its values.
    b1
        Relative transmit field of the whole volume.
    b1_map
        Instead: a NIfTI file of the relative transmit field, 1 where the nominal flip angles are
        reached, see `mri2qmap.files.b1_map`. It is read where the gadget runs. Empty: none.
    search
        "exact": all atoms are compared; "groups": fast group matching, which only compares the
        atoms of groups similar to the signal.
    groups, group_threshold
        For fast group matching: number of groups, and the fraction of the best group's score above
        which other groups are searched.
    tr_t1w, te_t1w, tr_t2w, te_t2w, tr_pdw, te_pdw
        Repetition and echo times of the spin echoes as which the weighted images are synthesised
        [s], see `check_echoes`.
    """

    atom_step: float = 0.08
    b1: float = 1.0
    b1_map: InputFile = ""
    search: SearchName = "exact"
    groups: int = 150
    group_threshold: float = 0.99
    tr_t1w: float = _T1W.repetition_time
    te_t1w: float = _T1W.echo_time
    tr_t2w: float = _T2W.repetition_time
    te_t2w: float = _T2W.echo_time
    tr_pdw: float = _PDW.repetition_time
    te_pdw: float = _PDW.echo_time

    def __post_init__(self) -> None:
        refuse_unless_one_of(self, "search", SearchName)
        if self.b1_map and self.b1 != 1:
            raise ValueError(f"give b1_map or b1, not both; b1 is {self.b1:g}")
        GroupSearch(self.groups, self.group_threshold)  # validates the values
        self.dictionary(1)

    def input_files(self) -> dict[str, Path]:
        """Return the input files by the property that names them."""
        return {"b1_map": Path(self.b1_map)} if self.b1_map else {}

    @property
    def echoes(self) -> SpinEchoes:
        """Spin echoes of the contrasts."""
        return (
            SpinEcho(self.tr_t1w, self.te_t1w),
            SpinEcho(self.tr_t2w, self.te_t2w),
            SpinEcho(self.tr_pdw, self.te_pdw),
        )

    def dictionary(self, coefficients: int) -> DictionarySettings:
        """Return the settings of the dictionary."""
        return DictionarySettings(
            step=self.atom_step, b1=self.b1, coefficients=coefficients, echoes=self.echoes
        )

    def searcher(self) -> Search:
        """Return the search function; a group search caches its groups."""
        if self.search == "groups":
            # Matching with and without images: two groupings for each level of a map.
            kept = {"cache_size": 2 * MOST_LEVELS} if self.b1_map else {}
            return GroupSearch(self.groups, self.group_threshold, **kept)
        return exact_search
