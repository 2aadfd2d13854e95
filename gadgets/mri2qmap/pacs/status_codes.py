"""What the status of a C-STORE response, or the failure reason of STOW-RS, means for an object.

The codes are those of PS3.7 annex C and PS3.4 table B.2-1; STOW-RS uses the same (PS3.18 table
10.5.3-2).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mri2qmap.pacs.entries import State

if TYPE_CHECKING:
    from pydicom import Dataset

SUCCESS = 0x0000
_PROCESSING_FAILURE = 0x0110
_LATER = {0x0110: "processing failure", 0x0213: "resource limitation"}
_REFUSED = {
    0x0106: "invalid attribute value",
    0x0111: "duplicate SOP instance: the peer has an object with this UID",
    0x0117: "invalid SOP instance",
    0x0122: "SOP class not supported",
    0x0124: "not authorised",
    0x0210: "duplicate invocation",
    0x0211: "unrecognised operation",
    0x0212: "mistyped argument",
}
_WARNINGS = {
    0x0001: "stored with a warning",
    0x0107: "attribute list error",
    0x0116: "attribute value out of range",
    0xB000: "data elements were changed by the peer",
    0xB006: "data elements were discarded by the peer",
    0xB007: "data set does not match the SOP class",
}
_FAMILIES = (
    (0xA700, 0xA7FF, State.PENDING, "out of resources"),
    (0xA900, 0xA9FF, State.REFUSED, "data set does not match the SOP class"),
    (0xB000, 0xBFFF, State.SENT, "stored with a warning"),
    (0xC000, 0xCFFF, State.REFUSED, "the peer cannot understand the object"),
)


def state_after(status: int) -> tuple[State, str]:
    """Return the state of an object after a status, and what the status says.

    Parameters
    ----------
    status
        The status. A failure that may pass leaves the object pending; an unknown one refuses it.
    """
    if status == SUCCESS:
        return State.SENT, ""
    code = f"status {status:04X}H"
    for known, state in (
        (_LATER, State.PENDING),
        (_REFUSED, State.REFUSED),
        (_WARNINGS, State.SENT),
    ):
        if status in known:
            return state, f"{known[status]} ({code})"
    for first, last, state, words in _FAMILIES:
        if first <= status <= last:
            return state, f"{words} ({code})"
    return State.REFUSED, f"unknown failure ({code})"


def stated(content: Dataset) -> tuple[set[str], dict[str, int]]:
    """Return the UIDs that a peer has stored, and the reason of each failure by UID.

    Parameters
    ----------
    content
        A STOW-RS response or a report of storage commitment, whatever the peer has put into it.
    """
    stored = {_uid(item) for item in _items(content, "ReferencedSOPSequence")}
    failed = {_uid(item): _reason(item) for item in _items(content, "FailedSOPSequence")}
    return stored, failed


def _items(content: Dataset, name: str) -> list[Dataset]:
    from pydicom import Dataset

    value: Any = content.get(name)
    try:
        return [item for item in value or () if isinstance(item, Dataset)]
    except TypeError:  # not a sequence
        return []


def _uid(item: Dataset) -> str:
    return str(item.get("ReferencedSOPInstanceUID"))


def _reason(item: Dataset) -> int:
    try:
        return int(item.get("FailureReason") or _PROCESSING_FAILURE)
    except (TypeError, ValueError):
        return _PROCESSING_FAILURE
