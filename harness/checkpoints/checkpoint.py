"""A checkpoint on disk, and how the name given on the command line becomes one."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.checkpoints.random import RANDOM_MARK, RandomSpec, build_random
from harness.checkpoints.scan import tensor_names
from harness.checkpoints.tokenizer import encode
from harness.errors import InputError
from harness.files import sha256_file
from harness.trace.schema import CheckpointEntry

if TYPE_CHECKING:
    from harness.cases.case import Case

_CONFIGS = ("config.json", "generation_config.json", "preprocessor_config.json", "processor_config.json")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A local folder that both stacks load. ``trained`` is false where transcripts mean nothing."""

    source: str
    folder: Path
    configs: dict[str, dict[str, Any]]
    digest: str
    prompt_token_ids: tuple[int, ...]
    trained: bool
    lacks: tuple[str, ...]

    @property
    def entry(self) -> CheckpointEntry:
        """The checkpoint as a trace's manifest holds it."""
        return CheckpointEntry(
            source=self.source,
            digest=self.digest,
            config=self.configs,
            trained=self.trained,
            lacks=self.lacks,
        )


def resolve_checkpoint(name: str, *, case: Case, folder: Path) -> Checkpoint:
    """Find or build the checkpoint that ``name`` means.

    Args:
        name: ``random`` or ``random:seed=1,dtype=bfloat16,shards=2,encoder_layers=4``, a local folder, or
            a hub id.
        case: the model family it must be of.
        folder: where a ``random`` checkpoint is built.

    Raises:
        InputError: no such checkpoint, not reachable, incomplete, or of another model family.
    """
    if name == "random" or name.startswith("random:"):
        spec = RandomSpec.parse(name.removeprefix("random").removeprefix(":"), case=case)
        return open_checkpoint(build_random(spec, case=case, path=folder), case=case, source=name)
    try:
        path = Path(name).expanduser()
        is_folder, is_file = path.is_dir(), path.is_file()
    except (OSError, RuntimeError) as error:
        msg = f"checkpoint {name!r} cannot be looked for: {getattr(error, 'strerror', None) or error}"
        raise InputError(msg) from error
    if is_folder:
        return open_checkpoint(path.resolve(), case=case, source=str(path))
    if is_file or name.startswith((".", "/", "~")):
        msg = f"checkpoint {name!r}: expected a folder with config.json and safetensors, found none there"
        raise InputError(msg)
    return open_checkpoint(_from_hub(name, case=case), case=case, source=name)


def _from_hub(name: str, *, case: Case) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=["*.safetensors", "*.json", "*.jinja", "*.txt"]))
    except HFValidationError:
        msg = (
            f"checkpoint {name!r} is neither a folder here nor a hub id of the form OWNER/NAME; "
            f"try 'random', a path, or {case.hub_id}"
        )
    except LocalEntryNotFoundError:
        msg = (
            f"checkpoint {name!r} is not a folder here, not in the local hub cache, and the hub cannot be "
            f"reached (offline, or HF_HUB_OFFLINE is set); download it once with 'hf download {name}', or "
            "give a local folder"
        )
    except (HfHubHTTPError, OSError) as error:
        msg = f"checkpoint {name!r} could not be downloaded: {str(error).splitlines()[0]}"
    raise InputError(msg)


def open_checkpoint(folder: Path, *, case: Case, source: str) -> Checkpoint:
    """Read a checkpoint's configuration and digest its files; the weights themselves stay on disk.

    Raises:
        InputError: a file is missing or not JSON, or the model family is another one.
    """
    configs: dict[str, dict[str, Any]] = {}
    for name in _CONFIGS:
        path = folder / name
        if not path.is_file():
            continue
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            msg = f"checkpoint {source}: {name} is not valid JSON: {error}"
            raise InputError(msg) from error
        if not isinstance(content, dict):
            msg = f"checkpoint {source}: {name}: expected a JSON object, found {type(content).__name__}"
            raise InputError(msg)
        configs[name] = content
    missing = [name for name in ("config.json", "tokenizer.json") if not (folder / name).is_file()]
    if not any(folder.glob("*.safetensors")):
        missing.append("*.safetensors")
    if missing:
        msg = f"checkpoint {source}: expected a folder with {', '.join(missing)}, found none in {folder}"
        raise InputError(msg)
    if (found := configs["config.json"].get("model_type")) != case.model_type:
        msg = f"checkpoint {source}: expected model_type {case.model_type!r} for {case.name}, found {found!r}"
        raise InputError(msg)
    try:
        for derive in (case.parameters, case.probes, case.feature_spec, case.stop_token_ids):
            derive(configs)
    except (AttributeError, KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        msg = f"checkpoint {source}: its configuration does not describe a {case.name} model: {error!r}"
        raise InputError(msg) from error
    try:
        prompt, audio_token = encode(folder, case.prompt()), encode(folder, case.audio_token)
    except Exception as error:  # the library raises nothing narrower
        msg = f"checkpoint {source}: tokenizer.json is not a tokenizer: {error}"
        raise InputError(msg) from error
    if len(audio_token) != 1 or prompt.count(audio_token[0]) != 1:
        msg = f"checkpoint {source}: its tokenizer has no token of its own for {case.audio_token!r}"
        raise InputError(msg)
    present = tensor_names(folder, source=source)
    known = {shard.name for name in present for shard in case.shards("hf", name, configs)}
    return Checkpoint(
        source=source,
        folder=folder,
        configs=configs,
        digest=_digest(folder),
        prompt_token_ids=prompt,
        trained=_is_trained(folder),
        lacks=tuple(
            parameter.name
            for parameter in case.parameters(configs)
            if parameter.zero_if_absent and parameter.name not in known
        ),
    )


def _is_trained(folder: Path) -> bool:
    """Whether transcripts mean something: they do not where :func:`build_random` left its mark."""
    try:
        mark = json.loads((folder / RANDOM_MARK).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return True
    return not (isinstance(mark, dict) and mark.get("trained") is False)


def _digest(folder: Path) -> str:
    """Digest weights and configuration. Not the tokenizer: what it yields is compared as token ids."""
    total = hashlib.sha256()
    for path in sorted([*folder.glob("*.safetensors"), *(folder / name for name in _CONFIGS)]):
        if path.is_file():
            total.update(f"{path.name}\0{sha256_file(path)}\n".encode())
    return total.hexdigest()
