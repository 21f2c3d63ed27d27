"""Shows what long work does now: one live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.text import Text

from harness.report.text import plain

if TYPE_CHECKING:
    from types import TracebackType

    from rich.status import Status


#: How often a step that only counts on is said again where lines stay.
_SECONDS_BETWEEN = 10.0


class Progress:
    """Called with who and what; writes to standard error, so that output stays the verdict's."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._status: Status | None = None
        self._started = self._shown = time.monotonic()
        self._step = ("", "")

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._status = self._console.status("preparing")
            self._status.start()
        return self

    def __call__(self, who: str, what: str) -> None:
        """Show one step."""
        now = time.monotonic()
        line = Text(plain(f"{now - self._started:6.1f} s  {who}: {what}"))
        if self._status is not None:
            self._status.update(line)
            return
        # "clip 3/16 …" goes on from "clip 2/16 …": a log needs no line for each.
        step = (who, what.split(" ", 1)[0])
        if step != self._step or now - self._shown >= _SECONDS_BETWEEN:
            self._console.print(line, soft_wrap=True)
            self._step, self._shown = step, now

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._status is not None:
            self._status.stop()
