"""How legs are written, and what is refused."""

from __future__ import annotations

import re
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.backends.names import BACKENDS, Device, LegName
from harness.cases.case import Stack
from harness.errors import InputError

labels = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,30}", fullmatch=True)


def test_backends_are_stacks_on_devices() -> None:
    assert BACKENDS == ("hf-cpu", "hf-cuda", "vllm-cpu", "vllm-cuda")
    assert len(BACKENDS) == len(get_args(Stack)) * len(get_args(Device))


@pytest.mark.parametrize("backend", BACKENDS)
def test_without_a_label(backend: str) -> None:
    name = LegName.parse(backend)
    assert str(name) == name.backend == backend
    assert (name.stack, name.device) == tuple(backend.split("-"))
    assert name.label == ""
    assert name.identifier == backend.replace("-", "_")


@given(backend=st.sampled_from(BACKENDS), label=labels)
def test_written_and_read_again(backend: str, label: str) -> None:
    name = LegName.parse(f"{backend}@{label}")
    assert (name.backend, name.label) == (backend, label)
    assert str(name) == f"{backend}@{label}"
    assert LegName.parse(str(name)) == name
    assert name.identifier == f"{name.stack}_{name.device}@{label}"


@given(st.tuples(st.sampled_from(BACKENDS), labels | st.just("")), st.data())
def test_identifiers_differ_as_names_do(one: tuple[str, str], data: st.DataObject) -> None:
    other = data.draw(st.tuples(st.sampled_from(BACKENDS), labels | st.just("")))
    first, second = (LegName.parse("@".join(filter(None, parts))) for parts in (one, other))
    assert (first.identifier == second.identifier) == (one == other)


@pytest.mark.parametrize(
    "text", ["", "vllm", "cpu", "tgi-cpu", "vllm-tpu", "VLLM-CPU", " vllm-cpu", "vllm_cpu", "@x"]
)
def test_unknown_backend(text: str) -> None:
    message = f"no backend {text.partition('@')[0]!r}; known backends: hf-cpu, hf-cuda, vllm-cpu, vllm-cuda"
    with pytest.raises(InputError, match=re.escape(message)):
        LegName.parse(text)


@pytest.mark.parametrize("label", ["", "-x", ".x", "a/b", "..", "a b", "a@b", "a\n", "é"])
def test_label_that_is_no_part_of_a_file_name(label: str) -> None:
    with pytest.raises(InputError, match=re.escape(f"found {label!r}")):
        LegName.parse(f"vllm-cpu@{label}")
