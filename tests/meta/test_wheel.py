"""The wheel carries what an installed harness needs outside a checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from harness.errors import ExitCode

ROOT = Path(__file__).parent.parent.parent


def call(*command: object, cwd: Path) -> str:
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([*map(str, command)], cwd=cwd, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment that sees this one's packages and has the harness installed from its wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    call(*pip, "wheel", "--no-deps", "--no-build-isolation", "--quiet", "-w", folder, ROOT, cwd=folder)
    (wheel,) = folder.glob("glm_asr_harness-*.whl")
    venv.create(folder / "env", with_pip=False)
    installed = folder / "env" / "bin" / "python"
    purelib = Path(sysconfig.get_path("purelib", vars={"base": str(folder / "env")}))
    # Behind the new environment's own packages: what the wheel brings is found first.
    (purelib / "beside.pth").write_text(sysconfig.get_path("purelib") + "\n")
    call(*pip, "--python", installed, "install", "--no-deps", "--quiet", wheel, cwd=folder)
    return installed


def test_installed_harness_runs_outside_a_checkout(python: Path, tmp_path: Path) -> None:
    where = call(python, "-c", "import harness; print(harness.__file__)", cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(python.parent.parent)
    out = call(python.with_name("glm-asr-harness"), "doctor", cwd=tmp_path)
    assert "vllm-cuda" in out


def test_installed_harness_knows_the_releases_and_their_locks(python: Path, tmp_path: Path) -> None:
    command = [str(python.with_name("glm-asr-harness")), "releases", "--only", "9.9.9", "--out", "out"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == ExitCode.USAGE
    assert "no such release here; known releases: 0.15.0, " in done.stderr
    assert not (tmp_path / "out").exists()


def test_installed_harness_captures_the_embedded_clips(python: Path, tmp_path: Path) -> None:
    """A real leg, in an interpreter that has the backend and not the harness."""
    call(python.with_name("glm-asr-harness"), "capture", "--backend", "hf-cpu", "--python", sys.executable,
         "--out", "trace", cwd=tmp_path)  # fmt: skip
    assert len(list((tmp_path / "trace" / "activations").glob("*.safetensors"))) >= 12
