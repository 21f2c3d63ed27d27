"""The command `releases`: its words, its exit codes, and what it leaves."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import harness.releases
from harness.errors import ExitCode
from harness.releases import Matrix, ReleasesOptions
from harness.releases.cache import default_folder
from harness.run import claimed

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.unit.conftest import Command


@pytest.fixture
def command(command: Command) -> Command:
    """Runs ``harness releases``."""
    return partial(command, "releases")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[ReleasesOptions]:
    """What the job is asked for, which ends in exit code 1."""
    found: list[ReleasesOptions] = []

    def job(options: ReleasesOptions, *, progress: Callable[[str, str], None]) -> Matrix:
        found.append(options)
        progress("releases", "trying")
        return Matrix(
            harness="0.1.0",
            created="2026-11-22T12:00:00+00:00",
            command=options.command,
            work=options.work,
            checkpoint=options.checkpoint,
            checkpoint_digest="0" * 64,
            dtype=options.dtype,
            first_fixed="0.20.0",
            outcome="fail",
            exit_code=ExitCode.FAIL,
            verdict="0.24.0 installed is fail",
            rows=(),
            bisection=None,
            seconds=0.0,
        )

    monkeypatch.setattr(harness.releases, "run_releases", job)
    return found


class TestWords:
    def test_by_default(self, command: Command, asked: list[ReleasesOptions]) -> None:
        code, out, err = command()
        assert code == 1
        assert out.startswith("FAIL  0.24.0 installed is fail\n")
        assert "releases: trying" in err
        (options,) = asked
        assert options == ReleasesOptions(
            out=options.out,
            environments=default_folder() / "environments",
            cache=default_folder() / "releases",
            command=("harness", "releases"),
        )
        assert {"releases.json", "releases.md"} <= {path.name for path in Path("glm-asr-releases").iterdir()}

    def test_all_of_them(self, command: Command, asked: list[ReleasesOptions]) -> None:
        command(
            *("--only", "0.19.1", "--only", "0.20.0", "--since", "0.18.0", "--until", "0.32.0", "--bisect"),
            *("--full", "--keep", "--loader", "installed", "--loader", "reverted", "--dtype", "bfloat16"),
            *("--checkpoint", "random:seed=1", "--environments", "envs", "--cache", "kept", "--out", "there"),
            *("--timeout", "60", "-v"),
        )
        (options,) = asked
        assert (options.only, options.since, options.until) == (("0.19.1", "0.20.0"), "0.18.0", "0.32.0")
        assert options.bisect
        assert options.full
        assert options.keep
        assert options.loaders == ("installed", "reverted")
        assert (options.dtype, options.checkpoint, options.timeout) == ("bfloat16", "random:seed=1", 60.0)
        assert [str(path) for path in (options.environments, options.cache, options.out)] == [
            "envs",
            "kept/releases",
            "there",
        ]

    def test_environments_are_beside_the_results(
        self, command: Command, asked: list[ReleasesOptions]
    ) -> None:
        command("--cache", "kept")
        assert str(asked[0].environments) == "kept/environments"

    def test_without_earlier_results(self, command: Command, asked: list[ReleasesOptions]) -> None:
        command("--no-cache")
        assert asked[0].cache is None
        assert asked[0].environments == default_folder() / "environments"


class TestRefused:
    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (["--only", "0.99.0"], "--only 0.99.0: no such release here; known releases: 0.15.0, 0.15.1, "),
            (["--since", "new"], "--since 'new': expected a version such as 0.15.0"),
            (["--since", "0.33.0"], "--since 0.33.0 leaves no release to try"),
            (["--bisect", "--loader", "patched"], "leave out --loader patched"),
            (["--checkpoint", "./gone"], "checkpoint './gone': expected a folder"),
            (["--environments", "file/below"], "--environments file/below: expected a folder or a new name"),
            (["--cache", "file/below"], "--cache file/below/releases: expected a folder or a new name"),
        ],
    )
    def test_bad_input(self, command: Command, tmp_path: Path, words: list[str], said: str) -> None:
        Path("file").touch()
        code, out, err = command("--out", "new/out", "--environments", "envs", "--cache", "kept", *words)
        assert (code, out) == (2, "")
        assert err.startswith("error: ")
        assert said in err
        assert err.count("\n") == 1
        assert [path.name for path in Path().iterdir()] == ["file"]

    @pytest.mark.parametrize(
        "words",
        [["--loader", "broken"], ["--dtype", "int8"], ["--timeout", "0"], ["extra"], ["--out", "file"]],
    )
    def test_wrong_usage(self, command: Command, tmp_path: Path, words: list[str]) -> None:
        Path("file").touch()
        code, out, err = command(*words)
        assert (code, out) == (2, "")
        assert "Usage:" in err

    def test_a_folder_that_another_writes_to(self, command: Command) -> None:
        with claimed(Path("out")):
            code, _, err = command("--out", "out", "--only", "0.19.1")
        assert code == 2
        assert "another run is writing to out: wait for it" in err


def test_help(command: Command) -> None:
    code, out, _ = command("--help")
    assert code == 0
    for word in ("--only", "--since", "--until", "--bisect", "--full", "--keep", "--loader", "--no-cache"):
        assert word in out
    assert "glm-asr-harness releases --bisect" in out
