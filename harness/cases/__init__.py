"""The model families under test, by name. Adding a model is adding one file here and one line below."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.cases.glm_asr import GlmAsr
from harness.errors import InputError

if TYPE_CHECKING:
    from harness.cases.case import Case

CASES: dict[str, Case] = {case.name: case for case in (GlmAsr(),)}


def get_case(name: str) -> Case:
    """Return a Case by name.

    Raises:
        InputError: there is no such Case.
    """
    try:
        return CASES[name]
    except KeyError:
        msg = f"there is no case {name!r}; known cases: {', '.join(CASES)}"
        raise InputError(msg) from None
