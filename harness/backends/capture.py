"""The process of a leg: requests in, a trace out for each. Started by :mod:`harness.backends.legs`."""

from __future__ import annotations

import os
import sys
import time
import traceback
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from harness.backends.request import LegRequest
from harness.cases import get_case
from harness.checkpoints.expectation import not_as_expected
from harness.checkpoints.scan import headers
from harness.errors import CaptureError, InputError, RefusedError
from harness.trace import Manifest, TraceWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from harness.backends.backend import Backend


def main(request_files: Sequence[str]) -> int:
    """Do every request, one after the other; the exit status is 0 only if all traces are complete."""
    failed = 0
    for file in request_files:
        request = LegRequest.model_validate_json(Path(file).read_bytes())
        try:
            _capture(request, partial(_say, request))
        except Exception as error:  # noqa: BLE001 - the next request is another matter
            failed += 1
            if not isinstance(error, CaptureError):
                traceback.print_exc()
            reason = str(error) if isinstance(error, CaptureError) else f"{type(error).__name__}: {error}"
            if isinstance(error, RefusedError):
                reason += _about_checkpoint(request)
            sys.stderr.write(f"[{request.leg}] {reason}\n")
            request.failure.write_text(" ".join(reason.split()), encoding="utf-8")
    return 1 if failed else 0


def _about_checkpoint(request: LegRequest) -> str:
    """What is wrong with the checkpoint's shapes and dtypes: a stack that refuses it may not say so."""
    try:
        problems = not_as_expected(
            headers(request.checkpoint_folder, source=request.checkpoint.source),
            case=get_case(request.case),
            configs=request.checkpoint.config,
        )
    except InputError as error:
        problems = [str(error)]
    if not problems:
        return ""
    more = f", and {len(problems) - 1} more" if len(problems) > 1 else ""
    return f"; the checkpoint is not as it should be: {problems[0]}{more}"


def _say(request: LegRequest, text: str) -> None:
    sys.stderr.write(f"[{request.leg}] {text}\n")
    sys.stderr.flush()
    request.progress.write_text(text, encoding="utf-8")


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
        captured = backend.capture(writer) if request.work == "run" else backend.audit(writer)
        progress("writing the trace")
        sys.stdout.flush()
        manifest = Manifest(
            case=request.case,
            leg=request.leg,
            backend=f"{request.stack}-{request.device}",
            device=request.device,
            dtype=request.dtype,
            attention=captured.attention,
            work=request.work,
            loader=request.loader,
            loader_changes=captured.loader_changes,
            fill=request.fill,
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
