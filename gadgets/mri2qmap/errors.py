"""The one exception that a user's input can cause."""

from __future__ import annotations


class Mri2QmapError(Exception):
    """Wrong input, settings or environment; the message says what, where, why and what to do."""
