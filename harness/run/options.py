"""What a run is asked for, and the legs that follow from it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from harness.backends.availability import find_interpreter
from harness.backends.names import LegName
from harness.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from harness.backends.request import Attention
    from harness.compare.result import Role
    from harness.trace.schema import DType

DEFAULT_TIMEOUT = 1800.0


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What ``harness run`` was asked for. ``python`` maps a leg or a backend to an interpreter."""

    out: Path
    case: str = "glm_asr"
    reference: str = "hf-cpu"
    candidates: tuple[str, ...] = ("vllm-cpu",)
    require: tuple[str, ...] = ()
    dtype: DType = "float32"
    attention: Attention = "sdpa"
    checkpoint: str = "random"
    audio: tuple[Path, ...] = ()
    python: Mapping[str, str] = field(default_factory=dict)
    timeout: float = DEFAULT_TIMEOUT
    max_new_tokens: int | None = None
    seed: int = 0
    tolerances: Path | None = None
    command: tuple[str, ...] = ()


def read_interpreters(entries: Sequence[str]) -> dict[str, str]:
    """Read the values of ``--python``.

    Raises:
        InputError: one is not ``LEG=INTERPRETER``.
    """
    found = {}
    for entry in entries:
        leg, equals, interpreter = entry.partition("=")
        if not equals or not interpreter:
            msg = f"--python {entry!r}: expected LEG=INTERPRETER, e.g. vllm-cpu=/venvs/mine/bin/python"
            raise InputError(msg)
        found[leg] = interpreter
    return found


@dataclass(frozen=True, kw_only=True)
class Leg:
    """One capture to do."""

    name: LegName
    role: Role
    required: bool
    interpreter: str


def plan_legs(options: RunOptions, *, single: bool = False) -> tuple[Leg, ...]:
    """Take the legs' names apart and find their interpreters: reference first, then candidates.

    A leg named in ``require`` and nowhere else is a candidate too. ``single`` is for capturing the
    reference alone.

    Raises:
        InputError: an unknown leg, the same leg twice, or an interpreter that is not there.
    """
    names = [options.reference, *options.candidates]
    names += [name for name in dict.fromkeys(options.require) if name not in names]
    if len(names) == 1 and not single:
        msg = "nothing to compare: give at least one --candidate"
        raise InputError(msg)
    if twice := sorted({name for name in names if names.count(name) > 1}):
        msg = f"leg {twice[0]} is named twice; tell legs of one backend apart with a label: {twice[0]}@LABEL"
        raise InputError(msg)
    if unknown := sorted(set(options.python) - set(names) - {LegName.parse(name).backend for name in names}):
        msg = f"--python {unknown[0]}=…: no such leg in this run, its legs are {', '.join(names)}"
        raise InputError(msg)
    legs = []
    for name in names:
        parsed = LegName.parse(name)
        given = options.python.get(name, options.python.get(parsed.backend))
        legs.append(
            Leg(
                name=parsed,
                role="reference" if name == options.reference else "candidate",
                required=name == options.reference or name in options.require,
                interpreter=find_interpreter(given),
            )
        )
    return tuple(legs)
