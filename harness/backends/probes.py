"""Forward hooks that hand every probe's tensor, cut by clip, to the trace."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from harness.errors import CaptureError
from harness.trace.tensors import RawTensor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import torch

    from harness.cases.case import Case, Configs, Site, Stack
    from harness.trace import TraceWriter

#: Torch dtypes that numpy has not, and the integer of the same width that carries their words.
_CARRIERS = {"bfloat16": "uint16", "float8_e4m3fn": "uint8", "float8_e5m2": "uint8"}


def exact_float32() -> None:
    """Keep TensorFloat-32 out of float32: on CUDA, convolutions take its 10-bit mantissa by default."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


def raw_tensor(tensor: torch.Tensor) -> RawTensor:
    """Copy a tensor off its device, bit for bit."""
    import torch

    tensor = tensor.detach().cpu().contiguous()
    dtype = str(tensor.dtype).removeprefix("torch.")
    carrier = _CARRIERS.get(dtype)
    words = tensor.view(getattr(torch, carrier)) if carrier else tensor
    return RawTensor(dtype=dtype, shape=tuple(tensor.shape), data=words.numpy())


def record_parameters(
    model: torch.nn.Module, *, stack: Stack, case: Case, configs: Configs, writer: TraceWriter
) -> None:
    """Record every parameter of a model, fused ones cut into their shards."""
    unmapped = []
    for name, parameter in model.named_parameters(remove_duplicate=False):
        known = case.shards(stack, name, configs)
        if parameter.is_meta:
            unmapped.append(f"{name} (without memory)")
            continue
        rows = parameter.shape[0] if parameter.ndim else 1
        shards = case.cut(stack, name, rows, configs)
        for shard in shards:
            whole = shard.start == 0 and shard.stop == rows
            writer.add_parameter(
                name=shard.name,
                source=name if whole else f"{name}[{shard.start}:{shard.stop}]",
                tensor=raw_tensor(parameter[shard.start : shard.stop]),
            )
        if not known:
            unmapped.append(name)
        if (end := shards[-1].stop if shards else 0) == rows:
            continue
        rest = f"{name}[{end}:{rows}]" if shards else name
        writer.add_other(name=rest, tensor=raw_tensor(parameter[end:] if shards else parameter))
        if known and known[-1].name not in case.padded:
            unmapped.append(rest)
    writer.add_unmapped(unmapped)


def group(tokens: Sequence[int], *, most_tokens: int, most: int) -> list[tuple[int, int]]:
    """Cut a sequence into half-open ranges of at most ``most`` items and ``most_tokens`` tokens.

    An item that is larger than that by itself is a range of its own.
    """
    ranges, start, total = [], 0, 0
    for index, count in enumerate(tokens):
        if index > start and (total + count > most_tokens or index - start >= most):
            ranges.append((start, index))
            start, total = index, 0
        total += count
    return [*ranges, (start, len(tokens))] if tokens else []


class Recorder:
    """Knows whose chunks are in the batch that runs now.

    A batch's first axis is chunks, of one or several clips one after the other. ``expected`` lists clips
    in the order in which the stack will encode them, with their number of chunks; the first probe of
    each forward pass takes as many of them as the batch is long.
    """

    def __init__(self, writer: TraceWriter, expected: Sequence[tuple[str, int]]) -> None:
        self._writer = writer
        self._pending = list(expected)
        self._batch: list[tuple[str, int]] = []

    @property
    def pending(self) -> tuple[str, ...]:
        """The clips that no forward pass has encoded yet."""
        return tuple(clip for clip, _ in self._pending)

    def start(self, chunks: int) -> None:
        """Begin a forward pass over so many chunks.

        Raises:
            CaptureError: the batch is not made of the clips that come next.
        """
        self._batch, taken = [], 0
        while taken < chunks and self._pending:
            self._batch.append(self._pending.pop(0))
            taken += self._batch[-1][1]
        if taken != chunks:
            clips = ", ".join(f"{clip} ({count})" for clip, count in self._batch) or "none left"
            msg = (
                f"the encoder ran a batch of {chunks} chunks, but the clips that come next have {taken}: "
                f"{clips}; its activations cannot be told apart"
            )
            raise CaptureError(msg)

    def record(self, site: Site, tensor: torch.Tensor) -> None:
        """Cut a batch's tensor by clip and write the parts."""
        if site.columns is not None:
            tensor = tensor[..., site.columns[0] : site.columns[1]]
        start = 0
        for clip, chunks in self._batch:
            part = tensor[start : start + chunks]
            self._writer.add_activation(clip=clip, probe=site.probe, tensor=raw_tensor(part))
            start += chunks


@contextmanager
def hooked(model: torch.nn.Module, sites: Sequence[Site], recorder: Recorder) -> Iterator[None]:
    """Attach the recorder to every site; detach it at the end.

    Raises:
        CaptureError: a module that the Case names is not in the model.
    """
    modules = {name.removeprefix("model."): module for name, module in model.named_modules()}
    if missing := sorted({site.module for site in sites} - set(modules)):
        msg = f"the model has no module {', '.join(missing[:3])}: the Case does not fit this release"
        raise CaptureError(msg)
    first = sites[0]

    def before(site: Site) -> Callable[..., None]:
        # Returns nothing: a pre-hook's return value would replace the module's input.
        def hook(_module: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            tensor = _tensor(args or tuple(kwargs.values()))
            if site is first:
                recorder.start(tensor.shape[0])
            recorder.record(site, tensor)

        return hook

    def after(site: Site) -> Callable[..., None]:
        def hook(_module: object, _args: object, output: object) -> None:
            recorder.record(site, _tensor(output))

        return hook

    with ExitStack() as stack:
        for site in sites:
            module = modules[site.module]
            handle = (
                module.register_forward_pre_hook(before(site), with_kwargs=True)
                if site.side == "input"
                else module.register_forward_hook(after(site))
            )
            stack.callback(handle.remove)
        yield


def _tensor(value: Any) -> torch.Tensor:  # noqa: ANN401 - whatever a module returns
    while isinstance(value, (tuple, list)):
        value = value[0]
    return value
