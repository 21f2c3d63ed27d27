"""Checkpoints: small ones built from a seed in the published layout, and every way to name one."""

from __future__ import annotations

import json
import math
import re
import shutil
from typing import TYPE_CHECKING, Any

import huggingface_hub.constants
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from harness.cases import get_case
from harness.checkpoints.checkpoint import Checkpoint, open_checkpoint, resolve_checkpoint
from harness.checkpoints.random import RANDOM_MARK, RandomSpec, build_random
from harness.checkpoints.tokenizer import byte_tokenizer, encode
from harness.errors import InputError
from harness.trace.schema import CheckpointEntry
from harness.trace.tensors import TensorFile, bfloat16_words

if TYPE_CHECKING:
    from pathlib import Path

CASE = get_case("glm_asr")
#: As small as the layout allows.
TINY = (
    "encoder_hidden=16,encoder_layers=2,encoder_heads=2,encoder_kv_heads=1,"
    "text_hidden=8,text_layers=1,mel_bins=80"
)


def build(path: Path, text: str = TINY) -> Path:
    return build_random(RandomSpec.parse(text, case=CASE), case=CASE, path=path)


def resolve(name: str | Path, *, folder: Path) -> Checkpoint:
    return resolve_checkpoint(str(name), case=CASE, folder=folder / "built")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def tensors(folder: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Every tensor of every file, as the safetensors library reads it."""
    library: Any = safetensors
    return {
        name: (tensor["dtype"], tuple(tensor["shape"]), bytes(tensor["data"]))
        for path in folder.glob("*.safetensors")
        for name, tensor in library.deserialize(path.read_bytes())
    }


class TestSpec:
    def test_defaults(self) -> None:
        assert RandomSpec.parse("", case=CASE) == RandomSpec(seed=0, dtype="float32", shards=1, sizes={})

    def test_everything(self) -> None:
        spec = RandomSpec.parse(
            " seed = 7, dtype=bfloat16,shards=3 ,encoder_layers=4,,text_heads=2", case=CASE
        )
        assert spec == RandomSpec(
            seed=7, dtype="bfloat16", shards=3, sizes={"encoder_layers": 4, "text_heads": 2}
        )

    @pytest.mark.parametrize("text", ["layers=2", "=2", "Seed=1", "seed1", "encoder layers=2"])
    def test_unknown_setting(self, text: str) -> None:
        key = text.partition("=")[0]
        with pytest.raises(
            InputError, match=f"unknown setting '{key}'; known: seed, dtype, shards, encoder_hid"
        ):
            RandomSpec.parse(text, case=CASE)

    @pytest.mark.parametrize("value", ["", "-1", "1.0", "0x1", "one", "٣", "²", "1_0", "+1", "1;shards=2"])
    @pytest.mark.parametrize(
        ("key", "range_"),
        [("seed", "0 to 999999999999999999"), ("shards", "1 to 131072"), ("encoder_layers", "1 to 131072")],
    )
    def test_bad_number(self, key: str, range_: str, value: str) -> None:
        message = f"{key} takes a whole number from {range_}, found {value!r}"
        with pytest.raises(InputError, match=re.escape(message)):
            RandomSpec.parse(f"{key}={value}", case=CASE)

    @pytest.mark.parametrize("key", ["shards", "encoder_layers", "context"])
    def test_zero_is_for_the_seed_only(self, key: str) -> None:
        assert RandomSpec.parse("seed=0", case=CASE).seed == 0
        with pytest.raises(InputError, match=f"{key} takes a whole number from 1 to 131072, found '0'"):
            RandomSpec.parse(f"{key}=0", case=CASE)

    @pytest.mark.parametrize("value", ["", "fp32", "float64", "int8", "BFLOAT16"])
    def test_bad_dtype(self, value: str) -> None:
        message = f"dtype '{value}' is not one of float32, bfloat16, float16"
        with pytest.raises(InputError, match=message):
            RandomSpec.parse(f"dtype={value}", case=CASE)

    @given(st.text(max_size=30))
    def test_any_text_is_read_or_refused(self, text: str) -> None:
        try:
            spec = RandomSpec.parse(text, case=CASE)
        except InputError as error:
            assert str(error).startswith("checkpoint random: ")  # noqa: PT017 - either end is right
        else:
            assert set(spec.sizes) <= set(CASE.small_sizes)

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("encoder_heads=4,encoder_kv_heads=3", "encoder_heads must be a multiple of encoder_kv_heads"),
            ("encoder_heads=1", "encoder_heads must be a multiple of encoder_kv_heads"),
            ("text_heads=3,text_kv_heads=2", "text_heads must be a multiple of text_kv_heads"),
            ("encoder_hidden=100", "encoder_hidden must be encoder_heads times a multiple of 4"),
            (
                "encoder_hidden=130,encoder_heads=4",
                "encoder_hidden must be encoder_heads times a multiple of 4",
            ),
            ("chunk_seconds=3", "chunk_seconds must be even"),
        ],
    )
    def test_sizes_that_do_not_fit(self, tmp_path: Path, text: str, said: str) -> None:
        with pytest.raises(InputError, match=said):
            build(tmp_path / "new" / "checkpoint", text)
        assert not list(tmp_path.iterdir())


class TestBytes:
    def test_the_same_twice(self, tmp_path: Path) -> None:
        one, two = build(tmp_path / "one", f"seed=3,{TINY}"), build(tmp_path / "two", f"seed=3,{TINY}")
        assert contents(one) == contents(two)

    def test_another_seed(self, tmp_path: Path) -> None:
        one, two = tensors(build(tmp_path / "one")), tensors(build(tmp_path / "two", f"seed=1,{TINY}"))
        assert set(one) == set(two)
        assert all(one[name] != two[name] for name in one)

    def test_values_depend_on_name_and_seed_only(self, tmp_path: Path) -> None:
        one = tensors(build(tmp_path / "one"))
        two = tensors(build(tmp_path / "two", f"{TINY},shards=3,encoder_layers=3"))
        assert set(one) < set(two)
        assert all(one[name] == two[name] for name in one)

    @pytest.mark.parametrize(
        ("dtype", "code"), [("float32", "F32"), ("float16", "F16"), ("bfloat16", "BF16")]
    )
    def test_dtype(self, tmp_path: Path, dtype: str, code: str) -> None:
        folder = build(tmp_path / dtype, f"dtype={dtype},{TINY}")
        assert {found for found, _, _ in tensors(folder).values()} == {code}
        config = json.loads((folder / "config.json").read_text("utf-8"))
        assert {config["dtype"], config["audio_config"]["dtype"], config["text_config"]["dtype"]} == {dtype}

    def test_other_dtypes_are_the_same_numbers_rounded(self, tmp_path: Path) -> None:
        full = safetensors.numpy.load_file(build(tmp_path / "full") / "model.safetensors")
        half = tensors(build(tmp_path / "half", f"dtype=float16,{TINY}"))
        brain = tensors(build(tmp_path / "brain", f"dtype=bfloat16,{TINY}"))
        for name, values in full.items():
            assert half[name][2] == values.astype(np.float16).tobytes()
            assert brain[name][2] == bfloat16_words(values).tobytes()

    def test_numbers_that_show_a_mistake(self, tmp_path: Path) -> None:
        found = safetensors.numpy.load_file(build(tmp_path / "a", "") / "model.safetensors")
        for name, values in found.items():
            assert np.isfinite(values).all()
            if name.endswith("norm.weight"):
                assert 0.9 < values.mean() < 1.1
            elif name.endswith(".bias"):
                assert 0.1 < values.std() < 0.3
            elif "embed_tokens" not in name:
                assert 0.5 < values.std() * math.sqrt(math.prod(values.shape[1:])) < 2


class TestLayout:
    def test_names_and_shapes_are_the_published_ones(self, tmp_path: Path) -> None:
        folder = build(tmp_path / "a")
        config = {name: json.loads((folder / name).read_text("utf-8")) for name in ("config.json",)}
        expected = {
            CASE.published_name(parameter.name): parameter.shape
            for parameter in CASE.parameters(config)
            if not parameter.zero_if_absent
        }
        assert {name: shape for name, (_, shape, _) in tensors(folder).items()} == expected
        assert "audio_tower.layers.1.self_attn.q_proj.bias" in expected
        assert "language_model.model.layers.0.mlp.gate_proj.weight" in expected

    def test_no_bias_for_k(self, tmp_path: Path) -> None:
        names = tensors(build(tmp_path / "a"))
        assert not [name for name in names if name.endswith("k_proj.bias")]
        for layer in range(2):
            attention = f"audio_tower.layers.{layer}.self_attn"
            assert {
                f"{attention}.k_proj.weight",
                f"{attention}.q_proj.bias",
                f"{attention}.v_proj.bias",
            } <= set(names)

    def test_one_file(self, tmp_path: Path) -> None:
        assert sorted(contents(build(tmp_path / "a"))) == [
            "config.json",
            "generation_config.json",
            "glm_asr_harness.json",
            "model.safetensors",
            "preprocessor_config.json",
            "processor_config.json",
            "tokenizer.json",
            "tokenizer_config.json",
        ]

    @pytest.mark.parametrize("shards", [2, 5])
    def test_several_files_and_their_index(self, tmp_path: Path, shards: int) -> None:
        folder = build(tmp_path / "a", f"shards={shards},{TINY}")
        names = [f"model-{index:05}-of-{shards:05}.safetensors" for index in range(1, shards + 1)]
        assert sorted(path.name for path in folder.glob("*.safetensors")) == names
        index = json.loads((folder / "model.safetensors.index.json").read_text("utf-8"))
        found = {name: path for path in names for name in TensorFile(folder / path).names}
        assert index["weight_map"] == found
        assert index["metadata"]["total_size"] == sum(len(data) for _, _, data in tensors(folder).values())
        assert set(found) == set(tensors(build(tmp_path / "whole")))

    def test_layers_meet_in_every_file(self, tmp_path: Path) -> None:
        folder = build(tmp_path / "a", f"shards=2,{TINY}")
        for path in folder.glob("*.safetensors"):
            towers = {name.partition(".")[0] for name in TensorFile(path).names}
            assert towers == {"audio_tower", "language_model", "multi_modal_projector"}

    @pytest.mark.parametrize("shards", [1, 2])
    def test_every_file_is_read_by_the_library(self, tmp_path: Path, shards: int) -> None:
        folder = build(tmp_path / "a", f"shards={shards},{TINY}")
        for path in folder.glob("*.safetensors"):
            found = safetensors.numpy.load_file(path)
            for name in TensorFile(path).names:
                np.testing.assert_array_equal(TensorFile(path).read(name).values, found[name])

    def test_an_older_one_is_replaced(self, tmp_path: Path) -> None:
        build(tmp_path / "a", f"shards=2,{TINY}")
        build(tmp_path / "a")
        assert not list((tmp_path / "a").glob("model-*"))
        assert [path.name for path in tmp_path.iterdir()] == ["a"]


class TestTokenizer:
    def test_a_token_per_byte(self, tmp_path: Path) -> None:
        byte_tokenizer(CASE.special_tokens).save(str(tmp_path / "tokenizer.json"))
        assert len(encode(tmp_path, "héllo\n")) == len("héllo\n".encode())
        assert max(encode(tmp_path, "".join(map(chr, range(256))))) < 256

    def test_special_tokens_follow_the_bytes(self, tmp_path: Path) -> None:
        byte_tokenizer(CASE.special_tokens).save(str(tmp_path / "tokenizer.json"))
        for index, token in enumerate(CASE.special_tokens):
            assert encode(tmp_path, token) == (256 + index,)
        prompt = encode(tmp_path, CASE.prompt())
        assert prompt.count(256 + CASE.special_tokens.index(CASE.audio_token)) == 1


class TestResolve:
    def test_random(self, tmp_path: Path) -> None:
        found = resolve(f"random:{TINY}", folder=tmp_path)
        assert (found.source, found.trained) == (f"random:{TINY}", False)
        assert found.folder == tmp_path / "built"
        assert found.configs["config.json"]["model_type"] == "glmasr"
        assert set(found.configs) == {
            "config.json",
            "generation_config.json",
            "preprocessor_config.json",
            "processor_config.json",
        }
        assert found.prompt_token_ids == encode(found.folder, CASE.prompt())

    @pytest.mark.parametrize("name", ["random", "random:"])
    def test_random_by_default(self, tmp_path: Path, name: str) -> None:
        audio = resolve(name, folder=tmp_path).configs["config.json"]["audio_config"]
        assert audio["num_hidden_layers"] == CASE.small_sizes["encoder_layers"]

    def test_a_folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (build(tmp_path / "mine") / RANDOM_MARK).unlink()
        monkeypatch.chdir(tmp_path)
        found = resolve("mine", folder=tmp_path)
        assert (found.source, found.trained) == ("mine", True)
        assert found.folder == tmp_path / "mine"
        assert not (tmp_path / "built").exists()

    def test_a_folder_below_home(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        build(tmp_path / "mine")
        monkeypatch.setenv("HOME", str(tmp_path))
        assert resolve("~/mine", folder=tmp_path).folder == tmp_path / "mine"

    def test_digest_is_of_what_is_loaded(self, tmp_path: Path) -> None:
        one = resolve(build(tmp_path / "one"), folder=tmp_path)
        assert resolve(build(tmp_path / "two"), folder=tmp_path).digest == one.digest
        (tmp_path / "two" / "README.md").write_text("words", encoding="utf-8")
        assert resolve(tmp_path / "two", folder=tmp_path).digest == one.digest
        (tmp_path / "two" / "model.safetensors").rename(tmp_path / "two" / "other.safetensors")
        assert resolve(tmp_path / "two", folder=tmp_path).digest != one.digest

    @pytest.mark.parametrize(
        "name", ["model.safetensors", "config.json", "generation_config.json", "processor_config.json"]
    )
    def test_digest_changes_with_any_byte_of_it(self, tmp_path: Path, name: str) -> None:
        folder = build(tmp_path / "mine")
        before = resolve(folder, folder=tmp_path).digest
        data = bytearray((folder / name).read_bytes())
        if name.endswith(".json"):
            data += b"\n"
        else:
            data[-1] ^= 1
        (folder / name).write_bytes(data)
        assert resolve(folder, folder=tmp_path).digest != before

    @pytest.mark.parametrize(
        "name",
        ["tokenizer.json", "tokenizer_config.json", RANDOM_MARK],
        ids=["tokenizer", "its-config", "mark"],
    )
    def test_digest_is_of_weights_and_configuration_only(self, tmp_path: Path, name: str) -> None:
        """What a tokenizer yields is compared as token ids: it may be written anew by another release."""
        folder = build(tmp_path / "mine")
        before = resolve(folder, folder=tmp_path).digest
        (folder / name).write_bytes((folder / name).read_bytes() + b"\n")
        assert resolve(folder, folder=tmp_path).digest == before

    @pytest.mark.parametrize("name", ["./gone", "/gone/away", "~/gone", "../gone"])
    def test_a_path_to_nothing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.chdir(tmp_path)
        with pytest.raises(
            InputError, match=r"expected a folder with config\.json and safetensors, found none"
        ):
            resolve(name, folder=tmp_path)

    @pytest.mark.parametrize("name", ["~nobody-of-this-name/x", "a" * 300, "./" + "a" * 300, "a\0b"])
    def test_a_path_that_cannot_be(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(InputError, match="checkpoint "):
            resolve(name, folder=tmp_path)

    def test_a_file(self, tmp_path: Path) -> None:
        file = build(tmp_path / "mine") / "model.safetensors"
        with pytest.raises(InputError, match=r"expected a folder with config\.json and safetensors"):
            resolve(file, folder=tmp_path)

    @pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
    def test_a_missing_file(self, tmp_path: Path, name: str) -> None:
        folder = build(tmp_path / "mine")
        (folder / name).unlink()
        said = name.replace("model", "*")
        with pytest.raises(
            InputError, match=re.escape(f"expected a folder with {said}, found none in {folder}")
        ):
            resolve(folder, folder=tmp_path)

    def test_an_empty_folder(self, tmp_path: Path) -> None:
        with pytest.raises(
            InputError, match=r"with config\.json, tokenizer\.json, \*\.safetensors, found none"
        ):
            resolve(tmp_path, folder=tmp_path)

    @pytest.mark.parametrize("model_type", ["whisper", None, 3])
    def test_another_model_family(self, tmp_path: Path, model_type: object) -> None:
        folder = build(tmp_path / "mine")
        (folder / "config.json").write_text(json.dumps({"model_type": model_type}), encoding="utf-8")
        with pytest.raises(
            InputError, match=f"expected model_type 'glmasr' for glm_asr, found {model_type!r}"
        ):
            resolve(folder, folder=tmp_path)

    @pytest.mark.parametrize("name", ["config.json", "generation_config.json", "processor_config.json"])
    @pytest.mark.parametrize("text", [b"", b"{", b"\xff", b"[]", b"3", b"null"])
    def test_a_file_that_is_no_json_object(self, tmp_path: Path, name: str, text: bytes) -> None:
        folder = build(tmp_path / "mine")
        (folder / name).write_bytes(text)
        with pytest.raises(InputError, match=f"{name} is not valid JSON|{name}: expected a JSON object"):
            resolve(folder, folder=tmp_path)

    def test_a_tokenizer_that_is_none(self, tmp_path: Path) -> None:
        folder = build(tmp_path / "mine")
        (folder / "tokenizer.json").write_text("{}", encoding="utf-8")
        with pytest.raises(InputError, match=r"tokenizer\.json"):
            resolve(folder, folder=tmp_path)

    @pytest.mark.parametrize("tokens", [(), tuple(t for t in CASE.special_tokens if t != CASE.audio_token)])
    def test_a_tokenizer_without_the_audio_token(self, tmp_path: Path, tokens: tuple[str, ...]) -> None:
        folder = build(tmp_path / "mine")
        byte_tokenizer(tokens).save(str(folder / "tokenizer.json"))
        with pytest.raises(InputError, match=r"no token of its own for '<\|pad\|>'"):
            resolve(folder, folder=tmp_path)


class TestTrained:
    def test_a_random_one_is_marked_wherever_it_is_copied_to(self, tmp_path: Path) -> None:
        copy = shutil.copytree(build(tmp_path / "built"), tmp_path / "elsewhere" / "copy")
        assert json.loads((copy / RANDOM_MARK).read_text("utf-8"))["trained"] is False
        found = open_checkpoint(copy, case=CASE, source="copy")
        assert (found.trained, found.entry.trained) == (False, False)

    @pytest.mark.parametrize(
        "mark", [None, b"", b"\xff", b"[]", b"null", b"{}", b'{"trained": true}', b'{"trained": 0}']
    )
    def test_anything_else_is_trained(self, tmp_path: Path, mark: bytes | None) -> None:
        folder = build(tmp_path / "mine")
        (folder / RANDOM_MARK).unlink()
        if mark is not None:
            (folder / RANDOM_MARK).write_bytes(mark)
        found = open_checkpoint(folder, case=CASE, source="mine")
        assert (found.trained, found.entry.trained) == (True, True)


class TestWeightFiles:
    @pytest.mark.parametrize("shards", [1, 3])
    def test_k_bias_is_what_a_small_one_lacks(self, tmp_path: Path, shards: int) -> None:
        found = resolve(build(tmp_path / "a", f"shards={shards},{TINY}"), folder=tmp_path)
        assert found.lacks == ("layers.0.k_proj.bias", "layers.1.k_proj.bias")
        assert found.entry.lacks == found.lacks

    def test_entry_is_the_checkpoint(self, tmp_path: Path) -> None:
        found = resolve(build(tmp_path / "a"), folder=tmp_path)
        assert found.entry == CheckpointEntry(
            source=found.source,
            digest=found.digest,
            config=found.configs,
            trained=False,
            lacks=found.lacks,
        )

    def test_a_bias_that_it_has_is_not_lacking(self, tmp_path: Path) -> None:
        folder = build(tmp_path / "a")
        name = "audio_tower.layers.1.self_attn.k_proj.bias"
        safetensors.numpy.save_file({name: np.zeros(8, np.float32)}, folder / "more.safetensors")
        assert resolve(folder, folder=tmp_path).lacks == ("layers.0.k_proj.bias",)

    def test_missing_file_of_the_index(self, tmp_path: Path) -> None:
        folder = build(tmp_path / "a", f"shards=4,{TINY}")
        for index in (2, 4):
            (folder / f"model-{index:05}-of-00004.safetensors").unlink()
        message = (
            f"checkpoint {folder}: 2 of 4 weight files are missing, the first is "
            "model-00002-of-00004.safetensors; download it again"
        )
        with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
            resolve(folder, folder=tmp_path)

    @pytest.mark.parametrize(
        "text",
        [b"", b"{", b"\xff", b"[]", b"null", b"{}", b'{"weight_map": []}', b'{"weight_map": {"a": [1]}}',
         b'{"weight_map": {"a": 3}}', b'{"weight_map": {"a": "b\\u0000"}}'],
    )  # fmt: skip
    def test_index_that_is_none(self, tmp_path: Path, text: bytes) -> None:
        folder = build(tmp_path / "a", f"shards=2,{TINY}")
        (folder / "model.safetensors.index.json").write_bytes(text)
        with pytest.raises(
            InputError, match=r"model\.safetensors\.index\.json is not an index of weights|files are missing"
        ):
            resolve(folder, folder=tmp_path)

    @pytest.mark.parametrize("content", [b"", b"\0" * 8, b"not weights at all", None])
    def test_weights_that_are_none(self, tmp_path: Path, content: bytes | None) -> None:
        folder = build(tmp_path / "a", f"shards=2,{TINY}")
        path = folder / "model-00002-of-00002.safetensors"
        path.write_bytes(path.read_bytes()[:-1] if content is None else content)
        with pytest.raises(
            InputError, match=rf"^checkpoint {re.escape(str(folder))}: .*{re.escape(path.name)}"
        ):
            resolve(folder, folder=tmp_path)


class TestHub:
    @pytest.fixture
    def offline(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """An empty cache, and no way to a network."""
        cache = tmp_path / "cache"
        cache.mkdir()
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
        return cache

    @pytest.mark.parametrize("name", ["zai-org/GLM-ASR-Nano-2512", "no-such-model"])
    def test_not_cached_and_offline(self, tmp_path: Path, offline: Path, name: str) -> None:
        with pytest.raises(
            InputError, match="not in the local hub cache, and the hub cannot be reached"
        ) as caught:
            resolve(name, folder=tmp_path)
        text = str(caught.value)
        assert "offline, or HF_HUB_OFFLINE is set" in text
        assert f"hf download {name}" in text
        assert "\n" not in text

    def test_cached(self, tmp_path: Path, offline: Path) -> None:
        commit = "0123456789abcdef0123456789abcdef01234567"
        model = offline / "models--someone--small"
        (build(model / "snapshots" / commit) / RANDOM_MARK).unlink()
        (model / "refs").mkdir()
        (model / "refs" / "main").write_text(commit, encoding="utf-8")
        found = resolve("someone/small", folder=tmp_path)
        assert (found.source, found.trained) == ("someone/small", True)
        assert found.folder == model / "snapshots" / commit

    @pytest.mark.parametrize("name", ["a/b/c", "a b", "", "-x", "a--b/c", "org/name.git", "random=1"])
    def test_no_hub_id(
        self, tmp_path: Path, offline: Path, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        (tmp_path / "empty").mkdir()
        monkeypatch.chdir(tmp_path / "empty")
        with pytest.raises(InputError, match=r"neither a folder here nor a hub id|expected a folder with"):
            resolve(name, folder=tmp_path)
