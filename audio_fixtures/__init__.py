"""The embedded clips: synthesised speech with known transcripts, CC0-1.0.

``manifest.json`` describes them, ``clips/`` holds them, ``python -m audio_fixtures.make`` makes them again.
"""
