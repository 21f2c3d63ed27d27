"""Finds the first good release with the fewest tests, even where some cannot be tested.

Good is taken to last: once a release is good, all later ones are. With ``n`` releases there are ``n + 1``
answers, "none is good" included, so that ``ceil(log2(n + 1))`` tests are enough.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Answer = Literal["good", "bad", "error"]
FoundKind = Literal["first good", "all good", "none good", "between"]


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a search came to.

    ``last_bad`` and ``first_good`` are the nearest releases known to be so, ``None`` where there is none;
    ``untestable`` are those between them, of which every one was an error. ``tested`` counts tests, errors
    among them.
    """

    kind: FoundKind
    last_bad: str | None
    first_good: str | None
    untestable: tuple[str, ...]
    tested: int

    @property
    def conclusive(self) -> bool:
        """Whether it is known where good begins."""
        return self.kind != "between"


def find_first_good(versions: Sequence[str], test: Callable[[str], Answer]) -> Found:
    """Search ``versions``, oldest first; none is tested twice.

    Args:
        versions: What to search; at least one.
        test: Says of one whether it is good. After ``error`` the nearest one not yet tested is next.

    Raises:
        ValueError: there is nothing to search.
    """
    if not versions:
        msg = "nothing to search"
        raise ValueError(msg)
    # The first good one is among versions[low:high + 1], where versions[len(versions)] stands for none.
    low, high = 0, len(versions)
    errors: set[int] = set()
    tested = 0
    while left := [index for index in range(low, high) if index not in errors]:
        middle = (low + high) // 2
        # Of two equally near, the older one: it has been waited for longer.
        index = min(left, key=lambda index: (abs(index - middle), index))
        tested += 1
        match test(versions[index]):
            case "good":
                high = index
            case "bad":
                low = index + 1
            case "error":
                errors.add(index)
    kind: FoundKind = "first good"
    if low < high:
        kind = "between"
    elif high == 0:
        kind = "all good"
    elif low == len(versions):
        kind = "none good"
    return Found(
        kind=kind,
        last_bad=versions[low - 1] if low else None,
        first_good=versions[high] if high < len(versions) else None,
        untestable=tuple(versions[low:high]),
        tested=tested,
    )


def describe(found: Found) -> str:
    """Return the answer as one line."""
    tests = f"{found.tested} release{'' if found.tested == 1 else 's'} tested"
    match found.kind:
        case "first good":
            good, bad = found.first_good, found.last_bad
            return f"first good release: {good} ({bad} is red, {good} is green; {tests})"
        case "all good":
            return f"all good: the oldest, {found.first_good}, is green ({tests})"
        case "none good":
            return f"none good: the newest, {found.last_bad}, is red ({tests})"
    ends = [f"after {found.last_bad}, which is red"] if found.last_bad else []
    ends += [f"at {found.first_good}, which is green, or before"] if found.first_good else []
    where = f"the first good release is {', and '.join(ends)}" if ends else "nothing is known"
    return f"no answer: {where}; could not be tested: {', '.join(found.untestable)} ({tests})"
