"""What a checkpoint should be by its own configuration: each tensor that is not is named, and no other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.checkpoints.expectation import not_as_expected
from harness.checkpoints.random import RandomSpec, build_random
from harness.checkpoints.scan import headers
from tests.synthetic import CASE, CONFIGS

if TYPE_CHECKING:
    from pathlib import Path

Stored = tuple[str, str, tuple[int, ...]]

NAMES = {CASE.published_name(parameter.name): parameter.shape for parameter in CASE.parameters(CONFIGS)}
NORM, K_BIAS = "audio_tower.norm.weight", "audio_tower.layers.0.self_attn.k_proj.bias"
INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool")


def problems(*changed: Stored, dtype: str = "float32") -> list[str]:
    """What is said of a good checkpoint with these tensors in place of its own, or beside them."""
    found: dict[str, Stored] = {name: (name, dtype, shape) for name, shape in NAMES.items()}
    found |= {tensor[0]: tensor for tensor in changed}
    return not_as_expected(found.values(), case=CASE, configs=CONFIGS)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64", "float8_e4m3fn"])
def test_a_good_checkpoint(dtype: str) -> None:
    assert problems(dtype=dtype) == []


def test_nothing_stored() -> None:
    """That is for others to say: no tensor is not as it should be."""
    assert not_as_expected([], case=CASE, configs=CONFIGS) == []


class TestShape:
    @pytest.mark.parametrize("shape", [(7,), (9,), (8, 1), (1, 8), (), (0,)])
    def test_another(self, shape: tuple[int, ...]) -> None:
        assert problems((NORM, "float32", shape)) == [
            f"{NORM} has shape {list(shape)}, the configuration makes it [8]"
        ]

    @pytest.mark.parametrize(
        "name",
        [
            f"model.{NORM}",
            "lm_head.weight",
            "model.language_model.norm.weight",
            "language_model.model.model.norm.weight",
        ],
    )
    def test_under_the_names_of_other_layouts(self, name: str) -> None:
        """Transformers writes other names than the published checkpoint has."""
        (said,) = problems((name, "float32", (3, 3)))
        assert said.startswith(f"{name} has shape [3, 3], the configuration makes it [")

    def test_turned(self) -> None:
        name = "audio_tower.layers.0.mlp.fc1.weight"
        assert NAMES[name] == (32, 8)
        assert problems((name, "float32", (8, 32))) == [
            f"{name} has shape [8, 32], the configuration makes it [32, 8]"
        ]

    def test_names_that_the_case_does_not_know(self) -> None:
        unknown = ("audio_tower.embed_positions.weight", "float32", (50, 8))
        assert problems(unknown, ("x", "float32", ())) == []

    def test_a_fused_name_is_none_of_a_checkpoint(self) -> None:
        assert problems(("audio_tower.layers.0.self_attn.qkv_proj.bias", "float32", (5,))) == []

    def test_a_tensor_that_is_stored_twice(self) -> None:
        """Both are looked at."""
        found = [(name, "float32", shape) for name, shape in NAMES.items()]
        twice: list[Stored] = [*found, (NORM, "float32", (7,)), (NORM, "float32", (8,))]
        assert not_as_expected(twice, case=CASE, configs=CONFIGS) == [
            f"{NORM} has shape [7], the configuration makes it [8]"
        ]


class TestDtype:
    @pytest.mark.parametrize("name", [NORM, K_BIAS, "a.name.of.nobody"])
    @pytest.mark.parametrize(
        ("usual", "other"), [("float32", "float16"), ("bfloat16", "float32"), ("float16", "float8_e5m2")]
    )
    def test_of_its_own(self, name: str, usual: str, other: str) -> None:
        shape = NAMES.get(name, (4,))
        said = problems((name, other, shape), dtype=usual)
        assert said == [f"{name} is {other}, most of the checkpoint is {usual}"]

    def test_a_minority(self) -> None:
        """Whatever it is: as published, most of the tensors say what the checkpoint's dtype is."""
        few = list(NAMES)[: len(NAMES) // 2 - 1]
        said = problems(*((name, "bfloat16", NAMES[name]) for name in few))
        assert said == [f"{name} is bfloat16, most of the checkpoint is float32" for name in few]

    def test_beside_another_shape(self) -> None:
        assert problems((NORM, "float16", (7,))) == [
            f"{NORM} has shape [7], the configuration makes it [8]",
            f"{NORM} is float16, most of the checkpoint is float32",
        ]

    @pytest.mark.parametrize("dtype", INTEGERS)
    def test_integers_are_packed_weights(self, dtype: str) -> None:
        """By neither: a packed weight has the shape of its packing."""
        assert problems((NORM, dtype, (2, 2)), ("x.zeros", dtype, (1,))) == []

    @pytest.mark.parametrize("dtype", INTEGERS)
    def test_more_integers_than_all_else(self, dtype: str) -> None:
        packed = [(f"x.{index}", dtype, (4,)) for index in range(2 * len(NAMES))]
        assert problems(*packed, (NORM, "float16", (8,))) == [
            f"{NORM} is float16, most of the checkpoint is float32"
        ]

    def test_integers_alone(self) -> None:
        found = [(name, "int8", (3,)) for name in NAMES]
        assert not_as_expected(found, case=CASE, configs=CONFIGS) == []

    def test_tensors_of_which_no_more_than_the_name_is_known(self) -> None:
        """Such are those that never reached the loader."""
        lost = [(f"x.{index}", "", ()) for index in range(2 * len(NAMES))]
        assert problems(*lost, (NORM, "", ())) == []


class TestOnDisk:
    def said(self, folder: Path, text: str) -> list[str]:
        sizes = "encoder_hidden=8,encoder_layers=1,text_hidden=8,text_layers=1,text_heads=1"
        spec = RandomSpec.parse(f"{sizes},{text}", case=CASE)
        path = build_random(spec, case=CASE, path=folder / "checkpoint")
        return not_as_expected(headers(path, source="here"), case=CASE, configs=CONFIGS)

    @pytest.mark.parametrize(
        "text", ["", "dtype=bfloat16", "k_bias=all", "shards=2,twice=norm.weight", "extra=some.scale"]
    )
    def test_as_expected(self, tmp_path: Path, text: str) -> None:
        assert self.said(tmp_path, text) == []

    def test_planted(self, tmp_path: Path) -> None:
        said = self.said(tmp_path, "dtype=bfloat16,shape=norm.weight+lm.head.weight,cast=norm.bias")
        assert sorted(said) == [
            "audio_tower.norm.bias is float32, most of the checkpoint is bfloat16",
            f"{NORM} has shape [7], the configuration makes it [8]",
            "language_model.lm_head.weight has shape [262, 8], the configuration makes it [263, 8]",
        ]

    def test_what_is_no_parameter_has_a_dtype_too(self, tmp_path: Path) -> None:
        said = self.said(tmp_path, "dtype=float16,extra=some.scale")
        assert said == ["some.scale is float32, most of the checkpoint is float16"]


@given(
    short=st.sets(st.sampled_from(sorted(NAMES))),
    cast=st.sets(st.sampled_from(sorted(NAMES)), max_size=len(NAMES) // 3),
    packed=st.sets(st.sampled_from(sorted(NAMES)), max_size=2),
    order=st.permutations(sorted(NAMES)),
)
def test_exactly_what_is_wrong_is_said(
    short: set[str], cast: set[str], packed: set[str], order: list[str]
) -> None:
    """In any order of the tensors, each once for its shape and once for its dtype, and packed ones never."""
    cast -= packed
    found: list[Stored] = [
        (
            name,
            "uint8" if name in packed else "float16" if name in cast else "float32",
            (NAMES[name][0] - 1, *NAMES[name][1:]) if name in short else NAMES[name],
        )
        for name in order
    ]
    said = not_as_expected(found, case=CASE, configs=CONFIGS)
    expected = {(name, "has") for name in short - packed} | {(name, "is") for name in cast}
    assert {tuple(text.split(" ")[:2]) for text in said} == expected
    assert len(said) == len(expected)
