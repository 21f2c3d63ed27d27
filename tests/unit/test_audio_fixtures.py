"""The embedded clips: as their manifest says, and in the conditions they stand for."""

from __future__ import annotations

import re
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import soundfile

from audio_fixtures import make
from harness.audio import AudioEntry, AudioManifest, load_clips
from harness.errors import InputError
from harness.files import sha256_file

if TYPE_CHECKING:
    from pathlib import Path

MANIFEST = AudioManifest.model_validate_json((make.FOLDER / "manifest.json").read_bytes())
ENTRIES = {entry.id: entry for entry in MANIFEST.clips}
each = pytest.mark.parametrize("entry", MANIFEST.clips, ids=lambda entry: str(entry.id))


def version_in(source: str) -> str | None:
    """The espeak-ng version that a manifest's ``source`` names."""
    found = re.match(r"espeak-ng (\S+) ", source)
    return found.group(1) if found else None


MADE_WITH = version_in(MANIFEST.clips[0].source or "")
HERE = make.espeak_version()
same_espeak = pytest.mark.skipif(
    HERE != MADE_WITH,
    reason=f"needs espeak-ng {MADE_WITH}, which made the clips; found {HERE or 'none on the path'}",
)


def samples_of(entry: AudioEntry) -> np.ndarray[Any, np.dtype[np.int16]]:
    samples: np.ndarray[Any, np.dtype[np.int16]]
    samples, _ = soundfile.read(make.FOLDER / entry.file, dtype="int16", always_2d=True)
    return samples


@each
def test_file_is_as_stated(entry: AudioEntry) -> None:
    path = make.FOLDER / entry.file
    info = soundfile.info(path)
    assert sha256_file(path) == entry.sha256
    assert entry.seconds == round(info.frames / info.samplerate, 3)
    assert (entry.sample_rate, entry.channels) == (info.samplerate, info.channels)
    assert (info.format, info.subtype) == ("FLAC", "PCM_16")


@each
def test_entry_is_complete(entry: AudioEntry) -> None:
    assert entry.transcript
    assert entry.licence == "CC0-1.0"
    assert version_in(entry.source or "") == MADE_WITH
    # More than a few milliseconds of sound, not a file of silence.
    assert (np.abs(samples_of(entry).astype(np.int32)) > 100).sum() > 1000


def test_no_file_is_unlisted_and_no_recipe_unmade() -> None:
    assert {path.name for path in (make.FOLDER / "clips").iterdir()} == {f"{id_}.flac" for id_ in ENTRIES}
    assert list(ENTRIES) == [recipe.id for recipe in make.RECIPES]


def test_small_enough_to_embed() -> None:
    assert sum(path.stat().st_size for path in (make.FOLDER / "clips").iterdir()) < 1_500_000


def test_enough_clips_voices_and_lengths() -> None:
    seconds = [entry.seconds or 0.0 for entry in MANIFEST.clips]
    assert len(seconds) >= 12
    assert max(seconds) > 8
    assert 0.3 < min(seconds) < 1
    assert any(4 < length < 8 for length in seconds)
    assert sum(1 <= length <= 3.5 for length in seconds) >= 12
    assert len({recipe.voice for recipe in make.RECIPES}) >= 8
    assert sum(entry.sample_rate == 16_000 for entry in MANIFEST.clips) >= 12
    assert {entry.language for entry in MANIFEST.clips} == {"en", "zh"}


def test_telephone_rate() -> None:
    assert ENTRIES["telephone-8k"].sample_rate == 8_000


def test_stereo_channels_differ() -> None:
    entry = ENTRIES["door-48k-stereo"]
    assert (entry.sample_rate, entry.channels) == (48_000, 2)
    left, right = samples_of(entry).T.astype(np.float64)
    assert not np.array_equal(left, right)
    np.testing.assert_allclose(right[12:], left[:-12] * 10 ** (-2 / 20), atol=1.0)


def test_noise_fills_the_pauses() -> None:
    def quietest(id_: str) -> float:
        samples = samples_of(ENTRIES[id_])[:, 0].astype(np.float64)
        return float(samples[: len(samples) // 320 * 320].reshape(-1, 320).std(axis=1).min())

    assert quietest("coffee-noise") > 100
    assert quietest("lights-us") < 10


def test_low_level() -> None:
    assert np.abs(samples_of(ENTRIES["spelling-low"])).max() == pytest.approx(32767 * 10 ** (-30 / 20), abs=1)


def test_clipped() -> None:
    samples = samples_of(ENTRIES["alarm-clipped"])
    assert (np.abs(samples) == 32767).mean() > 0.01


def test_silence_around() -> None:
    samples = samples_of(ENTRIES["answer-silence"])
    assert not samples[:8000].any()
    assert not samples[-8000:].any()
    assert samples[8000:-8000].any()


def test_they_load() -> None:
    clips = load_clips(None)
    assert [clip.id for clip in clips] == list(ENTRIES)
    assert [clip.source for clip in clips] == [entry.source for entry in MANIFEST.clips]


@same_espeak
class TestMake:
    def test_the_clips_in_the_tree_are_what_the_recipes_give(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        code = make.main(["--check"])
        assert (code, capsys.readouterr().out) == (0, f"all {len(ENTRIES)} clips agree\n")

    def test_every_difference_is_reported(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(make, "FOLDER", tmp_path)
        monkeypatch.setattr(make, "RECIPES", make.RECIPES[:4])
        assert make.main([]) == 0
        assert capsys.readouterr().out.startswith("made 4 clips, ")
        first, second, third, fourth = (recipe.id for recipe in make.RECIPES)

        samples, rate = soundfile.read(tmp_path / "clips" / f"{first}.flac", dtype="int16")
        samples[5:7] += make.MAX_STEPS + 1
        samples[9] -= make.MAX_STEPS
        soundfile.write(tmp_path / "clips" / f"{first}.flac", samples, rate)
        soundfile.write(tmp_path / "clips" / f"{second}.flac", samples, rate)
        (tmp_path / "clips" / f"{third}.flac").unlink()
        manifest = tmp_path / "manifest.json"
        text = manifest.read_text(encoding="utf-8").replace("espeak-ng 1.", "espeak-ng 9.")
        manifest.write_text(text.replace("weather", "whether"), encoding="utf-8")

        assert make.main(["--check"]) == 1
        lines = capsys.readouterr().out.splitlines()
        size = len(samples)
        assert lines[0] == "whether-gb: in the manifest, but no recipe makes it"
        assert lines[1] == f"{fourth}: has a recipe, but is not in the manifest"
        assert lines[2] == f"{first}: 2 of {size} samples differ by over 2 steps, at most 3 at frame 5"
        assert lines[3].startswith(f"{second}: [frames, channels] is [{size}, 1] in the tree, [")
        assert lines[4].startswith(f"{third}: the clip in the tree cannot be read")
        assert lines[5] == f"5 differences; this espeak-ng is {HERE}"

    def test_changed_recipe(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(make, "RECIPES", make.RECIPES[:1])
        make.make(tmp_path)
        changed = {**vars(make.RECIPES[0]), "transcript": "other words", "say": make.RECIPES[0].transcript}
        monkeypatch.setattr(make, "RECIPES", (make.Recipe(**changed),))
        transcript, source = make.check(tmp_path)
        said = "'turn on the kitchen lights' in the manifest, the recipe gives 'other words'"
        assert transcript == f"lights-us: transcript is {said}"
        assert source.startswith("lights-us: source is 'espeak-ng -v en-us")

    def test_unknown_voice_leaves_nothing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        recipe = make.Recipe(id="a", transcript="a", voice="zz-nowhere", speed=150)
        monkeypatch.setattr(make, "RECIPES", (recipe,))
        with pytest.raises(InputError, match="a: espeak-ng made no sound"):
            make.make(tmp_path)
        assert not list(tmp_path.iterdir())


def test_without_espeak(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert make.espeak_version() is None
    assert make.main(["--check"]) == 2
    assert "espeak-ng is not on the path: install" in capsys.readouterr().err


def test_check_of_a_folder_without_clips(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no audio manifest"):
        make.check(tmp_path)
