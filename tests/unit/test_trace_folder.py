"""A trace on disk: all there or not there, and refused once a byte of it has changed."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from harness.errors import InputError, TraceError
from harness.trace import Manifest, Trace, TraceWriter, reader
from harness.trace.schema import (
    AuditedShard,
    CheckpointEntry,
    ClipEntry,
    Environment,
    LoadAudit,
    OfferedTensor,
    Overwritten,
    TranscriptRecord,
)
from harness.trace.tensors import RawTensor, bfloat16_words
from harness.trace.writer import seal

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CLIPS = ("one", "two.b-2")
FILES = [
    "activations/one.safetensors",
    "activations/two.b-2.safetensors",
    "audit.json",
    "log.txt",
    "parameters.json",
    "parameters.safetensors",
    "transcripts.json",
]
BIAS = np.array([1, -2.5, np.nan, np.inf], dtype=np.float32)
WEIGHT = np.arange(12, dtype=np.float32).reshape(3, 2, 2)
AUDIT = LoadAudit(
    shards=(
        AuditedShard(
            parameter="qkv.bias",
            shard="k",
            name="b.bias",
            rows=(4, 8),
            of=12,
            dtype="float32",
            elements=4,
            loaded=1,
            made=1,
            default=1,
            uninitialised=1,
            unwritten=("[4:6]",),
            sources=("k.bias",),
        ),
    ),
    tensors=(
        OfferedTensor(
            name="k.bias",
            dtype="float32",
            shape=(4,),
            non_finite=2,
            consumed=True,
            written_to=("qkv.bias[4:8]",),
        ),
    ),
    overwritten=(Overwritten(parameter="qkv.bias", box="[0:1]", first="q.bias", second=None),),
    not_audited=("x: has no memory after loading",),
)
SAMPLES = {clip: np.linspace(-1, 1, 5 + len(clip), dtype=np.float32) for clip in CLIPS}


def manifest(**changes: object) -> Manifest:
    content: dict[str, object] = {
        "case": "glm_asr",
        "leg": "hf-cpu",
        "backend": "hf-cpu",
        "device": "cpu",
        "dtype": "float32",
        "attention": "sdpa",
        "work": "run",
        "loader": "installed",
        "loader_changes": (),
        "fill": "nan",
        "seed": 0,
        "max_new_tokens": 4,
        "prompt_token_ids": (1, 2),
        "stop_token_ids": (3,),
        "checkpoint": CheckpointEntry(source="random", digest="c" * 64, config={}, trained=False),
        "clips": tuple(
            ClipEntry(id=clip, sha256="d" * 64, samples=SAMPLES[clip].size, transcript=None, language="en")
            for clip in CLIPS
        ),
        "environment": Environment(
            python="3.11.0",
            platform="Linux x86_64",
            device_name="none",
            cpu_isa="AVX2",
            threads=1,
            packages={},
            variables={},
        ),
        "started": "2026-01-01T00:00:00+00:00",
        "seconds": {"total": 1.0},
        "files": {},
    }
    return Manifest.model_validate(content | changes)


def fill(writer: TraceWriter) -> None:
    writer.add_parameter(name="b.bias", source="qkv.bias[4:8]", tensor=RawTensor.of(BIAS))
    writer.add_parameter(name="a.weight", source="a.weight", tensor=RawTensor.of(WEIGHT))
    words = bfloat16_words(np.array([0.5, -8], dtype=np.float32))
    writer.add_parameter(
        name="c.bias", source="c", tensor=RawTensor(dtype="bfloat16", shape=(2,), data=words)
    )
    writer.add_unmapped(["z", "y"])
    writer.add_audit(AUDIT)
    for clip in reversed(CLIPS):
        writer.add_activation(clip=clip, probe="encoder.norm", tensor=RawTensor.of(np.ones((2, 3))))
        writer.add_audio(clip=clip, samples=SAMPLES[clip])
        writer.add_transcript(TranscriptRecord(clip=clip, text=clip, token_ids=(1, 2)))


def write_trace(path: Path, **changes: object) -> Path:
    with TraceWriter.create(path) as writer:
        fill(writer)
        log = path.with_suffix(".log")
        log.write_text("line\n", encoding="utf-8")
        writer.finish(manifest(**changes), log=log)
    log.unlink()
    return path


def edit_manifest(trace: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = trace / "manifest.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")
    seal(trace)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def problem_of(path: Path) -> str:
    with pytest.raises(TraceError) as caught:
        Trace(path)
    text = str(caught.value)
    assert text.startswith(str(path))
    return text.removeprefix(str(path))


class TestContent:
    def test_manifest_is_what_was_given_and_every_file(self, tmp_path: Path) -> None:
        path = write_trace(tmp_path / "new" / "trace")
        trace = Trace(path)
        assert trace.manifest.model_copy(update={"files": {}}) == manifest()
        assert sorted(trace.manifest.files) == FILES
        on_disk = {file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()}
        assert on_disk == {*FILES, "manifest.json", "manifest.sha256"}
        for name, entry in trace.manifest.files.items():
            data = (path / name).read_bytes()
            assert (entry.size, entry.sha256) == (len(data), hashlib.sha256(data).hexdigest())

    def test_parameters(self, tmp_path: Path) -> None:
        trace = Trace(write_trace(tmp_path / "trace"))
        assert list(trace.parameters) == ["a.weight", "b.bias", "c.bias"]
        assert trace.unmapped_parameters == ("y", "z")
        bias = trace.parameters["b.bias"]
        assert (bias.source, bias.dtype, bias.shape) == ("qkv.bias[4:8]", "float32", (4,))
        assert bias.sha256 == hashlib.sha256(BIAS.tobytes()).hexdigest()
        assert (bias.non_finite, bias.max_abs) == (2, 2.5)
        assert (trace.parameters["c.bias"].dtype, trace.parameters["c.bias"].max_abs) == ("bfloat16", 8.0)
        assert trace.parameters["a.weight"].max_abs == 11.0
        np.testing.assert_array_equal(trace.parameter_values("b.bias"), BIAS)
        np.testing.assert_array_equal(trace.parameter_values("c.bias"), [0.5, -8])
        assert trace.parameter_values("a.weight") is None
        assert trace.row_digests("b.bias") is None
        assert trace.row_digests("nowhere") is None
        assert trace.parameter_values("nowhere") is None

    def test_a_digest_per_row(self, tmp_path: Path) -> None:
        digests = Trace(write_trace(tmp_path / "trace")).row_digests("a.weight")
        assert digests is not None
        assert digests.dtype == np.uint64
        expected = [hashlib.blake2b(row.tobytes(), digest_size=8).digest() for row in WEIGHT]
        assert [int(digest).to_bytes(8, "little") for digest in digests] == expected

    @pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0)])
    def test_a_parameter_of_no_elements(self, tmp_path: Path, shape: tuple[int, ...]) -> None:
        with TraceWriter.create(tmp_path / "trace") as writer:
            tensor = RawTensor.of(np.zeros(shape, dtype=np.float32))
            writer.add_parameter(name="emptied", source="emptied", tensor=tensor)
            writer.add_audit(AUDIT)
            writer.finish(manifest())
        record = Trace(tmp_path / "trace").parameters["emptied"]
        assert (record.shape, record.non_finite, record.max_abs) == (shape, 0, 0.0)

    def test_a_parameter_with_nothing_finite(self, tmp_path: Path) -> None:
        with TraceWriter.create(tmp_path / "trace") as writer:
            tensor = RawTensor.of(np.full((2, 2), np.nan, dtype=np.float16))
            writer.add_parameter(name="bad", source="bad", tensor=tensor)
            writer.add_audit(AUDIT)
            writer.finish(manifest())
        record = Trace(tmp_path / "trace").parameters["bad"]
        assert (record.non_finite, record.max_abs) == (4, 0.0)

    def test_activations_audio_and_transcripts(self, tmp_path: Path) -> None:
        trace = Trace(write_trace(tmp_path / "trace"))
        assert list(trace.transcripts) == list(CLIPS)
        for clip in CLIPS:
            found = trace.activation(clip=clip, probe="encoder.norm")
            assert found is not None
            assert (found.dtype, found.shape) == ("float64", (2, 3))
            np.testing.assert_array_equal(trace.audio(clip), SAMPLES[clip])
            assert trace.transcripts[clip] == TranscriptRecord(clip=clip, text=clip, token_ids=(1, 2))

    def test_audit(self, tmp_path: Path) -> None:
        assert Trace(write_trace(tmp_path / "trace")).audit == AUDIT

    def test_a_later_transcript_takes_the_place_of_an_earlier_one(self, tmp_path: Path) -> None:
        second = TranscriptRecord(clip="one", text="second", token_ids=(2, 3))
        with TraceWriter.create(tmp_path / "trace") as writer:
            writer.add_transcript(TranscriptRecord(clip="one", text="first", token_ids=(1,)))
            writer.add_transcript(second)
            writer.add_audit(AUDIT)
            writer.finish(manifest())
        assert Trace(tmp_path / "trace").transcripts["one"] == second

    def test_a_probe_is_recorded_once(self, tmp_path: Path) -> None:
        with TraceWriter.create(tmp_path / "trace") as writer:
            fill(writer)
            with pytest.raises(ValueError, match=r"'encoder\.norm' was recorded twice"):
                writer.add_activation(clip="one", probe="encoder.norm", tensor=RawTensor.of(np.ones(1)))
            writer.finish(manifest())

    def test_without_a_log(self, tmp_path: Path) -> None:
        with TraceWriter.create(tmp_path / "trace") as writer:
            fill(writer)
            writer.finish(manifest(), log=tmp_path / "gone.log")
        assert sorted(Trace(tmp_path / "trace").manifest.files) == [
            name for name in FILES if name != "log.txt"
        ]


class TestLazy:
    def test_opening_reads_no_tensor(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = write_trace(tmp_path / "trace")

        def refuse(*arguments: object, **options: object) -> None:
            msg = "a tensor was read"
            raise AssertionError(msg)

        monkeypatch.setattr(np, "memmap", refuse)
        trace = Trace(path)
        assert trace.activation(clip="one", probe="projector") is None
        assert trace.activation(clip="nobody", probe="projector") is None
        assert trace.audio("nobody") is None
        with pytest.raises(AssertionError, match="a tensor was read"):
            trace.activation(clip="one", probe="encoder.norm")

    def test_a_clip_is_found_by_its_whole_id_only(self, tmp_path: Path) -> None:
        trace = Trace(write_trace(tmp_path / "trace"))
        assert trace.activation(clip="../parameters", probe="values/b.bias") is None


class TestAllOrNothing:
    def test_nothing_is_there_before_the_end(self, tmp_path: Path) -> None:
        path = tmp_path / "trace"
        with TraceWriter.create(path) as writer:
            fill(writer)
            assert not path.exists()
            writer.finish(manifest())
            assert not path.exists()
        Trace(path)
        assert names(tmp_path) == ["trace"]

    def test_without_finish(self, tmp_path: Path) -> None:
        with (
            pytest.raises(RuntimeError, match="left without a manifest"),
            TraceWriter.create(tmp_path / "trace") as writer,
        ):
            fill(writer)
        assert not list(tmp_path.iterdir())

    def test_without_an_audit(self, tmp_path: Path) -> None:
        """What nobody looked at must not read like what had nothing to be found."""
        with (
            pytest.raises(RuntimeError, match="the trace of hf-cpu has no load audit"),
            TraceWriter.create(tmp_path / "trace") as writer,
        ):
            writer.finish(manifest())
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("finished", [True, False])
    def test_an_exception_leaves_nothing(self, tmp_path: Path, finished: bool) -> None:
        def interrupted() -> None:
            with TraceWriter.create(tmp_path / "trace") as writer:
                fill(writer)
                if finished:
                    writer.finish(manifest())
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            interrupted()
        assert not list(tmp_path.iterdir())

    def test_an_older_trace_is_replaced_at_the_end(self, tmp_path: Path) -> None:
        path = write_trace(tmp_path / "trace", seed=1)
        with TraceWriter.create(path) as writer:
            writer.add_audit(AUDIT)
            writer.finish(manifest(seed=2))
            assert Trace(path).manifest.seed == 1
        assert Trace(path).manifest.seed == 2
        assert "log.txt" not in Trace(path).manifest.files
        assert names(tmp_path) == ["trace"]

    def test_an_older_trace_outlives_a_failed_one(self, tmp_path: Path) -> None:
        path = write_trace(tmp_path / "trace", seed=1)
        with pytest.raises(RuntimeError, match="left without a manifest"), TraceWriter.create(path) as writer:
            fill(writer)
        assert Trace(path).manifest.seed == 1
        assert names(tmp_path) == ["trace"]


class TestChanged:
    @pytest.mark.parametrize("name", FILES)
    @pytest.mark.parametrize("where", ["first", "middle", "last"])
    def test_one_byte_of_any_file(self, tmp_path: Path, name: str, where: str) -> None:
        path = write_trace(tmp_path / "trace")
        data = bytearray((path / name).read_bytes())
        data[{"first": 0, "middle": len(data) // 2, "last": -1}[where]] ^= 1
        (path / name).write_bytes(data)
        assert problem_of(path).startswith(f": {name} was changed after the capture: sha256 is ")

    @pytest.mark.parametrize("name", FILES)
    def test_a_file_that_is_gone(self, tmp_path: Path, name: str) -> None:
        path = write_trace(tmp_path / "trace")
        (path / name).unlink()
        assert problem_of(path).startswith(f": {name} is in the manifest and not in the folder")

    @pytest.mark.parametrize("name", FILES)
    @pytest.mark.parametrize("change", [1, -1])
    def test_another_size(self, tmp_path: Path, name: str, change: int) -> None:
        path = write_trace(tmp_path / "trace")
        data = (path / name).read_bytes()
        (path / name).write_bytes(data + b"\0" if change > 0 else data[:-1])
        expected = f": {name} has {len(data) + change} bytes, the manifest says {len(data)}"
        assert problem_of(path).startswith(expected)

    @pytest.mark.parametrize("name", FILES)
    def test_a_link_in_place_of_a_file(self, tmp_path: Path, name: str) -> None:
        path = write_trace(tmp_path / "trace")
        (path / name).rename(tmp_path / "moved")
        (path / name).symlink_to(tmp_path / "moved")
        assert f"names {name!r}, which is not a plain file inside the trace" in problem_of(path)

    def test_a_folder_in_place_of_a_file(self, tmp_path: Path) -> None:
        path = write_trace(tmp_path / "trace")
        (path / "log.txt").unlink()
        (path / "log.txt").mkdir()
        assert "log.txt is in the manifest and not in the folder" in problem_of(path)

    @pytest.mark.parametrize("absolute", [True, False])
    def test_a_manifest_that_leads_out_of_the_trace(self, tmp_path: Path, absolute: bool) -> None:
        path = write_trace(tmp_path / "trace")
        outside = (path / "log.txt").rename(tmp_path / "log.txt")
        name = str(outside) if absolute else "../log.txt"
        edit_manifest(path, lambda content: content["files"].update({name: content["files"].pop("log.txt")}))
        assert f"names {name!r}, which is not a plain file inside the trace" in problem_of(path)

    @pytest.mark.parametrize("name", ["", ".", "activations", "a\0b"])
    def test_a_manifest_that_names_no_file(self, tmp_path: Path, name: str) -> None:
        path = write_trace(tmp_path / "trace")
        edit_manifest(path, lambda content: content["files"].update({name: content["files"]["log.txt"]}))
        assert "is in the manifest and not in the folder" in problem_of(path)

    def test_a_name_too_long_for_the_file_system(self, tmp_path: Path) -> None:
        path = write_trace(tmp_path / "trace")
        edit_manifest(path, lambda content: content["files"].update({"x" * 300: content["files"]["log.txt"]}))
        assert problem_of(path) == " cannot be read: File name too long"

    def test_a_file_that_may_not_be_read(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(path: Path) -> str:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

        path = write_trace(tmp_path / "trace")
        monkeypatch.setattr(reader, "sha256_file", refuse)
        assert problem_of(path) == " cannot be read: Permission denied"

    @pytest.mark.parametrize(
        "name", ["audit.json", "parameters.json", "parameters.safetensors", "transcripts.json"]
    )
    def test_a_manifest_without_a_file_that_every_trace_has(self, tmp_path: Path, name: str) -> None:
        path = write_trace(tmp_path / "trace")
        edit_manifest(path, lambda content: content["files"].pop(name))
        assert problem_of(path) == f": the manifest lists no {name}"

    def test_tables_that_only_their_digest_vouches_for(self, tmp_path: Path) -> None:
        path = write_trace(tmp_path / "trace")
        (path / "parameters.json").write_text('{"parameters": []}', encoding="utf-8")
        data = (path / "parameters.json").read_bytes()
        entry = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        edit_manifest(path, lambda content: content["files"].update({"parameters.json": entry}))
        trace = Trace(path)
        with pytest.raises(TraceError, match=r"parameters\.json is not valid .* unmapped: Field required"):
            _ = trace.parameters


class TestNoTrace:
    def test_nothing(self, tmp_path: Path) -> None:
        assert "expected a folder with manifest.json, found nothing" in problem_of(tmp_path / "gone")

    def test_an_empty_folder(self, tmp_path: Path) -> None:
        assert "found an empty or incomplete folder" in problem_of(tmp_path)

    def test_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "a").touch()
        assert "is not a trace" in problem_of(tmp_path / "a")

    def test_it_is_wrong_usage(self) -> None:
        assert issubclass(TraceError, InputError)

    @pytest.mark.parametrize("version", [0, 1, 3, "2", None])
    def test_another_schema_version(self, tmp_path: Path, version: object) -> None:
        path = write_trace(tmp_path / "trace")
        edit_manifest(path, lambda content: content.update(schema_version=version))
        found = problem_of(path)
        assert found.startswith("/manifest.json is not valid (schema 2): schema_version: ")

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            (b"", "the document: Invalid JSON"),
            (b"\xff\xfe", "the document: Invalid JSON"),
            (b"[]", "the document: "),
            (b"{}", "case: Field required"),
        ],
    )
    def test_a_manifest_of_something_else(self, tmp_path: Path, text: bytes, said: str) -> None:
        (tmp_path / "manifest.json").write_bytes(text)
        assert problem_of(tmp_path).startswith(f"/manifest.json is not valid (schema 2): {said}")

    def test_one_changed_digit(self, tmp_path: Path) -> None:
        path = write_trace(tmp_path / "trace")
        text = (path / "manifest.json").read_text(encoding="utf-8")
        changed = text.replace('"seed": 0', '"seed": 1')
        assert changed != text
        (path / "manifest.json").write_text(changed, encoding="utf-8")
        assert problem_of(path) == ": manifest.json was changed after the capture; capture this leg again"

    def test_an_unknown_key(self, tmp_path: Path) -> None:
        path = write_trace(tmp_path / "trace")
        edit_manifest(path, lambda content: content.update(extra=1))
        assert "extra: Extra inputs are not permitted" in problem_of(path)

    @pytest.mark.parametrize("clip", ["../one", "a/b", ".hidden", "", "a\n"])
    def test_a_clip_id_that_is_no_file_name(self, tmp_path: Path, clip: str) -> None:
        path = write_trace(tmp_path / "trace")
        edit_manifest(path, lambda content: content["clips"][0].update(id=clip))
        assert "clips.0.id: String should match" in problem_of(path)

    def test_a_manifest_too_large_to_be_one(self, tmp_path: Path) -> None:
        with (tmp_path / "manifest.json").open("wb") as stream:
            stream.truncate((64 << 20) + 1)
        assert "is larger than 67108864 bytes: not written by this harness" in problem_of(tmp_path)
