"""The audit of a load: every element of every parameter accounted for, by shard, tensor and range."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("torch", reason="needs torch, which belongs to the environment under test")

import torch

from harness.backends.fill import filled
from harness.backends.load_audit import _ranges, audit_load
from harness.backends.poison import PoisonedParameters
from harness.backends.watch import LoadWatch
from tests.synthetic import CASE, CONFIGS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from harness.trace.schema import AuditedShard, Fill, LoadAudit

    Loader = Callable[[torch.nn.Module, str, torch.Tensor], object]

ATTENTION = "audio_tower.layers.0.self_attn"
BIAS = f"{ATTENTION}.qkv_proj.bias"
WEIGHT = f"{ATTENTION}.qkv_proj.weight"
K_BIAS = f"{ATTENTION}.k_proj.bias"
K_WEIGHT = f"{ATTENTION}.k_proj.weight"
GATE_UP = "language_model.model.layers.0.mlp.gate_up_proj.weight"
EMBED = "language_model.model.embed_tokens.weight"
#: As vLLM names and fuses them, the vocabulary of 263 padded to 320.
SHAPES = {
    BIAS: (24,),
    WEIGHT: (24, 8),
    GATE_UP: (CASE.shards("vllm", GATE_UP, CONFIGS)[-1].stop, 8),
    EMBED: (320, 8),
}


def build(parameters: Mapping[str, torch.Tensor]) -> torch.nn.Module:
    """A tree of plain modules that has parameters of these names."""
    model = torch.nn.Module()
    for name, tensor in parameters.items():
        *path, last = name.split(".")
        module = model
        for part in path:
            if part not in dict(module.named_children()):
                module.add_module(part, torch.nn.Module())
            module = module.get_submodule(part)
        module.register_parameter(last, torch.nn.Parameter(tensor, requires_grad=False))
    return model


def fresh() -> torch.nn.Module:
    return build({name: torch.empty(shape) for name, shape in SHAPES.items()})


def place(model: torch.nn.Module, name: str) -> torch.Tensor:
    """The rows of the model's own parameter that a tensor of the checkpoint belongs to."""
    for own, parameter in model.named_parameters():
        for shard in CASE.shards("vllm", own, CONFIGS):
            if CASE.published_name(shard.name) == name:
                return parameter.data[shard.start : shard.stop]
    raise KeyError(name)


#: The checkpoint: everything but the k bias.
CHECKPOINT = {
    CASE.published_name(shard.name): torch.ones((shard.stop - shard.start, *shape[1:]))
    for own, shape in SHAPES.items()
    for shard in CASE.shards("vllm", own, CONFIGS)
    if CASE.published_name(shard.name) != K_BIAS
}


def copy(model: torch.nn.Module, name: str, tensor: torch.Tensor) -> None:
    place(model, name).copy_(tensor)


def audited(
    *,
    make: Callable[[], torch.nn.Module] = fresh,
    loader: Loader = copy,
    after: Callable[[torch.nn.Module], object] = lambda _: None,
    checkpoint: Sequence[tuple[str, torch.Tensor]] = tuple(CHECKPOINT.items()),
    stored: Sequence[str] = tuple(CHECKPOINT),
    fill: Fill = "nan",
) -> LoadAudit:
    """Load a checkpoint tensor by tensor, then let the loader do something of its own; audit all of it."""
    with filled(fill):
        model = make()
        poisoned = PoisonedParameters(model)
        watch = LoadWatch(model.named_parameters())

        def load() -> None:
            watch.restart(model.named_parameters())
            with watch:
                for name, tensor in checkpoint:
                    watch.offer(name, tensor)
                    loader(model, name, tensor)
                after(model)

        unwritten = poisoned.load(load)
        return audit_load(model, unwritten=unwritten, watch=watch, stored=stored, case=CASE, configs=CONFIGS)


def shards_of(audit: LoadAudit, parameter: str) -> dict[str, AuditedShard]:
    found = {shard.shard: shard for shard in audit.shards if shard.parameter == parameter}
    for shard in found.values():
        assert shard.loaded + shard.made + shard.default + shard.uninitialised == shard.elements
    assert sum(shard.elements for shard in found.values()) == {shard.of for shard in found.values()}.pop()
    return found


def counts(shard: AuditedShard) -> tuple[int, int, int]:
    return shard.loaded, shard.default, shard.uninitialised


@pytest.mark.parametrize("fill", ["nan", "finite"])
class TestTheBug:
    """The k third of a fused bias that the checkpoint does not have."""

    def test_nobody_writes_it(self, fill: Fill) -> None:
        found = shards_of(audited(fill=fill), BIAS)
        k = found["k"]
        assert k.name == "layers.0.k_proj.bias"
        assert (k.rows, k.of, k.elements, k.dtype) == ((8, 16), 24, 8, "float32")
        assert counts(k) == (0, 0, 8)
        assert (k.unwritten, k.sources) == (("[8:16]",), ())
        for part in "qv":
            assert counts(found[part]) == (8, 0, 0)
            assert (found[part].unwritten, found[part].sources) == ((), (f"{ATTENTION}.{part}_proj.bias",))

    def test_the_loader_writes_zeros(self, fill: Fill) -> None:
        audit = audited(after=lambda model: place(model, K_BIAS).copy_(torch.zeros(8)), fill=fill)
        k = shards_of(audit, BIAS)["k"]
        assert (counts(k), k.made) == ((0, 0, 0), 8)
        assert (k.unwritten, k.sources) == ((), ())
        assert audit.overwritten == ()

    def test_the_constructor_has_zeros(self, fill: Fill) -> None:
        make = lambda: build({BIAS: torch.zeros(24)})  # noqa: E731 - one line
        biases = [(name, tensor) for name, tensor in CHECKPOINT.items() if name.endswith(".bias")]
        k = shards_of(audited(make=make, checkpoint=biases, fill=fill), BIAS)["k"]
        assert counts(k) == (0, 8, 0)
        assert k.unwritten == ("[8:16]",)

    def test_the_checkpoint_has_it(self, fill: Fill) -> None:
        audit = audited(checkpoint=[*CHECKPOINT.items(), (K_BIAS, torch.full((8,), float("nan")))], fill=fill)
        k = shards_of(audit, BIAS)["k"]
        assert counts(k) == (8, 0, 0)
        assert k.sources == (K_BIAS,)
        assert audit.tensors[-1].non_finite == 8


class TestShards:
    @pytest.mark.parametrize(
        ("index", "left", "unwritten"),
        [
            ((slice(2, 5),), 40, ("[8:10]", "[13:16]")),
            ((slice(0, 8), slice(0, 3)), 40, ("[8:16, 3:8]",)),
            ((slice(0, 7),), 8, ("[15:16]",)),
            ((slice(0, 8, 2),), 32, ("[9:10]", "[11:12]", "[13:14]", "and 1 more ranges")),
        ],
    )
    def test_written_in_part(self, index: tuple[slice, ...], left: int, unwritten: tuple[str, ...]) -> None:
        def loader(model: torch.nn.Module, name: str, tensor: torch.Tensor) -> None:
            where = index if name == K_WEIGHT else ()
            place(model, name)[where].copy_(tensor[where])

        found = shards_of(audited(loader=loader), WEIGHT)
        assert counts(found["k"]) == (64 - left, 0, left)
        assert found["k"].unwritten == unwritten
        assert found["k"].sources == (K_WEIGHT,)
        assert [counts(found[part]) for part in "qv"] == [(64, 0, 0)] * 2

    def test_some_as_constructed_and_some_by_nobody(self) -> None:
        def make() -> torch.nn.Module:
            model = fresh()
            place(model, K_WEIGHT)[:2].fill_(1)
            return model

        def loader(model: torch.nn.Module, name: str, tensor: torch.Tensor) -> None:
            where = slice(1, 6) if name == K_WEIGHT else slice(None)
            place(model, name)[where].copy_(tensor[where])

        k = shards_of(audited(make=make, loader=loader), WEIGHT)["k"]
        assert counts(k) == (40, 8, 16)
        assert k.unwritten == ("[8:9]", "[14:16]")

    @given(st.sets(st.integers(0, 23)))
    def test_any_rows(self, rows: set[int]) -> None:
        audit = audited(
            make=lambda: build({BIAS: torch.empty(24)}),
            checkpoint=(),
            after=lambda model: [place(model, K_BIAS).fill_(0), *(_one(model, row) for row in rows)],
        )
        for part, shard in shards_of(audit, BIAS).items():
            own = set(range(*shard.rows))
            assert shard.made == (8 if part == "k" else len(own & rows))
            assert shard.uninitialised == (0 if part == "k" else len(own - rows))

    def test_zeros_and_then_a_part_of_the_tensor(self) -> None:
        """All is written, and not all of it from the checkpoint."""

        def loader(model: torch.nn.Module, name: str, tensor: torch.Tensor) -> None:
            if name == K_WEIGHT:
                place(model, name).zero_()
                place(model, name)[2:4].copy_(tensor[2:4])
            else:
                copy(model, name, tensor)

        found = shards_of(audited(loader=loader), WEIGHT)
        assert (found["k"].loaded, found["k"].made, found["k"].sources) == (16, 48, (K_WEIGHT,))
        assert [(found[part].loaded, found[part].made) for part in "qv"] == [(64, 0)] * 2

    def test_drawn_over_what_was_loaded(self) -> None:
        audit = audited(after=lambda model: place(model, K_WEIGHT).normal_())
        k = shards_of(audit, WEIGHT)["k"]
        assert (k.loaded, k.made) == (0, 64)
        assert [entry.second for entry in audit.overwritten] == [None]

    def test_the_loader_s_zeros_where_they_cannot_be_told(self) -> None:
        """Every second row is no rectangle: what was loaded is not taken for overwritten in all of it."""
        k = shards_of(audited(after=lambda model: place(model, K_WEIGHT)[::2].zero_()), WEIGHT)["k"]
        assert (k.loaded, k.made) == (64, 0)

    def test_repacked_into_nothing(self) -> None:
        def after(model: torch.nn.Module) -> None:
            model.get_parameter(WEIGHT).data = torch.empty(0)

        audit = audited(
            make=lambda: build({WEIGHT: torch.empty(24, 8)}),
            checkpoint=[
                item
                for item in CHECKPOINT.items()
                if item[0].endswith("_proj.weight") and ATTENTION in item[0]
            ],
            after=after,
        )
        assert {(shard.elements, shard.of, shard.loaded) for shard in audit.shards} == {(0, 0, 0)}

    def test_gate_and_up(self) -> None:
        def loader(model: torch.nn.Module, name: str, tensor: torch.Tensor) -> None:
            if "up_proj" not in name:
                copy(model, name, tensor)

        audit = audited(loader=loader)
        found = shards_of(audit, GATE_UP)
        assert list(found) == ["gate", "up"]
        assert (found["gate"].uninitialised, found["up"].loaded) == (0, 0)
        assert found["up"].unwritten == (f"[{found['up'].rows[0]}:{found['up'].rows[1]}]",)

    @pytest.mark.parametrize("zeros", [True, False])
    def test_the_padding_of_the_vocabulary(self, zeros: bool) -> None:
        rows = len(CHECKPOINT[EMBED])
        after = (lambda model: model.get_parameter(EMBED)[rows:].fill_(0)) if zeros else (lambda _: None)
        found = shards_of(audited(after=after), EMBED)
        assert list(found) == ["", "padding"]
        padding = found["padding"]
        assert (padding.name, padding.rows, padding.sources) == (None, (rows, 320), ())
        left = (320 - rows) * 8
        assert (counts(padding), padding.made) == (((0, 0, 0), left) if zeros else ((0, 0, left), 0))
        assert (found[""].sources, found[""].rows) == ((EMBED,), (0, rows))

    def test_what_the_case_does_not_know(self) -> None:
        make = lambda: build({"x.scale": torch.empty(()), "x.table": torch.empty(2, 3, dtype=torch.int8)})  # noqa: E731
        audit = audited(make=make, checkpoint=())
        assert [(shard.parameter, shard.name, shard.shard) for shard in audit.shards] == [
            ("x.scale", None, ""),
            ("x.table", None, ""),
        ]
        assert [(shard.rows, shard.uninitialised, shard.unwritten) for shard in audit.shards] == [
            ((0, 1), 1, ("[]",)),
            ((0, 2), 6, ("[0:2]",)),
        ]
        assert [shard.dtype for shard in audit.shards] == ["float32", "int8"]

    def test_a_parameter_without_memory(self) -> None:
        audit = audited(make=lambda: build({"x.w": torch.empty(2, device="meta")}), checkpoint=())
        assert audit.shards == ()
        assert audit.not_audited == ("x.w: has no memory after loading",)

    def test_a_parameter_that_the_loader_gave_other_memory(self) -> None:
        def loader(model: torch.nn.Module, name: str, tensor: torch.Tensor) -> None:
            model.get_parameter(EMBED).data = tensor.clone()

        embed = [(EMBED, CHECKPOINT[EMBED])]
        audit = audited(make=lambda: build({EMBED: torch.empty(3)}), loader=loader, checkpoint=embed)
        (shard,) = audit.shards
        assert counts(shard) == (CHECKPOINT[EMBED].numel(), 0, 0)
        assert shard.sources == (EMBED,)
        assert audit.tensors[0].consumed


def _one(model: torch.nn.Module, row: int) -> torch.Tensor:
    return model.get_parameter(BIAS).data[row].fill_(1)


class TestParts:
    """What a quantised weight is kept as has its shards, where it has its rows."""

    def test_packed_values_and_scale(self) -> None:
        names = [f"{ATTENTION}.qkv_proj.{kind}" for kind in ("weight_packed", "weight_scale")]
        dtypes = (torch.int32, torch.float32)

        def after(model: torch.nn.Module) -> None:
            for name in names:
                model.get_parameter(name).data[:8].fill_(0)
                model.get_parameter(name).data[16:].fill_(0)

        audit = audited(
            make=lambda: build(
                {name: torch.empty(24, 2, dtype=dtype) for name, dtype in zip(names, dtypes, strict=True)}
            ),
            checkpoint=(),
            after=after,
        )
        for name in names:
            found = shards_of(audit, name)
            kind = name.rpartition(".")[2]
            assert {part: (shard.name, shard.rows, shard.uninitialised) for part, shard in found.items()} == {
                "q": (f"layers.0.q_proj.{kind}", (0, 8), 0),
                "k": (f"layers.0.k_proj.{kind}", (8, 16), 16),
                "v": (f"layers.0.v_proj.{kind}", (16, 24), 0),
            }

    @pytest.mark.parametrize(
        ("kind", "shape"), [("weight_shape", (2,)), ("qweight", (1, 24)), ("input_scale", ())]
    )
    def test_what_has_other_rows_is_one(self, kind: str, shape: tuple[int, ...]) -> None:
        audit = audited(
            make=lambda: build({f"{ATTENTION}.qkv_proj.{kind}": torch.empty(shape)}), checkpoint=()
        )
        (shard,) = audit.shards
        assert (shard.name, shard.shard, shard.uninitialised) == (None, "", shard.elements)


class TestBuffers:
    def buffers(self, **buffers: torch.Tensor) -> torch.nn.Module:
        model = build({"x.w": torch.zeros(1)})
        for name, buffer in buffers.items():
            model.get_submodule("x").register_buffer(name, buffer, persistent=False)
        return model

    @pytest.mark.parametrize("fill", ["nan", "finite"])
    def test_that_hold_the_fill(self, fill: Fill) -> None:
        def make() -> torch.nn.Module:
            model = self.buffers(
                table=torch.empty(4, 2), scale=torch.empty(()), cast=torch.empty(40).bfloat16()
            )
            model.get_buffer("x.table")[:1] = 0
            return model

        found = {shard.parameter: shard for shard in audited(make=make, checkpoint=(), fill=fill).shards}
        assert set(found) == {"x.w", "x.table", "x.scale", "x.cast"}
        table = found["x.table"]
        assert (table.shard, table.name, table.rows, table.of) == ("buffer", None, (0, 4), 8)
        assert counts(table) == (0, 2, 6)
        assert table.unwritten == ("[1:4]",)
        assert counts(found["x.cast"]) == (0, 0, 40)
        assert (counts(found["x.scale"]), found["x.scale"].unwritten) == ((0, 0, 1), ("[]",))

    def test_that_hold_values_or_cannot_be_told(self) -> None:
        """The largest integer is a value like any other: what a buffer of integers holds proves nothing."""
        make = lambda: self.buffers(  # noqa: E731 - one expression
            ones=torch.ones(2), none=torch.empty(0), ids=torch.empty(2, dtype=torch.int64),
            meta=torch.empty(2, device="meta"),
        )  # fmt: skip
        assert [shard.parameter for shard in audited(make=make, checkpoint=()).shards] == ["x.w"]


class TestTensors:
    def test_each_with_where_it_went(self) -> None:
        audit = audited()
        assert [tensor.name for tensor in audit.tensors] == list(CHECKPOINT)
        assert all(tensor.consumed for tensor in audit.tensors)
        (weight,) = (tensor for tensor in audit.tensors if tensor.name == K_WEIGHT)
        assert weight.written_to == (f"{WEIGHT}[8:16, 0:8]",)
        assert (weight.dtype, weight.shape, weight.non_finite) == ("float32", (8, 8), 0)

    def test_one_that_the_loader_drops(self) -> None:
        def loader(model: torch.nn.Module, name: str, tensor: torch.Tensor) -> None:
            if name != K_WEIGHT:
                copy(model, name, tensor)

        assert [tensor.name for tensor in audited(loader=loader).tensors if not tensor.consumed] == [K_WEIGHT]

    def test_one_that_is_stored_and_never_offered(self) -> None:
        audit = audited(stored=["z", *CHECKPOINT, "y"])
        assert [tensor.name for tensor in audit.tensors if not tensor.consumed] == ["y", "z"]
        assert len(audit.tensors) == len(CHECKPOINT) + 2


class TestOverwritten:
    def test_by_another_tensor(self) -> None:
        def loader(model: torch.nn.Module, name: str, tensor: torch.Tensor) -> None:
            copy(model, name.replace("v_proj.weight", "k_proj.weight"), tensor)

        (found,) = audited(loader=loader).overwritten
        assert (found.parameter, found.box) == (WEIGHT, "[8:16, 0:8]")
        assert (found.first, found.second) == (K_WEIGHT, f"{ATTENTION}.v_proj.weight")

    def test_by_the_loader_itself(self) -> None:
        (found,) = audited(after=lambda model: place(model, K_WEIGHT)[3:].zero_()).overwritten
        assert (found.box, found.first, found.second) == ("[11:16, 0:8]", K_WEIGHT, None)

    def test_by_itself(self) -> None:
        """A loader that is given every tensor once and copies one of them twice."""

        def loader(model: torch.nn.Module, name: str, tensor: torch.Tensor) -> None:
            for _ in range(2 if name == EMBED else 1):
                copy(model, name, tensor)

        (found,) = audited(loader=loader).overwritten
        assert (found.first, found.second) == (EMBED, EMBED)

    def test_by_one_stored_twice(self) -> None:
        (found,) = audited(checkpoint=[*CHECKPOINT.items(), (EMBED, CHECKPOINT[EMBED])]).overwritten
        assert (found.first, found.second) == (EMBED, EMBED)

    @pytest.mark.parametrize(
        "after",
        [
            lambda model: place(model, K_WEIGHT).mul_(2),
            lambda model: place(model, K_BIAS).fill_(0),
            lambda model: [place(model, K_BIAS)[row].copy_(torch.tensor(1.0)) for row in range(8)],
            lambda model: place(model, K_WEIGHT).clone().zero_(),
        ],
        ids=["transformed", "what nothing was loaded into", "one element at a time", "a copy"],
    )
    def test_not(self, after: Callable[[torch.nn.Module], object]) -> None:
        assert audited(after=after).overwritten == ()

    def test_a_tensor_that_scales_what_was_loaded(self) -> None:
        def loader(model: torch.nn.Module, name: str, tensor: torch.Tensor) -> None:
            if name == "scale":
                place(model, K_WEIGHT).mul_(tensor)
            else:
                copy(model, name, tensor)

        audit = audited(loader=loader, checkpoint=[*CHECKPOINT.items(), ("scale", torch.tensor([2.0]))])
        assert audit.overwritten == ()
        assert audit.tensors[-1].consumed
        assert shards_of(audit, WEIGHT)["k"].sources == (K_WEIGHT, "scale")

    def test_one_scale_each_for_q_k_and_v(self) -> None:
        """Each is written through a view that has no axis."""

        def loader(model: torch.nn.Module, name: str, tensor: torch.Tensor) -> None:
            model.get_parameter("x.scale")[int(name)].copy_(tensor)

        scales = [(str(index), torch.tensor(1.0)) for index in range(3)]
        audit = audited(
            make=lambda: build({"x.scale": torch.empty(3)}), loader=loader, checkpoint=scales, stored=()
        )
        assert audit.overwritten == ()
        assert [tensor.written_to for tensor in audit.tensors] == [
            (f"x.scale[{index}:{index + 1}]",) for index in range(3)
        ]


class TestRanges:
    @pytest.mark.parametrize(
        ("mask", "offset", "expected"),
        [
            ([0, 1, 1, 0], 0, ["[1:3]"]),
            ([1, 1, 1], 8, ["[8:11]"]),
            ([1, 0, 1, 0, 1], 0, ["[0:1]", "[2:3]", "[4:5]"]),
            ([1, 0, 1, 0, 1, 0, 1, 1, 0, 1], 2, ["[2:3]", "[4:5]", "[6:7]", "and 2 more ranges"]),
            ([[1, 1], [1, 1], [0, 0]], 4, ["[4:6]"]),
            ([[0, 1, 1, 0], [0, 0, 1, 0], [0, 0, 0, 0]], 0, ["[0:2, 1:3]"]),
            ([[1, 0], [0, 0], [1, 1]], 0, ["[0:1, 0:1]", "[2:3]"]),
            ([[[0, 0], [0, 1]], [[0, 0], [1, 0]]], 0, ["[0:2, 2:4]"]),
            (1, 5, ["[]"]),
        ],
    )
    def test_examples(self, mask: object, offset: int, expected: list[str]) -> None:
        assert list(_ranges(torch.tensor(mask, dtype=torch.bool), offset=offset)) == expected
