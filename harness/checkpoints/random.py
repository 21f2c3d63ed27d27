"""Small checkpoints of random weights, seeded, in the published file layout."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.checkpoints.tokenizer import byte_tokenizer
from harness.errors import InputError
from harness.files import new_folder
from harness.trace.tensors import RawTensor, TensorWriter, bfloat16_words

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from harness.cases.case import Case

_DTYPES = ("float32", "bfloat16", "float16")
#: Tells such a checkpoint from a trained one, wherever it is copied to.
RANDOM_MARK = "glm_asr_harness.json"


@dataclass(frozen=True, kw_only=True)
class RandomSpec:
    """A random checkpoint: the same spec gives the same bytes."""

    seed: int = 0
    dtype: str = "float32"
    shards: int = 1
    sizes: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str, *, case: Case) -> RandomSpec:
        """Read ``seed=1,dtype=bfloat16,shards=2,encoder_layers=4``.

        Raises:
            InputError: an unknown key, or a value that is not what the key takes.
        """
        known = ("seed", "dtype", "shards", *case.small_sizes)
        numbers: dict[str, int] = {}
        dtype = "float32"
        for item in filter(None, text.split(",")):
            key, _, value = (part.strip() for part in item.partition("="))
            if key not in known:
                msg = f"checkpoint random: unknown setting {key!r}; known: {', '.join(known)}"
                raise InputError(msg)
            if key == "dtype":
                if value not in _DTYPES:
                    msg = f"checkpoint random: dtype {value!r} is not one of {', '.join(_DTYPES)}"
                    raise InputError(msg)
                dtype = value
                continue
            least = 0 if key == "seed" else 1
            if not value.isascii() or not value.isdigit() or int(value) < least:
                msg = f"checkpoint random: {key} takes a whole number from {least}, found {value!r}"
                raise InputError(msg)
            numbers[key] = int(value)
        seed, shards = numbers.pop("seed", 0), numbers.pop("shards", 1)
        return cls(seed=seed, dtype=dtype, shards=shards, sizes=numbers)


def build_random(spec: RandomSpec, *, case: Case, path: Path) -> Path:
    """Write the checkpoint, atomically, and return its folder.

    Biases are clearly not zero, norms are near one, and weights keep activations of order one, so that
    a misplaced shard or a skipped bias shows. As published, no parameter that may be absent is written.

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
    parameters = [parameter for parameter in case.parameters(configs) if not parameter.zero_if_absent]
    # Interleaved, so that consecutive layers and the three towers meet in every file.
    files = [parameters[index :: spec.shards] for index in range(spec.shards)]
    names = [f"model-{index + 1:05}-of-{spec.shards:05}.safetensors" for index in range(spec.shards)]
    if spec.shards == 1:
        names = ["model.safetensors"]
    with new_folder(path) as folder:
        weight_map, total = {}, 0
        for name, members in zip(names, files, strict=True):
            with TensorWriter(folder / name) as writer:
                for parameter in members:
                    tensor = _cast(_draw(parameter.name, parameter.shape, seed=spec.seed), spec.dtype)
                    published = case.published_name(parameter.name)
                    writer.add(published, tensor)
                    weight_map[published], total = name, total + tensor.data.nbytes
        if spec.shards > 1:
            index_file = {"metadata": {"total_size": total}, "weight_map": weight_map}
            _write_json(folder / "model.safetensors.index.json", index_file)
        for name, config in configs.items():
            _write_json(folder / name, config)
        byte_tokenizer(case.special_tokens).save(str(folder / "tokenizer.json"))
        tokenizer_config = {
            "tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>",
            "pad_token": "<|endoftext|>", "clean_up_tokenization_spaces": False,
            "model_max_length": text["max_position_embeddings"],
        }  # fmt: skip
        _write_json(folder / "tokenizer_config.json", tokenizer_config)
        _write_json(folder / RANDOM_MARK, {"trained": False, "seed": spec.seed})
    return path


def _draw(name: str, shape: tuple[int, ...], *, seed: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    # Seeded by name: a parameter's values do not depend on which others there are, nor on their order.
    entropy = int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8], "little")
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
