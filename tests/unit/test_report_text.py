from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.report.text import HIDDEN, plain


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("k_proj.bias", "k_proj.bias"),
        ("你好 ñ é 🎧", "你好 ñ é 🎧"),
        ("a\nb\r\n\tc", r"a\nb\r\n\tc"),
        ("\x1b[2J\x00\x7f\x9b", r"\x1b[2J\x00\x7f\x9b"),
        ("\u202egnp.exe", r"\u202egnp.exe"),
        ("\u200b\ufeff\u2028\uffff\ud800", r"\u200b\ufeff\u2028\uffff\ud800"),
        ("\U000e0041", r"\U000e0041"),
        ("", ""),
    ],
)
def test_shows_what_is_hidden(text: str, shown: str) -> None:
    assert plain(text) == shown


@given(st.text(st.characters()))
def test_nothing_hidden_is_left(text: str) -> None:
    shown = plain(text)
    assert not {unicodedata.category(char) for char in shown} & HIDDEN
    assert plain(shown) == shown
