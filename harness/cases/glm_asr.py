"""GLM-ASR: a Whisper-style encoder with partial rotary positions, a projector, and a Llama.

Sources: the published checkpoint zai-org/GLM-ASR-Nano-2512, ``transformers/models/glmasr`` (5.x) and
``vllm/model_executor/models/glmasr.py`` (0.19 to 0.32).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from harness.cases.case import Case, Configs, FeatureSpec, Parameter, Part, ProbePoint, Shard, Site, Stack

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Frames merged into one audio token, and the strides of both convolutions (transformers, glmasr).
_MERGE = 4
_CONV_STRIDES = (1, 2)
#: Defaults of the published model, for what its config.json leaves out.
_AUDIO = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20,
          "num_mel_bins": 128}  # fmt: skip
_TEXT = {"vocab_size": 59264, "hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28,
         "num_attention_heads": 16, "num_key_value_heads": 4, "max_position_embeddings": 8192}  # fmt: skip
_MAX_AUDIO_SECONDS = 655
_EOS = (59246, 59253, 59255)


@dataclass(frozen=True, kw_only=True)
class _Tower:
    """Sizes of a stack of transformer layers; ``wide`` and ``narrow`` are the rows of q, and of k and v."""

    hidden: int
    intermediate: int
    layers: int
    wide: int
    narrow: int
    rest: Mapping[str, Any]

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> _Tower:
        heads = int(config["num_attention_heads"])
        head_dim = int(config.get("head_dim") or config["hidden_size"] // heads)
        return cls(
            hidden=int(config["hidden_size"]),
            intermediate=int(config["intermediate_size"]),
            layers=int(config["num_hidden_layers"]),
            wide=heads * head_dim,
            narrow=int(config.get("num_key_value_heads") or heads) * head_dim,
            rest=config,
        )


def _encoder(configs: Configs) -> _Tower:
    return _Tower.of({**_AUDIO, **configs["config.json"].get("audio_config", {})})


def _text(configs: Configs) -> _Tower:
    return _Tower.of({**_TEXT, **configs["config.json"].get("text_config", {})})


@lru_cache(maxsize=8)
def _parameters(config: str) -> Mapping[str, Parameter]:
    """The parameters that the text of a config.json describes, by name; asked for by every tensor."""
    configs = {"config.json": json.loads(config)}
    encoder, text = _encoder(configs), _text(configs)
    wide, narrow, hidden, inner = encoder.wide, encoder.narrow, encoder.hidden, encoder.intermediate
    vocab = int(text.rest["vocab_size"])
    shapes: dict[str, tuple[int, ...]] = {
        "conv1.weight": (hidden, int(encoder.rest["num_mel_bins"]), 3), "conv1.bias": (hidden,),
        "conv2.weight": (hidden, hidden, 3), "conv2.bias": (hidden,),
    }  # fmt: skip
    for index in range(encoder.layers):
        layer = f"layers.{index}."
        shapes |= {
            f"{layer}input_layernorm.weight": (hidden,), f"{layer}input_layernorm.bias": (hidden,),
            f"{layer}q_proj.weight": (wide, hidden), f"{layer}q_proj.bias": (wide,),
            f"{layer}k_proj.weight": (narrow, hidden), f"{layer}k_proj.bias": (narrow,),
            f"{layer}v_proj.weight": (narrow, hidden), f"{layer}v_proj.bias": (narrow,),
            f"{layer}o_proj.weight": (hidden, wide), f"{layer}o_proj.bias": (hidden,),
            f"{layer}post_attention_layernorm.weight": (hidden,),
            f"{layer}post_attention_layernorm.bias": (hidden,),
            f"{layer}fc1.weight": (inner, hidden), f"{layer}fc1.bias": (inner,),
            f"{layer}fc2.weight": (hidden, inner), f"{layer}fc2.bias": (hidden,),
        }  # fmt: skip
    shapes |= {
        "norm.weight": (hidden,), "norm.bias": (hidden,),
        "projector.linear_1.weight": (2 * text.hidden, inner),
        "projector.linear_1.bias": (2 * text.hidden,),
        "projector.linear_2.weight": (text.hidden, 2 * text.hidden),
        "projector.linear_2.bias": (text.hidden,),
        "lm.embed_tokens.weight": (vocab, text.hidden),
    }  # fmt: skip
    wide, narrow, hidden, inner = text.wide, text.narrow, text.hidden, text.intermediate
    for index in range(text.layers):
        layer = f"lm.layers.{index}."
        shapes |= {
            f"{layer}input_layernorm.weight": (hidden,),
            f"{layer}q_proj.weight": (wide, hidden), f"{layer}k_proj.weight": (narrow, hidden),
            f"{layer}v_proj.weight": (narrow, hidden), f"{layer}o_proj.weight": (hidden, wide),
            f"{layer}post_attention_layernorm.weight": (hidden,),
            f"{layer}gate_proj.weight": (inner, hidden), f"{layer}up_proj.weight": (inner, hidden),
            f"{layer}down_proj.weight": (hidden, inner),
        }  # fmt: skip
    shapes |= {"lm.norm.weight": (hidden,), "lm.head.weight": (vocab, hidden)}
    return MappingProxyType(
        {
            name: Parameter(
                name=name,
                shape=shape,
                zero_if_absent=re.fullmatch(r"layers\.\d+\.k_proj\.bias", name) is not None,
            )
            for name, shape in shapes.items()
        }
    )


class GlmAsr(Case):
    """The Case ``glm_asr``. The encoder's parameters carry no prefix: ``layers.0.k_proj.bias``."""

    name = "glm_asr"
    model_type = "glmasr"
    hub_id = "zai-org/GLM-ASR-Nano-2512"
    #: vLLM rounds the vocabulary up to a multiple of 64.
    padded = frozenset({"lm.embed_tokens.weight", "lm.head.weight"})
    audio_token = "<|pad|>"  # noqa: S105 - a token of the model's vocabulary

    def prompt(self) -> str:
        """The published chat template, filled in for one transcription request."""
        return (
            f"<|user|>\n<|begin_of_audio|>{self.audio_token}<|end_of_audio|>"
            "<|user|>\nPlease transcribe this audio into text<|assistant|>\n"
        )

    def stop_token_ids(self, configs: Configs) -> tuple[int, ...]:
        """Both files name end tokens: the text config, and the generation config that vLLM obeys."""
        found: list[int] = []
        for value in (
            configs["config.json"].get("text_config", {}).get("eos_token_id", list(_EOS)),
            configs.get("generation_config.json", {}).get("eos_token_id"),
        ):
            found += [value] if isinstance(value, int) else list(value or ())
        return tuple(sorted(set(found)))

    def probes(self, configs: Configs) -> tuple[ProbePoint, ...]:
        """Mel, both convolutions, six per layer, norm, projector, logits of the first generated token."""
        points = [
            ProbePoint(name="features.mel", inputs=()),
            ProbePoint(name="encoder.conv1", inputs=("features.mel",)),
            ProbePoint(name="encoder.conv2", inputs=("encoder.conv1",)),
        ]
        previous = "encoder.conv2"
        for index in range(_encoder(configs).layers):
            layer = f"encoder.layers.{index}"
            qkv = tuple(f"{layer}.{shard}_proj" for shard in "qkv")
            points += [ProbePoint(name=name, inputs=(previous,)) for name in qkv]
            points += [
                ProbePoint(name=f"{layer}.self_attn", inputs=qkv),
                ProbePoint(name=f"{layer}.mlp", inputs=(previous, f"{layer}.self_attn")),
                ProbePoint(name=layer, inputs=(previous, f"{layer}.self_attn", f"{layer}.mlp")),
            ]
            previous = layer
        return (
            *points,
            ProbePoint(name="encoder.norm", inputs=(previous,)),
            ProbePoint(name="projector", inputs=("encoder.norm",)),
            ProbePoint(name="lm.logits", inputs=("projector",)),
        )

    def sites(self, stack: Stack, configs: Configs) -> tuple[Site, ...]:
        """The modules are called alike on both stacks, but for vLLM's fused ``qkv_proj``."""
        encoder = _encoder(configs)
        sites = [
            Site(probe="features.mel", module="audio_tower.conv1", side="input"),
            Site(probe="encoder.conv1", module="audio_tower.conv1"),
            Site(probe="encoder.conv2", module="audio_tower.conv2"),
        ]
        for index in range(encoder.layers):
            probe, module = f"encoder.layers.{index}", f"audio_tower.layers.{index}"
            for shard in self._qkv(encoder):
                own = stack == "hf"
                sites.append(
                    Site(
                        probe=f"{probe}.{shard.name}",
                        module=f"{module}.self_attn.{shard.name if own else 'qkv_proj'}",
                        columns=None if own else (shard.start, shard.stop),
                    )
                )
            sites += [
                Site(probe=f"{probe}.self_attn", module=f"{module}.self_attn"),
                Site(probe=f"{probe}.mlp", module=f"{module}.mlp"),
                Site(probe=probe, module=module),
            ]
        return (
            *sites,
            Site(probe="encoder.norm", module="audio_tower.norm"),
            Site(probe="projector", module="multi_modal_projector"),
        )

    def parameters(self, configs: Configs) -> tuple[Parameter, ...]:
        """Encoder (no prefix), ``projector.``, ``lm.``; only the encoder's k bias may be absent."""
        return tuple(self._by_name(configs).values())

    @staticmethod
    def _by_name(configs: Configs) -> Mapping[str, Parameter]:
        return _parameters(json.dumps(configs["config.json"]))

    def shards(self, stack: Stack, name: str, configs: Configs) -> tuple[Shard, ...]:
        """Drop the stack's prefixes, cut its fused parameters, and cut vLLM's padding off the vocabulary."""
        canonical = self._canonical(stack, name)
        if canonical is None:
            return ()
        known = self._by_name(configs)
        module, _, kind = canonical.rpartition(".")
        shards, start = [], 0
        for full in (f"{part}.{kind}" for part in self._unfused(stack, module)):
            if full not in known:
                return ()
            shards.append(Shard(name=full, start=start, stop=start + known[full].shape[0]))
            start = shards[-1].stop
        return tuple(shards)

    def parts(self, stack: Stack, name: str, configs: Configs) -> tuple[Part, ...]:
        """Whatever lies beside a weight and is no bias: ``weight_scale``, ``weight_packed``, ``qweight``."""
        canonical = self._canonical(stack, name)
        if canonical is None or self.shards(stack, name, configs):
            return ()
        module, _, kind = canonical.rpartition(".")
        if kind in {"weight", "bias"}:
            return ()
        return tuple(
            Part(of=f"{part}.weight", name=f"{part}.{kind}", is_metadata=kind == "weight_shape")
            for part in self._unfused(stack, module)
            if f"{part}.weight" in self._by_name(configs)
        )

    @staticmethod
    def _unfused(stack: Stack, module: str) -> tuple[str, ...]:
        """The canonical modules that a stack's module is, in order of its rows: several if it is fused."""
        prefix, dot, last = module.rpartition(".")
        fused = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}
        names = fused.get(last, (last,)) if stack == "vllm" else (last,)
        return tuple(f"{prefix}{dot}{part}" for part in names)

    @staticmethod
    def _canonical(stack: Stack, name: str) -> str | None:
        if stack == "hf":
            name = name.removeprefix("model.")
            # transformers names the head beside the model, and the decoder without its own `model.`
            name = re.sub(r"^lm_head\.", "language_model.lm_head.", name)
            name = re.sub(r"^language_model\.(?!model\.|lm_head\.)", "language_model.model.", name)
            # So save_pretrained writes a model that was not loaded (transformers 5.19), and reads it back.
            name = re.sub(r"^language_model\.model\.model\.", "language_model.model.", name)
        for prefix, short in (
            ("audio_tower.", ""),
            ("multi_modal_projector.", "projector."),
            ("language_model.model.", "lm."),
            ("language_model.lm_head.", "lm.head."),
        ):
            if name.startswith(prefix):
                return short + re.sub(r"\.(self_attn|mlp)\.", ".", name.removeprefix(prefix))
        return None

    def tied(self, configs: Configs) -> Mapping[str, str]:
        """The head, where both flags say so: transformers obeys the outer one, vLLM the text config's."""
        config = configs["config.json"]
        flags = (config.get("tie_word_embeddings"), config.get("text_config", {}).get("tie_word_embeddings"))
        return {"lm.head.weight": "lm.embed_tokens.weight"} if all(flags) else {}

    def ignorable(self, name: str, configs: Configs) -> bool:
        """Positions, which both stacks compute (vLLM skips their tensors, glmasr), and a tied head."""
        if re.search(r"(?:^|\.)(?:embed_positions(?:\.weight)?|rotary_(?:pos_)?emb\.\w+)$", name):
            return True
        return any(shard.name in self.tied(configs) for shard in self.shards("hf", name, configs))

    def published_name(self, name: str) -> str:
        """The inverse of the canonical naming, in the layout of the published checkpoint."""
        name = re.sub(r"((?:^|\.)layers\.\d+)\.([qkvo]_proj)\.", r"\1.self_attn.\2.", name)
        name = re.sub(r"((?:^|\.)layers\.\d+)\.(fc1|fc2|gate_proj|up_proj|down_proj)\.", r"\1.mlp.\2.", name)
        for short, prefix in (
            ("projector.", "multi_modal_projector."),
            ("lm.head.", "language_model.lm_head."),
            ("lm.", "language_model.model."),
        ):
            if name.startswith(short):
                return prefix + name.removeprefix(short)
        return f"audio_tower.{name}"

    @staticmethod
    def _qkv(tower: _Tower) -> tuple[Shard, ...]:
        q, k = tower.wide, tower.wide + tower.narrow
        return (
            Shard(name="q_proj", start=0, stop=q),
            Shard(name="k_proj", start=q, stop=k),
            Shard(name="v_proj", start=k, stop=k + tower.narrow),
        )

    def feature_spec(self, configs: Configs) -> FeatureSpec:
        """Whisper's front end, as the checkpoint's preprocessor configuration sets it."""
        config = self._preprocessor(configs)
        rate = int(config.get("sampling_rate", 16000))
        return FeatureSpec(
            sample_rate=rate,
            n_fft=int(config.get("n_fft", 400)),
            hop_length=int(config.get("hop_length", 160)),
            n_mels=int(config.get("feature_size", _encoder(configs).rest["num_mel_bins"])),
            chunk_samples=int(config.get("chunk_length", 30)) * rate,
        )

    @staticmethod
    def _preprocessor(configs: Configs) -> Mapping[str, Any]:
        nested = configs.get("processor_config.json", {}).get("feature_extractor", {})
        return {**nested, **configs.get("preprocessor_config.json", {})}

    def chunks(self, samples: int, configs: Configs) -> int:
        """One chunk per started ``chunk_length``, at least one."""
        return max(1, -(-samples // self.feature_spec(configs).chunk_samples))

    def audio_tokens(self, samples: int, configs: Configs) -> int:
        """Frames per chunk, through both convolutions, four merged into one (transformers, glmasr)."""
        spec = self.feature_spec(configs)
        tokens = 0
        for start in range(0, samples, spec.chunk_samples):
            length = -(-min(spec.chunk_samples, samples - start) // spec.hop_length)
            for stride in _CONV_STRIDES:
                length = (length - 1) // stride + 1
            tokens += (length - _MERGE) // _MERGE + 1
        return tokens

    def unsupported(
        self, samples: int, configs: Configs, *, prompt_tokens: int, max_new_tokens: int
    ) -> str | None:
        """Shorter than one audio token, longer than the processor keeps, or than the context holds."""
        spec = self.feature_spec(configs)
        seconds, chunk = samples / spec.sample_rate, spec.chunk_samples // spec.sample_rate
        tokens = self.audio_tokens(samples, configs)
        if tokens < 1:
            return f"too short: {seconds:.3f} s makes no audio token"
        longest = configs.get("processor_config.json", {}).get("max_audio_len", _MAX_AUDIO_SECONDS)
        # The processor keeps whole chunks only (transformers and vLLM, glmasr).
        if seconds > (kept := int(longest // chunk) * chunk):
            return (
                f"too long: {seconds:.1f} s, the processor cuts at {kept} s "
                f"(max_audio_len = {longest} s, in chunks of {chunk} s)"
            )
        context = int(_text(configs).rest["max_position_embeddings"])
        if (needed := tokens + prompt_tokens + max_new_tokens) > context:
            return f"too long: needs {needed} tokens of context, the language model has {context}"
        return None

    @property
    def small_sizes(self) -> Mapping[str, int]:
        """Sizes of the small checkpoint; the head size of 64 is the smallest that vLLM's CPU kernels take."""
        return MappingProxyType(
            {"encoder_hidden": 128, "encoder_layers": 2, "encoder_heads": 2, "encoder_kv_heads": 2,
             "text_hidden": 128, "text_layers": 2, "text_heads": 2, "text_kv_heads": 1,
             "mel_bins": 128, "chunk_seconds": 4, "max_audio_seconds": 20, "context": 1024}
        )  # fmt: skip

    @property
    def special_tokens(self) -> tuple[str, ...]:
        """The tokens that the prompt uses, and the end token."""
        return ("<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|begin_of_audio|>",
                "<|end_of_audio|>", self.audio_token)  # fmt: skip

    def small_configs(self, sizes: Mapping[str, int]) -> dict[str, dict[str, Any]]:
        """Every JSON file but the tokenizer's. The projector takes 4 merged frames: FFN = 4 x hidden."""
        size = {**self.small_sizes, **sizes}
        ids = {token: 256 + index for index, token in enumerate(self.special_tokens)}
        rope = {"rope_type": "default", "rope_theta": 10000.0}
        extractor = {
            "feature_extractor_type": "WhisperFeatureExtractor", "feature_size": size["mel_bins"],
            "sampling_rate": 16000, "hop_length": 160, "n_fft": 400, "chunk_length": size["chunk_seconds"],
            "n_samples": 16000 * size["chunk_seconds"], "nb_max_frames": 100 * size["chunk_seconds"],
            "padding_side": "right", "padding_value": 0.0, "dither": 0.0, "return_attention_mask": True,
        }  # fmt: skip
        return {
            "config.json": {
                "architectures": ["GlmAsrForConditionalGeneration"], "model_type": self.model_type,
                "audio_token_id": ids[self.audio_token], "projector_hidden_act": "gelu",
                "tie_word_embeddings": False,
                "audio_config": {
                    "model_type": "glmasr_encoder", "hidden_size": size["encoder_hidden"],
                    "intermediate_size": _MERGE * size["encoder_hidden"],
                    "num_hidden_layers": size["encoder_layers"], "num_attention_heads": size["encoder_heads"],
                    "num_key_value_heads": size["encoder_kv_heads"],
                    "head_dim": size["encoder_hidden"] // size["encoder_heads"], "hidden_act": "gelu",
                    "max_position_embeddings": 50 * size["chunk_seconds"], "num_mel_bins": size["mel_bins"],
                    # Set in full: vLLM reads two different defaults for it.
                    "rope_parameters": {**rope, "partial_rotary_factor": 0.5}, "partial_rotary_factor": 0.5,
                },
                "text_config": {
                    "model_type": "llama", "vocab_size": 256 + len(ids), "hidden_size": size["text_hidden"],
                    "intermediate_size": 2 * size["text_hidden"], "num_hidden_layers": size["text_layers"],
                    "num_attention_heads": size["text_heads"], "num_key_value_heads": size["text_kv_heads"],
                    "head_dim": 64, "hidden_act": "silu", "max_position_embeddings": size["context"],
                    "rms_norm_eps": 1e-5, "rope_parameters": rope, "tie_word_embeddings": False,
                    "bos_token_id": None, "eos_token_id": [ids["<|endoftext|>"], ids["<|user|>"]],
                    "pad_token_id": ids["<|endoftext|>"],
                },
            },
            "generation_config.json": {
                "eos_token_id": [ids["<|endoftext|>"], ids["<|user|>"]], "pad_token_id": ids["<|endoftext|>"],
            },
            "preprocessor_config.json": extractor,
            "processor_config.json": {
                "processor_class": "GlmAsrProcessor", "audio_token": self.audio_token,
                "default_transcription_prompt": "Please transcribe this audio into text",
                "max_audio_len": size["max_audio_seconds"], "feature_extractor": extractor,
            },
        }  # fmt: skip
