"""Runs the installed vLLM's `_create_fake_bias_for_k_proj` on streams of weights.

Run as a file in a leg's interpreter. Reads a JSON file of calls, and writes what came out of each: names,
shapes and values, in order. It judges nothing: :mod:`harness.backends.contract` does.
"""

from __future__ import annotations

import inspect
import json
import pathlib
import sys
from typing import Any

HELPER = "_create_fake_bias_for_k_proj"
#: As `GlmAsrEncoder.load_weights` names it.
KEY = ".k_proj.weight"


def main() -> None:
    """Answer the file named first with the file named second."""
    here = str(pathlib.Path(__file__).resolve().parent)
    sys.path[:] = [entry for entry in sys.path if str(pathlib.Path(entry or ".").resolve()) != here]
    cases = json.loads(pathlib.Path(sys.argv[1]).read_text(encoding="utf-8"))
    answer: dict[str, Any] = {"signature": "", "problem": "", "cases": {}}
    import torch
    import vllm
    from vllm.model_executor.models import whisper

    answer["version"] = vllm.__version__
    helper = getattr(whisper, HELPER, None)
    if helper is None:
        answer["problem"] = f"vllm.model_executor.models.whisper has no {HELPER}"
    else:
        answer["signature"] = str(inspect.signature(helper))
        for name, calls in cases.items():
            answer["cases"][name] = [_call(helper, stream, torch=torch) for stream in calls]
    pathlib.Path(sys.argv[2]).write_text(json.dumps(answer), encoding="utf-8")


def _call(helper: Any, stream: list[dict[str, Any]], *, torch: Any) -> dict[str, Any]:  # noqa: ANN401
    weights = [
        (
            entry["name"],
            torch.full(tuple(entry["shape"]), entry["value"], dtype=getattr(torch, entry["dtype"])),
        )
        for entry in stream
    ]
    # 0.14 took the stream alone; a parameter that is not known here is left to its default.
    takes = list(inspect.signature(helper).parameters)
    arguments = (iter(weights), KEY) if len(takes) > 1 else (iter(weights),)
    try:
        found = [(name, tensor) for name, tensor in helper(*arguments)]
    except Exception as error:  # noqa: BLE001 - the answer is that it raises
        return {"error": f"{type(error).__name__}: {error}", "weights": []}
    return {
        "error": "",
        "weights": [
            {"name": name, "shape": list(tensor.shape), "values": tensor.flatten().float().tolist()}
            for name, tensor in found
        ],
    }


if __name__ == "__main__":
    main()
