"""Recording: which clips go together, and that no row of a parameter is passed over. Without torch."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.backends import probes
from harness.backends.probes import group
from harness.trace import Trace, TraceWriter
from harness.trace.tensors import RawTensor
from tests.synthetic import CASE, CONFIGS
from tests.unit.test_trace_folder import AUDIT, manifest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class TestGroup:
    @pytest.mark.parametrize(
        ("tokens", "most_tokens", "most", "ranges"),
        [
            ([], 10, 2, []),
            ([3], 10, 2, [(0, 1)]),
            ([5, 5], 10, 2, [(0, 2)]),
            ([5, 6], 10, 2, [(0, 1), (1, 2)]),
            ([1, 1, 1], 10, 2, [(0, 2), (2, 3)]),
            ([1, 1, 1], 10, 1, [(0, 1), (1, 2), (2, 3)]),
            ([20], 10, 2, [(0, 1)]),
            ([1, 20, 1, 1], 10, 4, [(0, 1), (1, 2), (2, 4)]),
            ([4, 4, 4, 4], 8, 4, [(0, 2), (2, 4)]),
        ],
    )
    def test_examples(
        self, tokens: list[int], most_tokens: int, most: int, ranges: list[tuple[int, int]]
    ) -> None:
        assert group(tokens, most_tokens=most_tokens, most=most) == ranges

    @given(st.lists(st.integers(1, 20)), st.integers(1, 30), st.integers(1, 5))
    def test_every_item_once_in_order_and_none_over_the_limits(
        self, tokens: list[int], most_tokens: int, most: int
    ) -> None:
        ranges = group(tokens, most_tokens=most_tokens, most=most)
        assert [index for start, stop in ranges for index in range(start, stop)] == [*range(len(tokens))]
        for start, stop in ranges:
            assert 1 <= stop - start <= most
            assert sum(tokens[start:stop]) <= most_tokens or stop - start == 1
        # No range could have taken the next item too.
        for (start, stop), _ in pairwise(ranges):
            assert stop - start == most or sum(tokens[start : stop + 1]) > most_tokens


class Array(np.ndarray[Any, np.dtype[Any]]):
    """A numpy array that has memory, as torch says it."""

    is_meta = False


class Model:
    """As much of a module as is asked: its parameters, here of numpy."""

    def __init__(self, **shapes: tuple[int, ...]) -> None:
        self.shapes = shapes

    def named_parameters(self, *, remove_duplicate: bool) -> Iterator[tuple[str, Any]]:
        assert not remove_duplicate
        for name, shape in self.shapes.items():
            yield name, np.ones(shape, dtype=np.float32).view(Array)


class TestRecordParameters:
    @pytest.fixture(autouse=True)
    def _without_torch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(probes, "raw_tensor", RawTensor.of)

    def unmapped(self, folder: Path, name: str, shape: tuple[int, ...]) -> tuple[str, ...]:
        return self.recorded(folder, name, shape).unmapped_parameters

    def recorded(self, folder: Path, name: str, shape: tuple[int, ...]) -> Trace:
        model: Any = Model(**{name: shape})
        with TraceWriter.create(folder / "trace") as writer:
            probes.record_parameters(model, stack="vllm", case=CASE, configs=CONFIGS, writer=writer)
            writer.add_audit(AUDIT)
            writer.finish(manifest())
        return Trace(folder / "trace")

    def test_all_rows_known(self, tmp_path: Path) -> None:
        assert self.unmapped(tmp_path, "audio_tower.layers.0.self_attn.qkv_proj.bias", (24,)) == ()

    def test_without_memory(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Nothing of it can be read; that is said, and the others are recorded."""
        monkeypatch.setattr(Array, "is_meta", True)
        trace = self.recorded(tmp_path, "audio_tower.norm.weight", (8,))
        assert trace.unmapped_parameters == ("audio_tower.norm.weight (without memory)",)
        assert not trace.parameters

    def test_rows_beyond_the_shards(self, tmp_path: Path) -> None:
        """They would be compared with nothing."""
        name = "audio_tower.layers.0.self_attn.qkv_proj.bias"
        assert self.unmapped(tmp_path, name, (32,)) == (f"{name}[24:32]",)

    @pytest.mark.parametrize(
        "name", ["language_model.lm_head.weight", "language_model.model.embed_tokens.weight"]
    )
    def test_padding_is_no_row(self, tmp_path: Path, name: str) -> None:
        trace = self.recorded(tmp_path, name, (320, 8))
        assert trace.unmapped_parameters == ()
        assert list(trace.other_parameters) == [f"{name}[263:320]"]

    @pytest.mark.parametrize("shape", [(3,), (3, 4), ()])
    def test_unknown(self, tmp_path: Path, shape: tuple[int, ...]) -> None:
        trace = self.recorded(tmp_path, "x.scale", shape)
        assert trace.unmapped_parameters == tuple(trace.other_parameters) == ("x.scale",)
        assert not trace.parameters

    @pytest.mark.parametrize("shape", [(24, 1), (24,), (24, 4)])
    def test_a_part_of_a_quantised_weight(self, tmp_path: Path, shape: tuple[int, ...]) -> None:
        """Recorded by shard, to be compared with itself; a run, which would not compare it, is told."""
        name = "audio_tower.layers.0.self_attn.qkv_proj.weight_scale"
        trace = self.recorded(tmp_path, name, shape)
        assert trace.unmapped_parameters == (name,)
        assert not trace.other_parameters
        assert {record.name: record.source for record in trace.parameters.values()} == {
            f"layers.0.{part}_proj.weight_scale": f"{name}[{start}:{start + 8}]"
            for part, start in (("q", 0), ("k", 8), ("v", 16))
        }

    def test_a_part_that_has_no_shards(self, tmp_path: Path) -> None:
        name = "audio_tower.layers.0.self_attn.qkv_proj.weight_shape"
        trace = self.recorded(tmp_path, name, (2,))
        assert trace.unmapped_parameters == tuple(trace.other_parameters) == (name,)
