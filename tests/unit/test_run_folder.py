"""The folder of a run: one run at a time, nothing of an earlier one, nothing left of one refused."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import harness
from harness.errors import CaptureError, InputError
from harness.report import REPORT_FILES
from harness.run import claimed
from harness.run.folder import clear

ROOT = Path(harness.__file__).parent.parent

LOCK = str(Path("work", "lock"))


def everything(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def fill(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("older", encoding="utf-8")


def refuse(out: Path, error: type[BaseException] = InputError) -> None:
    """Claim a folder, as a run does that is refused once it has built its checkpoint."""
    with claimed(out):
        fill(out / "work" / "checkpoint", "config.json")
        raise error("no such thing")


class TestClaimed:
    def test_makes_its_folder(self, tmp_path: Path) -> None:
        with claimed(tmp_path / "new" / "out"):
            assert everything(tmp_path) == ["new", "new/out", "new/out/work", f"new/out/{LOCK}"]
        assert (tmp_path / "new" / "out").is_dir()

    def test_a_second_one_is_refused(self, tmp_path: Path) -> None:
        out = tmp_path / "out"
        message = f"another run is writing to {out}: wait for it, or give another folder with --out"
        with claimed(out):
            fill(out / "work", "checkpoint/config.json")
            before = everything(tmp_path)
            with pytest.raises(InputError, match=f"^{re.escape(message)}$"), claimed(out):
                pytest.fail("claimed twice")
            assert everything(tmp_path) == before
            # Still held.
            with pytest.raises(InputError), claimed(out):
                pytest.fail("claimed twice")

    def test_another_process_is_refused(self, tmp_path: Path) -> None:
        code = (
            "import pathlib, sys\nfrom harness.run import claimed\n"
            "with claimed(pathlib.Path(sys.argv[1])):\n    print('claimed')"
        )
        words = [sys.executable, "-c", code, str(tmp_path / "out")]
        with claimed(tmp_path / "out"):
            done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (1, "")
        assert f"another run is writing to {tmp_path / 'out'}" in done.stderr
        assert subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout

    @pytest.mark.parametrize("error", [None, InputError, CaptureError, KeyboardInterrupt])
    def test_is_free_afterwards(self, tmp_path: Path, error: type[BaseException] | None) -> None:
        if error is None:
            with claimed(tmp_path / "out"):
                pass
        else:
            with pytest.raises(error):
                refuse(tmp_path / "out", error)
        with claimed(tmp_path / "out"):
            assert (tmp_path / "out" / "work").is_dir()

    def test_two_folders_at_once(self, tmp_path: Path) -> None:
        with claimed(tmp_path / "a"), claimed(tmp_path / "b"):
            assert everything(tmp_path) == ["a", "a/work", f"a/{LOCK}", "b", "b/work", f"b/{LOCK}"]

    @pytest.mark.parametrize("relative", [True, False])
    def test_bad_input_leaves_nothing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, relative: bool
    ) -> None:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "here").mkdir()
        out = Path("here", "deep", "er", "out")
        with pytest.raises(InputError, match="no such thing"):
            refuse(out if relative else tmp_path / out)
        assert everything(tmp_path) == ["here"]

    def test_bad_input_leaves_what_was_there(self, tmp_path: Path) -> None:
        fill(tmp_path / "out", "report.json", "traces/hf-cpu/manifest.json")
        before = everything(tmp_path)
        with pytest.raises(InputError):
            refuse(tmp_path / "out")
        assert everything(tmp_path) == before

    def test_bad_input_leaves_an_older_runs_work(self, tmp_path: Path) -> None:
        with claimed(tmp_path / "out"):
            fill(tmp_path / "out" / "work", "audio/clips.safetensors")
        before = set(everything(tmp_path))
        with pytest.raises(InputError):
            refuse(tmp_path / "out")
        assert before <= set(everything(tmp_path))

    def test_parents_that_another_has_used_meanwhile_stay(self, tmp_path: Path) -> None:
        def interfered() -> None:
            with claimed(tmp_path / "new" / "out"):
                fill(tmp_path / "new", "mine")
                raise InputError("no such thing")

        with pytest.raises(InputError, match="no such thing"):
            interfered()
        assert everything(tmp_path) == ["new", "new/mine"]

    @pytest.mark.parametrize("error", [CaptureError, KeyboardInterrupt, RuntimeError])
    def test_other_ends_leave_what_they_made(self, tmp_path: Path, error: type[BaseException]) -> None:
        """A leg's log is what tells why."""
        with pytest.raises(error):
            refuse(tmp_path / "out", error)
        assert str(Path("out", "work", "checkpoint", "config.json")) in everything(tmp_path)


class TestClear:
    def test_results_go_and_nothing_else(self, tmp_path: Path) -> None:
        kept = ["mine.txt", "traces.txt", "work/checkpoint/config.json", "work/lock", "sub/report.json"]
        fill(tmp_path, *kept, *REPORT_FILES, "traces/hf-cpu/x", "traces/.hf-cpu.1/x", "logs/hf-cpu.log")
        clear(tmp_path)
        assert [name for name in everything(tmp_path) if (tmp_path / name).is_file()] == sorted(kept)
        assert not (tmp_path / "traces").exists()
        assert not (tmp_path / "logs").exists()

    def test_names(self) -> None:
        assert REPORT_FILES == ("report.json", "report.md", "junit.xml")

    def test_nothing_there(self, tmp_path: Path) -> None:
        clear(tmp_path)
        assert everything(tmp_path) == []
