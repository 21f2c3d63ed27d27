"""A vLLM model loader that proves what loading wrote, and runs in any of the three loader states.

Registered through vLLM's own extension point, it looks right after ``load_weights``: later,
``process_weights_after_loading`` may repack a weight or leave it empty. While the model is built and loaded,
memory that nobody has written holds a fill and not what the allocator finds, which is zeros by luck.
"""

from __future__ import annotations

import copy
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
import vllm
from vllm.model_executor.model_loader import register_model_loader
from vllm.model_executor.model_loader.default_loader import DefaultModelLoader

from harness.backends.fill import filled
from harness.backends.guard import Guard
from harness.backends.load_audit import audit_load
from harness.backends.poison import PoisonedParameters
from harness.backends.watch import LoadWatch
from harness.backends.zero_bias import ZeroBias
from harness.errors import RefusedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from vllm.config import ModelConfig
    from vllm.config.load import LoadConfig

    from harness.backends.guard import Rows
    from harness.backends.poison import Unwritten
    from harness.cases.case import Case, Configs
    from harness.trace.schema import Fill, LoadAudit, LoaderState

LOAD_FORMAT = "glm_asr_harness"


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """What a load came to: the audit, and what the loader state made it do otherwise."""

    audit: LoadAudit
    changes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class LoadPlan:
    """How to load: the loader state, the fill, and what the Case knows of the model."""

    case: Case
    configs: Configs
    #: The names of the checkpoint's tensors, as often as they are stored.
    stored: Sequence[str]
    state: LoaderState
    fill: Fill

    @cached_property
    def optional(self) -> dict[str, int]:
        """The parameters that a checkpoint need not have, by published name, with their rows."""
        return {
            self.case.published_name(parameter.name): parameter.shape[0]
            for parameter in self.case.parameters(self.configs)
            if parameter.zero_if_absent
        }

    def optional_rows(self, name: str) -> list[Rows]:
        """The rows of vLLM's own parameter that are one of :attr:`optional`."""
        return [
            (shard.start, shard.stop)
            for shard in self.case.shards("vllm", name, self.configs)
            if self.case.published_name(shard.name) in self.optional
        ]


def register(plan: LoadPlan, on_loaded: Callable[[torch.nn.Module, Loaded], None]) -> str:
    """Register the loader and return the load format that selects it.

    ``on_loaded`` is given the model when every weight is loaded and none is processed; the engine core
    must run in this process.
    """

    class ObservedLoader(DefaultModelLoader):  # type: ignore[misc]  # vllm is not there
        """vLLM's default loader, observed."""

        def __init__(self, load_config: LoadConfig) -> None:
            # The default loader knows its formats by name; ours is only how it was chosen.
            config = copy.copy(load_config)
            config.load_format = "auto"
            super().__init__(config)
            self._fill = ExitStack()
            self._watch: LoadWatch | None = None
            self._fix: ZeroBias | None = None

        def load_model(self, *args: Any, **kwargs: Any) -> torch.nn.Module:  # noqa: ANN401 - vLLM's
            with self._fill:
                self._fill.enter_context(filled(plan.fill))
                return super().load_model(*args, **kwargs)

        def load_weights(self, model: torch.nn.Module, model_config: ModelConfig) -> None:
            poisoned = PoisonedParameters(model)
            watch = self._watch = LoadWatch(model.named_parameters())
            guard = Guard(watch, state=plan.state)
            guard.install(model, rows_of=plan.optional_rows)
            repeated = False

            def load() -> None:
                nonlocal repeated
                watch.restart(model.named_parameters())
                guard.undone.clear()
                self._fix = None if self._fix is None else ZeroBias(plan.optional)
                try:
                    with watch:
                        DefaultModelLoader.load_weights(self, model, model_config)
                except (MemoryError, torch.cuda.OutOfMemoryError):
                    raise
                except Exception as error:
                    what = f"{type(error).__name__}: {error}".removesuffix(": ")
                    how = "loads this checkpoint once and not again, as the audit asks" if repeated else ""
                    msg = f"vLLM {vllm.__version__} {how or 'refuses this checkpoint'}: {what}"
                    raise RefusedError(msg) from error
                repeated = True

            unwritten = poisoned.load(load)
            if plan.state == "patched" and _lacks_zero_bias(unwritten, plan=plan):
                self._fix = ZeroBias(plan.optional)
                unwritten = poisoned.load(load)
            audit = audit_load(
                model,
                unwritten=unwritten,
                watch=watch,
                stored=plan.stored,
                case=plan.case,
                configs=plan.configs,
            )
            # What comes after is no loading: it runs as it always does.
            self._fill.close()
            added = [] if self._fix is None else self._fix.added
            changes = [f"gave load_weights {name} = 0, [{plan.optional[name]}]" for name in added]
            on_loaded(model, Loaded(audit=audit, changes=(*changes, *guard.undone)))

        def get_all_weights(
            self, model_config: ModelConfig, model: torch.nn.Module
        ) -> Iterator[tuple[str, torch.Tensor]]:
            weights = self._offered(super().get_all_weights(model_config, model))
            return weights if self._fix is None else self._fix(weights)

        def _offered(self, weights: Iterator[tuple[str, torch.Tensor]]) -> Iterator[tuple[str, torch.Tensor]]:
            for name, tensor in weights:
                if self._watch is not None:
                    self._watch.offer(name, tensor)
                yield name, tensor

    register_model_loader(LOAD_FORMAT)(ObservedLoader)
    return LOAD_FORMAT


def _lacks_zero_bias(unwritten: dict[str, Unwritten], *, plan: LoadPlan) -> bool:
    """Whether loading left a parameter unwritten that a checkpoint need not have."""
    return any(
        mask is not None and bool(mask[start:stop].any())
        for name, left in unwritten.items()
        for start, stop in plan.optional_rows(name)
        for mask in (left.default, left.uninitialised)
    )
