"""The process of one leg: request in, trace out. Started by :mod:`harness.backends.legs`."""

from __future__ import annotations

import os
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from harness.backends.request import LegRequest
from harness.errors import CaptureError
from harness.trace import Manifest, TraceWriter

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.backends.backend import Backend


def main(request_file: str) -> int:
    """Capture one leg; the exit status is 0 only if its trace is complete."""
    request = LegRequest.model_validate_json(Path(request_file).read_bytes())

    def progress(text: str) -> None:
        sys.stderr.write(f"[{request.leg}] {text}\n")
        sys.stderr.flush()
        request.progress.write_text(text, encoding="utf-8")

    try:
        _capture(request, progress)
    except CaptureError as error:
        sys.stderr.write(f"[{request.leg}] {error}\n")
        return 1
    return 0


def _capture(request: LegRequest, progress: Callable[[str], None]) -> None:
    # The checkpoint is a local folder by now: no leg has business on a network.
    os.environ["HF_HUB_OFFLINE"] = "1"
    clock, started = time.perf_counter(), datetime.now(tz=UTC)
    progress(f"importing {'transformers' if request.stack == 'hf' else 'vllm'}")
    backend = _backend(request, progress)
    imported = time.perf_counter()
    from harness.backends.environment import describe

    with TraceWriter.create(request.trace) as writer:
        for clip in request.clips:
            writer.add_audio(clip=clip.id, samples=backend.samples(clip.id))
        captured = backend.capture(writer)
        progress("writing the trace")
        sys.stdout.flush()
        manifest = Manifest(
            case=request.case,
            leg=request.leg,
            backend=f"{request.stack}-{request.device}",
            device=request.device,
            dtype=request.dtype,
            attention=captured.attention,
            loader=request.loader,
            seed=request.seed,
            max_new_tokens=request.max_new_tokens,
            prompt_token_ids=request.prompt_token_ids,
            stop_token_ids=request.stop_token_ids,
            checkpoint=request.checkpoint,
            clips=request.clips,
            environment=describe(device_name=captured.device_name),
            started=started.isoformat(timespec="seconds"),
            seconds={
                "import": imported - clock,
                **captured.seconds,
                "total": time.perf_counter() - clock,
            },
            files={},
        )
        writer.finish(manifest, log=request.log)


def _backend(request: LegRequest, progress: Callable[[str], None]) -> Backend:
    if request.stack == "hf":
        from harness.backends.hf import HuggingFace

        return HuggingFace(request, progress)
    from harness.backends.vllm_engine import Vllm

    return Vllm(request, progress)
