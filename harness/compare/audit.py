"""The load audit's verdict: every element came from the checkpoint, and all of the checkpoint was used."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from harness.checkpoints.expectation import not_as_expected
from harness.compare.plan import CONSUMED, EXPECTED, FINITE, ONCE, OTHERS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from harness.cases.case import Case, Configs, Parameter, Part, Stack
    from harness.compare.plan import PlannedCheck
    from harness.compare.result import CheckResult
    from harness.trace import Trace
    from harness.trace.schema import AuditedShard, LoadAudit

_MOST = 3


def compare_audit(
    checks: Iterable[PlannedCheck], *, trace: Trace, case: Case, configs: Configs
) -> list[CheckResult]:
    """Judge every planned check of a leg's load audit."""
    judge = _Judge(trace, case=case, configs=configs)
    special = {
        OTHERS: judge.others,
        CONSUMED: judge.consumed,
        ONCE: judge.once,
        EXPECTED: judge.expected,
        FINITE: judge.finite,
    }
    return [
        special[check.subject](check) if check.subject in special else judge.parameter(check)
        for check in checks
    ]


class _Judge:
    """One leg's audit, by canonical name."""

    def __init__(self, trace: Trace, *, case: Case, configs: Configs) -> None:
        self._trace = trace
        self._leg = trace.manifest.leg
        self._reference = trace.manifest.backend.startswith("hf")
        self._audit: LoadAudit = trace.audit
        self._case, self._configs = case, configs
        self._parameters: dict[str, Parameter] = {
            parameter.name: parameter for parameter in case.parameters(configs)
        }
        self._stack: Stack = "hf" if self._reference else "vllm"
        #: By parameter; of a quantised one, the shards that hold its parts.
        self._shards: dict[str, list[AuditedShard]] = {}
        for shard in self._audit.shards:
            parts = self._parts(shard.parameter)
            homes = [part.of for part in parts if shard.name in {None, part.name}]
            for name in homes or ([] if shard.name is None else [shard.name]):
                self._shards.setdefault(name, []).append(shard)
        self._stored = {name for tensor in self._audit.tensors for name in self._named(tensor.name)}

    def _parts(self, parameter: str) -> tuple[Part, ...]:
        return self._case.parts(self._stack, parameter, self._configs)

    def parameter(self, check: PlannedCheck) -> CheckResult:
        """Every element of a parameter was loaded; or nothing was there to load, and it has a value."""
        parameter = self._parameters[check.subject]
        shards = self._shards.get(parameter.name, [])
        optional = parameter.zero_if_absent and parameter.name not in self._stored
        if not shards:
            # A tied parameter is audited under the name of the one whose memory it shares.
            if optional or parameter.name in self._case.tied(self._configs):
                return check.result("pass", metric="elements not loaded", measured=0, allowed=0)
            if parameter.name in self._stored:
                return check.result(
                    "fail",
                    f"the checkpoint has {self._case.published_name(parameter.name)}, "
                    f"the model of {self._leg} has no place for it",
                    where=parameter.name,
                )
            return check.result(
                "missing", f"the model of {self._leg} has no parameter {parameter.name}: nothing was audited"
            )
        for shard in shards:
            if shard.uninitialised:
                return self._not_loaded(check, shard, shard.uninitialised, "never written")
            if optional:
                continue
            why = "" if parameter.name in self._stored else "; the checkpoint has no such tensor"
            if shard.default:
                made = "newly initialised by transformers" if self._reference else "left as constructed"
                return self._not_loaded(check, shard, shard.default, f"{made}, not loaded{why}")
            if shard.made or why:
                count = shard.made or shard.elements
                return self._not_loaded(check, shard, count, f"made up by the loader{why}")
            if parameter.name not in self._origins(shard):
                sources = ", ".join(shard.sources) or "no tensor of the checkpoint"
                own = self._case.published_name(parameter.name)
                return self._not_loaded(
                    check, shard, shard.elements, f"loaded from {sources}, expected {own}"
                )
        if problem := self._wrong_size(parameter, shards):
            return check.result("fail", problem, where=shards[0].parameter)
        # In a run, parameter parity says it.
        if optional and self._trace.manifest.work == "audit":
            return self._zero(check)
        return check.result("pass", metric="elements not loaded", measured=0, allowed=0)

    def _origins(self, shard: AuditedShard) -> set[str]:
        """The canonical parameters whose tensors were written to a shard."""
        return {name for source in shard.sources for name in self._named(source)}

    def _named(self, tensor: str) -> tuple[str, ...]:
        """The canonical parameters that a tensor of the checkpoint is, or is a part of."""
        return (
            *(shard.name for shard in self._case.shards("hf", tensor, self._configs)),
            *(part.of for part in self._case.parts("hf", tensor, self._configs)),
        )

    @staticmethod
    def _wrong_size(parameter: Parameter, shards: Sequence[AuditedShard]) -> str:
        """What looked like all of a parameter may be none of it: a loader that repacks leaves nothing."""
        if not any(shard.elements for shard in shards):
            return f"{shards[0].parameter} is empty after loading: nothing was audited"
        expected = math.prod(parameter.shape)
        # Integers hold packed values, and are as many as that takes.
        own = [shard for shard in shards if shard.name == parameter.name and "int" not in shard.dtype]
        for name in dict.fromkeys(shard.parameter for shard in own):
            found = sum(shard.elements for shard in own if shard.parameter == name)
            if found != expected:
                return (
                    f"{name} has {found} elements of {parameter.name} after loading, the configuration "
                    f"makes it {expected}"
                )
        return ""

    def _zero(self, check: PlannedCheck) -> CheckResult:
        """A parameter that the model has and the checkpoint has not: what stands there must not count."""
        record = self._trace.parameters.get(check.subject)
        if record is None:
            return check.result("missing", f"{check.subject} was not recorded: its values are not known")
        if record.max_abs or record.non_finite:
            return check.result(
                "fail",
                f"{record.source}: the checkpoint has no such tensor, expected zeros, found values up to "
                f"{record.max_abs:g} and {record.non_finite} NaN or Inf",
                metric="largest value",
                measured=record.max_abs,
                allowed=0,
                where=record.source,
            )
        return check.result("pass", metric="elements not loaded", measured=0, allowed=0)

    def _not_loaded(self, check: PlannedCheck, shard: AuditedShard, count: int, what: str) -> CheckResult:
        place = place_of(shard)
        return check.result(
            "fail",
            f"{place}: {count} of {shard.of} elements {what}",
            metric="elements not loaded",
            measured=count,
            allowed=0,
            where=place,
        )

    def others(self, check: PlannedCheck) -> CheckResult:
        """What the Case has no name for holds values too, and everything could be looked at.

        A vLLM model may have the constructor's there: a buffer's table, a scale of one.
        """
        unnamed = [
            shard for shard in self._audit.shards if shard.name is None and not self._parts(shard.parameter)
        ]
        problems = [
            (place := place_of(shard), f"{place}: {shard.uninitialised} of {shard.of} elements never written")
            for shard in unnamed
            if shard.uninitialised
        ]
        problems += [
            (shard.parameter, f"{shard.parameter}: newly initialised by transformers, not loaded")
            for shard in unnamed
            if self._reference and shard.default
        ]
        problems += [(text.partition(":")[0], f"{text}: not audited") for text in self._audit.not_audited]
        if not self._audit.shards:
            problems.append((self._leg, f"the audit of {self._leg} looked at no parameter"))
        return self._listed(check, problems, metric="parameters with unwritten elements")

    def consumed(self, check: PlannedCheck) -> CheckResult:
        """Every tensor of the checkpoint went into a parameter, or the Case says that it need not."""
        problems = [
            (tensor.name, f"{tensor.name} is in the checkpoint and was not loaded by {self._leg}")
            for tensor in self._audit.tensors
            if not tensor.consumed and not self._case.ignorable(tensor.name, self._configs)
        ]
        if not self._audit.tensors:
            problems.append((self._leg, f"{self._leg} was offered no tensor"))
        return self._listed(check, problems, metric="tensors not loaded")

    def once(self, check: PlannedCheck) -> CheckResult:
        """No tensor is stored twice, and nothing was written over what the checkpoint had."""
        names = [tensor.name for tensor in self._audit.tensors]
        problems = [
            (name, f"{name} is stored {names.count(name)} times")
            for name in sorted({name for name in names if names.count(name) > 1})
        ]
        for entry in self._audit.overwritten:
            # Of what only describes a quantised weight, the model keeps one for all of its shards.
            if any(part.is_metadata for part in self._parts(entry.parameter)):
                continue
            # Said above.
            if entry.second == entry.first and names.count(entry.first) > 1:
                continue
            by = "the loader itself" if entry.second is None else entry.second
            how = f"was loaded from {entry.first} and then overwritten by {by}"
            if entry.second == entry.first:
                how = f"was loaded from {entry.first} twice"
            place = f"{entry.parameter}{entry.box}"
            problems.append((place, f"{place} {how}"))
        return self._listed(check, problems, metric="tensors loaded twice")

    def expected(self, check: PlannedCheck) -> CheckResult:
        """Shapes follow from the configuration, and one dtype runs through the checkpoint."""
        tensors = [(tensor.name, tensor.dtype, tensor.shape) for tensor in self._audit.tensors]
        found = not_as_expected(tensors, case=self._case, configs=self._configs)
        problems = [(text.split(" ")[0], text) for text in found]
        return self._listed(check, problems, metric="tensors of another shape or dtype")

    def finite(self, check: PlannedCheck) -> CheckResult:
        """The checkpoint itself holds neither NaN nor Inf."""
        problems = [
            (tensor.name, f"{tensor.name} holds {tensor.non_finite} NaN or Inf in the checkpoint itself")
            for tensor in self._audit.tensors
            if tensor.non_finite
        ]
        return self._listed(check, problems, metric="tensors with NaN or Inf")

    def _listed(
        self, check: PlannedCheck, problems: Sequence[tuple[str, str]], *, metric: str
    ) -> CheckResult:
        """Name the first few problems, each given as where it is and what it is."""
        text = "; ".join(text for _, text in problems[:_MOST])
        if len(problems) > _MOST:
            text += f"; and {len(problems) - _MOST} more"
        return check.result(
            "fail" if problems else "pass",
            text,
            metric=metric,
            measured=len(problems),
            allowed=0,
            where=problems[0][0] if problems else "",
        )


def place_of(shard: AuditedShard) -> str:
    """``…qkv_proj.bias[64:128] (k)``: parameter, the ranges that were not written, and the shard."""
    ranges = ", ".join(shard.unwritten)
    if not ranges and shard.elements != shard.of:
        ranges = f"[{shard.rows[0]}:{shard.rows[1]}]"
    return f"{shard.parameter}{ranges}" + (f" ({shard.shard})" if shard.shard else "")
