"""The command line: one line and the right exit code for whatever is wrong, and nothing left behind."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import soundfile

import harness.doctor
from harness import __version__
from harness.errors import InputError
from harness.run import claimed, read_interpreters
from harness.trace import Trace
from harness.trace.schema import CheckpointEntry
from tests.unit.test_trace_folder import write_trace

if TYPE_CHECKING:
    from tests.unit.conftest import Command

ROOT = Path(harness.__file__).parent.parent
#: What an interpreter answers that has nothing.
BARE = {
    "python": "3.12.1",
    "versions": {"numpy": "2.3.5"},
    "importable": ["numpy"],
    "torch_cuda": None,
    "gpu": None,
    "gpu_problem": "no NVIDIA driver (libcuda.so.1 not found)",
}


@pytest.fixture
def bare(tmp_path: Path) -> str:
    """An interpreter that holds no backend."""
    path = tmp_path / "bare-python"
    path.write_text(f"#!/bin/sh\necho '{json.dumps(BARE)}'\n", encoding="utf-8")
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    soundfile.write(tmp_path / "clip.wav", np.full(16_000, 0.1, dtype=np.float32), 16_000)
    return tmp_path / "clip.wav"


def everything(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


class TestHelp:
    def test_version(self, command: Command) -> None:
        assert command("--version") == (0, f"glm-asr-harness {__version__}\n", "")

    @pytest.mark.parametrize("word", ["--help", "-h"])
    def test_help(self, command: Command, word: str) -> None:
        code, out, err = command(word)
        assert (code, err) == (0, "")
        assert re.search(r"\brun\b.*\bcapture\b.*\bcompare\b.*\bdoctor\b", out, re.DOTALL)

    @pytest.mark.parametrize("name", ["run", "capture", "compare", "doctor"])
    def test_help_of_a_command(self, command: Command, name: str) -> None:
        code, out, _ = command(name, "--help")
        assert code == 0
        assert "Usage:" in out
        assert "--python" in out or name == "compare"

    def test_nothing_asked(self, command: Command) -> None:
        code, out, err = command()
        assert code == 2
        assert "Usage:" in out + err

    def test_as_a_module(self) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "harness", "--version"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, f"glm-asr-harness {__version__}\n", "")

    @pytest.mark.parametrize(
        "words",
        [
            ["nonsense"],
            ["run", "--nonsense"],
            ["run", "--dtype", "float64"],
            ["run", "--attention", "flash"],
            ["run", "--timeout", "0"],
            ["run", "--max-new-tokens", "0"],
            ["run", "--seed", "-1"],
            ["capture", "--backend", "hf-cpu"],
            ["compare", "one"],
        ],
    )
    def test_wrong_usage(self, command: Command, words: list[str], tmp_path: Path) -> None:
        code, out, err = command(*words)
        assert (code, out) == (2, "")
        assert "Usage:" in err
        assert not everything(tmp_path / "here")


class TestBadInput:
    def refused(self, command: Command, *words: str | Path) -> str:
        """The one line that a refusal is."""
        code, out, err = command(*words)
        assert (code, out) == (2, "")
        assert err.startswith("error: ")
        assert err.endswith("\n")
        assert err.count("\n") == 1
        return err.removeprefix("error: ").rstrip("\n")

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (["--candidate", "tgi-cpu"], "there is no backend 'tgi-cpu'; known backends: hf-cpu, "),
            (["--reference", "hf-tpu"], "there is no backend 'hf-tpu'"),
            (["--require", "hf"], "there is no backend 'hf'"),
            (["--candidate", "vllm-cpu@a/b"], "leg 'vllm-cpu@a/b': a label is letters"),
            (["--candidate", "hf-cpu"], "leg hf-cpu is named twice"),
            (["--case", "whisper"], "there is no case 'whisper'"),
            (["--checkpoint", "random:layers=1"], "checkpoint random: unknown setting 'layers'"),
            (["--checkpoint", "random:encoder_heads=3"], "checkpoint random: encoder_heads must be"),
            (["--checkpoint", "./gone"], "checkpoint './gone': expected a folder"),
            (["--checkpoint", "a b"], "checkpoint 'a b' is neither a folder here nor a hub id"),
            (["--python", "vllm-cpu"], "--python 'vllm-cpu': expected LEG=INTERPRETER"),
            (["--python", "vllm-cpu=/gone/python"], "interpreter '/gone/python': no such program"),
            (["--python", f"vllm-cuda={sys.executable}"], "--python vllm-cuda=…: no such leg in this run"),
            (["--tolerances", "gone.toml"], "gone.toml"),
        ],
    )
    def test_run(self, command: Command, clip: Path, tmp_path: Path, words: list[str], said: str) -> None:
        line = self.refused(command, "run", "--audio", clip, "--out", "new/out", *words)
        assert said in line
        assert not everything(tmp_path / "here")

    @pytest.mark.parametrize("words", [["--checkpoint", "./gone"], ["--candidate", "tgi-cpu"]])
    def test_a_refused_run_leaves_an_older_one_whole(
        self, command: Command, clip: Path, tmp_path: Path, words: list[str]
    ) -> None:
        out = tmp_path / "here" / "out"
        (out / "traces" / "hf-cpu").mkdir(parents=True)
        (out / "report.json").write_text("older", encoding="utf-8")
        before = everything(tmp_path / "here")
        self.refused(command, "run", "--audio", clip, "--out", out, *words)
        assert everything(tmp_path / "here") == before

    def test_a_folder_that_another_run_writes_to(self, command: Command, clip: Path, tmp_path: Path) -> None:
        out = tmp_path / "here" / "out"
        with claimed(out):
            (out / "report.json").write_text("of the other run", encoding="utf-8")
            before = everything(tmp_path / "here")
            line = self.refused(command, "run", "--audio", clip, "--out", out)
            assert line == f"another run is writing to {out}: wait for it, or give another folder with --out"
            assert everything(tmp_path / "here") == before

    def test_audio(self, command: Command, tmp_path: Path) -> None:
        code, out, err = command("run", "--audio", "gone.wav", "--audio", "also-gone", "--out", "out")
        assert (code, out) == (2, "")
        assert err.splitlines() == [
            "error: the audio cannot be used, 2 problems:",
            "  gone.wav: no such file or folder; check the path",
            "  also-gone: no such file or folder; check the path",
        ]
        assert not everything(tmp_path / "here")

    def test_out_is_a_file(self, command: Command, clip: Path, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("precious", encoding="utf-8")
        code, _, err = command("run", "--audio", clip, "--out", tmp_path / "file")
        assert code == 2
        assert "--out" in err
        assert (tmp_path / "file").read_text(encoding="utf-8") == "precious"

    def test_capture(self, command: Command, clip: Path, tmp_path: Path) -> None:
        words = ["capture", "--audio", str(clip), "--out", "out"]
        assert "no backend 'tgi-cpu'" in self.refused(command, *words, "--backend", "tgi-cpu")
        words += ["--backend", "hf-cpu"]
        assert "no such program" in self.refused(command, *words, "--python", "/gone/python")
        assert "unknown setting" in self.refused(command, *words, "--checkpoint", "random:layers=1")
        assert not everything(tmp_path / "here")

    @pytest.mark.parametrize("what", ["folder", "file"])
    def test_capture_onto_something_else(
        self, command: Command, clip: Path, tmp_path: Path, what: str
    ) -> None:
        out = tmp_path / "here" / "out"
        precious = out
        if what == "folder":
            out.mkdir()
            precious = out / "precious"
        precious.write_text("precious", encoding="utf-8")
        line = self.refused(command, "capture", "--backend", "hf-cpu", "--audio", clip, "--out", out)
        assert line == f"--out {out}: expected a new folder or a trace to replace, found something else there"
        assert precious.read_text(encoding="utf-8") == "precious"

    def test_compare_of_no_trace(self, command: Command, tmp_path: Path) -> None:
        trace = write_trace(tmp_path / "trace")
        line = self.refused(command, "compare", trace, "gone", "--out", "out")
        assert line == "gone is not a trace: expected a folder with manifest.json, found nothing"
        line = self.refused(command, "compare", tmp_path / "here", trace, "--out", "out")
        assert line.endswith("found an empty or incomplete folder")
        assert not everything(tmp_path / "here")

    def test_compare_of_a_changed_trace(self, command: Command, tmp_path: Path) -> None:
        trace = write_trace(tmp_path / "trace")
        (trace / "log.txt").write_text("lime\n", encoding="utf-8")
        line = self.refused(command, "compare", trace, write_trace(tmp_path / "other"), "--out", "out")
        assert "log.txt was changed after the capture" in line
        assert not everything(tmp_path / "here")

    def test_compare_of_traces_of_different_work(self, command: Command, tmp_path: Path) -> None:
        config = {"config.json": {"audio_config": {"num_hidden_layers": 1}, "text_config": {}}}
        one, two = (
            write_trace(
                tmp_path / name,
                leg=name,
                checkpoint=CheckpointEntry(source=name, digest=digest * 64, config=config, trained=False),
            )
            for name, digest in (("hf-cpu", "a"), ("vllm-cpu", "b"))
        )
        line = self.refused(command, "compare", one, two, "--out", "out")
        assert line.startswith("these traces cannot be compared, they differ in checkpoint.digest: ")
        assert not everything(tmp_path / "here")


class TestInterpreters:
    def test_read(self) -> None:
        assert read_interpreters([]) == read_interpreters(()) == {}
        assert read_interpreters(["hf-cpu=/a", "vllm-cpu@x=/b=c"]) == {"hf-cpu": "/a", "vllm-cpu@x": "/b=c"}

    @pytest.mark.parametrize("entry", ["hf-cpu", "hf-cpu=", "", "="])
    def test_refused(self, entry: str) -> None:
        with pytest.raises(InputError, match=re.escape(f"--python {entry!r}: expected LEG=INTERPRETER")):
            read_interpreters([entry])


class TestIncomplete:
    def test_a_run_without_any_backend(self, command: Command, clip: Path, bare: str, tmp_path: Path) -> None:
        words = ["run", "--audio", clip, "--out", "out"]
        code, out, err = command(*words, "--python", f"hf-cpu={bare}", "--python", f"vllm-cpu={bare}")
        assert code == 3
        assert "INCOMPLETE" in out
        assert f"not installed in {bare}: pydantic, safetensors, torch, transformers" in err
        report = json.loads((tmp_path / "here" / "out" / "report.json").read_text(encoding="utf-8"))
        assert report["outcome"] == "incomplete"
        assert report["exit_code"] == 3
        assert {leg["status"] for leg in report["legs"]} == {"unavailable"}
        assert "pass" not in {check["status"] for check in report["checks"]}

    def test_a_run_replaces_an_older_ones_results(
        self, command: Command, clip: Path, bare: str, tmp_path: Path
    ) -> None:
        out = tmp_path / "here" / "out"
        for name in ("traces/vllm-cpu@old/x", "logs/vllm-cpu@old.log", "mine/x", "report.json"):
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            (out / name).write_text("older", encoding="utf-8")
        words = ["run", "--audio", clip, "--out", "out", "--python", f"hf-cpu={bare}"]
        assert command(*words, "--python", f"vllm-cpu={bare}")[0] == 3
        found = sorted(path.name for path in out.iterdir())
        assert found == ["junit.xml", "mine", "report.json", "report.md", "work"]

    @pytest.mark.parametrize("old", [True, False])
    def test_a_capture_without_its_backend(
        self, command: Command, clip: Path, bare: str, tmp_path: Path, old: bool
    ) -> None:
        if old:
            write_trace(tmp_path / "here" / "trace", seed=5)
        before = everything(tmp_path / "here")
        words = ["capture", "--backend", "hf-cpu", "--audio", clip, "--out", "trace", "--python", bare]
        code, out, err = command(*words)
        assert (code, out) == (3, "")
        last = err.splitlines()[-1]
        assert last.startswith(f"error: leg hf-cpu has no trace: not installed in {bare}: ")
        assert everything(tmp_path / "here") == before
        assert not old or Trace(tmp_path / "here" / "trace").manifest.seed == 5

    def test_a_capture_that_crashes_leaves_its_log(
        self, command: Command, clip: Path, tmp_path: Path
    ) -> None:
        # Answers like an interpreter that has all, then fails as a leg.
        able = {
            **BARE,
            "versions": {"transformers": "5.19.0"},
            "importable": ["numpy", "pydantic", "safetensors", "torch", "transformers"],
        }
        path = tmp_path / "python"
        path.write_text(
            f"#!/bin/sh\n[ $# -eq 1 ] && echo '{json.dumps(able)}' && exit 0\necho cannot go on\nexit 7\n",
            encoding="utf-8",
        )
        path.chmod(0o755)
        words = ["capture", "--backend", "hf-cpu", "--audio", clip, "--out", "trace", "--python", path]
        code, out, err = command(*words)
        assert (code, out) == (3, "")
        assert err.splitlines()[-1] == (
            "error: leg hf-cpu has no trace: ended with exit status 7: cannot go on; its log is trace.log"
        )
        assert everything(tmp_path / "here") == ["trace.log"]
        assert (tmp_path / "here" / "trace.log").read_text(encoding="utf-8") == "cannot go on\n"

    @pytest.mark.parametrize(("error", "shown"), [(RuntimeError, True), (OSError, False)])
    def test_what_nobody_expected_is_no_regression(
        self, command: Command, monkeypatch: pytest.MonkeyPatch, error: type[Exception], shown: bool
    ) -> None:
        def fail(python: object) -> None:
            raise error("unexpected")

        monkeypatch.setattr(harness.doctor, "examine", fail)
        code, _, err = command("doctor")
        assert code == 3
        assert err.splitlines()[-1] == f"error: {error.__name__}: unexpected"
        assert ("Traceback" in err) == shown

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
    def test_interrupted(self, tmp_path: Path, number: signal.Signals) -> None:
        script = tmp_path / "slow"
        script.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\nexec sleep 1000\n", encoding="utf-8")
        script.chmod(0o755)
        # A shell may start its background commands with SIGINT ignored, and this with them.
        process = subprocess.Popen(
            [sys.executable, "-m", "harness", "doctor", "--python", f"hf-cpu={script}"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        with process:
            deadline = time.monotonic() + 30
            while not (tmp_path / "started").exists():
                assert time.monotonic() < deadline
                assert process.poll() is None
                time.sleep(0.02)
            os.kill(process.pid, number)
            output, _ = process.communicate(timeout=30)
        assert process.returncode not in (0, 1)
        assert b"Traceback" not in output


class TestDoctor:
    def test_no_backend(self, command: Command, bare: str) -> None:
        words = [f"{backend}={bare}" for backend in ("hf-cpu", "hf-cuda", "vllm-cpu", "vllm-cuda")]
        code, out, err = command("doctor", *(word for entry in words for word in ("--python", entry)))
        assert (code, err) == (3, "")
        lines = out.splitlines()
        assert lines[0].split() == ["backend", "available", "versions", "device"]
        for backend in ("hf-cpu", "hf-cuda", "vllm-cpu", "vllm-cuda"):
            assert any(line.startswith(f"{backend} ") and " no: not installed in" in line for line in lines)
        assert f"interpreter: {bare}" in lines
        assert "No backend can run here: install vllm and transformers" in out
        assert out.count("interpreter: ") == 1

    def test_one_backend(self, command: Command, bare: str, tmp_path: Path) -> None:
        able = {
            **BARE,
            "versions": {"transformers": "5.19.0", "torch": "2.13.0+cpu", "numpy": "2.3.5"},
            "importable": ["numpy", "pydantic", "safetensors", "torch", "transformers"],
        }
        path = tmp_path / "able-python"
        path.write_text(f"#!/bin/sh\necho '{json.dumps(able)}'\n", encoding="utf-8")
        path.chmod(0o755)
        others = [f"{backend}={bare}" for backend in ("hf-cuda", "vllm-cpu", "vllm-cuda")]
        words = [word for entry in [f"hf-cpu={path}", *others] for word in ("--python", entry)]
        code, out, _ = command("doctor", *words)
        assert code == 0
        (line,) = [line for line in out.splitlines() if line.startswith("hf-cpu ")]
        assert line.split()[1] == "yes"
        assert "torch 2.13.0+cpu, transformers 5.19.0" in line
        assert "No backend can run here" not in out

    @pytest.mark.parametrize("key", ["tgi-cpu", "vllm-cpu@old", ""])
    def test_unknown_backend(self, command: Command, key: str) -> None:
        code, out, err = command("doctor", "--python", f"{key}={sys.executable}")
        assert (code, out) == (2, "")
        assert err.startswith(f"error: there is no backend {key!r}; known backends: hf-cpu, ")

    def test_no_such_interpreter(self, command: Command) -> None:
        code, out, err = command("doctor", "--python", "hf-cpu=/gone/python")
        assert (code, out) == (2, "")
        assert err.startswith("error: interpreter '/gone/python': no such program")
