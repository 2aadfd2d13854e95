"""Words in messages."""

from __future__ import annotations


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, in the plural unless it is 1."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def shortened(text: str, most: int = 80) -> str:
    """Return a text that someone gave, without what is beyond `most` characters."""
    return text if len(text) <= most else f"{text[:most]}..."
