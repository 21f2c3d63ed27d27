"""Parity away from the defaults: other dtype, attention, sizes and file layout, on the real backends."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import audio_fixtures
from harness.backends.availability import check_available, find_interpreter
from harness.backends.names import LegName
from harness.run import RunOptions, prepare, run

if TYPE_CHECKING:
    from harness.backends.request import Attention
    from harness.trace.schema import DType

CLIPS = Path(next(iter(audio_fixtures.__path__))) / "clips"


@pytest.mark.parametrize(
    ("dtype", "attention", "checkpoint"),
    [
        pytest.param(
            "bfloat16",
            "eager",
            "random:seed=1,dtype=bfloat16,shards=3,encoder_layers=3,encoder_kv_heads=1",
            id="glm_asr-bfloat16-eager-sharded-grouped_query",
        ),
        pytest.param(
            "float16",
            "sdpa",
            "random:seed=2,encoder_hidden=192,encoder_heads=3,encoder_kv_heads=3,text_layers=1,mel_bins=80",
            id="glm_asr-float16-sdpa-80_mels",
        ),
    ],
)
def test_variant(dtype: DType, attention: Attention, checkpoint: str, tmp_path: Path) -> None:
    """Short, long enough for three chunks, 8 kHz, and 48 kHz stereo."""
    for leg in ("hf-cpu", "vllm-cpu"):
        found = check_available(LegName.parse(leg), interpreter=find_interpreter(None))
        if not found.available:
            pytest.skip(f"leg {leg} is not available: {found.reason}")
    names = ("stop-short", "garden-8s", "telephone-8k", "door-48k-stereo")
    options = RunOptions(
        out=tmp_path,
        dtype=dtype,
        attention=attention,
        checkpoint=checkpoint,
        audio=tuple(CLIPS / f"{name}.flac" for name in names),
        max_new_tokens=4,
    )
    report = run(prepare(options), progress=lambda _who, _what: None)
    assert report.outcome == "pass", report.verdict
    assert {check.clip for check in report.checks if check.kind == "activation"} == set(names)
