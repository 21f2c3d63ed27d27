"""Files and folders that are all there or not there at all."""

from __future__ import annotations

import hashlib
import os
import stat
from typing import TYPE_CHECKING

import pytest

from harness.files import new_folder, replace_folder, sha256_file, write_text

if TYPE_CHECKING:
    from pathlib import Path


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


class TestSha256:
    @pytest.mark.parametrize("size", [0, 1, 1 << 20])
    def test_of_the_bytes(self, tmp_path: Path, size: int) -> None:
        data = b"\xa5" * size
        (tmp_path / "a").write_bytes(data)
        assert sha256_file(tmp_path / "a") == hashlib.sha256(data).hexdigest()


class TestWriteText:
    def test_new(self, tmp_path: Path) -> None:
        write_text(tmp_path / "a.json", "größer\n")
        assert (tmp_path / "a.json").read_bytes() == "größer\n".encode()
        assert mode(tmp_path / "a.json") == 0o644
        assert names(tmp_path) == ["a.json"]

    def test_replaces(self, tmp_path: Path) -> None:
        (tmp_path / "a").write_text("a longer text", encoding="utf-8")
        write_text(tmp_path / "a", "short")
        assert (tmp_path / "a").read_text(encoding="utf-8") == "short"

    def test_the_old_file_stays_open_to_its_reader(self, tmp_path: Path) -> None:
        (tmp_path / "a").write_text("old", encoding="utf-8")
        with (tmp_path / "a").open(encoding="utf-8") as reader:
            write_text(tmp_path / "a", "new")
            assert reader.read() == "old"

    def test_text_that_cannot_be_encoded_leaves_the_old_file(self, tmp_path: Path) -> None:
        (tmp_path / "a").write_text("old", encoding="utf-8")
        with pytest.raises(UnicodeEncodeError):
            write_text(tmp_path / "a", "x" * 100_000 + "\ud800")
        assert (tmp_path / "a").read_text(encoding="utf-8") == "old"
        assert names(tmp_path) == ["a"]

    @pytest.mark.parametrize("error", [OSError("no space left"), KeyboardInterrupt()])
    def test_failing_after_writing_leaves_the_old_file(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
    ) -> None:
        def fail(handle: int) -> None:
            raise error

        (tmp_path / "a").write_text("old", encoding="utf-8")
        monkeypatch.setattr(os, "fsync", fail)
        with pytest.raises(type(error)):
            write_text(tmp_path / "a", "new")
        assert (tmp_path / "a").read_text(encoding="utf-8") == "old"
        assert names(tmp_path) == ["a"]

    def test_a_folder_is_in_the_way(self, tmp_path: Path) -> None:
        (tmp_path / "a").mkdir()
        with pytest.raises(IsADirectoryError):
            write_text(tmp_path / "a", "text")
        assert names(tmp_path) == ["a"]


class TestNewFolder:
    def test_appears_at_the_end(self, tmp_path: Path) -> None:
        path = tmp_path / "deep" / "er" / "out"
        with new_folder(path) as folder:
            assert folder.parent == path.parent
            (folder / "a").write_text("a", encoding="utf-8")
            assert not path.exists()
        assert names(path) == ["a"]
        assert names(path.parent) == ["out"]
        assert mode(path) == 0o755

    def test_replaces_the_whole_old_folder(self, tmp_path: Path) -> None:
        path = tmp_path / "out"
        (path / "sub").mkdir(parents=True)
        (path / "sub" / "old").touch()
        with new_folder(path) as folder:
            (folder / "new").touch()
            assert names(path / "sub") == ["old"]
        assert names(path) == ["new"]
        assert names(tmp_path) == ["out"]

    @pytest.mark.parametrize("old", [True, False])
    @pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
    def test_an_exception_leaves_what_was_there(
        self, tmp_path: Path, old: bool, error: type[BaseException]
    ) -> None:
        path = tmp_path / "out"
        if old:
            path.mkdir()
            (path / "old").touch()

        def interrupted() -> None:
            with new_folder(path) as folder:
                (folder / "new").touch()
                raise error

        with pytest.raises(error):
            interrupted()
        assert names(tmp_path) == (["out"] if old else [])
        assert not old or names(path) == ["old"]

    def test_two_at_once_do_not_meet(self, tmp_path: Path) -> None:
        path = tmp_path / "out"
        with new_folder(path) as first:
            (first / "first").touch()
            with new_folder(path) as second:
                (second / "second").touch()
            assert names(path) == ["second"]
        assert names(path) == ["first"]
        assert names(tmp_path) == ["out"]

    def test_a_file_is_in_the_way(self, tmp_path: Path) -> None:
        (tmp_path / "out").write_text("precious", encoding="utf-8")
        with pytest.raises(NotADirectoryError), new_folder(tmp_path / "out"):
            pass
        assert (tmp_path / "out").read_text(encoding="utf-8") == "precious"
        assert names(tmp_path) == ["out"]

    def test_a_link_is_not_followed(self, tmp_path: Path) -> None:
        (tmp_path / "target").mkdir()
        (tmp_path / "target" / "precious").touch()
        (tmp_path / "out").symlink_to("target")
        with pytest.raises(NotADirectoryError), new_folder(tmp_path / "out"):
            pass
        assert names(tmp_path / "target") == ["precious"]
        assert names(tmp_path) == ["out", "target"]


class TestReplaceFolder:
    def make(self, path: Path, name: str) -> Path:
        path.mkdir(parents=True)
        (path / name).touch()
        return path

    def test_new(self, tmp_path: Path) -> None:
        replace_folder(self.make(tmp_path / "a" / "source", "new"), tmp_path / "target")
        assert names(tmp_path / "target") == ["new"]
        assert names(tmp_path) == ["a", "target"]
        assert names(tmp_path / "a") == []

    def test_the_old_one_goes(self, tmp_path: Path) -> None:
        self.make(tmp_path / "target", "old")
        (tmp_path / "target" / "sub").mkdir()
        replace_folder(self.make(tmp_path / "source", "new"), tmp_path / "target")
        assert names(tmp_path) == ["target"]
        assert names(tmp_path / "target") == ["new"]

    def test_no_source_and_the_old_one_is_kept(self, tmp_path: Path) -> None:
        self.make(tmp_path / "target", "old")
        with pytest.raises(FileNotFoundError):
            replace_folder(tmp_path / "gone", tmp_path / "target")
        assert [path.name for path in tmp_path.rglob("old")] == ["old"]

    def test_a_file_or_a_link_is_in_the_way(self, tmp_path: Path) -> None:
        source = self.make(tmp_path / "source", "new")
        (tmp_path / "file").write_text("precious", encoding="utf-8")
        (tmp_path / "link").symlink_to(self.make(tmp_path / "other", "precious"))
        for name in ("file", "link"):
            with pytest.raises(NotADirectoryError):
                replace_folder(source, tmp_path / name)
        assert names(tmp_path / "link") == ["precious"]
        assert names(tmp_path) == ["file", "link", "other", "source"]
