"""Signal models: sequence, extended phase graphs, dictionary, synthesis, matching."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mri2qmap.machine.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from mri2qmap.mrsignal.dictionary import (
        Dictionary,
        DictionarySettings,
        LookupTable,
        build_dictionary,
        load_dictionary,
    )
    from mri2qmap.mrsignal.epg import fisp_signal
    from mri2qmap.mrsignal.field_dictionary import FieldDictionary, load_field_dictionary
    from mri2qmap.mrsignal.group_matching import GroupSearch
    from mri2qmap.mrsignal.matching import Match, exact_search, match
    from mri2qmap.mrsignal.matching_settings import MatchingSettings
    from mri2qmap.mrsignal.sequence import Sequence, default_sequence
    from mri2qmap.mrsignal.subspace import temporal_subspace
    from mri2qmap.mrsignal.synthesis import Contrast, SpinEcho, synthesise
    from mri2qmap.mrsignal.uncertainty import match_uncertainty

__all__ = [
    "Contrast",
    "Dictionary",
    "DictionarySettings",
    "FieldDictionary",
    "GroupSearch",
    "LookupTable",
    "Match",
    "MatchingSettings",
    "Sequence",
    "SpinEcho",
    "build_dictionary",
    "default_sequence",
    "exact_search",
    "fisp_signal",
    "load_dictionary",
    "load_field_dictionary",
    "match",
    "match_uncertainty",
    "synthesise",
    "temporal_subspace",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "Contrast": "synthesis",
        "Dictionary": "dictionary",
        "DictionarySettings": "dictionary",
        "FieldDictionary": "field_dictionary",
        "GroupSearch": "group_matching",
        "LookupTable": "dictionary",
        "Match": "matching",
        "MatchingSettings": "matching_settings",
        "Sequence": "sequence",
        "SpinEcho": "synthesis",
        "build_dictionary": "dictionary",
        "default_sequence": "sequence",
        "exact_search": "matching",
        "fisp_signal": "epg",
        "load_dictionary": "dictionary",
        "load_field_dictionary": "field_dictionary",
        "match": "matching",
        "match_uncertainty": "uncertainty",
        "synthesise": "synthesis",
        "temporal_subspace": "subspace",
    },
)
