"""Why a leg ends without a trace: a checkpoint is to blame only where a stack refused it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

import pytest

from harness.backends import capture
from harness.checkpoints.checkpoint import open_checkpoint
from harness.checkpoints.random import RandomSpec, build_random
from harness.errors import CaptureError, RefusedError
from tests.synthetic import CASE
from tests.unit.test_legs import leg_request

if TYPE_CHECKING:
    from pathlib import Path

BLAMED = "; the checkpoint is not as it should be: audio_tower.norm.weight is float16"


@pytest.mark.parametrize(
    ("error", "said", "blamed"),
    [
        (RefusedError("it refuses this"), "it refuses this", True),
        (CaptureError("no such device"), "no such device", False),
        (ImportError("no such module"), "ImportError: no such module", False),
    ],
)
def test_what_is_said(
    error: Exception, said: str, blamed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_arguments: object) -> NoReturn:
        raise error

    monkeypatch.setattr(capture, "_backend", fail)
    spec = RandomSpec.parse("cast=norm.weight", case=CASE)
    folder = build_random(spec, case=CASE, path=tmp_path / "checkpoint")
    found = open_checkpoint(folder, case=CASE, source="random:cast=norm.weight")
    request = leg_request(tmp_path).model_copy(update={"checkpoint": found.entry})
    request.failure.parent.mkdir(parents=True)
    file = tmp_path / "request.json"
    file.write_text(request.model_dump_json(), encoding="utf-8")
    assert capture.main([str(file)]) == 1
    reason = request.failure.read_text(encoding="utf-8")
    assert reason.startswith(f"{said}{BLAMED}" if blamed else said)
    assert ("the checkpoint is not as it should be" in reason) is blamed
