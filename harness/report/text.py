r"""Makes text from a report safe to show: control characters become escapes that can be seen.

Transcripts, log lines and error messages come from models, checkpoints and other processes. Shown as they
are, they could clear the terminal, hide the verdict or make the XML invalid.
"""

from __future__ import annotations

import unicodedata

#: Control, format (bidirectional and zero-width), surrogate, private use, unassigned, line and paragraph
#: separators. This holds every character that XML 1.0 forbids.
HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
NAMED = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}


def plain(text: str) -> str:
    r"""Return ``text`` as one printable line: ``\x1b`` instead of the escape character, and so on."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escaped(char) if unicodedata.category(char) in HIDDEN else char for char in text)


def _escaped(char: str) -> str:
    code = ord(char)
    if char in NAMED:
        return NAMED[char]
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
