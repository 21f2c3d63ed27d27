"""Build the environment of a lock file, once: ``python harness/releases/build.py LOCK FOLDER``.

tox makes an environment per name, and the main job and the tests share one that takes minutes to build; so
tox's own environments are empty, and this makes the shared one. It is reused until the lock changes. torch is
installed first and alone: PyTorch's index serves only that step, since an index that cannot be reached costs
a retry for every package asked of it.

A lock with a line ``# based on: OTHER.txt`` holds what differs from that one, which lies beside it: pins of
the same package replace the other's, and further ones are added. Where a complete environment of that one
lies beside the new environment, under its lock's name, the new one begins with its files, as hard links: what
differs is installed in seconds, and takes no more room than that.

The standard library only, and nothing of the harness: this runs before there is an environment.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

_BASE = re.compile(r"^# based on: (\S+)$", re.MULTILINE)
_INDEX = re.compile(r"^# torch-index: (\S+)$", re.MULTILINE)
_TORCH = re.compile(r"^torch==\S+$", re.MULTILINE)
_PIN = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)===?\S+$")

#: In front of every line of this script; what has none is pip's.
SAYS = "locks: "


class LockError(Exception):
    """A lock file, or one that it is based on, cannot be read or holds what is not a pin."""


def resolve(lock: Path) -> str:
    """Return the text of ``lock`` with what it is based on: every package once, at the version that counts.

    A lock that is based on none is returned as it is.

    Raises:
        LockError: it or a base is not there, the bases go round in a circle, or a line is no pin.
    """
    return _resolve(lock, above=())


def _resolve(lock: Path, *, above: tuple[Path, ...]) -> str:
    chain = (*above, lock)
    if lock in above:
        msg = f"{above[0]}: a circle of bases: {' -> '.join(path.name for path in chain)}; break it in one"
        raise LockError(msg)
    try:
        text = lock.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = f", which {above[-1].name} is based on," if above else ""
        msg = f"{lock}{why} cannot be read: {getattr(error, 'strerror', None) or error}"
        raise LockError(msg) from error
    pins = _pins(text, lock)
    bases: list[str] = _BASE.findall(text)
    if not bases:
        return text
    if len(bases) > 1:
        msg = f"{lock}: expected one base, found {len(bases)}: {', '.join(bases)}"
        raise LockError(msg)
    lines = _resolve(lock.with_name(bases[0]), above=chain).splitlines()
    if index := _INDEX.search(text):
        lines = [index.group(), *(line for line in lines if not _INDEX.match(line))]
    replaced = [pins.pop(_package(line), line) for line in lines]
    return "\n".join([*replaced, *pins.values()]) + "\n"


def _pins(text: str, lock: Path) -> dict[str, str]:
    """The lines of one file that pin something, by package."""
    pins: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        name = _package(line)
        if not name or name in pins:
            found = f"{line!r}, pinned before as {pins[name]!r}" if name else repr(line)
            msg = f"{lock}, line {number}: expected PACKAGE==VERSION, each package once, found {found}"
            raise LockError(msg)
        pins[name] = line
    return pins


def _package(line: str) -> str:
    """The normalised name of what a line pins; empty where it pins nothing."""
    pin = _PIN.match(line)
    return re.sub(r"[-_.]+", "-", pin.group(1)).lower() if pin else ""


def base_of(lock: Path) -> Path | None:
    """Return the lock that ``lock`` is based on, if there is one; it is one that :func:`resolve` takes."""
    found = _BASE.search(lock.read_text(encoding="utf-8"))
    return lock.with_name(found.group(1)) if found else None


def identity(lock: Path) -> str:
    """Return what an environment of ``lock`` is told by: a digest of its resolved text, and this Python.

    Raises:
        LockError: from :func:`resolve`.
    """
    return f"{hashlib.sha256(resolve(lock).encode()).hexdigest()} python {sys.version.split()[0]}\n"


def is_built(lock: Path, folder: Path) -> bool:
    """Return whether ``folder`` is the complete environment of ``lock`` as it is now.

    Raises:
        LockError: from :func:`resolve`.
    """
    marker = _marker(folder)
    return marker.is_file() and marker.read_text(encoding="utf-8") == identity(lock)


def runs_in(folder: Path) -> bool:
    """Return whether the Python that runs now belongs to the environment ``folder``."""
    return folder.resolve() == Path(sys.prefix).resolve()


def guard_file(folder: Path) -> Path:
    """Return the file beside ``folder`` that is locked while it is built; it shows who made the folder."""
    return folder.with_name(f"{folder.name}.build-lock")


def _marker(folder: Path) -> Path:
    return folder / "lock.sha256"


def build(lock: Path, folder: Path) -> None:
    """Make ``folder`` a virtual environment of what ``lock`` pins, unless it is that already.

    Raises:
        LockError: from :func:`resolve`; nothing was touched.
        SystemExit: it would replace the environment that this runs in; pip is not here, or could not
            install something.
    """
    text = resolve(lock)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with guard_file(folder).open("w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        if is_built(lock, folder):
            return
        if runs_in(folder):
            # It would be taken away from under this very process, and pip with it.
            sys.exit(
                f"{SAYS}{folder} is not what {lock.name} pins, and the Python that runs here is its own: "
                f"build it with another one, as tox does"
            )
        if importlib.util.find_spec("pip") is None:
            sys.exit(
                f"{SAYS}{sys.executable} has no pip, which installs into new environments; give it one "
                "(python -m ensurepip), or run this with a Python that has pip"
            )
        started = time.monotonic()
        _say(f"building {folder} from {lock.name}")
        shutil.rmtree(folder, ignore_errors=True)
        # Without ensurepip, which not every system's Python has: the pip that runs here installs into there.
        venv.create(folder, with_pip=False)
        _begin_with_base(lock, folder)
        _install_torch(folder, text)
        _say("installing everything else that the lock pins")
        with tempfile.NamedTemporaryFile("w", suffix=f"-{lock.name}", encoding="utf-8") as resolved:
            resolved.write(text)
            resolved.flush()
            _pip(folder, "-r", resolved.name, what=lock.name)
        # Last: an environment without it was cut short, and is built anew.
        _marker(folder).write_text(identity(lock), encoding="utf-8")
        _say(f"built in {time.monotonic() - started:.0f} s")


def _begin_with_base(lock: Path, folder: Path) -> None:
    """Link the files of an environment that ``lock`` is based on, if one lies beside and is complete."""
    base = base_of(lock)
    while base is not None and not is_built(base, folder.with_name(base.stem)):
        base = base_of(base)
    if base is None:
        return
    source = folder.with_name(base.stem)
    # Nobody may build it anew meanwhile.
    with guard_file(source).open("a") as guard:
        fcntl.flock(guard, fcntl.LOCK_SH)
        if not is_built(base, source):
            return
        _say(f"beginning with {source}")
        try:
            for part in source.iterdir():
                # Scripts name their own folder, and so stay behind.
                if part.is_dir() and not part.is_symlink() and part.name != "bin":
                    shutil.copytree(
                        part, folder / part.name, symlinks=True, copy_function=os.link, dirs_exist_ok=True
                    )
        except (OSError, shutil.Error):
            # Another file system, or taken away meanwhile.
            _say(f"{source} cannot be linked from; installing everything")
            shutil.rmtree(folder)
            venv.create(folder, with_pip=False)


def _install_torch(folder: Path, lock: str) -> None:
    torch, index = _TORCH.search(lock), _INDEX.search(lock)
    if torch is None or index is None:
        return
    _say(f"installing {torch.group()}")
    if _try_pip(folder, torch.group()):
        return
    _say(f"the usual index has no {torch.group()}; trying {index.group(1)}")
    _pip(folder, torch.group(), "--extra-index-url", index.group(1), what=torch.group())


def _pip(folder: Path, *arguments: str, what: str) -> None:
    if not _try_pip(folder, *arguments, show=True):
        sys.exit(f"{SAYS}pip could not install {what}; {folder} is not complete and will be built anew")


def _try_pip(folder: Path, *arguments: str, show: bool = False) -> bool:
    python = folder / "bin" / "python"
    command = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(python),
        "install",
        "--quiet",
        "--no-deps",
        "--disable-pip-version-check",
        *arguments,
    ]
    errors = None if show else subprocess.DEVNULL
    return subprocess.run(command, stderr=errors, check=False).returncode == 0


def _say(text: str) -> None:
    sys.stderr.write(f"{SAYS}{text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(f"{SAYS}expected LOCK FOLDER, found {' '.join(sys.argv[1:]) or 'nothing'}")
    try:
        build(Path(sys.argv[1]), Path(sys.argv[2]))
    except LockError as problem:
        sys.exit(f"{SAYS}{problem}")
