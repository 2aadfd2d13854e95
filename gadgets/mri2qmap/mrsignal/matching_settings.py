"""What the gadgets that match have in common: the table, and how it is searched."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from mri2qmap.mrsignal.dictionary import DictionarySettings
from mri2qmap.mrsignal.group_matching import GroupSearch
from mri2qmap.mrsignal.matching import Search, exact_search

SearchName = Literal["exact", "groups"]


@dataclass(frozen=True)
class MatchingSettings:
    """Settings of dictionary matching.

    Attributes
    ----------
    atom_step
        Spacing of T1 and T2 in the lookup table (ratio of neighbours minus one).
    b1
        Relative transmit field.
    search
        "exact": all atoms are compared; "groups": fast group matching, which compares the atoms of
        groups like the signal.
    groups, group_threshold
        Of fast group matching: number of groups, and the fraction of the best group's score that
        others must reach to be searched.
    """

    atom_step: float = 0.04
    b1: float = 1.0
    search: SearchName = "exact"
    groups: int = 150
    group_threshold: float = 0.99

    def __post_init__(self) -> None:
        if self.search not in get_args(SearchName):
            raise ValueError(
                f"search must be one of {', '.join(get_args(SearchName))}, got {self.search!r}"
            )
        GroupSearch(self.groups, self.group_threshold)  # these refuse what is out of range
        self.dictionary(1)

    def dictionary(self, coefficients: int) -> DictionarySettings:
        """Settings of the dictionary."""
        return DictionarySettings(step=self.atom_step, b1=self.b1, coefficients=coefficients)

    def searcher(self) -> Search:
        """The search, which remembers its groups."""
        if self.search == "groups":
            return GroupSearch(self.groups, self.group_threshold)
        return exact_search
