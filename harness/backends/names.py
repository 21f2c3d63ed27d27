"""How legs are written: ``BACKEND`` or ``BACKEND@LABEL``, where a backend is a stack on a device."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast, get_args

from harness.errors import InputError

if TYPE_CHECKING:
    from harness.cases.case import Stack

Device = Literal["cpu", "cuda"]
BACKENDS = tuple(f"{stack}-{device}" for stack in ("hf", "vllm") for device in get_args(Device))


@dataclass(frozen=True, kw_only=True)
class LegName:
    """A leg's name, taken apart. The label tells legs of one backend from each other."""

    stack: Stack
    device: Device
    label: str = ""

    @classmethod
    def parse(cls, text: str) -> LegName:
        """Read ``vllm-cpu`` or ``vllm-cpu@0.19.1``.

        Raises:
            InputError: an unknown backend, or a label that cannot be part of a file name.
        """
        backend, at, label = text.partition("@")
        if backend not in BACKENDS:
            msg = f"there is no backend {backend!r}; known backends: {', '.join(BACKENDS)}"
            raise InputError(msg)
        if at and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]*", label):
            msg = f"leg {text!r}: a label is letters, digits and . _ + -, found {label!r}"
            raise InputError(msg)
        stack, device = backend.split("-")
        return cls(stack=cast("Stack", stack), device=cast("Device", device), label=label)

    @property
    def backend(self) -> str:
        """The backend: stack and device."""
        return f"{self.stack}-{self.device}"

    @property
    def identifier(self) -> str:
        """The name as it stands in check ids: ``vllm_cpu``, ``vllm_cpu@0.19.1``."""
        return f"{self.stack}_{self.device}" + (f"@{self.label}" if self.label else "")

    def __str__(self) -> str:
        return self.backend + (f"@{self.label}" if self.label else "")
