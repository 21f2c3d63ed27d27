"""Loading audio: every way in, and every reason to refuse."""

from __future__ import annotations

import hashlib
import importlib.resources
import json
import os
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from harness.audio import SAMPLE_RATE, AudioEntry, Clip, decode, identifier_from, load_clips, samples_sha256
from harness.errors import InputError
from harness.files import sha256_file
from tests.synthetic import audio_of, drop, make_clip, write_trace

if TYPE_CHECKING:
    from pathlib import Path

Array = np.ndarray[Any, np.dtype[np.float32]]


def tone(*, seconds: float = 0.5, rate: int = SAMPLE_RATE, hertz: float = 440.0) -> Array:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def write(
    path: Path, samples: Array | None = None, *, rate: int = SAMPLE_RATE, subtype: str | None = "FLOAT"
) -> Path:
    if path.suffix.lower() != ".wav":
        subtype = None
    soundfile.write(path, tone(rate=rate) if samples is None else samples, rate, subtype=subtype)
    return path


def write_manifest(folder: Path, *entries: dict[str, Any], version: int = 1) -> Path:
    path = folder / "manifest.json"
    path.write_text(json.dumps({"schema_version": version, "clips": entries}), encoding="utf-8")
    return path


def problems_of(*paths: Path) -> list[str]:
    with pytest.raises(InputError) as caught:
        load_clips(paths)
    first, *lines = str(caught.value).splitlines()
    assert first.startswith("the audio cannot be used, ")
    assert first.endswith("1 problem:" if len(lines) == 1 else f"{len(lines)} problems:")
    return lines


def problem_of(*paths: Path) -> str:
    lines = problems_of(*paths)
    assert len(lines) == 1
    return lines[0]


def only(*paths: Path) -> Clip:
    clips = load_clips(paths)
    assert len(clips) == 1
    return clips[0]


def loudest_hertz(samples: Array) -> float:
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(np.argmax(spectrum) * SAMPLE_RATE / len(samples))


class TestOneFile:
    def test_samples_at_16_khz_are_untouched(self, tmp_path: Path) -> None:
        samples = tone()
        clip = only(write(tmp_path / "hello.wav", samples))
        assert clip.id == "hello"
        assert clip.samples.dtype == np.float32
        assert not clip.samples.flags.writeable
        np.testing.assert_array_equal(clip.samples, samples)
        assert clip.sha256 == hashlib.sha256(samples.astype("<f4").tobytes()).hexdigest()
        assert clip.transcript is None
        assert clip.language == "en"
        assert clip.source == str(tmp_path / "hello.wav")

    def test_transcript_of_the_same_stem_is_taken(self, tmp_path: Path) -> None:
        (tmp_path / "a.txt").write_bytes("\ufeff  Grüß\n Gott ".encode())
        assert only(write(tmp_path / "a.wav")).transcript == "Grüß Gott"

    def test_channels_are_averaged(self, tmp_path: Path) -> None:
        left, right = tone(), tone(hertz=880.0)
        clip = only(write(tmp_path / "a.wav", np.stack([left, right], axis=1)))
        np.testing.assert_allclose(clip.samples, (left + right) / 2, atol=1e-7)

    def test_mean_of_channels_near_the_end_of_float32_does_not_overflow(self, tmp_path: Path) -> None:
        samples = np.full((100, 2), 3e38, dtype=np.float32)
        np.testing.assert_allclose(only(write(tmp_path / "a.wav", samples)).samples, 3e38, rtol=1e-6)

    def test_samples_beyond_full_scale_are_kept(self, tmp_path: Path) -> None:
        assert only(write(tmp_path / "a.wav", 8 * tone())).samples.max() == pytest.approx(4.0, rel=1e-3)

    @pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000])
    def test_other_rates_keep_the_length_and_the_pitch(self, tmp_path: Path, rate: int) -> None:
        clip = only(write(tmp_path / "a.wav", tone(seconds=1.0, rate=rate, hertz=1000.0), rate=rate))
        assert abs(len(clip.samples) - SAMPLE_RATE) <= 1
        assert loudest_hertz(clip.samples) == pytest.approx(1000.0, abs=2.0)
        middle = clip.samples[4000:12000]
        assert np.sqrt(np.mean(middle**2)) == pytest.approx(0.5 / np.sqrt(2), rel=0.01)

    @pytest.mark.parametrize("suffix", [".aiff", ".caf", ".flac", ".mp3", ".ogg", ".opus", ".w64", ".WAV"])
    def test_formats(self, tmp_path: Path, suffix: str) -> None:
        path = tmp_path / f"a{suffix}"
        if suffix == ".opus":
            soundfile.write(path, tone(), SAMPLE_RATE, format="OGG", subtype="OPUS")
        else:
            write(path)
        clip = only(path)
        assert len(clip.samples) == SAMPLE_RATE // 2
        assert loudest_hertz(clip.samples) == pytest.approx(440.0, abs=4.0)

    def test_name_that_is_not_utf8(self, tmp_path: Path) -> None:
        path = tmp_path / os.fsdecode(b"caf\xe9.wav")
        path.write_bytes(write(tmp_path / "plain.wav").read_bytes())
        clip = only(path)
        assert clip.id.startswith("caf_-")
        assert clip.source.encode("utf-8").endswith(rb"caf\udce9.wav")


class TestRefusedFile:
    @pytest.mark.parametrize(("value", "name"), [(np.nan, "nan"), (np.inf, "inf"), (-np.inf, "minus-inf")])
    def test_samples_that_are_not_finite(self, tmp_path: Path, value: float, name: str) -> None:
        samples = np.stack([tone(), tone()], axis=1)
        samples[[7, 9], 1] = value
        line = problem_of(write(tmp_path / f"{name}.wav", samples))
        assert line.startswith(f"  {name} (")
        assert "2 of 8000 frames are NaN or Inf, the first is frame 7" in line

    def test_infinities_that_cancel(self, tmp_path: Path) -> None:
        samples = np.stack([tone(), tone()], axis=1)
        samples[3] = [np.inf, -np.inf]
        assert "1 of 8000 frames" in problem_of(write(tmp_path / "a.wav", samples))

    def test_resampling_that_overflows(self, tmp_path: Path) -> None:
        signs = np.sign(np.random.default_rng(0).standard_normal(4000))
        loud = (signs * 3.4e38).astype(np.float32)
        assert "overflows float32" in problem_of(write(tmp_path / "a.wav", loud, rate=8_000))

    def test_truncated_flac(self, tmp_path: Path) -> None:
        path = write(tmp_path / "cut.flac")
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        line = problem_of(path)
        assert line.startswith("  cut (")
        assert "truncated" in line

    def test_truncated_mp3(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        path = write(tmp_path / "cut.mp3", tone(seconds=3))
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        assert "its header announces 48000 frames" in problem_of(path)
        capfd.readouterr()  # the decoder itself complains on stderr

    def test_flac_of_unknown_length(self, tmp_path: Path) -> None:
        path = write(tmp_path / "streamed.flac")
        data = bytearray(path.read_bytes())
        data[21] &= 0xF0  # the 36 bits of STREAMINFO that count samples
        data[22:26] = bytes(4)
        path.write_bytes(data)
        assert "does not say how long it is" in problem_of(path)

    def test_empty_file(self, tmp_path: Path) -> None:
        (tmp_path / "a.wav").touch()
        assert "empty (0 bytes)" in problem_of(tmp_path / "a.wav")

    def test_no_samples(self, tmp_path: Path) -> None:
        assert "no samples" in problem_of(write(tmp_path / "a.wav", np.zeros(0, dtype=np.float32)))

    def test_less_than_one_sample_after_resampling(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.wav", np.ones(1, dtype=np.float32), rate=48_000)
        assert "1 frames at 48000 Hz are less than one sample" in problem_of(path)

    @pytest.mark.parametrize("suffix", [".wav", ".flac", ".mp3", ".ogg"])
    def test_text_posing_as_audio(
        self, tmp_path: Path, suffix: str, capfd: pytest.CaptureFixture[str]
    ) -> None:
        path = tmp_path / f"a{suffix}"
        path.write_text("these are only words\n" * 100, encoding="utf-8")
        assert "not audio" in problem_of(path)
        capfd.readouterr()

    def test_unknown_suffix(self, tmp_path: Path) -> None:
        (tmp_path / "a.pdf").write_bytes(b"%PDF")
        assert "unknown suffix '.pdf': expected one of .aif" in problem_of(tmp_path / "a.pdf")

    @pytest.mark.parametrize("name", ["nowhere.wav", "nowhere", "nowhere.json"])
    def test_missing(self, tmp_path: Path, name: str) -> None:
        assert problem_of(tmp_path / name) == f"  {tmp_path / name}: no such file or folder; check the path"

    def test_name_too_long_for_the_file_system(self, tmp_path: Path) -> None:
        assert "cannot be read: File name too long" in problem_of(tmp_path / ("a" * 300 + ".wav"))

    def test_pipe_is_not_waited_for(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "a.json")
        assert "expected an audio file, found something else" in problem_of(tmp_path / "a.json")
        os.mkfifo(tmp_path / "a.wav")
        assert "expected an audio file, found something else" in problem_of(tmp_path / "a.wav")

    @pytest.mark.parametrize("rate", [999, 1_000_000])
    def test_absurd_rate(self, tmp_path: Path, rate: int) -> None:
        line = problem_of(write(tmp_path / "a.wav", tone(), rate=rate))
        assert f"sample rate is {rate} Hz, expected 1000 to 768000" in line

    def test_too_long(self, tmp_path: Path) -> None:
        path = tmp_path / "long.flac"
        soundfile.write(path, np.zeros(3601 * 1000, dtype=np.int16), 1000)
        assert "it lasts 3601 s, at most 3600 s are accepted" in problem_of(path)

    def test_too_many_channels_to_decode(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(decode, "_MAX_VALUES", 100)
        path = write(tmp_path / "a.wav", np.zeros((26, 4), dtype=np.float32))
        assert "4 channels of 26 frames exceed 100 samples" in problem_of(path)

    @pytest.mark.parametrize(
        ("content", "reason"), [(b"\xff\xfe", "not UTF-8 (byte 0)"), (b" \n", "is empty")]
    )
    def test_bad_transcript(self, tmp_path: Path, content: bytes, reason: str) -> None:
        (tmp_path / "a.txt").write_bytes(content)
        assert f"its transcript a.txt {reason}" in problem_of(write(tmp_path / "a.wav")).replace(
            "is not", "not"
        )


class TestFolder:
    def test_sorted_with_transcripts_beside(self, tmp_path: Path) -> None:
        write(tmp_path / "b.flac")
        write(tmp_path / "a.wav")
        write(tmp_path / "c.ogg")
        write(tmp_path / ".hidden.wav")
        (tmp_path / "a.txt").write_text("first", encoding="utf-8")
        (tmp_path / "c.txt").write_text("third", encoding="utf-8")
        (tmp_path / "README.md").write_text("not audio", encoding="utf-8")
        (tmp_path / "folder.wav").mkdir()
        clips = load_clips([tmp_path])
        assert [(clip.id, clip.transcript) for clip in clips] == [("a", "first"), ("b", None), ("c", "third")]

    def test_not_searched_deeper(self, tmp_path: Path) -> None:
        (tmp_path / "deeper").mkdir()
        write(tmp_path / "deeper" / "a.wav")
        assert "no audio in this folder: expected manifest.json or files ending in .aif" in problem_of(
            tmp_path
        )

    def test_audio_that_cannot_be_decoded_is_not_passed_over(self, tmp_path: Path) -> None:
        write(tmp_path / "a.wav")
        (tmp_path / "b.m4a").write_bytes(b"\0\0\0\x20ftypM4A ")
        assert "unknown suffix '.m4a'" in problem_of(tmp_path)

    def test_link_to_nowhere(self, tmp_path: Path) -> None:
        (tmp_path / "a.wav").symlink_to(tmp_path / "gone.wav")
        assert "expected an audio file, found nothing" in problem_of(tmp_path)


class TestManifest:
    def entry(self, folder: Path, name: str = "a", **changes: object) -> dict[str, Any]:
        path = write(folder / f"{name}.flac", tone(rate=8_000), rate=8_000)
        entry = {"id": name, "file": path.name, "transcript": "hello", "language": "de", "seconds": 0.5}
        entry |= {"sample_rate": 8_000, "channels": 1, "sha256": sha256_file(path)}
        return entry | {"licence": "CC0-1.0", "source": "a tone of 440 Hz"} | changes

    @pytest.mark.parametrize("whole_folder", [True, False])
    def test_all_fields(self, tmp_path: Path, whole_folder: bool) -> None:
        path = write_manifest(tmp_path, self.entry(tmp_path))
        write(tmp_path / "not-listed.wav")
        clip = only(tmp_path if whole_folder else path)
        assert (clip.id, clip.transcript, clip.language, clip.source) == (
            "a",
            "hello",
            "de",
            "a tone of 440 Hz",
        )
        assert len(clip.samples) == 8_000
        assert clip.sha256 == samples_sha256(clip.samples)

    def test_only_what_is_required(self, tmp_path: Path) -> None:
        (tmp_path / "deeper").mkdir()
        write(tmp_path / "deeper" / "x.wav")
        (tmp_path / "deeper" / "x.txt").write_text("the manifest decides", encoding="utf-8")
        (tmp_path / "set.json").write_bytes(
            b'\xef\xbb\xbf{"schema_version": 1, "clips": [{"id": "a", "file": "deeper/x.wav"}]}'
        )
        clip = only(tmp_path / "set.json")
        assert (clip.id, clip.transcript, clip.language) == ("a", None, "en")
        assert clip.source == str(tmp_path / "deeper" / "x.wav")

    def test_order_is_the_manifests(self, tmp_path: Path) -> None:
        write_manifest(tmp_path, self.entry(tmp_path, "z"), self.entry(tmp_path, "b"))
        assert [clip.id for clip in load_clips([tmp_path])] == ["z", "b"]

    def test_changed_file(self, tmp_path: Path) -> None:
        write_manifest(tmp_path, self.entry(tmp_path, sha256="0" * 64))
        assert "the manifest says 000000000000…" in problem_of(tmp_path)

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"sample_rate": 16_000}, "sample_rate is 8000, the manifest says 16000"),
            ({"channels": 2}, "channels is 1, the manifest says 2"),
            ({"seconds": 1.5}, "seconds is 0.500, the manifest says 1.5"),
        ],
    )
    def test_file_is_not_as_stated(self, tmp_path: Path, change: dict[str, Any], said: str) -> None:
        write_manifest(tmp_path, self.entry(tmp_path, **change))
        assert said in problem_of(tmp_path)

    def test_missing_file(self, tmp_path: Path) -> None:
        write_manifest(tmp_path, {"id": "gone", "file": "gone.wav"})
        assert problem_of(tmp_path).startswith(
            f"  gone ({tmp_path / 'gone.wav'}): expected an audio file, found nothing"
        )

    @pytest.mark.parametrize(
        "file", ["../a.flac", "x/../../a.flac", "/etc/a.flac", "..", ".", "", "x\\a.flac", "a\0"]
    )
    def test_path_out_of_the_folder(self, tmp_path: Path, file: str) -> None:
        write_manifest(tmp_path, {"id": "a", "file": file})
        line = problem_of(tmp_path)
        assert "not an audio manifest: clip 'a': file: " in line
        assert "inside it" in line
        assert line.endswith(f"found {file!r}")

    @pytest.mark.parametrize("linked", ["file", "folder"])
    def test_link_out_of_the_folder(self, tmp_path: Path, linked: str) -> None:
        (tmp_path / "outside").mkdir()
        write(tmp_path / "outside" / "a.wav")
        inside = tmp_path / "inside"
        inside.mkdir()
        if linked == "file":
            (inside / "sub").mkdir()
            (inside / "sub" / "a.wav").symlink_to(tmp_path / "outside" / "a.wav")
        else:
            (inside / "sub").symlink_to(tmp_path / "outside")
        write_manifest(inside, {"id": "a", "file": "sub/a.wav"})
        assert f"a link leads out of the manifest's folder, to {tmp_path / 'outside'}" in problem_of(inside)

    def test_link_within_the_folder_and_a_linked_folder(self, tmp_path: Path) -> None:
        real = tmp_path / "real"
        real.mkdir()
        write(real / "a.wav")
        (real / "b.wav").symlink_to("a.wav")
        write_manifest(real, {"id": "b", "file": "b.wav"})
        (tmp_path / "link").symlink_to(real)
        assert only(tmp_path / "link").id == "b"

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            (b"{", "not JSON"),
            (b"\xff{}", "not UTF-8, byte 0 is 0xff"),
            (b"[]", "not an audio manifest"),
            (b"{}", "clips: Field required"),
            (b'{"schema_version": 2, "clips": [{"id": "a", "file": "a.wav"}]}', "Input should be 1, found 2"),
            (b'{"schema_version": 1, "clips": []}', "expected at least one clip, found none"),
            (b'{"schema_version": 1, "clips": [{"file": "a.wav"}]}', "clip number 1: id: Field required"),
            (
                b'{"schema_version": 1, "clips": [{"id": "a/b", "file": "a.wav"}]}',
                "clip 'a/b': id: String should",
            ),
            (
                b'{"schema_version": 1, "clips": [{"id": "a", "file": "a.wav", "text": "x"}]}',
                "clip 'a': text: Extra",
            ),
            (b'{"schema_version": 1, "clips": [{"id": "a", "file": "a.wav", "sha256": "12"}]}', "found '12'"),
        ],
    )
    def test_invalid(self, tmp_path: Path, text: bytes, said: str) -> None:
        (tmp_path / "manifest.json").write_bytes(text)
        lines = problems_of(tmp_path)
        assert any(said in line for line in lines)
        assert all(line.startswith(f"  {tmp_path / 'manifest.json'}: ") for line in lines)

    def test_the_same_id_twice(self, tmp_path: Path) -> None:
        write_manifest(tmp_path, {"id": "a", "file": "x.wav"}, {"id": "a", "file": "y.wav"})
        assert problem_of(tmp_path).endswith("expected every id once: 'a' is the id of x.wav and y.wav")


class TestTrace:
    """What a leg was given, on whatever machine it was resampled."""

    CLIPS = (
        make_clip("cat", "the cat sat"),
        make_clip("zh", "你好", language="zh", seconds=1.25),
        make_clip("own", None, unsupported="too long: 700 s"),
    )

    def test_the_very_samples(self, tmp_path: Path) -> None:
        trace = write_trace(tmp_path / "trace", clips=self.CLIPS)
        found = load_clips((trace.path,))
        assert [(clip.id, clip.transcript, clip.language, clip.sha256) for clip in found] == [
            (entry.id, entry.transcript, entry.language, entry.sha256) for entry in self.CLIPS
        ]
        for clip, entry in zip(found, self.CLIPS, strict=True):
            assert clip.samples.dtype == np.float32
            assert not clip.samples.flags.writeable
            np.testing.assert_array_equal(clip.samples, audio_of(entry))
            assert clip.source == str(trace.path)

    def test_beside_other_inputs(self, tmp_path: Path) -> None:
        trace = write_trace(tmp_path / "trace", clips=self.CLIPS[:1])
        found = load_clips((write(tmp_path / "b.wav"), trace.path))
        assert [clip.id for clip in found] == ["b", "cat"]
        line = problem_of(write(tmp_path / "cat.wav"), trace.path)
        assert str(trace.path) in line
        assert "cat.wav" in line

    @pytest.mark.parametrize(
        "name", ["manifest.json", "manifest.sha256", "activations/cat.safetensors", "transcripts.json"]
    )
    def test_damaged(self, tmp_path: Path, name: str) -> None:
        trace = write_trace(tmp_path / "trace", clips=self.CLIPS)
        path = trace.path / name
        data = path.read_bytes()
        # Of the manifest a digit, so that it stays JSON.
        path.write_bytes(data.replace(b'"seed": 0', b'"seed": 1') if name == "manifest.json" else data[::-1])
        line, other = problems_of(trace.path, tmp_path / "gone.wav")
        assert line.startswith(f"  {trace.path}")
        assert "was changed after the capture" in line
        assert "gone.wav: no such file" in other

    def test_without_samples(self, tmp_path: Path) -> None:
        trace = write_trace(tmp_path / "trace", clips=self.CLIPS, alter=drop("zh/audio"))
        assert "the trace holds no samples of zh; capture it again" in problem_of(trace.path)


class TestAllTogether:
    def test_inputs_keep_their_order(self, tmp_path: Path) -> None:
        (tmp_path / "folder").mkdir()
        write(tmp_path / "folder" / "a.wav")
        clips = load_clips([write(tmp_path / "z.wav"), tmp_path / "folder"])
        assert [clip.id for clip in clips] == ["z", "a"]

    def test_clash_names_both(self, tmp_path: Path) -> None:
        (tmp_path / "folder").mkdir()
        one, two = write(tmp_path / "a b.wav"), write(tmp_path / "folder" / "a_b.wav")
        assert problem_of(one, tmp_path / "folder") == (
            f"  a_b: expected one clip of this id, found 2: {one} and {two}; rename or leave out"
        )

    def test_every_problem_is_in_one_error(self, tmp_path: Path) -> None:
        write(tmp_path / "good.wav")
        (tmp_path / "empty.wav").touch()
        (tmp_path / "words.flac").write_text("words", encoding="utf-8")
        write(tmp_path / "nan.wav", np.full(100, np.nan, dtype=np.float32))
        lines = problems_of(tmp_path / "gone.wav", tmp_path)
        assert [line.split()[0] for line in lines[1:]] == ["empty", "nan", "words"]
        assert str(tmp_path / "gone.wav") in lines[0]

    def test_nothing_given(self) -> None:
        assert problem_of() == "  nothing given: expected an audio file, a folder of them, or a manifest.json"

    def test_embedded(self) -> None:
        clips = load_clips(None)
        assert len(clips) >= 12
        assert all(clip.transcript for clip in clips)

    def test_embedded_clips_not_installed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def missing(name: str) -> None:
            raise ModuleNotFoundError(name)

        monkeypatch.setattr(importlib.resources, "files", missing)
        with pytest.raises(InputError, match="embedded clips are missing"):
            load_clips(None)


@pytest.mark.parametrize(
    ("stem", "id_"),
    [
        ("plain-1.2_x+y", "plain-1.2_x+y"),
        ("a b (1)", "a_b__1_"),
        (".hidden", "hidden"),
        ("-x", "x"),
        ("..", "clip"),
        ("__metadata__", "metadata__"),
    ],
)
def test_identifier_of_ascii_stem(stem: str, id_: str) -> None:
    assert identifier_from(stem) == id_


def test_identifiers_of_other_scripts_stay_apart() -> None:
    first, second = identifier_from("你好"), identifier_from("再见")
    assert first != second
    assert first.startswith("clip-")


@given(st.text(min_size=1))
def test_identifier_is_always_valid(stem: str) -> None:
    name = identifier_from(stem.encode("utf-8", "replace").decode())
    assert AudioEntry(id=name, file="a.wav").id == name


@settings(max_examples=60, deadline=None)
@given(
    samples=hnp.arrays(
        np.float32,
        st.integers(min_value=200, max_value=3000),
        # Far louder ones overflow float32 inside the resampler; they are refused, which is tested above.
        elements=st.floats(min_value=-(2.0**96), max_value=2.0**96, width=32),
    ),
    rate=st.sampled_from([8_000, 11_025, 16_000, 22_050, 32_000, 44_100, 48_000, 96_000, 192_000]),
)
def test_any_finite_signal_loads(tmp_path_factory: pytest.TempPathFactory, samples: Array, rate: int) -> None:
    path = write(tmp_path_factory.mktemp("signal") / "a.wav", samples, rate=rate)
    clip = only(path)
    assert clip.samples.dtype == np.float32
    assert clip.samples.ndim == 1
    assert abs(len(clip.samples) - len(samples) * SAMPLE_RATE / rate) <= 1
    assert np.isfinite(clip.samples).all()
    if rate == SAMPLE_RATE:
        np.testing.assert_array_equal(clip.samples, samples)
