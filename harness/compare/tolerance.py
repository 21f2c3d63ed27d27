"""Rules from a tolerances file: how far a candidate may be from its reference, and who says so."""

from __future__ import annotations

import tomllib
from fnmatch import fnmatchcase
from importlib import resources
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from harness.errors import InputError
from harness.trace.schema import DType

if TYPE_CHECKING:
    from pathlib import Path

Bound = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _Rule(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    dtype: DType
    #: Where the numbers come from: never a number without its origin.
    origin: Annotated[str, Field(min_length=10)]


class TensorRule(_Rule):
    """A bound for tensors: ``relative_l2`` is ``|c - r| / |r|``, ``relative_max`` is ``max|c - r| / max|r|``.

    ``probes`` is a pattern in the manner of a shell's; the first rule of a file that matches holds.
    """

    probes: str
    relative_l2: Bound
    relative_max: Bound


class RateRule(_Rule):
    """Bounds for an error rate of a pair of legs, as fractions (0.01 is one point).

    ``change`` is for the difference of both legs' rates against the truth; ``between`` for the rate of the
    candidate leg's transcripts against the reference leg's, which opposite changes do not cancel in.
    """

    rate: Literal["wer", "cer"]
    change: Bound
    between: Bound


class Tolerances(BaseModel):
    """A tolerances file."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    schema_version: Literal[1]
    features: tuple[TensorRule, ...]
    activation: tuple[TensorRule, ...]
    transcript: tuple[RateRule, ...]

    def for_probe(self, probe: str, *, dtype: DType) -> TensorRule:
        """The rule for a probe of a candidate against a reference.

        Raises:
            InputError: no rule matches: a probe without a tolerance cannot be judged.
        """
        return _first(self.activation, probe, dtype)

    def for_features(self, probe: str, *, dtype: DType) -> TensorRule:
        """The rule for features against the independent computation."""
        return _first(self.features, probe, dtype)

    def for_rate(self, rate: str, *, dtype: DType) -> float:
        """The bound for ``wer`` or ``cer`` (their change), or ``wer.between`` or ``cer.between``.

        Raises:
            InputError: there is no rule for it.
        """
        unit, _, between = rate.partition(".")
        for rule in self.transcript:
            if rule.rate == unit and rule.dtype == dtype:
                return rule.between if between else rule.change
        msg = f"the tolerances have no transcript rule for {rate} at {dtype}; add one"
        raise InputError(msg)


def _first(rules: tuple[TensorRule, ...], probe: str, dtype: DType) -> TensorRule:
    for rule in rules:
        if rule.dtype == dtype and fnmatchcase(probe, rule.probes):
            return rule
    msg = f"the tolerances have no rule for probe {probe} at {dtype}; add one that matches"
    raise InputError(msg)


def load_tolerances(path: Path | None = None) -> Tolerances:
    """Read a tolerances file, by default the harness's own.

    Raises:
        InputError: not readable, not TOML, or not of the expected form; says which key.
    """
    source = path if path is not None else resources.files("harness") / "tolerances.toml"
    try:
        return Tolerances.model_validate(tomllib.loads(source.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        msg = f"tolerances {source}: cannot be read: {error}"
        raise InputError(msg) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        msg = f"tolerances {source}: {where}: {first['msg']}"
        raise InputError(msg) from error
