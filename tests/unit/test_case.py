"""What the Case says of GLM-ASR: names, rows, probes, tokens; no stack is imported to ask."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.cases import CASES, get_case
from harness.cases.case import Part, Shard
from harness.errors import InputError

if TYPE_CHECKING:
    from harness.cases.case import Configs, Stack

CASE = get_case("glm_asr")
#: The published checkpoint's config.json leaves most sizes to the code.
PUBLISHED: Configs = {
    "config.json": {
        "model_type": "glmasr",
        "audio_config": {"num_key_value_heads": 20, "head_dim": 64},
        "text_config": {},
    },
    "preprocessor_config.json": {"feature_size": 128, "chunk_length": 30},
}
RATE = 16_000


def small(**sizes: int) -> dict[str, dict[str, Any]]:
    return CASE.small_configs(sizes)


@st.composite
def configs(draw: st.DrawFn) -> Configs:
    sizes = {"encoder_layers": draw(st.integers(1, 12)), "text_layers": draw(st.integers(1, 12))}
    for tower in ("encoder", "text"):
        sizes[f"{tower}_kv_heads"] = draw(st.integers(1, 4))
        sizes[f"{tower}_heads"] = sizes[f"{tower}_kv_heads"] * draw(st.integers(1, 4))
    sizes["encoder_hidden"] = sizes["encoder_heads"] * draw(st.sampled_from([4, 8, 64]))
    sizes["text_hidden"] = draw(st.sampled_from([64, 128, 192]))
    sizes["mel_bins"] = draw(st.sampled_from([80, 128]))
    return CASE.small_configs(sizes)


def fused(published: str) -> str:
    """Return vLLM's name for the parameter that holds a published one."""
    name = re.sub(r"\.[qkv]_proj\.", ".qkv_proj.", published)
    return re.sub(r"\.(gate|up)_proj\.", ".gate_up_proj.", name)


def shape_of(name: str, config: Configs) -> tuple[int, ...]:
    return next(parameter.shape for parameter in CASE.parameters(config) if parameter.name == name)


class TestCases:
    def test_by_name(self) -> None:
        assert list(CASES) == ["glm_asr"]
        assert get_case("glm_asr") is CASES["glm_asr"]

    def test_unknown(self) -> None:
        with pytest.raises(InputError, match="no case 'whisper'; known cases: glm_asr"):
            get_case("whisper")


class TestNames:
    @settings(max_examples=15, deadline=None)
    @given(config=configs())
    def test_published_and_canonical_names_are_inverse(self, config: Configs) -> None:
        parameters = CASE.parameters(config)
        published = [CASE.published_name(parameter.name) for parameter in parameters]
        assert len(set(published)) == len(parameters)
        for parameter, name in zip(parameters, published, strict=True):
            assert CASE.shards("hf", name, config) == (
                Shard(name=parameter.name, start=0, stop=parameter.shape[0]),
            )

    @settings(max_examples=15, deadline=None)
    @given(config=configs())
    def test_vllms_parameters_hold_each_canonical_one_once_and_nothing_else(self, config: Configs) -> None:
        parameters = CASE.parameters(config)
        stacked = dict.fromkeys(fused(CASE.published_name(parameter.name)) for parameter in parameters)
        shards = [shard for name in stacked for shard in CASE.shards("vllm", name, config)]
        assert sorted(shard.name for shard in shards) == sorted(parameter.name for parameter in parameters)

    @settings(max_examples=15, deadline=None)
    @given(config=configs())
    def test_shards_of_a_fused_parameter_are_its_rows_from_first_to_last(self, config: Configs) -> None:
        audio, text = config["config.json"]["audio_config"], config["config.json"]["text_config"]
        rows = {
            "audio_tower.layers.0.self_attn.qkv_proj.weight": ("", "qkv", audio),
            "audio_tower.layers.0.self_attn.qkv_proj.bias": ("", "qkv", audio),
            "language_model.model.layers.0.self_attn.qkv_proj.weight": ("lm.", "qkv", text),
        }
        for name, (prefix, parts, sizes) in rows.items():
            kind = name.rpartition(".")[2]
            shards = CASE.shards("vllm", name, config)
            assert [shard.name for shard in shards] == [f"{prefix}layers.0.{p}_proj.{kind}" for p in parts]
            heads, kv_heads = sizes["num_attention_heads"], sizes["num_key_value_heads"]
            expected = [heads, kv_heads, kv_heads]
            assert [(s.stop - s.start) // sizes["head_dim"] for s in shards] == expected
            assert shards[0].start == 0
            assert [shard.stop for shard in shards[:-1]] == [shard.start for shard in shards[1:]]
            assert shards[-1].stop == sum(expected) * sizes["head_dim"]
            assert all(shape_of(shard.name, config)[0] == shard.stop - shard.start for shard in shards)
        gate, up = CASE.shards("vllm", "language_model.model.layers.0.mlp.gate_up_proj.weight", config)
        assert (gate.name, up.name) == ("lm.layers.0.gate_proj.weight", "lm.layers.0.up_proj.weight")
        inner = text["intermediate_size"]
        assert (gate.start, gate.stop, up.start, up.stop) == (0, inner, inner, 2 * inner)

    @pytest.mark.parametrize(
        ("stack", "name", "modules"),
        [
            ("vllm", "audio_tower.layers.1.self_attn.qkv_proj.weight_packed",
             ("layers.1.q_proj", "layers.1.k_proj", "layers.1.v_proj")),
            ("vllm", "language_model.model.layers.0.mlp.gate_up_proj.weight_shape",
             ("lm.layers.0.gate_proj", "lm.layers.0.up_proj")),
            ("vllm", "audio_tower.layers.0.mlp.fc1.qweight", ("layers.0.fc1",)),
            ("hf", "audio_tower.layers.0.self_attn.k_proj.weight_scale", ("layers.0.k_proj",)),
            ("hf", "model.language_model.layers.0.mlp.up_proj.weight_scale", ("lm.layers.0.up_proj",)),
            ("hf", "audio_tower.layers.0.self_attn.qkv_proj.weight_scale", ()),
            ("vllm", "language_model.model.layers.0.self_attn.attn.k_scale", ()),
            ("vllm", "audio_tower.layers.9.mlp.fc1.weight_scale", ()),
            ("vllm", "vision_tower.layers.0.mlp.fc1.weight_scale", ()),
        ],
    )  # fmt: skip
    def test_parts_of_a_quantised_weight(self, stack: Stack, name: str, modules: tuple[str, ...]) -> None:
        kind = name.rpartition(".")[2]
        assert CASE.parts(stack, name, small()) == tuple(
            Part(of=f"{module}.weight", name=f"{module}.{kind}", is_metadata=kind == "weight_shape")
            for module in modules
        )

    @pytest.mark.parametrize("stack", ["hf", "vllm"])
    def test_a_parameter_is_no_part(self, stack: Stack) -> None:
        for parameter in CASE.parameters(small()):
            assert CASE.parts(stack, CASE.published_name(parameter.name), small()) == ()

    def test_grouped_heads(self) -> None:
        config = small(encoder_heads=4, encoder_kv_heads=1)
        shards = CASE.shards("vllm", "audio_tower.layers.1.self_attn.qkv_proj.bias", config)
        assert shards == (
            Shard(name="layers.1.q_proj.bias", start=0, stop=128),
            Shard(name="layers.1.k_proj.bias", start=128, stop=160),
            Shard(name="layers.1.v_proj.bias", start=160, stop=192),
        )

    def test_the_published_models_biases(self) -> None:
        shards = CASE.shards("vllm", "audio_tower.layers.31.self_attn.qkv_proj.bias", PUBLISHED)
        assert [(shard.start, shard.stop) for shard in shards] == [(0, 1280), (1280, 2560), (2560, 3840)]

    @pytest.mark.parametrize(
        ("name", "canonical"),
        [
            # The published checkpoint.
            ("audio_tower.conv1.weight", "conv1.weight"),
            ("audio_tower.layers.1.self_attn.q_proj.bias", "layers.1.q_proj.bias"),
            ("audio_tower.layers.1.mlp.fc2.weight", "layers.1.fc2.weight"),
            ("audio_tower.norm.bias", "norm.bias"),
            ("multi_modal_projector.linear_1.bias", "projector.linear_1.bias"),
            ("language_model.model.layers.0.self_attn.k_proj.weight", "lm.layers.0.k_proj.weight"),
            ("language_model.model.embed_tokens.weight", "lm.embed_tokens.weight"),
            ("language_model.lm_head.weight", "lm.head.weight"),
            # A model of transformers 5.
            ("model.audio_tower.layers.1.self_attn.k_proj.weight", "layers.1.k_proj.weight"),
            ("model.audio_tower.layers.1.self_attn.o_proj.bias", "layers.1.o_proj.bias"),
            ("model.audio_tower.layers.0.post_attention_layernorm.weight",) * 2,
            ("model.multi_modal_projector.linear_2.weight", "projector.linear_2.weight"),
            ("model.language_model.layers.1.mlp.gate_proj.weight", "lm.layers.1.gate_proj.weight"),
            ("model.language_model.layers.1.input_layernorm.weight", "lm.layers.1.input_layernorm.weight"),
            ("model.language_model.embed_tokens.weight", "lm.embed_tokens.weight"),
            ("model.language_model.norm.weight", "lm.norm.weight"),
            ("lm_head.weight", "lm.head.weight"),
        ],
    )
    def test_names_of_huggingface(self, name: str, canonical: str) -> None:
        canonical = canonical.removeprefix("model.audio_tower.")
        (shard,) = CASE.shards("hf", name, small())
        assert shard == Shard(name=canonical, start=0, stop=shape_of(canonical, small())[0])

    @pytest.mark.parametrize("stack", ["hf", "vllm"])
    @pytest.mark.parametrize(
        "name",
        [
            "",
            "audio_tower.",
            "audio_tower",
            "audio_tower.embed_positions.weight",
            "audio_tower.layers.9.fc1.weight",
            "vision_tower.layers.0.fc1.weight",
            "language_model.model.layers.0.self_attn.qkv_proj.bias",
            "audio_tower.layers.0.self_attn.qkv_proj.scale",
            "language_model.model.layers.0.self_attn.rotary_emb.inv_freq",
        ],
    )
    def test_names_of_nothing(self, stack: Stack, name: str) -> None:
        assert CASE.shards(stack, name, small()) == ()

    def test_fused_names_are_vllms_only(self) -> None:
        assert CASE.shards("hf", "audio_tower.layers.0.self_attn.qkv_proj.bias", small()) == ()

    @given(stack=st.sampled_from(["hf", "vllm"]), name=st.text(max_size=40))
    def test_any_other_name_is_nothing(self, stack: Stack, name: str) -> None:
        assert CASE.shards(stack, f"x{name}", small()) == ()
        assert CASE.shards(stack, f"audio_tower.{name}?", small()) == ()

    @pytest.mark.parametrize("stack", ["hf", "vllm"])
    @pytest.mark.parametrize(
        ("name", "canonical"),
        [
            ("language_model.lm_head.weight", "lm.head.weight"),
            ("language_model.model.embed_tokens.weight", "lm.embed_tokens.weight"),
        ],
    )
    def test_padding_of_the_vocabulary_is_cut_off(self, stack: Stack, name: str, canonical: str) -> None:
        # vLLM pads the vocabulary to a multiple of 64; the small one has 263 entries.
        assert CASE.shards(stack, name, small()) == (Shard(name=canonical, start=0, stop=263),)

    def test_only_the_vocabulary_is_padded(self) -> None:
        assert CASE.padded == {"lm.embed_tokens.weight", "lm.head.weight"}
        assert {shape_of(name, small())[0] for name in CASE.padded} == {263}

    @pytest.mark.parametrize("config", [small(encoder_layers=3), PUBLISHED], ids=["small", "published"])
    def test_only_the_encoders_k_bias_may_be_absent(self, config: Configs) -> None:
        layers = config["config.json"]["audio_config"].get("num_hidden_layers", 32)
        absent = [parameter for parameter in CASE.parameters(config) if parameter.zero_if_absent]
        assert [parameter.name for parameter in absent] == [f"layers.{i}.k_proj.bias" for i in range(layers)]
        for parameter in absent:
            weight = parameter.name.replace(".bias", ".weight")
            assert shape_of(weight, config)[:1] == parameter.shape

    def test_published_shapes(self) -> None:
        shapes = {parameter.name: parameter.shape for parameter in CASE.parameters(PUBLISHED)}
        assert shapes["conv1.weight"] == (1280, 128, 3)
        assert shapes["layers.31.fc1.weight"] == (5120, 1280)
        assert shapes["projector.linear_1.weight"] == (4096, 5120)
        assert shapes["lm.layers.27.k_proj.weight"] == (512, 2048)
        assert shapes["lm.head.weight"] == (59264, 2048)
        assert "layers.32.fc1.weight" not in shapes


class TestProbes:
    @settings(max_examples=30, deadline=None)
    @given(config=configs())
    def test_inputs_come_earlier(self, config: Configs) -> None:
        seen: set[str] = set()
        for probe in CASE.probes(config):
            assert probe.name not in seen
            assert seen.issuperset(probe.inputs)
            assert bool(probe.inputs) == (probe.name != "features.mel")
            seen.add(probe.name)

    @settings(max_examples=30, deadline=None)
    @given(config=configs())
    def test_every_probe_but_the_first_is_reached_from_the_features(self, config: Configs) -> None:
        used = {name for probe in CASE.probes(config) for name in probe.inputs}
        assert {probe.name for probe in CASE.probes(config)} - used == {"lm.logits"}

    @pytest.mark.parametrize("stack", ["hf", "vllm"])
    @settings(max_examples=20, deadline=None)
    @given(config=configs())
    def test_a_site_for_each_probe_but_the_logits_in_their_order(self, stack: Stack, config: Configs) -> None:
        *probes, last = [probe.name for probe in CASE.probes(config)]
        assert last == "lm.logits"
        assert [site.probe for site in CASE.sites(stack, config)] == probes

    @settings(max_examples=30, deadline=None)
    @given(config=configs())
    def test_columns_are_the_rows_of_the_fused_parameter(self, config: Configs) -> None:
        for site in CASE.sites("vllm", config):
            if site.columns is None:
                assert "qkv_proj" not in site.module
                continue
            layer, part = re.fullmatch(r"encoder\.(layers\.\d+)\.([qkv]_proj)", site.probe).groups()  # type: ignore[union-attr]
            shards = CASE.shards("vllm", f"{site.module}.bias", config)
            (rows,) = [(shard.start, shard.stop) for shard in shards if shard.name == f"{layer}.{part}.bias"]
            assert site.columns == rows

    def test_the_stacks_differ_in_the_fused_modules_only(self) -> None:
        for ours, theirs in zip(CASE.sites("hf", small()), CASE.sites("vllm", small()), strict=True):
            assert ours.columns is None
            assert (ours.probe, ours.side) == (theirs.probe, theirs.side)
            fused_module = re.sub(r"\.[qkv]_proj$", ".qkv_proj", ours.module)
            assert theirs.module == fused_module
            assert (theirs.columns is None) == (fused_module == ours.module)

    def test_the_features_are_what_goes_in(self) -> None:
        first, *others = CASE.sites("vllm", small())
        assert (first.probe, first.side) == ("features.mel", "input")
        assert {site.side for site in others} == {"output"}

    def test_the_probes_of_one_layer(self) -> None:
        assert [probe.name for probe in CASE.probes(small(encoder_layers=1))] == [
            "features.mel",
            "encoder.conv1",
            "encoder.conv2",
            "encoder.layers.0.q_proj",
            "encoder.layers.0.k_proj",
            "encoder.layers.0.v_proj",
            "encoder.layers.0.self_attn",
            "encoder.layers.0.mlp",
            "encoder.layers.0",
            "encoder.norm",
            "projector",
            "lm.logits",
        ]


class TestAudio:
    def test_features_of_the_small_and_of_the_published_model(self) -> None:
        small_spec, published = CASE.feature_spec(small()), CASE.feature_spec(PUBLISHED)
        assert (small_spec.chunk_samples, published.chunk_samples) == (4 * RATE, 30 * RATE)
        for spec in (small_spec, published):
            assert (spec.sample_rate, spec.n_fft, spec.hop_length, spec.n_mels) == (RATE, 400, 160, 128)

    def test_the_preprocessors_own_file_wins(self) -> None:
        config = small()
        config["processor_config.json"]["feature_extractor"] = {"chunk_length": 8, "hop_length": 80}
        config["preprocessor_config.json"] = {"chunk_length": 2}
        spec = CASE.feature_spec(config)
        assert (spec.chunk_samples, spec.hop_length) == (2 * RATE, 80)
        del config["preprocessor_config.json"]
        assert CASE.feature_spec(config).chunk_samples == 8 * RATE

    @pytest.mark.parametrize(
        ("samples", "chunks"),
        [(0, 1), (1, 1), (4 * RATE, 1), (4 * RATE + 1, 2), (8 * RATE, 2), (20 * RATE, 5)],
    )
    def test_chunks(self, samples: int, chunks: int) -> None:
        assert CASE.chunks(samples, small()) == chunks

    @pytest.mark.parametrize(
        ("samples", "tokens"),
        [
            (0, 0),
            (1, 0),
            (960, 0),  # six frames, three after the convolutions: one short of a token
            (961, 1),
            (4 * RATE, 50),
            (4 * RATE + 960, 50),
            (4 * RATE + 961, 51),
            (20 * RATE, 250),
        ],
    )
    def test_tokens_at_the_boundaries(self, samples: int, tokens: int) -> None:
        assert CASE.audio_tokens(samples, small()) == tokens

    def test_tokens_of_a_full_published_chunk(self) -> None:
        assert CASE.audio_tokens(30 * RATE, PUBLISHED) == 375

    @given(
        st.lists(st.integers(0, 40 * RATE), min_size=2, max_size=8),
        st.sampled_from([small(), small(chunk_seconds=2), PUBLISHED]),
    )
    def test_a_longer_clip_never_has_fewer_tokens(self, lengths: list[int], config: Configs) -> None:
        lengths.sort()
        tokens = [CASE.audio_tokens(samples, config) for samples in lengths]
        assert tokens == sorted(tokens)
        chunks = [CASE.chunks(samples, config) for samples in lengths]
        assert chunks == sorted(chunks)

    @given(st.integers(1, 700 * RATE), st.sampled_from([small(), small(chunk_seconds=2), PUBLISHED]))
    def test_tokens_as_the_processor_counts_them(self, samples: int, config: Configs) -> None:
        # transformers counts over the frames of all chunks together, through both convolutions.
        frames = -(-samples // 160)
        assert CASE.audio_tokens(samples, config) == ((frames - 1) // 2 + 1) // 4


class TestUnsupported:
    def reason(self, samples: int, config: Configs, *, prompt: int = 10, new: int = 10) -> str | None:
        return CASE.unsupported(samples, config, prompt_tokens=prompt, max_new_tokens=new)

    @pytest.mark.parametrize("samples", [0, 1, 960])
    def test_too_short(self, samples: int) -> None:
        assert self.reason(samples, small()) == f"too short: {samples / RATE:.3f} s makes no audio token"
        assert self.reason(961, small()) is None

    @given(st.integers(0, 5 * RATE))
    def test_no_token_no_support(self, samples: int) -> None:
        reason = self.reason(samples, small())
        assert (reason is None) == (CASE.audio_tokens(samples, small()) > 0)

    def test_longer_than_the_processor_keeps(self) -> None:
        assert self.reason(20 * RATE, small()) is None
        reason = self.reason(20 * RATE + 1, small())
        assert reason is not None
        assert "too long: 20.0 s, the processor cuts at" in reason

    def test_the_processor_keeps_whole_chunks_only(self) -> None:
        # 655 s is the published limit; it holds 21 chunks of 30 s, and the processor drops the rest.
        config = {**PUBLISHED, "config.json": {**PUBLISHED["config.json"]}}
        config["config.json"]["text_config"] = {"max_position_embeddings": 1 << 20}  # type: ignore[index]
        assert self.reason(630 * RATE, config) is None
        for seconds in (631, 655, 656):
            reason = self.reason(seconds * RATE, config)
            assert reason is not None
            assert reason.startswith(f"too long: {seconds}.0 s, the processor cuts at 630 s")
            assert "max_audio_len = 655 s" in reason

    def test_longer_than_the_context(self) -> None:
        config = small(context=100)
        assert self.reason(4 * RATE, config, prompt=30, new=20) is None
        assert self.reason(4 * RATE, config, prompt=30, new=21) == (
            "too long: needs 101 tokens of context, the language model has 100"
        )
        assert self.reason(4 * RATE, config, prompt=31, new=20) is not None

    def test_the_published_context(self) -> None:
        assert self.reason(600 * RATE, PUBLISHED, prompt=20, new=200) is None
        assert "has 8192" in (self.reason(600 * RATE, PUBLISHED, prompt=20, new=800) or "")


class TestTokens:
    def stops(self, text: object, generation: object) -> tuple[int, ...]:
        config: dict[str, dict[str, Any]] = {"config.json": {"text_config": {"eos_token_id": text}}}
        if generation is not ...:
            config["generation_config.json"] = {"eos_token_id": generation}
        return CASE.stop_token_ids(config)

    @pytest.mark.parametrize(
        ("text", "generation", "expected"),
        [
            ([3, 1], [2, 1], (1, 2, 3)),
            (3, 2, (2, 3)),
            (0, None, (0,)),
            (None, [5], (5,)),
            ([7], ..., (7,)),
            (None, None, ()),
        ],
    )
    def test_of_both_files(self, text: object, generation: object, expected: tuple[int, ...]) -> None:
        assert self.stops(text, generation) == expected

    def test_published_ones_where_none_are_named(self) -> None:
        assert CASE.stop_token_ids(PUBLISHED) == (59246, 59253, 59255)

    def test_small(self) -> None:
        assert CASE.stop_token_ids(small()) == (256, 258)

    def test_the_prompt_holds_one_audio_token(self) -> None:
        assert CASE.prompt().count(CASE.audio_token) == 1
        assert set(re.findall(r"<\|\w+\|>", CASE.prompt())) <= set(CASE.special_tokens)


class TestSmallConfigs:
    @settings(max_examples=30, deadline=None)
    @given(config=configs())
    def test_the_projector_takes_merged_frames(self, config: Configs) -> None:
        audio = config["config.json"]["audio_config"]
        assert audio["intermediate_size"] == 4 * audio["hidden_size"]

    @pytest.mark.parametrize("size", sorted(CASE.small_sizes))
    def test_every_size_has_an_effect(self, size: str) -> None:
        value = CASE.small_sizes[size] * 2
        assert small(**{size: value}) != small()
        assert small(**{size: CASE.small_sizes[size]}) == small()

    def test_token_ids_are_within_the_vocabulary(self) -> None:
        config = small()["config.json"]
        ids = {config["audio_token_id"], *config["text_config"]["eos_token_id"]}
        assert all(256 <= token < config["text_config"]["vocab_size"] for token in ids)
