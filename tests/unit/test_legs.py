"""A leg is a process: whatever it does, what became of it is known and nothing of it is left running."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import harness
from harness.backends.legs import LegOutcome, run_leg, run_legs
from harness.backends.request import LegRequest
from harness.trace.schema import CheckpointEntry, ClipEntry
from tests.unit.test_trace_folder import write_trace

if TYPE_CHECKING:
    from collections.abc import Callable


ROOT = Path(harness.__file__).parent.parent


def leg_request(folder: Path, leg: str = "hf-cpu") -> LegRequest:
    return LegRequest(
        case="glm_asr",
        leg=leg,
        stack="hf",
        device="cpu",
        dtype="float32",
        attention="sdpa",
        work="run",
        loader="installed",
        fill="nan",
        checkpoint_folder=folder / "checkpoint",
        checkpoint=CheckpointEntry(source="random", digest="c" * 64, config={}, trained=False),
        clips=(ClipEntry(id="one", sha256="d" * 64, samples=6, transcript=None, language="en"),),
        audio=folder / "clips.safetensors",
        prompt_token_ids=(1, 2),
        stop_token_ids=(3,),
        max_new_tokens=4,
        seed=0,
        trace=folder / "out" / "traces" / leg,
        log=folder / "out" / "logs" / "hf-cpu.log",
        progress=folder / "out" / "work" / "hf-cpu.progress",
        failure=folder / "out" / "work" / f"{leg}.failure",
    )


def interpreter(folder: Path, *lines: str) -> str:
    """A program that stands in for a python: it is given the leg's arguments and runs ``lines``."""
    path = folder / "interpreter"
    path.write_text("\n".join(["#!/bin/sh", *lines, ""]), encoding="utf-8")
    path.chmod(0o755)
    return str(path)


def run_script(
    folder: Path, *lines: str, timeout: float = 60, progress: Callable[[str], None] = lambda _: None
) -> LegOutcome:
    return run_leg(
        leg_request(folder), interpreter=interpreter(folder, *lines), timeout=timeout, progress=progress
    )


def is_running(pid: int) -> bool:
    """Whether a process runs: one that has ended may stay in the table until its new parent asks."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def assert_gone(pid: int) -> None:
    deadline = time.monotonic() + 10
    while is_running(pid):
        assert time.monotonic() < deadline, f"process {pid} was left running"
        time.sleep(0.01)


class TestTheReason:
    def test_exit_status_and_last_line(self, tmp_path: Path) -> None:
        ended = run_script(tmp_path, "echo one", "echo two >&2", "exit 3")
        assert ended.trace is None
        assert ended.reason == "ended with exit status 3: two"
        assert ended.log_tail == ("one", "two")
        assert 0 < ended.seconds < 60
        assert leg_request(tmp_path).log.read_text(encoding="utf-8") == "one\ntwo\n"

    def test_killed(self, tmp_path: Path) -> None:
        ended = run_script(tmp_path, "echo loading", "kill -KILL $$")
        assert ended.trace is None
        assert ended.reason == "killed by SIGKILL (out of memory?): loading"

    @pytest.mark.parametrize("name", ["SEGV", "TERM", "ABRT"])
    def test_another_signal(self, tmp_path: Path, name: str) -> None:
        assert (
            run_script(tmp_path, f"kill -{name} $$").reason == f"killed by SIG{name}, and it logged nothing"
        )

    def test_a_signal_without_a_name(self, tmp_path: Path) -> None:
        assert run_script(tmp_path, "kill -40 $$").reason == "killed by signal 40, and it logged nothing"

    def test_silence(self, tmp_path: Path) -> None:
        ended = run_script(tmp_path, "exit 1")
        assert ended.reason == "ended with exit status 1, and it logged nothing"
        assert ended.log_tail == ()

    def test_a_good_end_without_a_trace(self, tmp_path: Path) -> None:
        ended = run_script(tmp_path, "echo done", "exit 0")
        assert ended.trace is None
        assert ended.reason.startswith(
            f"{leg_request(tmp_path).trace} is not a trace: expected a folder with"
        )
        assert ended.log_tail == ("done",)

    def test_an_older_trace_is_not_taken_for_the_legs(self, tmp_path: Path) -> None:
        write_trace(leg_request(tmp_path).trace)
        ended = run_script(tmp_path, "exit 0")
        assert ended.trace is None
        assert ended.reason.endswith("is not a trace: expected a folder with manifest.json, found nothing")

    def test_a_trace(self, tmp_path: Path) -> None:
        source = write_trace(tmp_path / "prepared")
        copy = shlex.join(["cp", "-r", str(source), str(leg_request(tmp_path).trace)])
        ended = run_script(tmp_path, copy)
        assert ended.reason == ""
        assert ended.trace is not None
        assert ended.trace.path == leg_request(tmp_path).trace
        assert ended.trace.manifest.leg == "hf-cpu"

    def test_a_trace_that_was_changed(self, tmp_path: Path) -> None:
        source = write_trace(tmp_path / "prepared")
        (source / "log.txt").write_text("lime\n", encoding="utf-8")
        copy = shlex.join(["cp", "-r", str(source), str(leg_request(tmp_path).trace)])
        ended = run_script(tmp_path, copy)
        assert ended.trace is None
        assert "log.txt was changed after the capture" in ended.reason

    @pytest.mark.parametrize("line", ["exit 1", "kill -SEGV $$"])
    def test_a_complete_trace_counts_however_its_process_ended(self, tmp_path: Path, line: str) -> None:
        """It was renamed into place last of all: what came after took nothing from it."""
        source = write_trace(tmp_path / "prepared")
        copy = shlex.join(["cp", "-r", str(source), str(leg_request(tmp_path).trace)])
        ended = run_script(tmp_path, copy, line)
        assert ended.trace is not None
        assert ended.reason == ""

    def test_an_unfinished_trace_does_not(self, tmp_path: Path) -> None:
        source = write_trace(tmp_path / "prepared")
        target = leg_request(tmp_path).trace
        copy = shlex.join(["cp", "-r", str(source), str(target)])
        ended = run_script(tmp_path, copy, f"rm {target}/manifest.json", "exit 1")
        assert ended.trace is None
        assert ended.reason == "ended with exit status 1, and it logged nothing"

    def test_what_the_leg_itself_gives(self, tmp_path: Path) -> None:
        """The last line of a log may be anything; the leg knows what it could not do."""
        failure = leg_request(tmp_path).failure
        ended = run_script(tmp_path, f"printf 'no such model' > {failure}", "echo later", "exit 1")
        assert ended.trace is None
        assert ended.reason == "no such model"
        assert ended.log_tail == ("later",)

    def test_a_reason_of_an_earlier_leg_is_not_given(self, tmp_path: Path) -> None:
        failure = leg_request(tmp_path).failure
        failure.parent.mkdir(parents=True)
        failure.write_text("old", encoding="utf-8")
        assert run_script(tmp_path, "exit 1").reason == "ended with exit status 1, and it logged nothing"


class TestTheEnd:
    def test_time_limit(self, tmp_path: Path) -> None:
        started = time.monotonic()
        ended = run_script(
            tmp_path,
            f"sleep 1000 & echo $! > {tmp_path}/child",
            f"(sleep 1000 & echo $! > {tmp_path}/grandchild; wait) &",
            f"echo $$ > {tmp_path}/leader",
            "echo waiting",
            "wait",
            timeout=1,
        )
        assert time.monotonic() - started < 30
        assert ended.trace is None
        assert ended.reason == "no result within 1 s, killed"
        assert ended.log_tail == ("waiting",)
        assert ended.seconds >= 1
        for name in ("leader", "child", "grandchild"):
            assert_gone(int((tmp_path / name).read_text(encoding="utf-8")))

    def test_a_leg_that_ignores_polite_signals(self, tmp_path: Path) -> None:
        ended = run_script(tmp_path, "trap '' TERM INT HUP", "while :; do sleep 1000; done", timeout=0.5)
        assert ended.reason == "no result within 0.5 s, killed"

    @pytest.mark.parametrize("status", [0, 1])
    def test_workers_do_not_outlive_their_leg(self, tmp_path: Path, status: int) -> None:
        run_script(tmp_path, f"sleep 1000 & echo $! > {tmp_path}/worker", f"exit {status}")
        assert_gone(int((tmp_path / "worker").read_text(encoding="utf-8")))

    def test_an_interrupted_caller_leaves_nothing_running(self, tmp_path: Path) -> None:
        def interrupt(text: str) -> None:
            raise KeyboardInterrupt(text)

        with pytest.raises(KeyboardInterrupt, match="loading"):
            run_script(
                tmp_path,
                f"echo $$ > {tmp_path}/leader",
                f"printf loading > {leg_request(tmp_path).progress}",
                "exec sleep 1000",
                progress=interrupt,
            )
        assert_gone(int((tmp_path / "leader").read_text(encoding="utf-8")))

    @pytest.mark.parametrize(
        ("line", "timeout"), [("exit 0", 60), ("exit 1", 60), ("kill -KILL $$", 60), ("exec sleep 1000", 0.5)]
    )
    def test_its_unfinished_trace_is_taken_away(self, tmp_path: Path, line: str, timeout: float) -> None:
        traces = leg_request(tmp_path).trace.parent
        others = [traces / name for name in (".vllm-cpu.1", ".hf-cpu", "hf-cpu.1", ".hf-cpu@old.1")]
        for other in others:
            other.mkdir(parents=True)
        run_script(
            tmp_path,
            f"mkdir -p {traces}/.hf-cpu.a1/activations; touch {traces}/.hf-cpu.a1/activations/x",
            f"mkdir {traces}/.hf-cpu.old.b2",
            line,
            timeout=timeout,
        )
        assert sorted(traces.iterdir()) == sorted(others)

    def test_its_unfinished_trace_when_the_caller_is_interrupted(self, tmp_path: Path) -> None:
        def interrupt(text: str) -> None:
            raise KeyboardInterrupt(text)

        traces = leg_request(tmp_path).trace.parent
        with pytest.raises(KeyboardInterrupt):
            run_script(
                tmp_path,
                f"mkdir {traces}/.hf-cpu.a1",
                f"printf loading > {leg_request(tmp_path).progress}",
                "exec sleep 1000",
                progress=interrupt,
            )
        assert not list(traces.iterdir())


class TestDieWith:
    """A leg leads a session of its own: a harness that is killed could not end it."""

    def start(self, code: str) -> subprocess.Popen[str]:
        code = f"import os, subprocess, sys, time\nfrom harness.backends.leg_main import die_with\n{code}"
        return subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)

    @pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's")
    def test_the_kernel_ends_a_leg_whose_harness_was_killed(self) -> None:
        leg = (
            "from harness.backends.leg_main import die_with; import os, time; die_with(os.getppid()); "
            "print(os.getpid(), flush=True); time.sleep(1000)"
        )
        start = f"subprocess.run([sys.executable, '-c', {leg!r}], start_new_session=True)"
        with self.start(start) as harness:
            assert harness.stdout is not None
            pid = int(harness.stdout.readline())
            assert is_running(pid)
            harness.kill()
        assert_gone(pid)

    def test_a_harness_that_is_there(self) -> None:
        with self.start("die_with(os.getppid()); print('on')") as leg:
            assert leg.communicate(timeout=30)[0] == "on\n"
        assert leg.returncode == 0

    def test_a_harness_that_is_gone_already(self, capfd: pytest.CaptureFixture[str]) -> None:
        with self.start("") as gone:
            pass
        with self.start(f"die_with({gone.pid}); print('on')") as leg:
            assert leg.communicate(timeout=30)[0] == ""
        assert leg.returncode == 1
        assert capfd.readouterr().err == "the harness that asked for this leg is gone\n"


class TestWhatItIsGiven:
    def test_the_request_and_nothing_to_read(self, tmp_path: Path) -> None:
        ended = run_script(
            tmp_path, 'basename "$1"', f'cp "$3" {tmp_path}/request.json', "cat", 'echo "$# $2 $PPID"'
        )
        assert ended.log_tail == ("leg_main.py", f"3 {os.getpid()} {os.getpid()}")
        text = (tmp_path / "request.json").read_text(encoding="utf-8")
        assert LegRequest.model_validate_json(text) == leg_request(tmp_path)

    def test_a_progress_of_an_earlier_leg_is_not_shown(self, tmp_path: Path) -> None:
        path = leg_request(tmp_path).progress
        path.parent.mkdir(parents=True)
        path.write_text("old", encoding="utf-8")
        said: list[str] = []
        run_script(tmp_path, "sleep 0.2", progress=said.append)
        assert said == []

    def test_progress_is_said_once_per_change(self, tmp_path: Path) -> None:
        path = shlex.quote(str(leg_request(tmp_path).progress))
        said: list[str] = []

        def hear(text: str) -> None:
            said.append(text)
            (tmp_path / text).touch()

        run_script(
            tmp_path,
            f"printf loading > {path}; while [ ! -e {tmp_path}/loading ]; do sleep 0.02; done",
            f"printf '\\377' > {path}; sleep 0.2",  # cut in the middle of a character
            f"printf encoding > {path}; while [ ! -e {tmp_path}/encoding ]; do sleep 0.02; done; sleep 0.2",
            progress=hear,
        )
        assert said == ["loading", "encoding"]


class TestSeveral:
    """Several requests in one process, which imports its backend once."""

    LEGS = ("vllm-cpu", "vllm-cpu@finite", "vllm-cpu@third")

    def requests(self, folder: Path) -> list[LegRequest]:
        return [leg_request(folder, leg) for leg in self.LEGS]

    def run(
        self, folder: Path, *lines: str, timeout: float = 60, progress: Callable[[str], None] = lambda _: None
    ) -> tuple[LegOutcome, ...]:
        requests = self.requests(folder)
        program = interpreter(folder, *lines)
        ended = run_legs(requests, interpreter=program, timeout=timeout, progress=progress)
        assert len(ended) == len(requests)
        return ended

    def copies(self, folder: Path, *legs: int) -> list[str]:
        """Lines that put a complete trace where each of the legs is to write one."""
        source = write_trace(folder / "prepared")
        targets = [self.requests(folder)[index].trace for index in legs]
        return [shlex.join(["cp", "-r", str(source), str(target)]) for target in targets]

    def test_all_in_one_process_and_in_order(self, tmp_path: Path) -> None:
        ended = self.run(
            tmp_path, 'echo "$#"', f'for file in "$3" "$4" "$5"; do cat "$file" >> {tmp_path}/asked; done'
        )
        assert {outcome.log_tail for outcome in ended} == {("5",)}
        asked = (tmp_path / "asked").read_text(encoding="utf-8").replace("}{", "}\0{").split("\0")
        assert [LegRequest.model_validate_json(text) for text in asked] == self.requests(tmp_path)

    def test_each_gets_its_trace(self, tmp_path: Path) -> None:
        ended = self.run(tmp_path, *self.copies(tmp_path, 0, 1, 2))
        assert [outcome.reason for outcome in ended] == ["", "", ""]
        assert [outcome.trace and outcome.trace.path for outcome in ended] == [
            request.trace for request in self.requests(tmp_path)
        ]

    def test_one_that_fails_takes_nothing_from_the_others(self, tmp_path: Path) -> None:
        failure = self.requests(tmp_path)[1].failure
        ended = self.run(tmp_path, *self.copies(tmp_path, 0, 2), f"printf 'no head' > {failure}", "exit 1")
        assert [outcome.trace is not None for outcome in ended] == [True, False, True]
        assert [outcome.reason for outcome in ended] == ["", "no head", ""]

    def test_each_gets_its_own_reason(self, tmp_path: Path) -> None:
        failures = [request.failure for request in self.requests(tmp_path)]
        lines = [f"printf 'reason {index}' > {failure}" for index, failure in enumerate(failures)]
        ended = self.run(tmp_path, *lines, "exit 1")
        assert [outcome.reason for outcome in ended] == ["reason 0", "reason 1", "reason 2"]

    def test_a_crash_is_the_reason_of_those_that_have_no_other(self, tmp_path: Path) -> None:
        failure = self.requests(tmp_path)[1].failure
        lines = [*self.copies(tmp_path, 0), f"printf 'no head' > {failure}", "echo third", "kill -SEGV $$"]
        ended = self.run(tmp_path, *lines)
        assert [outcome.trace is not None for outcome in ended] == [True, False, False]
        assert [outcome.reason for outcome in ended] == ["", "no head", "killed by SIGSEGV: third"]

    def test_a_good_end_without_a_trace_is_no_success(self, tmp_path: Path) -> None:
        ended = self.run(tmp_path, *self.copies(tmp_path, 0, 1))
        assert [outcome.trace is not None for outcome in ended] == [True, True, False]
        assert ended[2].reason.endswith("is not a trace: expected a folder with manifest.json, found nothing")

    def test_time_is_given_for_each(self, tmp_path: Path) -> None:
        ended = self.run(tmp_path, "sleep 0.9", *self.copies(tmp_path, 0, 1, 2), timeout=0.6)
        assert [outcome.reason for outcome in ended] == ["", "", ""]

    def test_time_limit(self, tmp_path: Path) -> None:
        """What was done before it stays done."""
        ended = self.run(tmp_path, *self.copies(tmp_path, 0), "exec sleep 1000", timeout=0.5)
        assert [outcome.trace is not None for outcome in ended] == [True, False, False]
        assert [outcome.reason for outcome in ended] == ["", *["no result within 1.5 s, killed"] * 2]

    def test_unfinished_traces_of_all_are_taken_away(self, tmp_path: Path) -> None:
        traces = leg_request(tmp_path).trace.parent
        self.run(tmp_path, *(f"mkdir '{traces}/.{leg}.a1'" for leg in self.LEGS), "exit 1")
        assert not list(traces.iterdir())

    def test_folders_apart(self, tmp_path: Path) -> None:
        """Each checkpoint of an audit has a folder of its own."""
        requests = [
            leg_request(tmp_path / str(index)).model_copy(
                update={name: getattr(leg_request(tmp_path), name) for name in ("log", "progress")}
            )
            for index in range(2)
        ]
        program = interpreter(tmp_path, f"printf 'no head' > {requests[1].failure}", "exit 1")
        ended = run_legs(requests, interpreter=program, timeout=60, progress=lambda _: None)
        assert [outcome.reason for outcome in ended] == [
            "ended with exit status 1, and it logged nothing",
            "no head",
        ]


class TestTheLog:
    def test_the_last_lines(self, tmp_path: Path) -> None:
        ended = run_script(tmp_path, "for i in $(seq 40); do echo line $i; echo; done", "exit 1")
        assert ended.log_tail == tuple(f"line {index}" for index in range(26, 41))

    def test_a_long_log(self, tmp_path: Path) -> None:
        ended = run_script(tmp_path, "seq 100000", "echo the end", "exit 1")
        assert ended.log_tail[-2:] == ("100000", "the end")

    def test_bytes_that_are_no_text(self, tmp_path: Path) -> None:
        ended = run_script(tmp_path, r"printf 'a\377b\n'", "exit 1")
        assert ended.log_tail == ("a\ufffdb",)

    def test_of_a_progress_bar_its_last_state(self, tmp_path: Path) -> None:
        ended = run_script(
            tmp_path,
            "echo cause",
            r"for i in $(seq 30); do printf '\rloading %s' $i; done; printf '\n'",
            r"printf 'windows\r\n'",
            "exit 1",
        )
        assert ended.log_tail == ("cause", "loading 30", "windows")

    def test_an_older_log_is_replaced(self, tmp_path: Path) -> None:
        run_script(tmp_path, "echo first", "exit 1")
        assert run_script(tmp_path, "echo second", "exit 1").log_tail == ("second",)
