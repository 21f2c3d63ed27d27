"""What a loader writes by itself to a bias that only a checkpoint may write: undone, and said."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("torch", reason="needs torch, which belongs to the environment under test")

import torch

from harness.backends.guard import Guard
from harness.backends.watch import LoadWatch
from harness.errors import CaptureError
from tests.unit.test_load_audit import BIAS, build

if TYPE_CHECKING:
    from harness.trace.schema import LoaderState

ROWS = {"q": slice(0, 8), "k": slice(8, 16), "v": slice(16, 24)}
UNDONE = [f"undid a write to {BIAS}[8:16] that came from no checkpoint"]


def rows_of(name: str) -> list[tuple[int, int]]:
    return [(8, 16)] if name == BIAS else []


def weight_loader(parameter: torch.nn.Parameter, weight: torch.Tensor, shard: str = "") -> str:
    """As vLLM's of a fused projection."""
    parameter.data[ROWS[shard] if shard else slice(None)].copy_(weight)
    return "loaded"


class Loading:
    """A fused bias in a loader state; what is offered is of the checkpoint."""

    def __init__(self, state: LoaderState) -> None:
        self.model = build({BIAS: torch.full((24,), 9.0)})
        self.bias: Any = self.model.get_parameter(BIAS)
        self.bias.weight_loader = weight_loader
        self.watch = LoadWatch(self.model.named_parameters())
        self.guard = Guard(self.watch, state=state)
        self.guard.install(self.model, rows_of=rows_of)

    def load(self, shard: str, value: float, *, offered: bool = True) -> None:
        weight = torch.full((8,), value)
        with self.watch:
            if offered:
                self.watch.offer(f"{shard}_proj.bias", weight)
            assert self.bias.weight_loader(self.bias, weight, shard) == "loaded"

    def values(self) -> list[float]:
        return [float(self.bias[rows][0]) for rows in ROWS.values()]


@pytest.mark.parametrize("state", ["installed", "patched", "reverted"])
def test_the_checkpoint_s_own_values_are_written(state: LoaderState) -> None:
    load = Loading(state)
    for value, shard in enumerate("qkv"):
        load.load(shard, value)
    assert load.values() == [0, 1, 2]
    assert load.guard.undone == []


@pytest.mark.parametrize(
    ("state", "left", "undone"), [("installed", 0, []), ("patched", 0, []), ("reverted", 9, UNDONE)]
)
def test_zeros_where_the_checkpoint_has_nothing(state: LoaderState, left: float, undone: list[str]) -> None:
    load = Loading(state)
    load.load("k", 0, offered=False)
    assert load.values() == [9, left, 9]
    assert load.guard.undone == undone
    assert bool(load.watch.writes[BIAS]) is not bool(undone), "what was undone was not written"


@pytest.mark.parametrize(
    ("state", "left", "undone"), [("installed", 0, []), ("patched", 3, UNDONE), ("reverted", 3, UNDONE)]
)
def test_zeros_over_what_the_checkpoint_has(state: LoaderState, left: float, undone: list[str]) -> None:
    load = Loading(state)
    load.load("k", 3)
    load.load("k", 0, offered=False)
    assert load.values() == [9, left, 9]
    assert load.guard.undone == undone
    assert len(load.watch.writes[BIAS]) == (1 if undone else 2)


@pytest.mark.parametrize("state", ["patched", "reverted"])
def test_zeros_and_then_what_the_checkpoint_has(state: LoaderState) -> None:
    load = Loading(state)
    load.load("k", 0, offered=False)
    load.load("k", 3)
    assert load.values() == [9, 3, 9]


def test_only_the_rows_that_may_be_absent() -> None:
    """What a loader makes of q and v is not this guard's business."""
    load = Loading("reverted")
    load.load("q", 5, offered=False)
    with load.watch:
        load.bias.weight_loader(load.bias, torch.zeros(24))
    assert load.values() == [0, 9, 0]
    assert load.guard.undone == UNDONE


def test_a_release_that_does_not_let_its_loader_be_replaced() -> None:
    class Fixed(torch.nn.Parameter):  # type: ignore[misc]  # torch is not there
        weight_loader = property(lambda _: weight_loader)

    model: Any = SimpleNamespace(named_parameters=lambda: [(BIAS, Fixed(torch.zeros(24)))])
    guard = Guard(LoadWatch([]), state="reverted")
    with pytest.raises(CaptureError, match=r"loader state reverted cannot be put on .*qkv_proj\.bias: "):
        guard.install(model, rows_of=rows_of)
