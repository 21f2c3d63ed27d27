"""Audio in: files, folders and manifests become clips at 16 kHz mono, or one error that names every fault."""

from harness.audio.clip import SAMPLE_RATE, Clip, samples_sha256
from harness.audio.inputs import identifier_from
from harness.audio.load import load_clips
from harness.audio.manifest import MANIFEST, AudioEntry, AudioManifest

__all__ = [
    "MANIFEST",
    "SAMPLE_RATE",
    "AudioEntry",
    "AudioManifest",
    "Clip",
    "identifier_from",
    "load_clips",
    "samples_sha256",
]
