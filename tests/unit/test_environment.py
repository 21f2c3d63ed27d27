"""What is recorded of a leg's environment: all that decides its numbers, and no secret."""

from __future__ import annotations

import pytest

from harness.backends.environment import deciding_variables


@pytest.mark.parametrize(
    "name",
    [
        "VLLM_CPU_KVCACHE_SPACE",
        "OMP_NUM_THREADS",
        "MKL_NUM_THREADS",
        "KMP_AFFINITY",
        "TORCHDYNAMO_DISABLE",
        "TORCH_LOGS",
        "TRITON_F32_DEFAULT",
        "CUDA_VISIBLE_DEVICES",
        "OPENBLAS_NUM_THREADS",
    ],
)
def test_what_decides_is_kept(name: str) -> None:
    assert deciding_variables({name: "1"}) == {name: "1"}


@pytest.mark.parametrize("name", ["HOME", "PATH", "HF_HOME", "MY_VLLM_X", "vllm_x", "omp_num_threads", ""])
def test_others_are_not(name: str) -> None:
    assert deciding_variables({name: "1"}) == {}


@pytest.mark.parametrize(
    "name",
    [
        "VLLM_API_KEY",
        "VLLM_KEYFILE",
        "VLLM_HUB_TOKEN",
        "VLLM_S3_SECRET",
        "TORCH_PASSWORD",
        "CUDA_PASSWORDS",
        "TRITON_CREDENTIALS",
        "OMP_CREDENTIAL_PATH",
    ],
)
def test_no_secret_is(name: str) -> None:
    assert deciding_variables({name: "hunter2", "VLLM_A": "1"}) == {"VLLM_A": "1"}


def test_sorted_by_name() -> None:
    found = deciding_variables({"VLLM_B": "2", "OMP_A": "1", "VLLM_A": ""})
    assert list(found.items()) == [("OMP_A", "1"), ("VLLM_A", ""), ("VLLM_B", "2")]
