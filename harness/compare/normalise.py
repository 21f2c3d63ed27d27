"""One normaliser for all legs and for the truth."""

from __future__ import annotations

import unicodedata
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

#: Written without spaces between words: scored by character.
UNSPACED = frozenset({"zh", "ja", "yue"})


def is_unspaced(language: str) -> bool:
    """Whether a language, such as ``zh-CN``, is scored by character alone."""
    return _primary(language) in UNSPACED


def normalise(text: str, *, language: str) -> str:
    """Bring a transcript into the form that is scored.

    English goes through Whisper's English normaliser (package whisper-normalizer). Chinese and Japanese
    lose compatibility forms (NFKC), spaces and punctuation. Other languages: NFKC, lower case, no
    punctuation, single spaces.
    """
    language = _primary(language)
    if language == "en":
        return str(_english()(text)).strip()
    text = unicodedata.normalize("NFKC", text).casefold()
    kept = "".join(
        char if not unicodedata.category(char).startswith(("P", "S", "C")) else " " for char in text
    )
    kept = "".join(kept.split()) if language in UNSPACED else " ".join(kept.split())
    # Once more: what stood apart is neighbours now, such as a kana and its voicing mark.
    return unicodedata.normalize("NFKC", kept)


def _primary(language: str) -> str:
    return language.lower().split("-")[0]


@cache
def _english() -> Callable[[str], str]:
    from whisper_normalizer.english import EnglishTextNormalizer

    return EnglishTextNormalizer()  # type: ignore[no-any-return]
