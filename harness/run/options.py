"""What a run is asked for, and the legs that follow from it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from harness.backends.availability import find_interpreter
from harness.backends.names import LegName
from harness.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from harness.backends.request import Attention
    from harness.compare.result import Role
    from harness.trace.schema import DType, Fill, LoaderState

DEFAULT_TIMEOUT = 1800.0


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What ``harness run`` was asked for.

    ``loader`` is the loader state of every vLLM leg, ``python`` maps a leg or a backend to an interpreter,
    and ``dual_poison`` captures every vLLM leg twice, over two fills of uninitialised memory.
    """

    out: Path
    case: str = "glm_asr"
    reference: str = "hf-cpu"
    candidates: tuple[str, ...] = ("vllm-cpu",)
    require: tuple[str, ...] = ()
    dtype: DType = "float32"
    attention: Attention = "sdpa"
    loader: LoaderState = "installed"
    dual_poison: bool = False
    checkpoint: str = "random"
    audio: tuple[Path, ...] = ()
    python: Mapping[str, str] = field(default_factory=dict)
    timeout: float = DEFAULT_TIMEOUT
    max_new_tokens: int | None = None
    seed: int = 0
    tolerances: Path | None = None
    command: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class AuditOptions:
    """What ``harness audit`` was asked for: legs that load a checkpoint, and no more."""

    out: Path
    legs: tuple[str, ...] = ("vllm-cpu",)
    case: str = "glm_asr"
    dtype: DType = "float32"
    attention: Attention = "sdpa"
    loader: LoaderState = "installed"
    dual_poison: bool = False
    checkpoint: str = "random"
    python: Mapping[str, str] = field(default_factory=dict)
    timeout: float = DEFAULT_TIMEOUT
    seed: int = 0
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
    loader: LoaderState = "installed"
    fill: Fill = "nan"


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
    legs = [
        replace(
            leg,
            role="reference" if str(leg.name) == options.reference else "candidate",
            required=str(leg.name) in {options.reference, *options.require},
        )
        for leg in find_legs(names, python=options.python, loader=options.loader)
    ]
    return with_twins(legs) if options.dual_poison and not single else tuple(legs)


def find_legs(names: Sequence[str], *, python: Mapping[str, str], loader: LoaderState) -> tuple[Leg, ...]:
    """Take legs' names apart and find their interpreters; each is required.

    Raises:
        InputError: an unknown leg, the same leg twice, an interpreter that is not there, or a loader state
            that no leg can be in.
    """
    if twice := sorted({name for name in names if names.count(name) > 1}):
        msg = f"leg {twice[0]} is named twice; tell legs of one backend apart with a label: {twice[0]}@LABEL"
        raise InputError(msg)
    parsed = [LegName.parse(name) for name in names]
    if unknown := sorted(set(python) - set(names) - {name.backend for name in parsed}):
        msg = f"--python {unknown[0]}=…: no such leg in this run, its legs are {', '.join(names)}"
        raise InputError(msg)
    if loader != "installed" and all(name.stack != "vllm" for name in parsed):
        msg = f"--loader {loader}: only a vLLM leg has a loader to change, the legs are {', '.join(names)}"
        raise InputError(msg)
    return tuple(
        Leg(
            name=name,
            role="candidate",
            required=True,
            interpreter=find_interpreter(python.get(str(name), python.get(name.backend))),
            loader=loader if name.stack == "vllm" else "installed",
        )
        for name in parsed
    )


def with_twins(legs: Sequence[Leg]) -> tuple[Leg, ...]:
    """Add to every vLLM leg the same over the finite fill: what differs in a bit depended on such memory.

    Raises:
        InputError: a leg has the name that a twin would get.
    """
    twins = [replace(leg, name=twin_name(leg.name), role="twin", fill="finite") for leg in legs
             if leg.name.stack == "vllm"]  # fmt: skip
    if taken := sorted({str(leg.name) for leg in legs} & {str(twin.name) for twin in twins}):
        msg = f"leg {taken[0]} has the name of a dual-poison twin; give it another label"
        raise InputError(msg)
    if not twins:
        msg = "--dual-poison: only a vLLM leg is loaded over fills, and there is none"
        raise InputError(msg)
    return (*legs, *twins)


def twin_name(name: LegName) -> LegName:
    """The name of a leg's twin: ``vllm-cpu@finite``, ``vllm-cpu@0.19.1+finite``."""
    label = f"{name.label}+finite" if name.label else "finite"
    return LegName(stack=name.stack, device=name.device, label=label)
