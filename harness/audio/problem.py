"""What is wrong with one clip, said so that all of them can be said together."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


class UnusableError(Exception):
    """One clip or one input cannot be used; caught here and collected with the others."""


def reason(error: Exception) -> str:
    """The text of an error without the path that the line begins with already."""
    if isinstance(error, OSError):
        return f"cannot be read: {error.strerror or error}"
    return str(error)


def shown(path: Path) -> str:
    """A path on one line and encodable, whatever bytes its name has."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in str(path))
