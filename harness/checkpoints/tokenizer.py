"""A tokenizer for small checkpoints: one token per byte, then the Case's special tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tokenizers import Tokenizer


def byte_tokenizer(special_tokens: Sequence[str]) -> Tokenizer:
    """Build a byte-level tokenizer of ``256 + len(special_tokens)`` entries."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={char: index for index, char in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in special_tokens]
    )
    return tokenizer


def encode(folder: Path, text: str) -> tuple[int, ...]:
    """Token ids of ``text`` by the checkpoint's own ``tokenizer.json``, with nothing added around."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return tuple(tokenizer.encode(text, add_special_tokens=False).ids)
