"""The search for the first good release: the right answer, with the fewest tests, none made twice."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.releases.bisection import describe, find_first_good

if TYPE_CHECKING:
    from harness.releases.bisection import Answer, Found


def search(number: int, *, good_from: int, errors: frozenset[int] = frozenset()) -> tuple[Found, list[int]]:
    """Search releases ``0`` to ``number - 1``, good from ``good_from`` on; also return what was tested."""
    tested: list[int] = []

    def test(version: str) -> Answer:
        index = int(version)
        tested.append(index)
        if index in errors:
            return "error"
        return "good" if index >= good_from else "bad"

    return find_first_good([str(index) for index in range(number)], test), tested


@st.composite
def cases(draw: st.DrawFn) -> tuple[int, int, frozenset[int]]:
    number = draw(st.integers(1, 40))
    errors = draw(st.frozensets(st.integers(0, number - 1)))
    return number, draw(st.integers(0, number)), errors


@pytest.mark.parametrize("number", range(1, 34))
def test_every_answer_with_the_fewest_tests(number: int) -> None:
    for first in range(number + 1):
        found, tested = search(number, good_from=first)
        assert found.conclusive
        assert found.first_good == (str(first) if first < number else None)
        assert found.last_bad == (str(first - 1) if first else None)
        assert found.kind == {0: "all good", number: "none good"}.get(first, "first good")
        assert found.tested == len(tested) == len(set(tested)) <= math.ceil(math.log2(number + 1))
        assert found.untestable == ()


@given(cases())
def test_with_some_that_cannot_be_tested(case: tuple[int, int, frozenset[int]]) -> None:
    number, first, errors = case
    found, tested = search(number, good_from=first, errors=errors)
    assert len(tested) == len(set(tested)) == found.tested, "tested twice"
    able = [index for index in range(number) if index not in errors]
    good = [index for index in able if index >= first]
    bad = [index for index in able if index < first]
    # Nothing better can be known: the newest bad one and the oldest good one of those that can be tested.
    assert found.last_bad == (str(bad[-1]) if bad else None)
    assert found.first_good == (str(good[0]) if good else None)
    between = range(bad[-1] + 1 if bad else 0, good[0] if good else number)
    assert found.untestable == tuple(map(str, between))
    assert found.conclusive == (not between)
    # Those that cannot be tested cost one test each at most.
    assert found.tested <= math.ceil(math.log2(number + 1)) + len(errors)


@given(st.integers(1, 40), st.data())
def test_an_error_elsewhere_does_not_change_the_answer(number: int, data: st.DataObject) -> None:
    first = data.draw(st.integers(0, number))
    away = [index for index in range(number) if index not in {first - 1, first}]
    errors = data.draw(st.frozensets(st.sampled_from(away))) if away else frozenset()
    found, _ = search(number, good_from=first, errors=errors)
    assert found.conclusive
    assert found.first_good == (str(first) if first < number else None)


def test_the_nearest_neighbour_is_next() -> None:
    _, tested = search(7, good_from=7, errors=frozenset({3}))
    assert tested[:2] == [3, 2]
    _, tested = search(7, good_from=7, errors=frozenset({3, 2}))
    assert tested[:3] == [3, 2, 4]


def test_nothing_to_search() -> None:
    with pytest.raises(ValueError, match="nothing to search"):
        find_first_good([], lambda _version: "good")


@pytest.mark.parametrize(
    ("number", "first", "errors", "where"),
    [
        (4, 2, (), "first good release: 2 (1 is red, 2 is green; 2 releases tested)"),
        (1, 0, (), "all good: the oldest, 0, is green (1 release tested)"),
        (3, 3, (), "none good: the newest, 2, is red (2 releases tested)"),
    ],
)
def test_an_answer_in_words(number: int, first: int, errors: tuple[int, ...], where: str) -> None:
    assert describe(search(number, good_from=first, errors=frozenset(errors))[0]) == where


@pytest.mark.parametrize(
    ("number", "first", "errors", "where"),
    [
        (
            4,
            2,
            (1, 2),
            "the first good release is after 0, which is red, and at 3, which is green, or before",
        ),
        (2, 2, (1,), "the first good release is after 0, which is red"),
        (2, 0, (0,), "the first good release is at 1, which is green, or before"),
        (2, 0, (0, 1), "nothing is known"),
    ],
)
def test_no_answer_in_words(number: int, first: int, errors: tuple[int, ...], where: str) -> None:
    listed = ", ".join(map(str, errors))
    assert describe(search(number, good_from=first, errors=frozenset(errors))[0]) == (
        f"no answer: {where}; could not be tested: {listed} ({number} releases tested)"
    )
