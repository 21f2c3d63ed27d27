"""Build the environment of a lock file, once: ``python locks/build.py LOCK FOLDER``.

tox makes an environment per name, and the main job and the tests share one that takes minutes to build; so
tox's own environments are empty, and this makes the shared one. It is reused until the lock changes. torch is
installed first and alone: PyTorch's index serves only that step, since an index that cannot be reached costs
a retry for every package asked of it.
"""

from __future__ import annotations

import fcntl
import hashlib
import re
import shutil
import subprocess
import sys
import time
import venv
from pathlib import Path

_INDEX = re.compile(r"^# torch-index: (\S+)$", re.MULTILINE)
_TORCH = re.compile(r"^torch==\S+$", re.MULTILINE)


def build(lock: Path, folder: Path) -> None:
    """Make ``folder`` a virtual environment of what ``lock`` pins, unless it is that already."""
    text = lock.read_text(encoding="utf-8")
    identity = f"{hashlib.sha256(text.encode()).hexdigest()} python {sys.version.split()[0]}\n"
    marker = folder / "lock.sha256"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f"{folder.name}.build-lock").open("w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        if marker.is_file() and marker.read_text(encoding="utf-8") == identity:
            return
        started = time.monotonic()
        _say(f"building {folder} from {lock.name}")
        shutil.rmtree(folder, ignore_errors=True)
        # Without ensurepip, which not every system's Python has: the pip that runs here installs into there.
        venv.create(folder, with_pip=False)
        _install_torch(folder, text)
        _say("installing everything else that the lock pins")
        _pip(folder, "-r", str(lock))
        # Last: an environment without it was cut short, and is built anew.
        marker.write_text(identity, encoding="utf-8")
        _say(f"built in {time.monotonic() - started:.0f} s")


def _install_torch(folder: Path, lock: str) -> None:
    torch, index = _TORCH.search(lock), _INDEX.search(lock)
    if torch is None or index is None:
        return
    _say(f"installing {torch.group()}")
    if _try_pip(folder, torch.group()):
        return
    _say(f"the usual index has no {torch.group()}; trying {index.group(1)}")
    _pip(folder, torch.group(), "--extra-index-url", index.group(1))


def _pip(folder: Path, *arguments: str) -> None:
    if not _try_pip(folder, *arguments, show=True):
        sys.exit(
            f"pip could not install {' '.join(arguments)}; {folder} is not complete and will be built anew"
        )


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
    sys.stderr.write(f"locks: {text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    build(Path(sys.argv[1]), Path(sys.argv[2]))
