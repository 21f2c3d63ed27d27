"""One line that links what was found: parameter, first divergent probe, tokens, WER."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from harness.compare.result import CheckResult, Divergence

_LAYER = re.compile(r"layers\.(\d+)\.")


def diagnose(checks: Sequence[CheckResult], divergence: Divergence | None) -> str:
    """Say where it began and how far it went; empty where nothing failed."""
    failed = [check for check in checks if check.status == "fail"]
    if not failed:
        return ""
    parts = []
    audits = [check for check in failed if check.kind == "audit"]
    poisoned = [check for check in failed if check.kind == "poison"]
    # The audit says why, the comparison only that; what only the second finds is said too.
    audited = {check.subject for check in audits}
    parameters = [check for check in failed if check.kind == "parameter" and check.subject not in audited]
    for found in (audits, parameters or ([] if audits else poisoned)):
        if found:
            names = _grouped(dict.fromkeys(check.subject for check in found))
            parts.append(f"{', '.join(names)} (e.g. {found[0].message})")
    parameters += audits
    if divergence is not None:
        parts.append(
            f"first divergence at {divergence.probe} in {len(divergence.clips)} of "
            f"{divergence.of_clips} clips" + ("" if parameters else f" ({divergence.message})")
        )
    elif probes := [check for check in failed if check.kind in {"features", "activation"}]:
        parts.append(probes[0].message)
    for kind, text in (("logits", "first-token logits differ in {} clips"), ("transcript", "{}")):
        found = [check for check in failed if check.kind == kind]
        if found:
            clips = len({check.clip for check in found})
            parts.append(text.format(clips if kind == "logits" else found[0].message))
    return " -> ".join(parts)


def _grouped(names: Iterable[str], *, most: int = 4) -> list[str]:
    """Fold the layers of one parameter: ``layers.0-31.k_proj.bias``."""
    layers: dict[str, list[int]] = {}
    for name in names:
        match = _LAYER.search(name)
        layers.setdefault(_LAYER.sub("layers.{}.", name, count=1), []).extend(
            [int(match.group(1))] if match else []
        )
    folded = [name.replace("{}", _runs(numbers)) for name, numbers in layers.items()]
    return folded[:most] + ([f"and {len(folded) - most} more parameters"] if len(folded) > most else [])


def _runs(numbers: list[int]) -> str:
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
