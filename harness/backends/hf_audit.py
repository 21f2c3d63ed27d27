"""The load audit of the HuggingFace leg: what transformers loaded, made up, and left lying."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.checkpoints.scan import scan
from harness.trace.schema import AuditedShard, LoadAudit, OfferedTensor

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import torch

    from harness.cases.case import Case, Configs


def audit_reference(
    model: torch.nn.Module, info: Mapping[str, Any], *, folder: Path, case: Case, configs: Configs
) -> LoadAudit:
    """Account for every parameter and every stored tensor.

    transformers tells which keys it missed, which did not fit and which it did not expect. It does not tell
    all: a class may exempt a key from the missing ones. So a parameter also counts as newly initialised
    where the checkpoint stores nothing under any name that the Case gives it.

    Args:
        model: From ``from_pretrained``.
        info: Its ``output_loading_info``.
        folder: The checkpoint.
        case: Maps names to canonical ones.
        configs: The checkpoint's configuration.
    """
    stored = list(scan(folder, source=str(folder)))
    homes: dict[_Home, list[str]] = {}
    for tensor in stored:
        homes.setdefault(_home(tensor.name, case=case, configs=configs), []).append(tensor.name)
    fresh = {str(name) for problem in ("missing_keys", "mismatched_keys") for name in _names(info, problem)}
    shards = []
    used: dict[str, list[str]] = {}
    for name, parameter in model.named_parameters():
        home = _home(name, case=case, configs=configs)
        canonical = home.name if home.known else None
        sources = homes.get(home, [])
        loaded = name not in fresh and bool(sources)
        for source in sources if loaded else ():
            used.setdefault(source, []).append(name)
        shards.append(
            AuditedShard(
                parameter=name,
                shard="",
                name=canonical,
                rows=(0, parameter.shape[0] if parameter.dim() else 1),
                of=parameter.numel(),
                dtype=str(parameter.dtype).removeprefix("torch."),
                elements=parameter.numel(),
                loaded=parameter.numel() if loaded else 0,
                made=0,
                default=0 if loaded else parameter.numel(),
                uninitialised=0,
                sources=tuple(sources) if loaded else (),
            )
        )
    unexpected = {str(name) for name in _names(info, "unexpected_keys")}
    return LoadAudit(
        shards=tuple(shards),
        tensors=tuple(
            OfferedTensor(
                name=tensor.name,
                dtype=tensor.dtype,
                shape=tensor.shape,
                non_finite=tensor.non_finite,
                consumed=tensor.name in used and tensor.name not in unexpected,
                written_to=tuple(used.get(tensor.name, ())),
            )
            for tensor in stored
        ),
    )


@dataclass(frozen=True, kw_only=True)
class _Home:
    """What a stored tensor and a parameter have in common: a name, the Case's or else their own."""

    name: str
    known: bool


def _home(name: str, *, case: Case, configs: Configs) -> _Home:
    if found := case.shards("hf", name, configs) or case.parts("hf", name, configs):
        return _Home(name=found[0].name, known=True)
    # The base model's prefix may be left out.
    return _Home(name=name.removeprefix("model."), known=False)


def _names(info: Mapping[str, Any], problem: str) -> list[str]:
    """Names of one kind of problem; of a mismatched key, the first of a tuple."""
    return [str(entry[0] if isinstance(entry, tuple) else entry) for entry in info.get(problem) or ()]
