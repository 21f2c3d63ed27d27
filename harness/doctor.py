"""Says which backends can run here, and what to do for the others."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.table import Table
from rich.text import Text

from harness.backends.availability import Availability, check_available, find_interpreter
from harness.backends.names import BACKENDS, LegName
from harness.errors import InputError
from harness.report.text import plain
from harness.trace.schema import DECIDING_PACKAGES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import Console


def examine(python: Mapping[str, str]) -> dict[str, Availability]:
    """Look at every backend, each in the interpreter given for it, by default in this one.

    Raises:
        InputError: an unknown backend, or an interpreter that is not there.
    """
    if unknown := sorted(set(python) - set(BACKENDS)):
        msg = f"there is no backend {unknown[0]!r}; known backends: {', '.join(BACKENDS)}"
        raise InputError(msg)
    return {
        name: check_available(LegName.parse(name), interpreter=find_interpreter(python.get(name)))
        for name in BACKENDS
    }


def print_doctor(found: Mapping[str, Availability], *, console: Console) -> None:
    """Print a table: backend, available or why not, versions, device."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for header in ("backend", "available", "versions", "device"):
        table.add_column(Text(header), overflow="fold")
    for name, entry in found.items():
        versions = ", ".join(
            f"{key} {entry.versions[key]}" for key in DECIDING_PACKAGES if key in entry.versions
        )
        state = (
            Text("yes", style="green") if entry.available else Text(f"no: {plain(entry.reason)}", "yellow")
        )
        table.add_row(Text(name), state, Text(plain(versions)), Text(plain(entry.device_name)))
    console.print(table)
    for interpreter in dict.fromkeys(entry.interpreter for entry in found.values()):
        console.print(Text(f"interpreter: {plain(interpreter)}"), soft_wrap=True)
    if not any(entry.available for entry in found.values()):
        console.print(
            "No backend can run here: install vllm and transformers beside the harness, or name an "
            "interpreter that has them with --python BACKEND=INTERPRETER."
        )
