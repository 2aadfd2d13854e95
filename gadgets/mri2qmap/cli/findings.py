"""Lines of what `mri2qmap doctor` finds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's report.

    Attributes
    ----------
    topic
        What was looked for.
    found
        What is there; None when it is not.
    missing_for
        What cannot be done without it, and how to get it.
    needed
        Whether the main job needs it.
    """

    topic: str
    found: str | None
    missing_for: str = ""
    needed: bool = False
