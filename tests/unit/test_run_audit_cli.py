"""``harness audit``: one line and the right exit code for whatever is wrong, and nothing left behind."""

from __future__ import annotations

import shlex
import sys
from functools import partial
from typing import TYPE_CHECKING

import pytest

from harness.report import load_report
from harness.run import claimed
from tests.synthetic import write_trace
from tests.unit.test_run_audit import ABLE, BARE, TINY, interpreter, unwritten

if TYPE_CHECKING:
    from pathlib import Path

    from tests.unit.conftest import Command


@pytest.fixture
def command(command: Command) -> Command:
    """Runs ``harness audit``."""
    return partial(command, "audit")


class TestCommandLine:
    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (["--backend", "tgi-cpu"], "there is no backend 'tgi-cpu'"),
            (["--backend", "vllm-cpu", "--backend", "vllm-cpu"], "leg vllm-cpu is named twice"),
            (["--backend", "hf-cpu", "--loader", "reverted"], "--loader reverted: only a vLLM leg"),
            (["--backend", "hf-cpu", "--dual-poison"], "--dual-poison: only a vLLM leg"),
            (
                ["--backend", "vllm-cpu", "--backend", "vllm-cpu@finite", "--dual-poison"],
                "leg vllm-cpu@finite has the name of a dual-poison twin",
            ),
            (["--case", "whisper"], "there is no case 'whisper'"),
            (["--checkpoint", "random:layers=1"], "checkpoint random: unknown setting 'layers'"),
            (["--checkpoint", "random:encoder_heads=3"], "checkpoint random: encoder_heads must be"),
            (["--checkpoint", "./gone"], "checkpoint './gone': expected a folder"),
            (["--python", "vllm-cpu"], "--python 'vllm-cpu': expected LEG=INTERPRETER"),
            (["--python", "vllm-cpu=/gone/python"], "interpreter '/gone/python': no such program"),
            (["--python", f"hf-cpu={sys.executable}"], "--python hf-cpu=…: no such leg in this run"),
        ],
    )
    def test_bad_input(self, command: Command, tmp_path: Path, words: list[str], said: str) -> None:
        code, out, err = command("--out", "new/out", *words)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert err.startswith(f"error: {said}")
        assert not list((tmp_path / "here").iterdir())

    @pytest.mark.parametrize(
        "words", [["--dtype", "float64"], ["--loader", "fixed"], ["--timeout", "0"], ["--audio", "x.wav"]]
    )
    def test_wrong_usage(self, command: Command, tmp_path: Path, words: list[str]) -> None:
        code, out, err = command(*words)
        assert (code, out) == (2, "")
        assert "Usage:" in err
        assert not list((tmp_path / "here").iterdir())

    @pytest.mark.parametrize("words", [["--checkpoint", "./gone"], ["--backend", "tgi-cpu"]])
    def test_a_refused_audit_leaves_an_older_one_whole(
        self, command: Command, tmp_path: Path, words: list[str]
    ) -> None:
        out = tmp_path / "here" / "out"
        (out / "traces" / "vllm-cpu").mkdir(parents=True)
        (out / "report.json").write_text("older", encoding="utf-8")
        assert command("--out", out, *words)[0] == 2
        assert sorted(path.name for path in out.iterdir()) == ["report.json", "traces"]
        assert (out / "traces" / "vllm-cpu").is_dir()
        assert (out / "report.json").read_text(encoding="utf-8") == "older"

    def test_a_folder_that_another_run_writes_to(self, command: Command, tmp_path: Path) -> None:
        with claimed(tmp_path / "out"):
            code, _, err = command("--out", tmp_path / "out", "--checkpoint", TINY)
        assert code == 2
        assert err.startswith(f"error: another run is writing to {tmp_path / 'out'}")

    def test_without_a_backend(self, command: Command, tmp_path: Path) -> None:
        python = interpreter(tmp_path / "python", BARE)
        code, out, err = command("--checkpoint", TINY, "--out", "out", "--python", f"vllm-cpu={python}")
        assert code == 3
        assert "INCOMPLETE" in out
        assert "required leg vllm-cpu did not run" in out
        assert f"not installed in {python}" in err
        report = load_report(tmp_path / "here" / "out" / "report.json")
        assert (report.work, report.outcome, report.exit_code) == ("audit", "incomplete", 3)
        assert {check.status for check in report.checks} == {"missing"}

    @pytest.mark.parametrize(("red", "code"), [(False, 0), (True, 1)])
    def test_how_it_ends(self, command: Command, tmp_path: Path, red: bool, code: int) -> None:
        out = tmp_path / "here" / "out"
        trace = write_trace(
            tmp_path / "made", leg="vllm-cpu", clips=(), work="audit", audit=unwritten if red else None
        )
        copy = shlex.join(["cp", "-r", str(trace.path), str(out / "traces" / "vllm-cpu")])
        python = interpreter(tmp_path / "python", ABLE, copy)
        ended = command("--checkpoint", TINY, "--out", out, "--python", f"vllm-cpu={python}")
        assert ended[0] == code
        report = load_report(out / "report.json")
        assert (report.exit_code, report.legs[0].status) == (code, "captured")
        assert report.verdict in ended[1]
        assert sorted(path.name for path in out.iterdir()) == [
            "junit.xml", "logs", "report.json", "report.md", "traces", "work",
        ]  # fmt: skip
