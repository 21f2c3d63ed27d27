"""What a checkpoint's tensors should be, by its own configuration and by each other."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from harness.cases.case import Case, Configs

_INTEGERS = ("int", "uint", "bool")


def not_as_expected(
    tensors: Iterable[tuple[str, str, tuple[int, ...]]], *, case: Case, configs: Configs
) -> list[str]:
    """Say which tensors have another shape than the configuration makes them, or a dtype of their own.

    Tensors that the Case does not know are not judged by shape. Integers are judged by neither, nor is a
    weight that has parts beside it, such as a scale, nor are those parts: they are quantised.

    Args:
        tensors: Name, dtype by its torch name, and shape.
        case: Gives names and shapes.
        configs: The checkpoint's configuration.
    """
    shapes = {parameter.name: parameter.shape for parameter in case.parameters(configs)}
    tensors = list(tensors)
    parts = {name: case.parts("hf", name, configs) for name, _, _ in tensors}
    quantised = {part.of for found in parts.values() for part in found}
    floating = [
        (name, dtype, shape)
        for name, dtype, shape in tensors
        if dtype
        and not dtype.startswith(_INTEGERS)
        and not parts[name]
        and not any(shard.name in quantised for shard in case.shards("hf", name, configs))
    ]
    usual = Counter(dtype for _, dtype, _ in floating).most_common(1)
    problems = []
    for name, dtype, shape in floating:
        problems += [
            f"{name} has shape {list(shape)}, the configuration makes it {list(shapes[shard.name])}"
            for shard in case.shards("hf", name, configs)
            if tuple(shape) != shapes[shard.name]
        ]
        if dtype != usual[0][0]:
            problems.append(f"{name} is {dtype}, most of the checkpoint is {usual[0][0]}")
    return problems
