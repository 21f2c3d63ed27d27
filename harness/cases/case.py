"""What a Case is: everything the harness knows of one model family, and no backend knows better."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

Stack = Literal["hf", "vllm"]
#: The checkpoint's JSON files by file name, e.g. ``configs["config.json"]``.
Configs = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class ProbePoint:
    """One named point of the forward pass; ``inputs`` are the probes that feed it."""

    name: str
    inputs: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Site:
    """Where a stack has a probe: the input or the output of a module, or columns of it.

    ``columns`` is the half-open range of the last axis that belongs to the probe, for fused modules.
    """

    probe: str
    module: str
    side: Literal["input", "output"] = "output"
    columns: tuple[int, int] | None = None


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One parameter by its canonical name.

    ``zero_if_absent``: a checkpoint need not have it; a stack that has it then must hold zeros.
    """

    name: str
    shape: tuple[int, ...]
    zero_if_absent: bool = False


@dataclass(frozen=True, kw_only=True)
class Shard:
    """The rows of a stack's parameter that are one canonical parameter, half-open on axis 0."""

    name: str
    start: int
    stop: int


@dataclass(frozen=True, kw_only=True)
class Part:
    """One of the tensors that a quantised parameter is kept as: its packed values, a scale, a shape.

    ``of`` is the canonical parameter, ``name`` the part's own name beside it. ``is_metadata``: it holds no
    value, and a stack may keep one for several shards.
    """

    of: str
    name: str
    is_metadata: bool


@dataclass(frozen=True, kw_only=True)
class FeatureSpec:
    """How the feature extractor makes log-mel features, for an independent computation."""

    sample_rate: int
    n_fft: int
    hop_length: int
    n_mels: int
    chunk_samples: int


class Case(ABC):
    """One model family. Every method is a pure function of the checkpoint's configuration."""

    name: str
    model_type: str
    hub_id: str
    audio_token: str
    #: Parameters that a stack may make longer than the checkpoint's.
    padded: frozenset[str]

    @abstractmethod
    def prompt(self) -> str:
        """The text around one audio token, before tokenising."""

    @abstractmethod
    def stop_token_ids(self, configs: Configs) -> tuple[int, ...]:
        """The tokens that end a transcript."""

    @abstractmethod
    def probes(self, configs: Configs) -> tuple[ProbePoint, ...]:
        """All probes, in execution order."""

    @abstractmethod
    def sites(self, stack: Stack, configs: Configs) -> tuple[Site, ...]:
        """Where a stack has the probes that hooks can see (the logits come from generation)."""

    @abstractmethod
    def parameters(self, configs: Configs) -> tuple[Parameter, ...]:
        """All parameters, in execution order."""

    @abstractmethod
    def shards(self, stack: Stack, name: str, configs: Configs) -> tuple[Shard, ...]:
        """Split a stack's own parameter into canonical ones; empty where the Case knows none."""

    @abstractmethod
    def parts(self, stack: Stack, name: str, configs: Configs) -> tuple[Part, ...]:
        """What a stack's own parameter is a part of, in order of its rows; empty where it is none."""

    def cut(self, stack: Stack, name: str, rows: int, configs: Configs) -> tuple[Shard, ...]:
        """:meth:`shards`; a part of a quantised weight is cut like the weight, where it has so many rows."""
        parts = self.parts(stack, name, configs)
        if not parts:
            return self.shards(stack, name, configs)
        whole = self.shards(stack, f"{name.rpartition('.')[0]}.weight", configs)
        if not whole or whole[-1].stop != rows:
            return ()
        return tuple(replace(shard, name=part.name) for shard, part in zip(whole, parts, strict=True))

    @abstractmethod
    def tied(self, configs: Configs) -> Mapping[str, str]:
        """Parameters that are another one under a second name: the second name, then whose it is.

        Both names are in :meth:`parameters`, as a stack lists both. A checkpoint holds the latter only.
        """

    @abstractmethod
    def ignorable(self, name: str, configs: Configs) -> bool:
        """Whether a tensor of a checkpoint need not be loaded: it is computed, or another one's copy."""

    @abstractmethod
    def published_name(self, name: str) -> str:
        """The name of a canonical parameter in the published checkpoint."""

    @abstractmethod
    def feature_spec(self, configs: Configs) -> FeatureSpec:
        """The feature extractor's settings."""

    @abstractmethod
    def chunks(self, samples: int, configs: Configs) -> int:
        """How many chunks the feature extractor cuts a clip into."""

    @abstractmethod
    def audio_tokens(self, samples: int, configs: Configs) -> int:
        """How many audio tokens a clip of so many samples becomes; 0 where the model cannot take it."""

    @abstractmethod
    def unsupported(
        self, samples: int, configs: Configs, *, prompt_tokens: int, max_new_tokens: int
    ) -> str | None:
        """Why the model itself cannot take a clip of so many samples, or ``None``."""

    @abstractmethod
    def small_configs(self, sizes: Mapping[str, int]) -> dict[str, dict[str, Any]]:
        """The JSON files of a small checkpoint, tokenizer apart; ``sizes`` overrides its defaults."""

    @property
    @abstractmethod
    def small_sizes(self) -> Mapping[str, int]:
        """The sizes that :meth:`small_configs` understands, with their defaults."""

    @property
    @abstractmethod
    def special_tokens(self) -> tuple[str, ...]:
        """The special tokens of a small checkpoint, after its 256 bytes, in the order of their ids."""
