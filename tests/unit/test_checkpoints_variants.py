"""Small checkpoints that are not as they should be: each as asked for, and nothing else changed."""

from __future__ import annotations

import hashlib
import json
import re
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest
import safetensors
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from harness.cases import get_case
from harness.checkpoints.checkpoint import open_checkpoint
from harness.checkpoints.layout import PlannedTensor, header_room
from harness.checkpoints.random import RandomSpec, build_random
from harness.errors import InputError
from harness.trace.tensors import TensorFile

if TYPE_CHECKING:
    from pathlib import Path

CASE = get_case("glm_asr")
#: As small as the layout allows.
SIZES = {
    "encoder_hidden": 8, "encoder_layers": 3, "encoder_heads": 2, "encoder_kv_heads": 1,
    "text_hidden": 4, "text_layers": 1, "text_heads": 1, "mel_bins": 80,
}  # fmt: skip
TINY = ",".join(f"{key}={value}" for key, value in SIZES.items())
PARAMETERS = {parameter.name: parameter for parameter in CASE.parameters(CASE.small_configs(SIZES))}
K_BIAS = [name for name, parameter in PARAMETERS.items() if parameter.zero_if_absent]
#: Canonical names with the layer folded, and the first tensor of each kind.
KINDS = {re.sub(r"\blayers\.\d+", "layers.N", name): name for name in reversed(PARAMETERS)}
EXTRA = "audio_tower.layers.0.self_attn.rotary_scale"


class Stored(NamedTuple):
    """One tensor of one file, as the safetensors library reads it."""

    file: str
    dtype: str
    shape: tuple[int, ...]
    data: bytes


def build(path: Path, text: str = "", *, sizes: str = TINY) -> Path:
    spec = RandomSpec.parse(",".join(filter(None, (sizes, text))), case=CASE)
    return build_random(spec, case=CASE, path=path)


def read(folder: Path) -> list[tuple[str, Stored]]:
    """All tensors of all files, those of one file in the order of their bytes."""
    found = []
    library: Any = safetensors
    for path in sorted(folder.glob("*.safetensors")):
        tensors = dict(library.deserialize(path.read_bytes()))
        for name in TensorFile(path).names:
            tensor = tensors.pop(name)
            stored = Stored(path.name, tensor["dtype"], tuple(tensor["shape"]), bytes(tensor["data"]))
            found.append((name, stored))
        assert not tensors
    return found


def unique(folder: Path) -> dict[str, Stored]:
    found = read(folder)
    assert len(dict(found)) == len(found)
    return dict(found)


def published(name: str) -> str:
    return CASE.published_name(name)


def refuse(folder: Path, text: str, *said: str, sizes: str = TINY) -> None:
    """See that a spec is refused, in one line that holds all of ``said``, before anything is written."""
    with pytest.raises(InputError, match=r"\Acheckpoint random: [^\n]+\Z") as caught:
        build(folder / "new" / "checkpoint", text, sizes=sizes)
    for part in said:
        assert part in str(caught.value)
    assert not list(folder.iterdir())


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Stored]:
    """The tensors of the checkpoint without a defect."""
    return unique(build(tmp_path_factory.mktemp("plain") / "checkpoint"))


class TestBytes:
    @pytest.mark.parametrize(
        ("text", "digest"),
        [
            ("", "0f3fe04055fa9806c0e0193a2a24642622e27c46c227b36366e6132438f397fc"),
            (
                "dtype=bfloat16,seed=3,shards=3,encoder_kv_heads=1",
                "c5375d7bf5472c2c89c0f392d6e2230d2ce93ee9b84d1c1299b3c944f4947306",
            ),
            (
                "dtype=float16,shards=2,encoder_layers=1",
                "54c6596e778d40454f8b94989fd97adaf34ad92ad2bd5df7651c81cb94a06c3c",
            ),
        ],
    )
    def test_as_recorded(self, tmp_path: Path, text: str, digest: str) -> None:
        """Recorded before there were variants. Not the tokenizer's file: another release writes another."""
        total = hashlib.sha256()
        for path in sorted(build(tmp_path / "a", text, sizes="").iterdir()):
            if path.name != "tokenizer.json":
                total.update(f"{path.name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
        assert total.hexdigest() == digest

    @pytest.mark.parametrize(
        "text",
        [
            "k_bias=even,shards=3,order=reversed",
            f"tied=1,extra={EXTRA},without=conv1.bias,shape=conv2.bias",
            "twice=norm.weight,shards=2,cast=norm.bias,nan=conv1.weight,inf=conv2.weight,order=by_name",
        ],
    )
    def test_the_same_twice(self, tmp_path: Path, text: str) -> None:
        one, two = build(tmp_path / "one", text), build(tmp_path / "two", text)
        assert {path.name: path.read_bytes() for path in one.iterdir()} == {
            path.name: path.read_bytes() for path in two.iterdir()
        }


class TestKBias:
    @pytest.mark.parametrize(("choice", "layers"), [("none", ()), ("all", (0, 1, 2)), ("even", (0, 2))])
    def test_of_which_layers(
        self, tmp_path: Path, plain: dict[str, Stored], choice: str, layers: tuple[int, ...]
    ) -> None:
        folder = build(tmp_path / "a", f"k_bias={choice}")
        found = unique(folder)
        names = {published(f"layers.{layer}.k_proj.bias") for layer in layers}
        assert set(found) - set(plain) == names
        assert all(found[name] == plain[name] for name in plain)
        for name in names:
            bias = np.frombuffer(found[name].data, np.float32)
            assert bias.shape == (4,)  # grouped-query: half of q's
            assert (bias != 0).all()
            assert np.abs(bias).max() < 2
        lacks = open_checkpoint(folder, case=CASE, source="a").lacks
        assert lacks == tuple(f"layers.{layer}.k_proj.bias" for layer in range(3) if layer not in layers)

    def test_values_differ_by_layer_and_seed(self, tmp_path: Path) -> None:
        one, two = (unique(build(tmp_path / f"{seed}", f"k_bias=all,seed={seed}")) for seed in (0, 1))
        values = [found[published(name)].data for found in (one, two) for name in K_BIAS]
        assert len(set(values)) == 6

    def test_even_counts_layers_as_numbers(self, tmp_path: Path) -> None:
        found = unique(build(tmp_path / "a", "k_bias=even,encoder_layers=12"))
        layers = [int(name.split(".")[2]) for name in found if name.endswith("k_proj.bias")]
        assert layers == [0, 2, 4, 6, 8, 10]


class TestWithout:
    @pytest.mark.parametrize("name", KINDS.values(), ids=[kind.replace(".N", "") for kind in KINDS])
    def test_each_kind(self, tmp_path: Path, plain: dict[str, Stored], name: str) -> None:
        text = f"without={name}" + (",k_bias=all" if name in K_BIAS else "")
        folder = build(tmp_path / "a", text)
        found = unique(folder)
        assert published(name) not in found
        expected = {published(other) for other in K_BIAS} if name in K_BIAS else set()
        assert set(found) == (set(plain) | expected) - {published(name)}
        assert all(found[other] == plain[other] for other in set(found) & set(plain))
        assert open_checkpoint(folder, case=CASE, source="a").lacks == (
            (name,) if name in K_BIAS else tuple(K_BIAS)
        )

    def test_kinds_of_the_small_model(self) -> None:
        assert len(KINDS) == 38
        assert {name for name in KINDS.values() if "layers." in name and "layers.0." not in name} == set()

    def test_several_and_shards(self, tmp_path: Path, plain: dict[str, Stored]) -> None:
        folder = build(tmp_path / "a", "without=lm.norm.weight+layers.2.fc1.bias,shards=4")
        index = json.loads((folder / "model.safetensors.index.json").read_text("utf-8"))
        gone = {published("lm.norm.weight"), published("layers.2.fc1.bias")}
        assert set(index["weight_map"]) == set(unique(folder)) == set(plain) - gone

    def test_all_of_them(self, tmp_path: Path) -> None:
        names = "+".join(name for name in PARAMETERS if name not in K_BIAS)
        refuse(tmp_path, f"without={names}", "expected at least one tensor to be left, found none")
        found = unique(build(tmp_path / "a", f"without={names},extra=x"))
        assert set(found) == {"x"}


class TestNames:
    @pytest.mark.parametrize("key", ["without", "twice", "shape", "cast", "nan", "inf"])
    @pytest.mark.parametrize(
        ("name", "said"),
        [
            ("layers.0.q_proj.bais", "did you mean 'layers.0.q_proj.bias'?"),
            ("layers.3.fc1.weight", "did you mean 'layers."),
            ("audio_tower.layers.0.self_attn.q_proj.bias", "its canonical name is 'layers.0.q_proj.bias'"),
            ("lm_head.weight", "its canonical name is 'lm.head.weight'"),
            ("?", f"it has {len(PARAMETERS)}, the first is 'conv1.weight'"),
        ],
    )
    def test_unknown(self, tmp_path: Path, key: str, name: str, said: str) -> None:
        found = f"{key}: expected the canonical name of a tensor, found {name!r}; "
        refuse(tmp_path, f"{key}=norm.bias+{name},shards=2", found, said)

    @pytest.mark.parametrize("key", ["without", "twice", "shape", "cast", "nan", "inf"])
    @pytest.mark.parametrize(
        ("name", "settings_", "said"),
        [
            ("layers.0.k_proj.bias", "", "k_bias=none leaves it out; set k_bias=all"),
            ("layers.1.k_proj.bias", "k_bias=even", "k_bias=even leaves it out; set k_bias=all"),
            ("lm.head.weight", "tied=1", "tied=1 stores it as 'lm.embed_tokens.weight' only; set tied=0"),
        ],
    )
    def test_not_in_this_checkpoint(
        self, tmp_path: Path, key: str, name: str, settings_: str, said: str
    ) -> None:
        found = f"{key}: expected a tensor of the checkpoint, found {name!r}: {said}"
        refuse(tmp_path, ",".join(filter(None, (f"{key}={name},shards=2", settings_))), found)

    @pytest.mark.parametrize("key", ["twice", "shape", "cast", "nan", "inf"])
    def test_left_out(self, tmp_path: Path, key: str) -> None:
        said = f"{key}: expected a tensor of the checkpoint, found 'norm.bias': without= leaves it out"
        refuse(tmp_path, f"without=norm.bias,{key}=norm.bias,shards=2", said)


class TestExtra:
    @pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
    def test_added(self, tmp_path: Path, dtype: str) -> None:
        before = unique(build(tmp_path / "before", f"dtype={dtype}"))
        found = unique(build(tmp_path / "a", f"dtype={dtype},extra={EXTRA}+other"))
        assert set(found) - set(before) == {EXTRA, "other"}
        assert all(found[name] == before[name] for name in before)
        for name in (EXTRA, "other"):
            assert found[name][1:3] == ("F32", (4,))
            assert np.isfinite(np.frombuffer(found[name].data, np.float32)).all()
        assert found[EXTRA].data != found["other"].data

    @pytest.mark.parametrize(
        "name",
        [
            "layers.0.fc1.weight",
            "audio_tower.layers.0.mlp.fc1.weight",
            "model.audio_tower.layers.0.mlp.fc1.weight",
            "audio_tower.layers.0.self_attn.k_proj.bias",
            "lm_head.weight",
        ],
    )
    def test_a_name_of_the_model(self, tmp_path: Path, name: str) -> None:
        said = f"extra: expected a name that the model does not have, found its parameter {name!r}"
        refuse(tmp_path, f"extra={name}", said)
        refuse(tmp_path, f"extra={name},without=layers.0.fc1.weight,tied=1", said)

    @pytest.mark.parametrize("name", ["__metadata__", "a b", "a/b", "é", "a=b", "a\\b", "'", "\x00"])
    def test_a_name_that_no_file_should_have(self, tmp_path: Path, name: str) -> None:
        said = "extra: expected a name of letters, digits and '_.-' that is not safetensors' own"
        refuse(tmp_path, f"extra={name}", said, repr(name))


class TestTied:
    @pytest.mark.parametrize("tied", [False, True])
    def test_head_and_both_flags(self, tmp_path: Path, plain: dict[str, Stored], tied: bool) -> None:
        folder = build(tmp_path / "a", f"tied={tied:d}")
        found = unique(folder)
        head = {published("lm.head.weight")}
        assert set(found) == set(plain) - (head if tied else set())
        assert all(found[name] == plain[name] for name in found)
        config = json.loads((folder / "config.json").read_text("utf-8"))
        assert config["tie_word_embeddings"] is tied
        assert config["text_config"]["tie_word_embeddings"] is tied

    def test_the_head_stays_a_parameter(self, tmp_path: Path) -> None:
        """A stack lists it under both names; only the checkpoint has it once."""
        configs = open_checkpoint(build(tmp_path / "a", "tied=1"), case=CASE, source="a").configs
        assert CASE.tied(configs) == {"lm.head.weight": "lm.embed_tokens.weight"}
        assert [parameter.name for parameter in CASE.parameters(configs)] == list(PARAMETERS)
        assert PARAMETERS["lm.head.weight"].shape == PARAMETERS["lm.embed_tokens.weight"].shape
        for stack in ("hf", "vllm"):
            (shard,) = CASE.shards(stack, "language_model.lm_head.weight", configs)
            assert shard.name == "lm.head.weight"

    @pytest.mark.parametrize(
        ("outer", "text"), [(False, False), (True, False), (False, True), (None, True), (True, None)]
    )
    def test_not_where_a_stack_would_not_tie(self, outer: bool | None, text: bool | None) -> None:
        config: dict[str, Any] = {"text_config": {}}
        if outer is not None:
            config["tie_word_embeddings"] = outer
        if text is not None:
            config["text_config"]["tie_word_embeddings"] = text
        assert CASE.tied({"config.json": config}) == {}
        assert CASE.tied({"config.json": {}}) == {}


class TestTwice:
    @pytest.mark.parametrize("shards", [2, 3, 5])
    @pytest.mark.parametrize("name", ["conv1.weight", "norm.weight", "lm.norm.weight", "lm.head.weight"])
    def test_in_two_files(self, tmp_path: Path, plain: dict[str, Stored], shards: int, name: str) -> None:
        folder = build(tmp_path / "a", f"twice={name},shards={shards}")
        found = read(folder)
        first, last = (tensor for other, tensor in found if other == published(name))
        assert first.file < last.file
        assert (first.dtype, first.shape) == (last.dtype, last.shape)
        assert first.data != last.data
        assert last.data == plain[published(name)].data
        index = json.loads((folder / "model.safetensors.index.json").read_text("utf-8"))
        assert index["weight_map"] == {other: tensor.file for other, tensor in found}
        assert index["weight_map"][published(name)] == last.file
        assert index["metadata"]["total_size"] == sum(len(tensor.data) for tensor in plain.values())
        assert len(found) == len(plain) + 1

    def test_values_of_its_kind(self, tmp_path: Path) -> None:
        folder = build(tmp_path / "a", "twice=lm.norm.weight,shards=2,text_hidden=256")
        first, _ = (tensor for name, tensor in read(folder) if name == published("lm.norm.weight"))
        assert 0.9 < np.frombuffer(first.data, np.float32).mean() < 1.1

    def test_one_file(self, tmp_path: Path) -> None:
        refuse(
            tmp_path, "twice=norm.bias", "twice: expected shards=2 or more, to have two files, found shards=1"
        )

    @pytest.mark.parametrize("order", ["published", "reversed", "by_name"])
    def test_keeps_the_order_in_a_file(self, tmp_path: Path, order: str) -> None:
        names = [name for name in PARAMETERS if name not in K_BIAS]
        folder = build(tmp_path / "a", f"twice={'+'.join(names)},shards=2,order={order}")
        found = read(folder)
        assert len(found) == 2 * len(names)
        half = [name for name, _ in found[: len(names)]]
        assert half == [name for name, _ in found[len(names) :]]
        assert half == in_order(names, order)


class TestDefects:
    @pytest.mark.parametrize("name", ["conv1.weight", "layers.1.q_proj.bias", "lm.embed_tokens.weight"])
    def test_shape(self, tmp_path: Path, plain: dict[str, Stored], name: str) -> None:
        found = unique(build(tmp_path / "a", f"shape={name}"))
        rows, *others = PARAMETERS[name].shape
        short, whole = found.pop(published(name)), plain[published(name)]
        assert short.shape == (rows - 1, *others)
        assert short.data == whole.data[: len(short.data)]
        assert all(found[other] == plain[other] for other in found)

    @pytest.mark.parametrize(
        ("dtype", "cast", "code"),
        [("float32", "float16", "F16"), ("bfloat16", "float32", "F32"), ("float16", "float32", "F32")],
    )
    def test_cast(self, tmp_path: Path, dtype: str, cast: str, code: str) -> None:
        before = unique(build(tmp_path / "before", f"dtype={dtype}"))
        found = unique(build(tmp_path / "a", f"dtype={dtype},cast=conv1.weight+lm.norm.weight"))
        other = unique(build(tmp_path / "other", f"dtype={cast}"))
        for name in map(published, ("conv1.weight", "lm.norm.weight")):
            assert found[name].dtype == code
            assert found.pop(name) == other[name]
        assert all(found[name] == before[name] for name in found)

    @pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
    @pytest.mark.parametrize(("key", "place"), [("nan", 0), ("inf", -1)])
    def test_nan_and_inf(self, tmp_path: Path, dtype: str, key: str, place: int) -> None:
        before = build(tmp_path / "before", f"dtype={dtype}")
        folder = build(tmp_path / "a", f"dtype={dtype},{key}=conv2.weight+norm.bias")
        for name in TensorFile(before / "model.safetensors").names:
            whole = TensorFile(before / "model.safetensors").read(name).values.reshape(-1)
            found = np.array(TensorFile(folder / "model.safetensors").read(name).values.reshape(-1))
            if name in map(published, ("conv2.weight", "norm.bias")):
                assert np.isnan(found[place]) if key == "nan" else found[place] == np.inf
                found[place] = whole[place]
            np.testing.assert_array_equal(found, whole)

    def test_all_of_one_tensor(self, tmp_path: Path) -> None:
        settings_ = ",".join(f"{key}=conv1.weight" for key in ("twice", "shape", "cast", "nan", "inf"))
        folder = build(tmp_path / "a", f"{settings_},shards=2")
        first, last = (tensor for name, tensor in read(folder) if name == published("conv1.weight"))
        for tensor in (first, last):
            assert tensor[1:3] == ("F16", (7, 80, 3))
            values = np.frombuffer(tensor.data, np.float16)
            assert np.isnan(values[0])
            assert np.isposinf(values[-1])
            assert np.isfinite(values[1:-1]).all()
        assert first.data != last.data

    def test_nothing_to_take_away(self, tmp_path: Path) -> None:
        sizes = "encoder_hidden=8,encoder_heads=2,text_hidden=1"
        said = "shape: expected a tensor of two rows or more, found 'lm.norm.weight' of shape [1]"
        refuse(tmp_path, "shape=lm.norm.weight", said, sizes=sizes)
        said = "nan and inf: expected a tensor of two elements or more, found 'lm.norm.weight' of shape [1]"
        refuse(tmp_path, "nan=lm.norm.weight,inf=lm.norm.weight", said, sizes=sizes)


def in_order(names: list[str], order: str) -> list[str]:
    found = [published(name) for name in names]
    return {"published": found, "reversed": found[::-1], "by_name": sorted(found)}[order]


class TestOrder:
    @pytest.mark.parametrize("order", ["published", "reversed", "by_name"])
    @pytest.mark.parametrize("shards", [1, 3])
    def test_in_a_file_and_over_files(
        self, tmp_path: Path, plain: dict[str, Stored], order: str, shards: int
    ) -> None:
        found = read(build(tmp_path / "a", f"order={order},shards={shards},k_bias=all"))
        names = in_order(list(PARAMETERS), order)
        expected = [name for index in range(shards) for name in names[index::shards]]
        assert [name for name, _ in found] == expected
        assert all(tensor.data == plain[name].data for name, tensor in found if name in plain)

    @pytest.mark.parametrize("order", ["published", "reversed", "by_name"])
    @pytest.mark.parametrize("shards", [2, 3])
    def test_towers_meet_in_every_file(self, tmp_path: Path, order: str, shards: int) -> None:
        for path in build(tmp_path / "a", f"order={order},shards={shards}").glob("*.safetensors"):
            towers = {name.partition(".")[0] for name in TensorFile(path).names}
            assert towers == {"audio_tower", "language_model", "multi_modal_projector"}

    def test_reversed_has_the_bias_before_the_weight(self, tmp_path: Path) -> None:
        names = [name for name, _ in read(build(tmp_path / "a", "order=reversed,k_bias=all"))]
        for layer in range(3):
            v, k_bias, k = (
                names.index(published(f"layers.{layer}.{part}"))
                for part in ("v_proj.weight", "k_proj.bias", "k_proj.weight")
            )
            assert v < k_bias < k

    @pytest.mark.parametrize("order", ["published", "reversed"])
    def test_over_three_files_the_weight_comes_first_in_some_layers(self, tmp_path: Path, order: str) -> None:
        """As a loader sees them, that reads file after file and sorts the names of each."""
        found = unique(build(tmp_path / "a", f"order={order},shards=3,k_bias=all"))
        seen = sorted(found, key=lambda name: (found[name].file, name))
        first = {
            seen.index(published(f"layers.{layer}.k_proj.weight"))
            < seen.index(published(f"layers.{layer}.k_proj.bias"))
            for layer in range(3)
        }
        assert first == {True, False}


class TestLimits:
    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("encoder_layers=7000", "expected at most 100000 parameters and"),
            ("encoder_hidden=131072", "and 2147483648 elements, found"),
            (
                "shards=131072",
                f"shards: expected at most {len(PARAMETERS) - 3}, a tensor for each file, found 13",
            ),
        ],
    )
    def test_not_small(self, tmp_path: Path, text: str, said: str) -> None:
        refuse(tmp_path, text, said)

    def test_a_file_for_each_tensor(self, tmp_path: Path, plain: dict[str, Stored]) -> None:
        refuse(tmp_path, f"shards={len(plain) + 1}", f"expected at most {len(plain)}")
        found = unique(build(tmp_path / "a", f"shards={len(plain)}"))
        assert len({tensor.file for tensor in found.values()}) == len(found) == len(plain)

    def test_more_names_than_a_header_of_64_KiB_holds(self, tmp_path: Path) -> None:  # noqa: N802 - the unit
        found = unique(build(tmp_path / "a", f"encoder_layers=40,extra={'x' * 70_000}"))
        assert len(found) == 40 * 15 + 23

    @given(st.integers(1, 700), st.integers(1, 200))
    def test_room_of_a_header(self, count: int, length: int) -> None:
        tensors = [
            PlannedTensor(name="x", published=f"{index:0{length}}", shape=(2, 3), dtype="bfloat16")
            for index in range(count)
        ]
        header = {
            tensor.published: {
                "dtype": "BF16",
                "shape": [2, 3],
                "data_offsets": [12 * index, 12 * index + 12],
            }
            for index, tensor in enumerate(tensors)
        }
        needed = len(json.dumps(header, separators=(",", ":")))
        room = header_room(tensors)
        assert room >= needed
        assert room == 1 << 16 or room < 2 * needed


def some(of: list[str]) -> st.SearchStrategy[tuple[str, ...]]:
    return st.lists(st.sampled_from(of), unique=True, max_size=2).map(tuple)


SPECS = st.builds(
    RandomSpec,
    seed=st.integers(0, 3),
    dtype=st.sampled_from(["float32", "bfloat16", "float16"]),
    shards=st.integers(1, 4),
    sizes=st.just(SIZES),
    k_bias=st.sampled_from(["none", "all", "even"]),
    tied=st.booleans(),
    order=st.sampled_from(["published", "reversed", "by_name"]),
    extra=some([EXTRA, "x", "norm.bias", "__metadata__"]),
    **{
        key: some([*PARAMETERS, "unknown", published("norm.bias")])
        for key in ("without", "twice", "shape", "cast", "nan", "inf")
    },
)


class TestAny:
    @settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(SPECS)
    @example(
        RandomSpec(sizes=SIZES, k_bias="all", shards=3, order="reversed", extra=("x",), twice=("norm.bias",))
    )
    @example(RandomSpec(sizes=SIZES, tied=True, without=("lm.embed_tokens.weight",), inf=("conv1.bias",)))
    def test_spec_is_built_or_refused(
        self, tmp_path_factory: pytest.TempPathFactory, spec: RandomSpec
    ) -> None:
        folder = tmp_path_factory.mktemp("any")
        try:
            path = build_random(spec, case=CASE, path=folder / "checkpoint")
        except InputError as error:
            assert str(error).startswith("checkpoint random: ")  # noqa: PT017 - either end is right
            assert not list(folder.iterdir())
            return
        found = read(path)
        files = {tensor.file for _, tensor in found}
        assert len(files) == spec.shards
        absent = set(spec.without) | ({"lm.head.weight"} if spec.tied else set())
        absent |= set({"none": K_BIAS, "all": [], "even": K_BIAS[1::2]}[spec.k_bias])
        expected = [published(name) for name in PARAMETERS if name not in absent]
        expected += [*map(published, spec.twice), *spec.extra]
        assert sorted(name for name, _ in found) == sorted(expected)
        if spec.shards > 1:
            index = json.loads((path / "model.safetensors.index.json").read_text("utf-8"))
            assert index["weight_map"] == {name: tensor.file for name, tensor in found}
        open_checkpoint(path, case=CASE, source="any")
