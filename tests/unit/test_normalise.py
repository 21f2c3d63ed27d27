"""One form for what was said and what was heard."""
# ruff: noqa: RUF001 - characters that look alike are what is tested

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from harness.compare.normalise import UNSPACED, normalise

#: Any characters, and often those whose order and neighbours matter to Unicode's forms.
TEXT = st.text() | st.text(
    alphabet="aAßİΐé\u0301\u0308\u0345\u00ad\u200d \u3000\u3099かガｶﾞ가\u1100\u1161ﬁ，。½"
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello, World!", "hello world"),
        ("  It's   TWENTY-three  ", "it is 23"),
        ("twenty three dollars", "$23"),
        ("the year nineteen ninety nine", "the year 1999"),
        ("one hundred and five", "105"),
        ("Mr. Smith won't go", "mister smith will not go"),
        ("the colour grey", "the color gray"),
        ("Um, well, uh, yes.", "well yes"),
        ("[laughter] yes (sighs)", "yes"),
        ("café", "cafe"),
        ("- - -", ""),
        ("well... yes", "well yes"),
        ("", ""),
    ],
)
@pytest.mark.parametrize("language", ["en", "en-GB", "EN"])
def test_english(text: str, expected: str, language: str) -> None:
    assert normalise(text, language=language) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("你好，世界！", "你好世界"),
        ("你 好 世 界", "你好世界"),
        ("你好\u3000世界", "你好世界"),
        ("ＡＢＣ１２３", "abc123"),
        ("iPhone 手机。", "iphone手机"),
        ("《红楼梦》——曹雪芹", "红楼梦曹雪芹"),
        ("。、！？", ""),
    ],
)
@pytest.mark.parametrize("language", ["zh", "zh-CN", "yue"])
def test_chinese(text: str, expected: str, language: str) -> None:
    assert normalise(text, language=language) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("こんにちは、 世界。", "こんにちは世界"),
        ("ﾃﾚﾋﾞを見る", "テレビを見る"),
        ("「東京」・ラーメン", "東京ラーメン"),
        ("か\u3099", "が"),
        ("か\u00ad\u3099", "が"),
    ],
)
def test_japanese(text: str, expected: str) -> None:
    assert normalise(text, language="ja") == expected


@pytest.mark.parametrize(
    ("text", "language", "expected"),
    [
        ("Straße in GRÜẞE", "de", "strasse in grüsse"),
        ("Grüß Gott, Welt!", "de", "grüss gott welt"),
        ("gru\u0308n", "de-AT", "grün"),
        ("Wie geht's? Drei-vier.", "de", "wie geht s drei vier"),
        ("¿Qué tal, señor?", "es", "qué tal señor"),
        ("L'été à Paris", "fr", "l été à paris"),
        ("ﬁn", "fr", "fin"),
        ("नमस्ते दुनिया", "hi", "नमस्ते दुनिया"),
        ("a\tb\nc", "it", "a b c"),
        ("3 + 4 = 7 €", "de", "3 4 7"),
    ],
)
def test_other_languages(text: str, language: str, expected: str) -> None:
    assert normalise(text, language=language) == expected


@pytest.mark.parametrize("language", ["de", "ja", "zh"])
@given(text=TEXT)
@example(text="か\u00ad\u3099")
@example(text="e\u200d\u0301")
def test_idempotent(language: str, text: str) -> None:
    once = normalise(text, language=language)
    assert normalise(once, language=language) == once


@pytest.mark.parametrize("language", ["de", "ja", "zh"])
@given(text=TEXT)
def test_no_punctuation_no_stray_space(language: str, text: str) -> None:
    found = normalise(text, language=language)
    assert not {unicodedata.category(char)[0] for char in found if char != " "} & set("PSCZ")
    assert found == " ".join(found.split())
    assert language not in UNSPACED or " " not in found


@given(TEXT, st.sampled_from(["NFC", "NFD"]))
def test_form_of_unicode_does_not_matter(text: str, form: str) -> None:
    other = unicodedata.normalize(form, text)  # type: ignore[arg-type]
    assert normalise(other, language="zh") == normalise(text, language="zh")


@given(st.text(alphabet="你好世界安", min_size=1))
def test_spaces_between_characters_do_not_matter(text: str) -> None:
    assert normalise(" ".join(text), language="zh") == normalise(text, language="zh") == text
