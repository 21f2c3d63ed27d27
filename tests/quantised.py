"""Quantises a small checkpoint in the formats of compressed-tensors, which vLLM and transformers both load.

Linear layers of the encoder and of the language model, symmetric and by rounding alone: what counts here is
which tensors there are, and of which dtype. Sources: compressed-tensors' `pack_to_int32`, and vLLM's
`quantization/compressed_tensors`.
"""

from __future__ import annotations

import json
import re
import shutil
from typing import TYPE_CHECKING, Any, Literal

import torch
from safetensors.torch import load_file, save_file

if TYPE_CHECKING:
    from pathlib import Path

Format = Literal["int8", "float8", "packed"]
_GROUP = 64
_WEIGHTS: dict[Format, dict[str, Any]] = {
    "int8": {"num_bits": 8, "type": "int", "strategy": "channel"},
    "float8": {"num_bits": 8, "type": "float", "strategy": "channel"},
    "packed": {"num_bits": 4, "type": "int", "strategy": "group", "group_size": _GROUP},
}
_FORMATS: dict[Format, str] = {
    "int8": "int-quantized",
    "float8": "float-quantized",
    "packed": "pack-quantized",
}


def quantise(source: Path, target: Path, *, form: Format) -> Path:
    """Copy a checkpoint of one file with its linear layers quantised."""
    shutil.copytree(source, target)
    tensors: dict[str, torch.Tensor] = {}
    for name, tensor in load_file(source / "model.safetensors").items():
        linear = re.search(r"\.(?:[qkvo]|gate|up|down)_proj\.weight$|\.fc[12]\.weight$", name)
        tensors |= _quantised(name, tensor, form=form) if linear else {name: tensor}
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    inputs = {"num_bits": 8, "type": _WEIGHTS[form]["type"], "strategy": "token", "dynamic": True}
    config = json.loads((target / "config.json").read_text(encoding="utf-8"))
    config["quantization_config"] = {
        "quant_method": "compressed-tensors",
        "quantization_status": "compressed",
        "format": _FORMATS[form],
        "ignore": ["re:.*lm_head", "re:.*multi_modal_projector.*"],
        "config_groups": {
            "group_0": {
                "targets": ["Linear"],
                "weights": {**_WEIGHTS[form], "symmetric": True, "dynamic": False},
                "input_activations": None if form == "packed" else {**inputs, "symmetric": True},
                "output_activations": None,
            }
        },
    }
    (target / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return target


def _quantised(name: str, weight: torch.Tensor, *, form: Format) -> dict[str, torch.Tensor]:
    if form == "packed":
        groups = weight.reshape(weight.shape[0], -1, _GROUP)
        scale = groups.abs().amax(dim=2) / 7
        rounded = (groups / scale[..., None]).round().clamp(-8, 7).reshape(weight.shape)
        return {
            f"{name}_packed": _packed(rounded.to(torch.int32)),
            f"{name}_scale": scale,
            f"{name}_shape": torch.tensor(weight.shape),
        }
    kind, most = (torch.int8, 127) if form == "int8" else (torch.float8_e4m3fn, 448)
    scale = weight.abs().amax(dim=1, keepdim=True) / most
    values = weight / scale
    return {name: (values.round() if form == "int8" else values).to(kind), f"{name}_scale": scale}


def _packed(values: torch.Tensor) -> torch.Tensor:
    """Eight 4-bit values of a row in one int32, the first one lowest, each shifted to be positive."""
    shifted = (values + 8).reshape(values.shape[0], -1, 8).to(torch.int64)
    words = (shifted << (4 * torch.arange(8))).sum(dim=2)
    # As unsigned 32 bits; what is over the largest int32 wraps to the same bits.
    return torch.where(words >= 1 << 31, words - (1 << 32), words).to(torch.int32)
