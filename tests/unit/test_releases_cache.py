"""Kept results: found by everything that decides them, and never in the way."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from harness.releases import cache as module
from harness.releases.cache import Cache, Key, Result, default_folder, reference_digest, sources_digest
from harness.releases.matrix import Helper
from tests.unit.releases_examples import make_report

if TYPE_CHECKING:
    from pathlib import Path

KEY = Key(
    release="0.19.1",
    lock="l" * 64,
    harness="0.1.0",
    sources="s" * 64,
    checkpoint="c" * 64,
    dtype="float32",
    loader="installed",
    work="audit",
)
#: One for each part of the key.
CHANGES: list[dict[str, object]] = [
    {"release": "0.19.0"},
    {"lock": "m" * 64},
    {"harness": "0.2.0"},
    {"sources": "t" * 64},
    {"checkpoint": "d" * 64},
    {"dtype": "bfloat16"},
    {"loader": "patched"},
    {"work": "run"},
    {"seed": 1},
    {"reference": "r"},
]
RESULT = Result(report=make_report("0.19.1", "fail"), seconds=12.5)


@pytest.fixture
def warnings() -> list[str]:
    return []


@pytest.fixture
def kept(tmp_path: Path, warnings: list[str]) -> Cache:
    return Cache(tmp_path / "deep" / "cache", warn=warnings.append)


class TestCache:
    def test_kept_and_found(self, kept: Cache, warnings: list[str]) -> None:
        assert kept.load(KEY, Result) is None
        kept.save(KEY, RESULT)
        assert kept.load(KEY, Result) == RESULT
        assert warnings == []

    @pytest.mark.parametrize("change", CHANGES, ids=str)
    def test_every_part_of_the_key_decides(self, kept: Cache, change: dict[str, object]) -> None:
        kept.save(KEY, RESULT)
        assert kept.load(KEY.model_copy(update=change), Result) is None

    def test_no_part_of_the_key_is_forgotten_above(self) -> None:
        assert {name for change in CHANGES for name in change} == set(Key.model_fields)

    def test_the_helper_beside_the_cells(self, kept: Cache) -> None:
        key = KEY.model_copy(update={"work": "helper", "loader": None, "dtype": None})
        helper = Helper(signature="(weights)", cases=3, wrong={"sharded": "emitted twice"})
        kept.save(KEY, RESULT)
        kept.save(key, helper)
        assert kept.load(key, Helper) == helper
        assert kept.load(KEY, Result) == RESULT

    @pytest.mark.parametrize("content", [b"", b"{", b"{}", b"\xff\xfe", b'{"schema_version": 9}'])
    def test_a_broken_file_is_no_file(
        self, kept: Cache, warnings: list[str], tmp_path: Path, content: bytes
    ) -> None:
        kept.save(KEY, RESULT)
        (path,) = (tmp_path / "deep" / "cache").iterdir()
        path.write_bytes(content)
        assert kept.load(KEY, Result) is None
        assert len(warnings) == 1
        assert warnings[0].startswith(f"{path} cannot be used and is made anew: ")
        kept.save(KEY, RESULT)
        assert kept.load(KEY, Result) == RESULT

    def test_another_result_under_the_name(self, kept: Cache, warnings: list[str], tmp_path: Path) -> None:
        """A file that was copied over another one does not pass for it."""
        other = KEY.model_copy(update={"loader": "patched"})
        kept.save(other, Result(report=make_report("0.19.1", "pass"), seconds=1))
        folder = tmp_path / "deep" / "cache"
        (folder / other.file_name).rename(folder / KEY.file_name)
        assert kept.load(KEY, Result) is None
        assert warnings[0].endswith("it holds another result")

    def test_nothing_half_written(self, kept: Cache, tmp_path: Path) -> None:
        kept.save(KEY, RESULT)
        kept.save(KEY, RESULT)
        assert [path.name for path in (tmp_path / "deep" / "cache").iterdir()] == [KEY.file_name]

    def test_without_a_folder(self, warnings: list[str]) -> None:
        none = Cache(None, warn=warnings.append)
        none.save(KEY, RESULT)
        assert none.load(KEY, Result) is None
        assert warnings == []

    def test_where_nothing_can_be_kept(self, tmp_path: Path, warnings: list[str]) -> None:
        (tmp_path / "file").touch()
        cache = Cache(tmp_path / "file" / "cache", warn=warnings.append)
        cache.save(KEY, RESULT)
        assert "the result is not kept: Not a directory" in warnings[0]
        assert cache.load(KEY, Result) is None


class TestWhatDecides:
    def test_a_change_of_the_harness(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        package = tmp_path / "harness"
        (package / "compare").mkdir(parents=True)
        (package / "compare" / "a.py").write_text("A = 1\n", encoding="utf-8")
        (package / "tolerances.toml").write_text("a = 1\n", encoding="utf-8")
        monkeypatch.setattr(module, "_PACKAGE", package)

        def now() -> str:
            sources_digest.cache_clear()
            return sources_digest()

        first = now()
        assert now() == first
        (package / "compare" / "a.pyc").write_text("compiled", encoding="utf-8")
        assert now() == first
        (package / "tolerances.toml").write_text("a = 2\n", encoding="utf-8")
        second = now()
        (package / "compare" / "a.py").rename(package / "compare" / "b.py")
        third = now()
        assert len({first, second, third}) == 3
        sources_digest.cache_clear()

    def test_of_the_real_one(self) -> None:
        assert len(sources_digest()) == len(reference_digest()) == 64

    def test_where_results_are_kept(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        assert default_folder() == tmp_path / ".cache" / "glm-asr-harness"
        monkeypatch.setenv("XDG_CACHE_HOME", "relative")
        assert default_folder() == tmp_path / ".cache" / "glm-asr-harness"
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
        assert default_folder() == tmp_path / "xdg" / "glm-asr-harness"
