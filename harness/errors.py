"""The errors that the harness raises on purpose, and the exit codes they end in."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """What the process answers to its caller."""

    PASS = 0
    FAIL = 1
    USAGE = 2
    INCOMPLETE = 3


class HarnessError(Exception):
    """Base of every error raised on purpose: its text is for the user, its traceback is not."""


class InputError(HarnessError):
    """Wrong usage or bad input: the command ends with exit code 2 and nothing is written."""


class TraceError(InputError):
    """A folder is not a trace, or its bytes are not those its manifest promises."""


class CaptureError(HarnessError):
    """A capture cannot go on: the leg ends as ``error`` and its log says why."""


class RefusedError(CaptureError):
    """A stack does not load a checkpoint."""
