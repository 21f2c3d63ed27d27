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


class Progress:
    """Called with who and what; writes to standard error, so that output stays the verdict's."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._status: Status | None = None
        self._started = time.monotonic()

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._status = self._console.status("preparing")
            self._status.start()
        return self

    def __call__(self, who: str, what: str) -> None:
        """Show one step."""
        line = plain(f"{time.monotonic() - self._started:6.1f} s  {who}: {what}")
        if self._status is not None:
            self._status.update(Text(line))
        else:
            self._console.print(Text(line), soft_wrap=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._status is not None:
            self._status.stop()
