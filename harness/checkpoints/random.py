"""Small checkpoints of random weights, seeded, in the published file layout."""

from __future__ import annotations

import hashlib
import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.checkpoints.layout import header_room, lay_out
from harness.checkpoints.spec import RandomSpec
from harness.checkpoints.tokenizer import byte_tokenizer
from harness.errors import InputError
from harness.files import new_folder
from harness.trace.tensors import RawTensor, TensorWriter, bfloat16_words

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from harness.cases.case import Case, Configs
    from harness.checkpoints.layout import PlannedTensor

__all__ = ["RANDOM_MARK", "RandomSpec", "build_random"]

#: Tells such a checkpoint from a trained one, wherever it is copied to.
RANDOM_MARK = "glm_asr_harness.json"


def build_random(spec: RandomSpec, *, case: Case, path: Path) -> Path:
    """Write the checkpoint, atomically, and return its folder.

    Biases are clearly not zero, norms are near one, and weights keep activations of order one, so that
    a misplaced shard or a skipped bias shows. As published, no parameter that may be absent is written,
    unless ``spec.k_bias`` asks for it.

    Raises:
        InputError: sizes, names or settings that do not fit together; nothing is written then.
    """
    configs = _configs(spec, case=case)
    files = lay_out(spec, case=case, configs=configs)
    names = [f"model-{index + 1:05}-of-{spec.shards:05}.safetensors" for index in range(spec.shards)]
    if spec.shards == 1:
        names = ["model.safetensors"]
    with new_folder(path) as folder:
        weight_map, total = {}, 0
        for name, members in zip(names, files, strict=True):
            with TensorWriter(folder / name, header_room=header_room(members)) as writer:
                for tensor in members:
                    writer.add(tensor.published, _make(tensor, seed=spec.seed))
                    if not tensor.superseded:
                        weight_map[tensor.published], total = name, total + tensor.nbytes
        if spec.shards > 1:
            index_file = {"metadata": {"total_size": total}, "weight_map": weight_map}
            _write_json(folder / "model.safetensors.index.json", index_file)
        for name, config in configs.items():
            _write_json(folder / name, config)
        byte_tokenizer(case.special_tokens).save(str(folder / "tokenizer.json"))
        tokenizer_config = {
            "tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>",
            "pad_token": "<|endoftext|>", "clean_up_tokenization_spaces": False,
            "model_max_length": configs["config.json"]["text_config"]["max_position_embeddings"],
        }  # fmt: skip
        _write_json(folder / "tokenizer_config.json", tokenizer_config)
        _write_json(folder / RANDOM_MARK, {"trained": False, "seed": spec.seed})
    return path


def _configs(spec: RandomSpec, *, case: Case) -> Configs:
    """The JSON files of the checkpoint.

    Raises:
        InputError: sizes that do not fit together.
    """
    configs = case.small_configs(spec.sizes)
    audio, text = configs["config.json"]["audio_config"], configs["config.json"]["text_config"]
    for config, what in ((audio, "encoder"), (text, "text")):
        if config["num_attention_heads"] % config["num_key_value_heads"]:
            msg = f"checkpoint random: {what}_heads must be a multiple of {what}_kv_heads"
            raise InputError(msg)
    if audio["hidden_size"] % audio["num_attention_heads"] or audio["head_dim"] % 4:
        msg = "checkpoint random: encoder_hidden must be encoder_heads times a multiple of 4"
        raise InputError(msg)
    if audio["max_position_embeddings"] % 4:
        msg = "checkpoint random: chunk_seconds must be even: the projector merges the frames of a chunk by 4"
        raise InputError(msg)
    configs["config.json"]["dtype"] = audio["dtype"] = text["dtype"] = spec.dtype
    # Stacks differ in which of both flags they obey.
    configs["config.json"]["tie_word_embeddings"] = text["tie_word_embeddings"] = spec.tied
    return configs


def _make(tensor: PlannedTensor, *, seed: int) -> RawTensor:
    """Draw a planned tensor, with its defects."""
    name = f"{tensor.name} superseded" if tensor.superseded else tensor.name
    values = _draw(tensor.name, tensor.shape, seed=f"{seed}/{name}")[: tensor.stored_shape[0]]
    elements = values.reshape(-1)
    if tensor.nan:
        elements[0] = np.nan
    if tensor.inf:
        elements[-1] = np.inf
    return _cast(values, tensor.dtype)


def _draw(name: str, shape: tuple[int, ...], *, seed: str) -> np.ndarray[Any, np.dtype[np.float32]]:
    # Seeded by name: a parameter's values do not depend on which others there are, nor on their order.
    entropy = int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8], "little")
    noise = np.random.default_rng(entropy).standard_normal(shape, dtype=np.float32)
    if name.endswith("norm.weight"):
        return (1 + 0.1 * noise).astype(np.float32)
    if name.endswith(".bias"):
        return (0.2 * noise).astype(np.float32)
    if name == "lm.embed_tokens.weight":
        return noise
    return (noise / math.sqrt(math.prod(shape[1:]))).astype(np.float32)


def _cast(array: np.ndarray[Any, np.dtype[np.float32]], dtype: str) -> RawTensor:
    if dtype == "bfloat16":
        return RawTensor(dtype=dtype, shape=array.shape, data=bfloat16_words(array))
    return RawTensor.of(array.astype(dtype))


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
