"""The names that a small checkpoint's settings take: which tensors it has, and why it lacks the others."""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING

from harness.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from harness.cases.case import Case, Configs, Parameter
    from harness.checkpoints.spec import RandomSpec


def absent_names(
    spec: RandomSpec, *, case: Case, configs: Configs, parameters: Iterable[Parameter]
) -> dict[str, str]:
    """Name every parameter that ``k_bias`` or ``tied`` keeps out of the checkpoint, and say why."""
    reasons = {
        parameter.name: f"k_bias={spec.k_bias} leaves it out; set k_bias=all"
        for parameter in parameters
        if parameter.zero_if_absent and not _has_bias(parameter.name, spec=spec)
    }
    tied = case.tied(configs).items()
    return reasons | {name: f"tied=1 stores it as {source!r} only; set tied=0" for name, source in tied}


def _has_bias(name: str, *, spec: RandomSpec) -> bool:
    layer = re.search(r"\blayers\.(\d+)\.", name)
    return spec.k_bias == "all" or (
        spec.k_bias == "even" and layer is not None and int(layer.group(1)) % 2 == 0
    )


def check_name(
    key: str,
    name: str,
    *,
    case: Case,
    configs: Configs,
    known: Mapping[str, Parameter],
    absent: Mapping[str, str],
) -> None:
    """Check that the checkpoint has a tensor of this canonical name.

    Args:
        key: the setting that names it.
        name: what was given.
        case: the model family.
        configs: the checkpoint's own.
        known: every parameter of the model, by its canonical name.
        absent: those that are not in the checkpoint, and why.

    Raises:
        InputError: no such parameter, with the one that may be meant; or it is not in the checkpoint.
    """
    if name in absent:
        msg = f"checkpoint random: {key}: expected a tensor of the checkpoint, found {name!r}: {absent[name]}"
        raise InputError(msg)
    if name in known:
        return
    if shards := case.shards("hf", name, configs):
        advice = f"its canonical name is {shards[0].name!r}"
    elif close := difflib.get_close_matches(name, known, n=1):
        advice = f"did you mean {close[0]!r}?"
    else:
        advice = f"it has {len(known)}, the first is {next(iter(known))!r}"
    msg = f"checkpoint random: {key}: expected the canonical name of a tensor, found {name!r}; {advice}"
    raise InputError(msg)


def check_extra(name: str, *, case: Case, configs: Configs, known: Mapping[str, Parameter]) -> None:
    """Check that a tensor of this name is one too many.

    Raises:
        InputError: the model has such a parameter, by this or another name; or no file can hold it.
    """
    if name in known or case.shards("hf", name, configs):
        msg = (
            "checkpoint random: extra: expected a name that the model does not have, found its parameter "
            f"{name!r}; for a real k bias set k_bias=, for a wrong shape shape="
        )
        raise InputError(msg)
    if not re.fullmatch(r"[A-Za-z0-9_.\-]+", name) or name == "__metadata__":
        msg = (
            "checkpoint random: extra: expected a name of letters, digits and '_.-' that is not safetensors' "
            f"own '__metadata__', found {name!r}; for example audio_tower.layers.0.self_attn.rotary_scale"
        )
        raise InputError(msg)
