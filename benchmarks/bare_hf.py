"""One bare HuggingFace run: load, transcribe the clips of a request one by one, greedily; record nothing."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
import transformers
from safetensors.numpy import load_file


def main() -> None:
    """Run what ``harness run`` asked its HuggingFace leg for."""
    request = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    audio = load_file(request["audio"])
    folder, dtype = request["checkpoint_folder"], getattr(torch, request["dtype"])
    processor = transformers.AutoProcessor.from_pretrained(folder)
    model = transformers.GlmAsrForConditionalGeneration.from_pretrained(folder, dtype=dtype).eval()
    head, tail = processor.tokenizer.decode(request["prompt_token_ids"]).split(processor.audio_token)
    torch.set_grad_enabled(False)
    for clip in request["clips"]:
        if clip["unsupported"] is not None:
            continue
        text = f"{head}{processor.audio_token}{tail}"
        inputs = processor(text=[text], audio=[audio[clip["id"]]], sampling_rate=16000, return_tensors="pt")
        inputs["input_features"] = inputs["input_features"].to(dtype)
        tokens = model.generate(**inputs, do_sample=False, max_new_tokens=request["max_new_tokens"])
        print(processor.tokenizer.decode(tokens[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))


if __name__ == "__main__":
    main()
