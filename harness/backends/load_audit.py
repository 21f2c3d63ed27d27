"""From what was seen of a load to the trace's audit: every element accounted for, by shard."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from harness.backends.fill import fill_word, holds_fill
from harness.trace.schema import AuditedShard, LoadAudit, OfferedTensor, Overwritten

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from harness.backends.poison import Unwritten
    from harness.backends.watch import LoadWatch, Offer, Write
    from harness.cases.case import Case, Configs, Shard

_MOST_RANGES = 3


def audit_load(
    model: torch.nn.Module,
    *,
    unwritten: Mapping[str, Unwritten],
    watch: LoadWatch,
    stored: Sequence[str],
    case: Case,
    configs: Configs,
) -> LoadAudit:
    """Account for every element of every parameter, and for every tensor of the checkpoint.

    To be called inside the :func:`harness.backends.fill.filled` of the load.

    Args:
        model: As loading left it.
        unwritten: From :meth:`PoisonedParameters.load`.
        watch: What it saw of the same load.
        stored: The names of the checkpoint's tensors on disk, as often as they are stored.
        case: Cuts fused parameters into shards.
        configs: The checkpoint's configuration.
    """
    watch.look_again(model.named_parameters())
    shards: list[AuditedShard] = []
    not_audited = []
    for name, parameter in model.named_parameters():
        if parameter.device.type == "meta":
            not_audited.append(f"{name}: has no memory after loading")
            continue
        load = _Load(parameter, unwritten=unwritten.get(name), writes=watch.writes.get(name, ()))
        shards += [
            load.shard(name, cut, offers=watch.offers)
            for cut in _cuts(case.cut("vllm", name, _rows(parameter), configs), parameter)
        ]
    shards += _buffers(model)
    offered = [
        OfferedTensor(
            name=offer.name,
            dtype=offer.dtype,
            shape=offer.shape,
            non_finite=offer.non_finite,
            consumed=bool(offer.written_to),
            written_to=tuple(offer.written_to),
        )
        for offer in watch.offers
    ]
    never = set(stored) - {offer.name for offer in offered}
    offered += [
        OfferedTensor(name=name, dtype="", shape=(), non_finite=0, consumed=False) for name in sorted(never)
    ]
    return LoadAudit(
        fill_word=fill_word(torch.empty(1)),
        shards=tuple(shards),
        tensors=tuple(offered),
        overwritten=tuple(_overwritten(watch)),
        not_audited=tuple(not_audited),
    )


def _cuts(
    shards: Sequence[Shard], parameter: torch.Tensor
) -> Iterable[tuple[str | None, str, tuple[int, int]]]:
    """Canonical name, what shard it is, and rows; rows of no shard are one more, without a name."""
    rows = _rows(parameter)
    if not shards:
        yield None, "", (0, rows)
        return
    for shard in shards:
        module = shard.name.rpartition(".")[0].rpartition(".")[2]
        short = module.removesuffix("_proj") if len(shards) > 1 else ""
        yield shard.name, short, (shard.start, shard.stop)
    if (end := shards[-1].stop) < rows:
        yield None, "padding", (end, rows)


def _rows(parameter: torch.Tensor) -> int:
    return parameter.shape[0] if parameter.dim() else 1


class _Load:
    """What became of one parameter, element by element; every mask is of its shape."""

    def __init__(
        self, parameter: torch.Tensor, *, unwritten: Unwritten | None, writes: Sequence[Write]
    ) -> None:
        self._parameter = parameter
        self._writes = writes
        self._default = None if unwritten is None else unwritten.default
        self._uninitialised = None if unwritten is None else unwritten.uninitialised
        made = torch.ones(parameter.shape, dtype=torch.bool, device=parameter.device)
        for write in writes:
            if write.sources:
                made[write.box.index] = False
            elif write.replaces and write.box.exact:
                made[write.box.index] = True
        for left in (self._default, self._uninitialised):
            if left is not None:
                made &= ~left
        #: Written by the loader itself, and not over it from the checkpoint.
        self._made = made

    def shard(
        self, name: str, cut: tuple[str | None, str, tuple[int, int]], *, offers: Sequence[Offer]
    ) -> AuditedShard:
        canonical, short, (start, stop) = cut

        def of(tensor: torch.Tensor) -> torch.Tensor:
            return tensor[start:stop] if tensor.dim() else tensor

        def count(mask: torch.Tensor | None) -> int:
            return 0 if mask is None else int(of(mask).sum())

        made, default, uninitialised = map(count, (self._made, self._default, self._uninitialised))
        elements = of(self._parameter).numel()
        left = [of(mask) for mask in (self._default, self._uninitialised) if mask is not None and count(mask)]
        sources = {
            offers[source].name: None
            for write in self._writes
            if write.box.has_rows((start, stop))
            for source in write.sources
        }
        return AuditedShard(
            parameter=name,
            shard=short,
            name=canonical,
            rows=(start, stop),
            of=self._parameter.numel(),
            dtype=str(self._parameter.dtype).removeprefix("torch."),
            elements=elements,
            loaded=elements - made - default - uninitialised,
            made=made,
            default=default,
            uninitialised=uninitialised,
            unwritten=_ranges(torch.stack(left).any(dim=0), offset=start) if left else (),
            sources=tuple(sources),
        )


def _buffers(model: torch.nn.Module) -> Iterable[AuditedShard]:
    """Buffers that hold the fill after loading; integers may well mean their largest value."""
    for name, buffer in model.named_buffers():
        if buffer.device.type == "meta" or not buffer.dtype.is_floating_point or not buffer.numel():
            continue
        mask = holds_fill(buffer)
        if not (count := int(mask.sum())):
            continue
        yield AuditedShard(
            parameter=name,
            shard="buffer",
            name=None,
            rows=(0, buffer.shape[0] if buffer.dim() else 1),
            of=buffer.numel(),
            dtype=str(buffer.dtype).removeprefix("torch."),
            elements=buffer.numel(),
            loaded=0,
            made=0,
            default=buffer.numel() - count,
            uninitialised=count,
            unwritten=_ranges(mask, offset=0),
        )


def _overwritten(watch: LoadWatch) -> Iterable[Overwritten]:
    """Writes over elements that the checkpoint had been loaded into before."""
    for parameter, writes in watch.writes.items():
        loaded: list[Write] = []
        for write in writes:
            for first in loaded if write.replaces else ():
                if not first.box.overlaps(write.box):
                    continue
                # Of one tensor, several writes may share a rectangle that is not quite theirs.
                if first.sources == write.sources and not (first.box.exact and first.box == write.box):
                    continue
                yield Overwritten(
                    parameter=parameter,
                    box=str(write.box),
                    first=_names(first, watch),
                    second=_names(write, watch) or None,
                )
            if write.sources:
                loaded.append(write)


def _names(write: Write, watch: LoadWatch) -> str:
    return ", ".join(watch.offers[source].name for source in write.sources)


def _ranges(mask: torch.Tensor, *, offset: int) -> tuple[str, ...]:
    """Half-open index ranges of the elements that are set: rows, and columns where rows are set in part."""
    if not mask.dim():
        return ("[]",)
    flat = mask.reshape(mask.shape[0], -1)
    rows = flat.any(dim=1).nonzero()[:, 0]
    breaks = (rows.diff() != 1).nonzero()[:, 0] + 1
    runs = torch.tensor_split(rows, breaks.tolist())
    found = []
    for run in runs[:_MOST_RANGES]:
        first, last = int(run[0]), int(run[-1]) + 1
        text = f"{first + offset}:{last + offset}"
        part = flat[first:last]
        if not bool(part.all()):
            columns = part.any(dim=0).nonzero()[:, 0]
            text += f", {int(columns[0])}:{int(columns[-1]) + 1}"
        found.append(f"[{text}]")
    if len(runs) > _MOST_RANGES:
        found.append(f"and {len(runs) - _MOST_RANGES} more ranges")
    return tuple(found)
