"""The contract of a fix for the missing k bias, and which of it an installed vLLM's helper keeps."""

from __future__ import annotations

import json
import subprocess
import tomllib
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from collections.abc import Sequence

_MAIN = Path(__file__).with_name("contract_main.py")
_CASES = Path(__file__).with_name("zero_bias_cases.toml")
#: What the parts of a stored projection look like; the second axis of a plain weight is not its rows.
_KINDS: dict[str, tuple[str, tuple[int, ...]]] = {
    "weight": ("float32", (4, 6)), "weight_packed": ("int32", (4, 1)), "weight_scale": ("float32", (4, 1)),
    "weight_shape": ("int64", (2,)), "qweight": ("int32", (1, 4)), "qzeros": ("int32", (1, 1)),
    "scales": ("float32", (1, 4)), "g_idx": ("int32", (6,)), "bias": ("float32", (4,)),
}  # fmt: skip


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ContractCase(_Record):
    """One case: streams of names, and what each bias has to hold in the end."""

    name: str
    why: str
    calls: tuple[tuple[str, ...], ...]
    want: dict[str, Literal["real", "zeros"]]


class _Cases(_Record):
    case: tuple[ContractCase, ...]


class CaseResult(_Record):
    """What became of one case; ``message`` says what is wrong."""

    name: str
    ok: bool
    message: str


class HelperContract(_Record):
    """An installed helper against every case; ``problem`` where it could not be asked at all."""

    version: str
    signature: str
    cases: tuple[CaseResult, ...]
    problem: str


class Emission(_Record):
    """One weight that came out of a fix: its name, its shape, its values in order."""

    name: str
    shape: tuple[int, ...]
    values: tuple[float, ...]


class _Call(_Record):
    error: str
    weights: tuple[Emission, ...]


class _Answer(_Record):
    """What :mod:`harness.backends.contract_main` writes; ``cases`` is empty where there is a problem."""

    version: str
    signature: str
    problem: str
    cases: dict[str, tuple[_Call, ...]]


def load_cases() -> tuple[ContractCase, ...]:
    """The cases, from their data file."""
    return _Cases.model_validate(tomllib.loads(_CASES.read_text(encoding="utf-8"))).case


def offered(name: str) -> dict[str, Any]:
    """A weight of a stream, as the data file names it: dtype, shape, and a value for all its elements."""
    dtype, shape = _KINDS[name.rpartition(".")[2]]
    return {"name": name, "dtype": dtype, "shape": list(shape), "value": 1}


def judge_case(case: ContractCase, calls: Sequence[Sequence[Emission]]) -> CaseResult:
    """Compare what came out of a fix with what a case wants.

    A loader keeps what is written last, so that is what counts; but a bias may be added only once, and
    nothing else may be added or lost.
    """
    problems = []
    final: dict[str, Emission] = {}
    added: dict[str, int] = {}
    for names, emissions in zip(case.calls, calls, strict=True):
        came = [emission.name for emission in emissions]
        problems += [f"{name} was lost" for name in names if name not in came]
        for emission in emissions:
            final[emission.name] = emission
        for name in set(came):
            added[name] = added.get(name, 0) + came.count(name) - names.count(name)
    (rows,) = _KINDS["bias"][1]
    for name, count in sorted(added.items()):
        if count > 1:
            problems.append(f"{name} was added {count} times")
        if count > 0 and name not in case.want:
            asked = any(name in names for names in case.calls)
            what = "came again" if asked else "was added, which is no bias of this checkpoint"
            problems.append(f"{name} {what}")
    for name, want in case.want.items():
        came_last = final.get(name)
        value = 1.0 if want == "real" else 0.0
        if came_last is None:
            problems.append(f"{name} never came: it stays uninitialised")
        elif came_last.shape != (rows,):
            problems.append(f"{name} has shape {list(came_last.shape)}, expected [{rows}]")
        elif set(came_last.values) != {value}:
            kept = "the checkpoint's own values were overwritten" if want == "real" else "it is not zero"
            problems.append(f"{name}: {kept}")
    return CaseResult(name=case.name, ok=not problems, message="; ".join(problems))


def check_helper(interpreter: str, *, timeout: float = 300.0) -> HelperContract:
    """Run every case on the helper of the vLLM that ``interpreter`` holds; never raises for what it does."""
    cases = load_cases()
    asked = {case.name: [[offered(name) for name in stream] for stream in case.calls] for case in cases}
    with TemporaryDirectory() as folder:
        question, reply = Path(folder, "cases.json"), Path(folder, "answer.json")
        question.write_text(json.dumps(asked), encoding="utf-8")
        said = ""
        try:
            done = subprocess.run(
                [interpreter, str(_MAIN), str(question), str(reply)],
                capture_output=True,
                text=True,
                errors="replace",
                timeout=timeout,
                check=False,
            )
            said = (done.stderr.strip().splitlines() or [""])[-1]
            answer = _Answer.model_validate(json.loads(reply.read_text(encoding="utf-8")))
        except (OSError, ValueError, subprocess.TimeoutExpired) as error:
            return HelperContract(version="", signature="", cases=(), problem=said or str(error))
    results = []
    for case in () if answer.problem else cases:
        calls = answer.cases.get(case.name, ())
        if error_text := next((call.error for call in calls if call.error), ""):
            results.append(CaseResult(name=case.name, ok=False, message=f"raised {error_text}"))
        elif len(calls) != len(case.calls):
            message = f"{len(calls)} of {len(case.calls)} calls were answered"
            results.append(CaseResult(name=case.name, ok=False, message=message))
        else:
            results.append(judge_case(case, [call.weights for call in calls]))
    return HelperContract(
        version=answer.version, signature=answer.signature, cases=tuple(results), problem=answer.problem
    )
