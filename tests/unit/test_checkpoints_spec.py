"""The settings of a small checkpoint, as the command line gives them."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.cases import get_case
from harness.checkpoints.spec import NAME_SETTINGS, RandomSpec
from harness.errors import InputError

CASE = get_case("glm_asr")
NAMES = [parameter.name for parameter in CASE.parameters(CASE.small_configs({}))]
KEYS = ("seed", "dtype", "shards", *CASE.small_sizes, "k_bias", "tied", "order", *NAME_SETTINGS)


def parse(text: str) -> RandomSpec:
    return RandomSpec.parse(text, case=CASE)


def names(of: st.SearchStrategy[str]) -> st.SearchStrategy[tuple[str, ...]]:
    return st.lists(of, unique=True, max_size=3).map(tuple)


SPECS = st.builds(
    RandomSpec,
    seed=st.integers(0, 10**18 - 1),
    dtype=st.sampled_from(["float32", "bfloat16", "float16"]),
    shards=st.integers(1, 1 << 17),
    sizes=st.dictionaries(st.sampled_from(sorted(CASE.small_sizes)), st.integers(1, 1 << 17)),
    k_bias=st.sampled_from(["none", "all", "even"]),
    tied=st.booleans(),
    order=st.sampled_from(["published", "reversed", "by_name"]),
    extra=names(st.from_regex(r"[a-z_.0-9]+", fullmatch=True)),
    **{key: names(st.sampled_from(NAMES)) for key in NAME_SETTINGS if key != "extra"},
)


class TestRoundTrip:
    @given(SPECS)
    def test_the_text_of_a_spec_is_that_spec(self, spec: RandomSpec) -> None:
        assert parse(spec.text) == spec
        assert parse(spec.text).text == spec.text

    @given(st.data(), SPECS)
    def test_neither_order_nor_blanks_matter(self, data: st.DataObject, spec: RandomSpec) -> None:
        items = data.draw(st.permutations(spec.text.split(",")))
        text = " , ".join(item.replace("=", " = ").replace("+", " + ") for item in items)
        assert parse(text) == spec

    def test_the_default_is_no_text(self) -> None:
        assert RandomSpec().text == ""
        assert parse("seed=0,dtype=float32,shards=1,k_bias=none,tied=0,order=published").text == ""

    def test_every_setting(self) -> None:
        text = (
            "seed=1,dtype=bfloat16,shards=2,encoder_layers=3,k_bias=even,tied=1,order=by_name,"
            "without=norm.bias,extra=a.b+c,twice=norm.weight,shape=conv1.bias,cast=conv2.bias,"
            "nan=lm.norm.weight,inf=conv1.weight"
        )
        spec = parse(text)
        assert spec.text == text
        assert (spec.tied, spec.extra, spec.sizes) == (True, ("a.b", "c"), {"encoder_layers": 3})


class TestRefused:
    @given(key=st.sampled_from(KEYS), value=st.text(max_size=30))
    def test_any_value_is_read_or_refused(self, key: str, value: str) -> None:
        try:
            spec = parse(f"{key}={value}")
        except InputError as error:
            assert str(error).startswith("checkpoint random: ")  # noqa: PT017 - either end is right
        else:
            assert parse(spec.text) == spec

    @given(st.lists(st.tuples(st.sampled_from(KEYS), st.sampled_from(["", "1", "all", "a+b", "+", "="]))))
    def test_any_list_of_settings_is_read_or_refused(self, items: list[tuple[str, str]]) -> None:
        try:
            parse(",".join(f"{key}={value}" for key, value in items))
        except InputError as error:
            assert str(error).startswith("checkpoint random: ")  # noqa: PT017 - either end is right

    @given(
        st.text(max_size=20).filter(lambda key: "," not in key and key.partition("=")[0].strip() not in KEYS)
    )
    def test_unknown_key(self, key: str) -> None:
        if not key:
            return
        found = repr(key.partition("=")[0].strip())
        with pytest.raises(InputError, match=re.escape(f"unknown setting {found}; known: {', '.join(KEYS)}")):
            parse(key)

    @pytest.mark.parametrize("key", ["seed", "shards", "encoder_layers"])
    @pytest.mark.parametrize("value", ["9" * 5000, "0" * 30, str(10**18), "1e3"])
    def test_number_that_is_too_long(self, key: str, value: str) -> None:
        with pytest.raises(InputError, match=f"{key} takes a whole number from . to "):
            parse(f"{key}={value}")

    @pytest.mark.parametrize(
        ("key", "choices"),
        [
            ("k_bias", "none, all, even"),
            ("tied", "0, 1"),
            ("order", "published, reversed, by_name"),
        ],
    )
    @pytest.mark.parametrize("value", ["", "2", "ALL", "true", "odd"])
    def test_choice_that_is_none(self, key: str, choices: str, value: str) -> None:
        with pytest.raises(InputError, match=f"^checkpoint random: {key} '{value}' is not one of {choices}$"):
            parse(f"{key}={value}")

    @pytest.mark.parametrize("key", NAME_SETTINGS)
    @pytest.mark.parametrize("value", ["", "+", "a+", "+a", "a++b", " + "])
    def test_no_name(self, key: str, value: str) -> None:
        with pytest.raises(InputError, match=f"{key} takes one name or several joined by '\\+', found"):
            parse(f"{key}={value}")

    @pytest.mark.parametrize("key", NAME_SETTINGS)
    def test_a_name_again(self, key: str) -> None:
        with pytest.raises(InputError, match=f"{key} takes each name once, found 'a\\+b\\+a'"):
            parse(f"{key}=a+b+a")

    @pytest.mark.parametrize("key", NAME_SETTINGS)
    def test_names_in_two_places(self, key: str) -> None:
        """The latter would silently take a defect out of the checkpoint."""
        message = f"{key} is given twice; join its names by '+' after a single {key}="
        with pytest.raises(InputError, match=re.escape(message)):
            parse(f"{key}=a,seed=1,{key}=b")

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("seed=1,seed=2", RandomSpec(seed=2)),
            ("k_bias=all,k_bias=even", RandomSpec(k_bias="even")),
            ("tied=1,tied=0", RandomSpec()),
        ],
    )
    def test_a_number_or_choice_again_replaces(self, text: str, expected: RandomSpec) -> None:
        assert parse(text) == expected
