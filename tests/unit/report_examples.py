"""Example reports: one of each outcome, built as comparing would build them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.compare.result import (
    AlignmentChunk,
    CheckResult,
    ClipTranscript,
    Divergence,
    ErrorRate,
    LegReport,
    LegTranscripts,
    Report,
)
from harness.compare.verdict import EXIT_CODES, count, outcome
from harness.trace.schema import ClipEntry, Environment

if TYPE_CHECKING:
    from collections.abc import Iterable

    from harness.compare.result import Kind, Status

PAIR = "vllm-cpu~hf-cpu"
DIGEST = "0" * 64

#: Text that must come out as text: markup of rich, Markdown, HTML and XML, and characters that act.
HOSTILE = (
    "[red]",
    "[/]",
    "[link=https://example.org]x[/link]",
    ":warning:",
    "\x1b[2J",
    "\x1b]8;;https://example.org\x07x",
    "\x9b31m",
    "|",
    "a\\|b",
    "`",
    "``` |",
    "<script>alert(1)</script>",
    "</details>",
    "<!--",
    "]]>",
    "&amp;",
    "\u202etxt.exe",
    "\u2066x\u2069",
    "\u2028# x",
    "\x00",
    "\ud800",
    "\uffff",
    "\r# x",
    "\n\n# x",
    "*x* **x** __init__ ~~x~~ $x$",
    "![x](https://example.org/x.png)",
    "@someone",
    "- x",
    "1. x",
    "    x",
    "-1",
    " ",
    "",
)


def check(name: str, *, status: Status = "pass", kind: Kind = "activation", **values: object) -> CheckResult:
    pair = values.get("pair", PAIR)
    fields = {"id": f"{pair}/{kind}/{name}", "subject": name, "kind": kind, "pair": pair, "status": status}
    return CheckResult.model_validate(fields | values)


def environment(**packages: str) -> Environment:
    return Environment(
        python="3.12.3",
        platform="Linux-x86_64",
        device_name="AMD EPYC 9B14",
        cpu_isa="AVX512",
        threads=2,
        packages=packages,
        variables={},
    )


def leg(name: str, **values: object) -> LegReport:
    versions = {"torch": "2.9.0", "transformers": "5.0.0"} | ({"vllm": "0.20.0"} if "vllm" in name else {})
    fields: dict[str, object] = {
        "backend": name.partition("@")[0],
        "role": "reference" if name.startswith("hf") else "candidate",
        "required": True,
        "status": "captured",
        "attention": "sdpa",
        "environment": environment(**versions),
        "seconds": {"load": 2.25, "forward": 10.5},
    }
    return LegReport.model_validate({"name": name} | fields | values)


def clip(name: str, *, hypothesis: str = "hello world", **values: object) -> ClipTranscript:
    fields: dict[str, object] = {
        "language": "en",
        "reference": "Hello, world.",
        "hypothesis": hypothesis,
        "reference_normalised": "hello world",
        "hypothesis_normalised": hypothesis,
        "wer": 0.5,
        "cer": 0.1,
        "words": ErrorRate(hits=1, substitutions=1, deletions=0, insertions=0),
        "characters": ErrorRate(hits=9, substitutions=1, deletions=0, insertions=0),
        "word_alignment": (AlignmentChunk(type="equal", reference=(0, 1), hypothesis=(0, 1)),),
        "character_alignment": (AlignmentChunk(type="equal", reference=(0, 5), hypothesis=(0, 5)),),
        "token_ids": (1, 2),
    }
    return ClipTranscript.model_validate({"id": name} | fields | values)


def report(checks: Iterable[CheckResult] = (), **values: object) -> Report:
    found = tuple(checks)
    counts = count(found)
    fields: dict[str, object] = {
        "harness": "0.1.0",
        "created": "2025-01-02T03:04:05Z",
        "command": ("python", "-m", "harness", "run"),
        "case": "glm_asr",
        "checkpoint": "tiny",
        "checkpoint_digest": DIGEST,
        "trained": True,
        "dtype": "float32",
        "outcome": outcome(found),
        "exit_code": EXIT_CODES[outcome(found)],
        "verdict": "",
        "diagnosis": "",
        "notes": (),
        "first_divergence": None,
        "legs": (leg("hf-cpu"), leg("vllm-cpu")),
        "clips": (ClipEntry(id="hello", sha256=DIGEST, samples=16000, transcript="Hello", language="en"),),
        "counts": counts,
        "checks": found,
        "transcripts": {},
        "between": {},
        "seconds": {"capture": 20.0, "compare": 1.5},
    }
    return Report.model_validate(fields | values)


def passing() -> Report:
    return report(
        [
            check(
                "layers.0.k_proj.bias", kind="parameter", metric="elements that differ", measured=0, allowed=0
            ),
            check(
                "features.mel", kind="features", clip="hello", metric="max_abs", measured=1e-7, allowed=1e-5
            ),
            check("encoder.conv1", clip="hello", metric="relative_l2", measured=1.234e-6, allowed=2e-6),
            check("encoder.conv2", clip="hello", metric="relative_l2", measured=1e-6, allowed=2e-3),
            check(
                "lm.logits", kind="logits", clip="hello", metric="relative_l2", measured=1e-6, allowed=2e-3
            ),
            check("wer", kind="transcript", metric="wer_change", measured=0.0, allowed=0.02),
        ],
        verdict="all 6 checks passed for 1 pair",
        notes=("1 clip: a change of WER below 3 % could not have been seen",),
        transcripts={
            "hf-cpu": LegTranscripts(wer=0.5, cer=0.1, clips=(clip("hello"),)),
            "vllm-cpu": LegTranscripts(wer=0.5, cer=0.1, clips=(clip("hello", hypothesis="你好 world"),)),
        },
        between={PAIR: LegTranscripts(wer=0.25, cer=0.125, clips=(clip("hello", hypothesis="你好 world"),))},
    )


def failing(*, more: int = 0) -> Report:
    name = "encoder.layers.0.k_proj"
    return report(
        [
            check(f"{name}.weight", kind="parameter"),
            check(
                f"{name}.bias",
                kind="parameter",
                status="fail",
                metric="max_abs",
                measured=6e7,
                allowed=0.0,
                where="[12]",
                message="64 of 64 elements of the k shard were never loaded, greatest 6e+07, must be 0",
            ),
            check("encoder.conv2", clip="hello", metric="relative_l2", measured=1e-6, allowed=2e-6),
            check(
                name,
                clip="hello",
                status="fail",
                metric="relative_l2",
                where="[0, 3, 12]",
                message="NaN in 64 of 4,096 elements of the candidate",
            ),
            *(
                check(
                    f"encoder.layers.{layer}.mlp", clip="hello", status="fail", measured=layer, allowed=1e-6
                )
                for layer in range(1, more + 1)
            ),
            check("lm.logits", kind="logits", clip="hello", status="missing", message="no logits recorded"),
        ],
        verdict="2 checks failed: a parameter was not loaded",
        diagnosis="k_proj.bias uninitialised -> encoder.layers.0.k_proj -> 3 of 12 tokens -> WER +50 %",
        trained=False,
        first_divergence=Divergence(
            pair=PAIR,
            probe=name,
            clips=("hello",),
            of_clips=2,
            check=f"{PAIR}/activation/{name}",
            message="NaN in 64 of 4,096 elements",
        ),
        transcripts={"vllm-cpu": LegTranscripts(wer=None, cer=None, clips=(clip("hello"),))},
    )


def crashed() -> Report:
    return report(
        [
            check("capture", kind="leg", pair="hf-cpu"),
            check("capture", kind="leg", pair="vllm-cpu", status="error", message="exit code -9"),
            check("encoder.conv1", clip="hello", status="missing", message="vllm-cpu was not captured"),
        ],
        verdict="vllm-cpu crashed: nothing was compared with hf-cpu",
        legs=(
            leg("hf-cpu"),
            leg(
                "vllm-cpu",
                status="error",
                reason="exit code -9 after 12 s",
                log="traces/vllm-cpu.log",
                log_tail=tuple(f"line {number}" for number in range(1, 21)),
                environment=None,
                seconds={},
            ),
        ),
    )


def empty() -> Report:
    return report(verdict="nothing was compared", legs=())


def unsupported() -> Report:
    reason = "no CUDA device"
    return report(
        [
            check("conv1.weight", kind="parameter", metric="rows that differ", measured=0, allowed=0),
            check("encoder.conv1", clip="hello", metric="max_abs", measured=0, allowed=0),
            check("lm.logits", kind="logits", clip="hello", metric="max_abs", measured=0, allowed=0),
            *(
                check(f"probe{number}", pair="vllm-cuda~hf-cpu", status="unsupported", message=reason)
                for number in range(3)
            ),
            check("timestamps", kind="transcript", status="unsupported"),
        ],
        verdict="3 checks passed, 4 unsupported",
        legs=(
            leg("hf-cpu"),
            leg("vllm-cpu", loader="patched"),
            leg(
                "vllm-cuda",
                status="unavailable",
                required=False,
                reason=reason,
                environment=None,
                attention="",
                seconds={},
            ),
        ),
    )


def hostile(text: str) -> Report:
    """Return a report with ``text`` wherever a report may hold text, even where validation forbids it."""
    bad = [
        check(text, status=status, kind=kind).model_copy(
            update=dict.fromkeys(("id", "pair", "subject", "clip", "metric", "where", "message"), text)
        )
        for status in ("fail", "error", "missing", "unsupported", "pass")
        for kind in ("parameter", "activation")
    ]
    surroundings = environment().model_copy(
        update={"device_name": text, "packages": {"torch": text, "vllm": text}}
    )
    crash = leg("vllm-cpu").model_copy(
        update=dict.fromkeys(("name", "backend", "reason", "log", "attention"), text)
        | {"status": "error", "log_tail": (text, text), "environment": surroundings}
    )
    divergent = failing().first_divergence
    assert divergent is not None
    spoken = clip("hello").model_copy(
        update=dict.fromkeys(("id", "language", "reference", "hypothesis"), text)
    )
    heard = LegTranscripts(wer=0.5, cer=None, clips=(clip("x"),)).model_copy(update={"clips": (spoken,)})
    base = report(bad)
    return base.model_copy(
        update=dict.fromkeys(("harness", "created", "case", "checkpoint", "verdict", "diagnosis"), text)
        | {
            "notes": (text, text),
            "legs": (crash, leg("hf-cpu"), leg("vllm-cuda", status="unavailable")),
            "first_divergence": divergent.model_copy(
                update=dict.fromkeys(("pair", "probe", "message"), text)
            ),
            "transcripts": {text: heard},
            "between": {f"{text} against {text}": heard},
        }
    )
