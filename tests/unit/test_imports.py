"""The house's rules of who may import whom, read off the source of every module.

Every import counts: inside a function, under ``TYPE_CHECKING``, behind a condition. An import for types
alone is a dependence all the same.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import harness

ROOT = Path(harness.__file__).parent

#: The parts of the house, by floor. A part is a package below ``harness``, or a single module.
FLOORS = {
    4: {"cli", "pytest_plugin", "__main__"},
    3: {"run", "report", "doctor", "progress", "releases"},
    2: {"compare", "backends"},
    1: {"trace", "cases", "audio", "checkpoints"},
    0: {"__init__", "errors", "files"},
}
FLOOR = {part: floor for floor, parts in FLOORS.items() for part in parts}
#: The only imports between two parts of one floor: who, and whom. `compare` and `backends` are not here.
NEIGHBOURS = {
    ("__main__", "cli"),
    ("doctor", "report"),  # harness.report.text, which makes any text safe to print
    ("progress", "report"),
    ("releases", "run"),
    ("releases", "report"),
    ("run", "report"),  # the names of the files that a run replaces
    ("audio", "trace"),  # the names and digests that a manifest of clips shares with a trace
    ("checkpoints", "trace"),  # the writer of safetensors files
    ("checkpoints", "cases"),
}
STACKS = {"torch", "vllm", "transformers"}
#: The only modules that may name a stack; all of them run inside a leg.
IN_A_LEG = {
    "harness.backends.box",
    "harness.backends.environment",
    "harness.backends.contract_main",
    "harness.backends.fill",
    "harness.backends.guard",
    "harness.backends.hf",
    "harness.backends.hf_audit",
    "harness.backends.load_audit",
    "harness.backends.memory",
    "harness.backends.poison",
    "harness.backends.probes",
    "harness.backends.vllm_engine",
    "harness.backends.vllm_load_only",
    "harness.backends.vllm_loader",
    "harness.backends.watch",
    "harness.backends.zero_bias",
}
#: Run as files by interpreters that need not have anything: the standard library only.
BARE = {"harness.backends.inspect_main", "harness.backends.leg_main", "harness.releases.build"}


def module_name(path: Path) -> str:
    parts = ("harness", *path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def id_of(module: str) -> str:
    """Name a module in a test's id; `-k glm_asr` means the checks of parity, and none of these."""
    return module.replace("glm_asr", "glm-asr")


MODULES = {module_name(path): path for path in sorted(ROOT.rglob("*.py"))}


def imports_of(source: str, *, module: str) -> set[str]:
    """The full names of what a module imports; of ``from x import y``, both ``x`` and ``x.y``.

    ``harness`` itself, imported for its version, is the floor that everything stands on.
    """
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: imports are absolute"
            assert node.module is not None
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in {"__import__", "import_module", "importlib.import_module"}, (
                f"{module}: {called} hides what is imported"
            )
    return found


IMPORTS = {
    module: imports_of(path.read_text(encoding="utf-8"), module=module) for module, path in MODULES.items()
}


def at_the_top(module: str) -> set[str]:
    """What importing a module imports at once: neither inside functions nor under a condition."""
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    tree.body = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    return imports_of(ast.unparse(tree), module=module)


def part_of(module: str) -> str:
    return module.split(".")[1] if "." in module else "__init__"


def parts_imported(module: str) -> set[str]:
    """The parts of the house that a module imports from, its own apart."""
    names = {name for name in IMPORTS[module] if name.split(".")[0] == "harness"}
    # `from harness import __version__` names no part; `from harness import run` does.
    return ({part_of(name) for name in names} & set(FLOOR)) - {part_of(module)}


def test_every_part_is_on_a_floor() -> None:
    parts = {part_of(module) for module in MODULES}
    assert parts == set(FLOOR), "put a new part of the house on its floor, above"


@pytest.mark.parametrize("module", MODULES, ids=id_of)
def test_imports_go_down(module: str) -> None:
    part = part_of(module)
    for other in parts_imported(module):
        assert FLOOR[other] < FLOOR[part] or (part, other) in NEIGHBOURS, (
            f"{module} (floor {FLOOR[part]}) imports harness.{other} (floor {FLOOR[other]})"
        )


def test_neighbours_are_neighbours_and_none_is_left_over() -> None:
    used = {(part_of(module), other) for module in MODULES for other in parts_imported(module)}
    assert {pair for pair in used if FLOOR[pair[0]] == FLOOR[pair[1]]} == NEIGHBOURS
    # With imports that go down, a circle could only run along one floor.
    for one, other in NEIGHBOURS:
        assert not {pair for pair in NEIGHBOURS if pair[0] == other and pair[1] == one}


def test_comparing_and_capturing_do_not_know_each_other() -> None:
    for module in MODULES:
        if part_of(module) == "compare":
            assert "backends" not in parts_imported(module)
        if part_of(module) == "backends":
            assert "compare" not in parts_imported(module)


@pytest.mark.parametrize("module", MODULES, ids=id_of)
def test_only_a_leg_imports_a_stack(module: str) -> None:
    named = {name.split(".")[0] for name in IMPORTS[module]} & STACKS
    assert module in IN_A_LEG or not named, f"{module} imports {', '.join(sorted(named))}"


def test_modules_of_a_leg_exist() -> None:
    for module in IN_A_LEG:
        assert {name.split(".")[0] for name in IMPORTS[module]} & STACKS


@pytest.mark.parametrize("module", sorted(set(MODULES) - IN_A_LEG), ids=id_of)
def test_modules_of_a_leg_are_imported_in_a_leg_only(module: str) -> None:
    # `environment` also names the processor, and imports torch in a function that only a leg calls.
    heavy = IN_A_LEG - {"harness.backends.environment"}
    assert not at_the_top(module) & heavy
    if part_of(module) != "backends":
        assert not IMPORTS[module] & heavy


@pytest.mark.parametrize("module", sorted(BARE))
def test_a_bare_interpreter_can_run_it(module: str) -> None:
    assert {name.split(".")[0] for name in at_the_top(module)} <= sys.stdlib_module_names
    if not module.endswith("leg_main"):
        assert {name.split(".")[0] for name in IMPORTS[module]} <= sys.stdlib_module_names


def test_a_report_is_shown_without_what_made_it() -> None:
    for module in MODULES:
        if part_of(module) == "report":
            assert not parts_imported(module) & {"run", "backends", "cases", "audio", "checkpoints"}


class TestTheReader:
    """The rules above are only as good as what finds the imports."""

    @pytest.mark.parametrize(
        "source",
        [
            "import torch.nn",
            "from torch import nn",
            "def f():\n    import torch",
            "if TYPE_CHECKING:\n    import torch",
            "try:\n    import torch as t\nexcept ImportError:\n    pass",
            "class A:\n    def f(self):\n        if x:\n            from torch.nn import functional",
        ],
    )
    def test_it_finds(self, source: str) -> None:
        assert "torch" in {name.split(".")[0] for name in imports_of(source, module="x")}

    def test_both_names(self) -> None:
        assert imports_of("from harness import run", module="x") == {"harness", "harness.run"}

    @pytest.mark.parametrize(
        "source",
        ["from . import a", "from .a import b", "__import__('torch')", "importlib.import_module('a')"],
    )
    def test_it_refuses_what_it_cannot_follow(self, source: str) -> None:
        with pytest.raises(AssertionError, match=r"^x: "):
            imports_of(source, module="x")


def test_planning_loads_no_stack_and_nothing_slow() -> None:
    code = (
        "import json, sys\n"
        "import harness.compare.compare, harness.run, harness.pytest_plugin, harness.cli\n"
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT.parent, capture_output=True, text=True, check=True
    )
    loaded = set(json.loads(done.stdout))
    assert "harness" in loaded
    assert not loaded & {*STACKS, "librosa", "jiwer", "numba", "scipy"}
