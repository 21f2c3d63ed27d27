"""Make the embedded clips again from their recipes: ``python -m audio_fixtures.make [--check]``.

espeak-ng speaks, then soxr and numpy put each clip into the condition it stands for: another rate, two
channels, noise, a low level, clipping, silence around it. The same espeak-ng version gives the same samples.
Another version pronounces and times things differently, so there ``--check`` finds differences that are no
fault of the clips: the version that made them is in each ``source`` of the manifest.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.audio import MANIFEST, SAMPLE_RATE, AudioEntry, AudioManifest
from harness.errors import ExitCode, HarnessError, InputError
from harness.files import new_folder, sha256_file, write_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    Floats = np.ndarray[Any, np.dtype[np.float64]]
    Integers = np.ndarray[Any, np.dtype[np.int16]]

FOLDER = Path(__file__).parent
LICENCE = "CC0-1.0"
#: Another processor's resampling may round a sample the other way; more than this is another sound.
MAX_STEPS = 2
_FULL_SCALE = 32767
_SEED = 40160
_ESPEAK_SECONDS = 60


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to make one clip. Processing runs in the order of these fields.

    Attributes:
        id: The clip's id and its file's stem.
        transcript: The words spoken.
        say: What espeak-ng is given, where that is not the transcript.
        language: As in BCP 47.
        voice: espeak-ng's voice, with its variant.
        speed: Words per minute.
        pitch: espeak-ng's pitch, 0 to 99.
        rate: Samples per second of the file.
        peak_db: Level of the loudest sample, relative to full scale; above 0 it is clipped.
        noise_db: Level (RMS) of seeded white noise relative to the speech's own; ``None`` adds none.
        silence: Seconds of digital silence before and after.
        stereo: Add a right channel, 0.25 ms later and 2 dB lower.
    """

    id: str
    transcript: str
    say: str | None = None
    language: str = "en"
    voice: str
    speed: int
    pitch: int = 50
    rate: int = SAMPLE_RATE
    peak_db: float = -3.0
    noise_db: float | None = None
    silence: float = 0.0
    stereo: bool = False

    def source(self, version: str) -> str:
        """The recipe as one line, for the manifest."""
        steps = [
            f"espeak-ng {version} -v {self.voice} -s {self.speed} -p {self.pitch}",
            f"soxr HQ to {self.rate} Hz",
            f"peak at {self.peak_db:g} dB" + (", clipped at full scale" if self.peak_db > 0 else ""),
        ]
        if self.say is not None:
            steps[0] += f" {self.say!r}"
        if self.noise_db is not None:
            steps.append(f"white noise at {self.noise_db:g} dB of the speech, seed {_SEED}")
        if self.silence:
            steps.append(f"{self.silence:g} s of silence before and after")
        if self.stereo:
            steps.append("right channel 0.25 ms later and 2 dB lower")
        return "; ".join([*steps, "FLAC 16 bit"])


RECIPES = (
    Recipe(id="lights-us", transcript="turn on the kitchen lights", voice="en-us", speed=160),
    Recipe(id="timer-us-f2", transcript="set a timer for ten minutes", voice="en-us+f2", speed=150, pitch=60),
    Recipe(id="digits-us-m3", transcript="four seven one nine", voice="en-us+m3", speed=130, pitch=40),
    Recipe(id="weather-gb", transcript="what is the weather like today", voice="en-gb", speed=165),
    Recipe(
        id="spelling-gb-f3", transcript="alpha bravo charlie delta", voice="en-gb+f3", speed=140, pitch=55
    ),
    Recipe(
        id="music-scotland-fast", transcript="play some quiet music please", voice="en-gb-scotland", speed=210
    ),
    Recipe(
        id="train-4s",
        transcript="the early train to the city leaves from platform nine at a quarter past seven",
        voice="en-us+m1",
        speed=165,
        pitch=45,
    ),
    Recipe(
        id="garden-8s",
        transcript=(
            "when the rain had stopped we walked slowly through the garden and the old man told us "
            "how he had planted every tree along the wall before the war"
        ),
        voice="en-gb+f2",
        speed=155,
        pitch=55,
    ),
    Recipe(id="stop-short", transcript="stop", voice="en-us", speed=180),
    Recipe(id="telephone-8k", transcript="three one eight five two", voice="en-us+m2", speed=150, rate=8_000),
    Recipe(
        id="door-48k-stereo",
        transcript="please close the front door",
        voice="en-gb-x-rp",
        speed=150,
        rate=48_000,
        stereo=True,
    ),
    Recipe(
        id="coffee-noise", transcript="two cups of black coffee", voice="en-us+f4", speed=145, noise_db=-15.0
    ),
    Recipe(
        id="spelling-low",
        transcript="echo foxtrot golf hotel",
        voice="en-gb-scotland+m4",
        speed=145,
        peak_db=-30.0,
    ),
    Recipe(
        id="alarm-clipped", transcript="cancel the alarm", voice="en-us+m5", speed=120, pitch=35, peak_db=12.0
    ),
    Recipe(id="answer-silence", transcript="yes i agree", voice="en-gb+m7", speed=140, silence=0.5),
    # The plain `cmn` voice of 1.51 reads its own pinyin as English words.
    Recipe(
        id="digits-cmn",
        transcript="三七九零五二",
        say="san1 qi1 jiu3 ling2 wu3 er4",
        language="zh",
        voice="cmn-latn-pinyin",
        speed=130,
    ),
)


def espeak_version() -> str | None:
    """The version of the espeak-ng on the path, ``None`` where there is none."""
    if shutil.which("espeak-ng") is None:
        return None
    said = subprocess.run(
        ["espeak-ng", "--version"], capture_output=True, text=True, check=True, timeout=_ESPEAK_SECONDS
    ).stdout
    found = re.search(r"\d+(\.\d+)+\S*", said)
    return found.group() if found else "unknown"


def make(folder: Path) -> AudioManifest:
    """Make all clips in ``folder``, replacing ``clips/`` and ``manifest.json`` there.

    Returns:
        The manifest, as written.

    Raises:
        InputError: espeak-ng is not installed, or cannot speak a recipe.
    """
    import soundfile

    version = espeak_version()
    if version is None:
        msg = "espeak-ng is not on the path: install the system package espeak-ng, then run again"
        raise InputError(msg)
    entries = []
    with new_folder(folder / "clips") as clips:
        for recipe in RECIPES:
            samples = synthesise(recipe)
            file = clips / f"{recipe.id}.flac"
            soundfile.write(file, samples, recipe.rate, subtype="PCM_16")
            entries.append(
                AudioEntry(
                    id=recipe.id,
                    file=f"clips/{file.name}",
                    transcript=recipe.transcript,
                    language=recipe.language,
                    seconds=round(len(samples) / recipe.rate, 3),
                    sample_rate=recipe.rate,
                    channels=samples.shape[1],
                    sha256=sha256_file(file),
                    licence=LICENCE,
                    source=recipe.source(version),
                )
            )
    manifest = AudioManifest(schema_version=1, clips=tuple(entries))
    write_text(folder / MANIFEST, json.dumps(manifest.model_dump(), indent=1, ensure_ascii=False) + "\n")
    return manifest


def check(folder: Path) -> list[str]:
    """Make the clips again elsewhere and compare with those in ``folder``, sample by sample.

    The FLAC files' bytes may differ with the encoder's version, so ``sha256`` is not compared.

    Returns:
        One line per difference, with the clip's id; empty where all agree.

    Raises:
        InputError: ``folder`` holds no valid manifest, or espeak-ng is not installed.
    """
    try:
        committed = AudioManifest.model_validate_json((folder / MANIFEST).read_bytes())
    except (OSError, ValueError) as error:
        msg = f"{folder / MANIFEST} is no audio manifest: {error}; make the clips again without --check"
        raise InputError(msg) from error
    with tempfile.TemporaryDirectory() as temporary:
        made = {entry.id: entry for entry in make(Path(temporary)).clips}
        kept = {entry.id: entry for entry in committed.clips}
        lines = [f"{id_}: in the manifest, but no recipe makes it" for id_ in kept if id_ not in made]
        lines += [f"{id_}: has a recipe, but is not in the manifest" for id_ in made if id_ not in kept]
        for id_ in (id_ for id_ in made if id_ in kept):
            lines += [f"{id_}: {line}" for line in _entry_differences(kept[id_], made[id_])]
            difference = _sound_difference(folder / kept[id_].file, Path(temporary) / made[id_].file)
            lines += [f"{id_}: {difference}"] if difference else []
    return lines


def synthesise(recipe: Recipe) -> Integers:
    """Speak and process one recipe: int16 ``[frames, channels]`` at the recipe's rate."""
    import soxr

    speech, rate = _speak(recipe)
    speech = np.asarray(soxr.resample(speech, rate, recipe.rate, quality="HQ"), dtype=np.float64)
    speech *= 10 ** (recipe.peak_db / 20) / np.abs(speech).max()
    if recipe.noise_db is not None:
        noise = np.random.default_rng(_SEED).standard_normal(len(speech))
        speech += noise * np.sqrt(np.mean(speech**2)) * 10 ** (recipe.noise_db / 20)
    speech = np.pad(speech, round(recipe.silence * recipe.rate))
    channels = [speech]
    if recipe.stereo:
        late = round(0.00025 * recipe.rate)
        channels.append(np.pad(speech, (late, 0))[: len(speech)] * 10 ** (-2 / 20))
    scaled = np.rint(np.clip(np.stack(channels, axis=1), -1, 1) * _FULL_SCALE)
    return scaled.astype(np.int16)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Returns 0; 1 where ``--check`` finds a difference; 2 where it cannot run."""
    parser = argparse.ArgumentParser(
        prog="python -m audio_fixtures.make", description="Make the embedded clips."
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="compare with the clips in the tree and write nothing; 1 on a difference",
    )
    options = parser.parse_args(arguments)
    try:
        if not options.check:
            manifest = make(FOLDER)
            seconds = sum(entry.seconds or 0.0 for entry in manifest.clips)
            sys.stdout.write(f"made {len(manifest.clips)} clips, {seconds:.1f} s, in {FOLDER}\n")
            return ExitCode.PASS
        lines = check(FOLDER)
    except HarnessError as error:
        sys.stderr.write(f"{error}\n")
        return ExitCode.USAGE
    if lines:
        sys.stdout.write("".join(f"{line}\n" for line in lines))
        sys.stdout.write(f"{len(lines)} differences; this espeak-ng is {espeak_version()}\n")
        return ExitCode.FAIL
    sys.stdout.write(f"all {len(RECIPES)} clips agree\n")
    return ExitCode.PASS


def _speak(recipe: Recipe) -> tuple[Floats, int]:
    """What espeak-ng says: float64 ``[n]`` in ±1, and its rate in Hz."""
    import soundfile

    with tempfile.TemporaryDirectory() as temporary:
        file = Path(temporary) / "said.wav"
        command = ["espeak-ng", "-v", recipe.voice, "-s", str(recipe.speed), "-p", str(recipe.pitch)]
        ended = subprocess.run(
            [*command, "-w", str(file), "--", recipe.say or recipe.transcript],
            capture_output=True,
            text=True,
            check=False,
            timeout=_ESPEAK_SECONDS,
        )
        # An unknown voice is said on stderr only, and the file is then missing or has no samples.
        if ended.returncode or not file.is_file() or not soundfile.info(file).frames:
            msg = f"{recipe.id}: espeak-ng made no sound (exit {ended.returncode}): {ended.stderr.strip()}"
            raise InputError(msg)
        samples, rate = soundfile.read(file, dtype="float64")
    return samples, int(rate)


def _entry_differences(kept: AudioEntry, made: AudioEntry) -> list[str]:
    lines = []
    for name in ("file", "transcript", "language", "sample_rate", "channels", "licence", "source"):
        old, new = getattr(kept, name), getattr(made, name)
        if name == "source":
            # The version shows in the samples if it matters.
            old, new = (re.sub(r"^espeak-ng \S+", "espeak-ng", text) for text in (old or "", new))
        if old != new:
            lines.append(f"{name} is {old!r} in the manifest, the recipe gives {new!r}")
    return lines


def _sound_difference(kept: Path, made: Path) -> str | None:
    import soundfile

    try:
        old, _ = soundfile.read(kept, dtype="int16", always_2d=True)
    except (soundfile.LibsndfileError, OSError) as error:
        return f"the clip in the tree cannot be read: {error}"
    new, _ = soundfile.read(made, dtype="int16", always_2d=True)
    if old.shape != new.shape:
        return f"[frames, channels] is {list(old.shape)} in the tree, {list(new.shape)} made again"
    steps = np.abs(old.astype(np.int32) - new.astype(np.int32))
    if steps.max() > MAX_STEPS:
        worst = np.unravel_index(int(steps.argmax()), steps.shape)
        return (
            f"{int((steps > MAX_STEPS).sum())} of {steps.size} samples differ by over {MAX_STEPS} steps, "
            f"at most {int(steps.max())} at frame {int(worst[0])}"
        )
    return None


if __name__ == "__main__":
    sys.exit(main())
