"""What follows ``random:`` on the command line: the settings of a small checkpoint, its defects included."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal, get_args

from harness.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from harness.cases.case import Case

KBias = Literal["none", "all", "even"]
Order = Literal["published", "reversed", "by_name"]
#: Names of tensors, joined by ``+`` on the command line.
Names = tuple[str, ...]

_CHOICES: dict[str, tuple[str, ...]] = {
    "dtype": ("float32", "bfloat16", "float16"),
    "k_bias": get_args(KBias),
    "tied": ("0", "1"),
    "order": get_args(Order),
}
#: The settings that take names of tensors.
NAME_SETTINGS = ("without", "extra", "twice", "shape", "cast", "nan", "inf")
#: Seeds of up to 18 digits; of sizes, what still is a small checkpoint and does not take minutes to plan.
_MOST = {"seed": 10**18 - 1}
_MOST_OF_A_SIZE = 1 << 17


@dataclass(frozen=True, kw_only=True)
class RandomSpec:
    """A random checkpoint: the same spec gives the same bytes.

    Tensors go by their canonical names (``layers.0.q_proj.bias``). Whether a checkpoint of these sizes has
    them is seen when it is laid out, before anything is written.

    Attributes:
        seed: of every value, together with the tensor's name.
        dtype: of every tensor but those of ``cast`` and ``extra``.
        shards: how many files; consecutive tensors go to consecutive files.
        sizes: over the defaults of ``Case.small_sizes``.
        k_bias: the encoder layers that have a k bias, which is not zero: none as published, all, or every
            other one from the first.
        tied: the language model's head is its embedding, and not in the checkpoint.
        order: of the tensors' bytes in a file, and of their split into files: as the Case lists them, that
            backwards, or sorted by published name. A reader that asks the safetensors library for
            ``keys()`` gets a file's names sorted, as vLLM and transformers do by default: what it sees of
            the order is the split into files.
        without: tensors left out.
        extra: tensors that no stack knows, float32 of shape [4], by the very name they get.
        twice: tensors that are in two files, with other values in the earlier of them; the index names
            the later one, which has the values that the tensor has elsewhere.
        shape: tensors that lack their last row on axis 0.
        cast: tensors in another dtype: float16 where ``dtype`` is float32, else float32.
        nan: tensors whose first element is NaN.
        inf: tensors whose last element is Inf.
    """

    seed: int = 0
    dtype: str = "float32"
    shards: int = 1
    sizes: Mapping[str, int] = field(default_factory=dict)
    k_bias: KBias = "none"
    tied: bool = False
    order: Order = "published"
    without: Names = ()
    extra: Names = ()
    twice: Names = ()
    shape: Names = ()
    cast: Names = ()
    nan: Names = ()
    inf: Names = ()

    @classmethod
    def parse(cls, text: str, *, case: Case) -> RandomSpec:
        """Read ``seed=1,dtype=bfloat16,shards=2,encoder_layers=4,k_bias=even,nan=norm.weight+norm.bias``.

        A number or a choice that is given again replaces the earlier one.

        Raises:
            InputError: an unknown key, a value that is not what the key takes, or names given in two places.
        """
        numbers = ("seed", "shards", *case.small_sizes)
        known = ("seed", "dtype", "shards", *case.small_sizes, "k_bias", "tied", "order", *NAME_SETTINGS)
        values: dict[str, Any] = {}
        for item in filter(None, text.split(",")):
            key, _, value = (part.strip() for part in item.partition("="))
            if key in numbers:
                values[key] = _number(key, value)
            elif key in _CHOICES:
                values[key] = _choice(key, value)
            elif key not in known:
                msg = f"checkpoint random: unknown setting {key!r}; known: {', '.join(known)}"
                raise InputError(msg)
            elif key in values:
                msg = f"checkpoint random: {key} is given twice; join its names by '+' after a single {key}="
                raise InputError(msg)
            else:
                values[key] = _names(key, value)
        sizes = {key: values.pop(key) for key in case.small_sizes if key in values}
        values["tied"] = values.get("tied") == "1"
        return cls(**values, sizes=sizes)

    @property
    def text(self) -> str:
        """The shortest text that :meth:`parse` reads as this spec."""
        items: dict[str, Any] = {}
        for setting in fields(self):
            value = getattr(self, setting.name)
            if setting.name == "sizes":
                items |= sorted(value.items())
            elif setting.name in NAME_SETTINGS:
                items |= {setting.name: "+".join(value)} if value else {}
            elif value != setting.default:
                items[setting.name] = int(value) if setting.name == "tied" else value
        return ",".join(f"{key}={value}" for key, value in items.items())


def _number(key: str, value: str) -> int:
    least, most = 0 if key == "seed" else 1, _MOST.get(key, _MOST_OF_A_SIZE)
    # The length first: Python refuses to read a number of thousands of digits.
    if value.isascii() and value.isdigit() and len(value) <= len(str(most)) and least <= int(value) <= most:
        return int(value)
    msg = f"checkpoint random: {key} takes a whole number from {least} to {most}, found {value!r}"
    raise InputError(msg)


def _choice(key: str, value: str) -> str:
    if value not in _CHOICES[key]:
        msg = f"checkpoint random: {key} {value!r} is not one of {', '.join(_CHOICES[key])}"
        raise InputError(msg)
    return value


def _names(key: str, value: str) -> Names:
    names = tuple(name.strip() for name in value.split("+"))
    if not all(names):
        msg = f"checkpoint random: {key} takes one name or several joined by '+', found {value!r}"
        raise InputError(msg)
    if len(set(names)) < len(names):
        msg = f"checkpoint random: {key} takes each name once, found {value!r}"
        raise InputError(msg)
    return names
