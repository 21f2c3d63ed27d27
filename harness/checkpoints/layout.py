"""Which tensors a small checkpoint has, in which file each is, and what is wrong with it."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from harness.checkpoints.names import absent_names, check_extra, check_name
from harness.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from harness.cases.case import Case, Configs, Parameter
    from harness.checkpoints.spec import Order, RandomSpec

#: safetensors' name of a dtype, and its bytes.
_DTYPES = {"float32": ("F32", 4), "bfloat16": ("BF16", 2), "float16": ("F16", 2)}
#: What is written one tensor at a time, in seconds, and has a header that safetensors reads.
_MOST_TENSORS, _MOST_ELEMENTS = 100_000, 1 << 31
_EXTRA_SHAPE = (4,)


@dataclass(frozen=True, kw_only=True)
class PlannedTensor:
    """A tensor that is still to be drawn, in one file.

    ``shape`` is what is drawn, and ``stored_shape`` what is written; ``superseded`` says that a later file
    has the tensor again, with other values.
    """

    name: str
    published: str
    shape: tuple[int, ...]
    dtype: str
    short: bool = False
    nan: bool = False
    inf: bool = False
    superseded: bool = False

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """The shape in the file, one row short on axis 0 where that is asked for."""
        return (self.shape[0] - self.short, *self.shape[1:])

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return math.prod(self.stored_shape) * _DTYPES[self.dtype][1]


def lay_out(spec: RandomSpec, *, case: Case, configs: Configs) -> tuple[tuple[PlannedTensor, ...], ...]:
    """Plan every file of a checkpoint, its tensors in the order of their bytes.

    Args:
        spec: what is asked for.
        case: the model family.
        configs: the checkpoint's own, with ``spec.sizes`` and ``spec.tied`` applied.

    Raises:
        InputError: a name that this checkpoint does not have, settings that contradict each other, more
            files than tensors, or a checkpoint that is not small.
    """
    parameters = {parameter.name: parameter for parameter in case.parameters(configs)}
    _check_small(parameters.values())
    absent = absent_names(spec, case=case, configs=configs, parameters=parameters.values())
    for name in spec.without:
        check_name("without", name, case=case, configs=configs, known=parameters, absent=absent)
    absent |= dict.fromkeys(spec.without, "without= leaves it out; name it in one of both")
    for key in ("twice", "shape", "cast", "nan", "inf"):
        for name in getattr(spec, key):
            check_name(key, name, case=case, configs=configs, known=parameters, absent=absent)
    other = "float16" if spec.dtype == "float32" else "float32"
    tensors = [
        PlannedTensor(
            name=name,
            published=case.published_name(name),
            shape=parameter.shape,
            dtype=other if name in spec.cast else spec.dtype,
            short=name in spec.shape,
            nan=name in spec.nan,
            inf=name in spec.inf,
        )
        for name, parameter in parameters.items()
        if name not in absent
    ]
    for name in spec.extra:
        check_extra(name, case=case, configs=configs, known=parameters)
        tensors.append(PlannedTensor(name=name, published=name, shape=_EXTRA_SHAPE, dtype="float32"))
    _check_fit(tensors, spec=spec)
    return _split(_ordered(tensors, spec.order), files=spec.shards, twice=frozenset(spec.twice))


def header_room(tensors: Sequence[PlannedTensor]) -> int:
    """Bytes to keep for the header of a file of these tensors: 64 KiB, or the next power of two it fits in.

    :class:`harness.trace.tensors.TensorWriter` writes the header last, into room that it keeps first.
    """
    header, start = {}, 0
    for tensor in tensors:
        end = start + tensor.nbytes
        header[tensor.published] = {
            "dtype": _DTYPES[tensor.dtype][0],
            "shape": tensor.stored_shape,
            "data_offsets": [start, end],
        }
        start = end
    needed = len(json.dumps(header, separators=(",", ":")))
    return max(1 << 16, 1 << (needed - 1).bit_length())


def _check_small(parameters: Collection[Parameter]) -> None:
    elements = sum(math.prod(parameter.shape) for parameter in parameters)
    if len(parameters) > _MOST_TENSORS or elements > _MOST_ELEMENTS:
        msg = (
            f"checkpoint random: expected at most {_MOST_TENSORS} parameters and {_MOST_ELEMENTS} elements, "
            f"found {len(parameters)} and {elements}; set smaller sizes"
        )
        raise InputError(msg)


def _check_fit(tensors: Sequence[PlannedTensor], *, spec: RandomSpec) -> None:
    """Check that files and defects find what they need.

    Raises:
        InputError: too few tensors for the files, one file for ``twice``, or a tensor too small for a defect.
    """
    if not tensors:
        msg = "checkpoint random: without: expected at least one tensor to be left, found none; name fewer"
        raise InputError(msg)
    if spec.shards > len(tensors):
        msg = (
            f"checkpoint random: shards: expected at most {len(tensors)}, a tensor for each file, "
            f"found {spec.shards}; set fewer"
        )
        raise InputError(msg)
    if spec.twice and spec.shards == 1:
        msg = "checkpoint random: twice: expected shards=2 or more, to have two files, found shards=1"
        raise InputError(msg)
    for tensor in tensors:
        if tensor.short and tensor.shape[0] == 1:
            msg = (
                f"checkpoint random: shape: expected a tensor of two rows or more, found {tensor.name!r} of "
                f"shape {list(tensor.shape)}; set larger sizes"
            )
            raise InputError(msg)
        if tensor.nan and tensor.inf and math.prod(tensor.stored_shape) == 1:
            msg = (
                f"checkpoint random: nan and inf: expected a tensor of two elements or more, found "
                f"{tensor.name!r} of shape {list(tensor.stored_shape)}; set larger sizes"
            )
            raise InputError(msg)


def _ordered(tensors: list[PlannedTensor], order: Order) -> list[PlannedTensor]:
    if order == "by_name":
        return sorted(tensors, key=lambda tensor: tensor.published)
    return tensors[::-1] if order == "reversed" else tensors


def _split(
    tensors: Sequence[PlannedTensor], *, files: int, twice: frozenset[str]
) -> tuple[tuple[PlannedTensor, ...], ...]:
    """Deal the tensors out in turn, so that consecutive layers and the three towers meet in every file."""
    members: list[list[PlannedTensor]] = [[] for _ in range(files)]
    for index, tensor in enumerate(tensors):
        home = index % files
        if tensor.name in twice:
            first, home = sorted((home, (home + 1) % files))
            members[first].append(replace(tensor, superseded=True))
        members[home].append(tensor)
    return tuple(map(tuple, members))
