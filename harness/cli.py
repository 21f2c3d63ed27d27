"""The command line: reads words, calls :mod:`harness.run`, prints. No logic of its own."""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from harness import __version__
from harness.errors import ExitCode, HarnessError, InputError

if TYPE_CHECKING:
    from rich.console import Console

app = typer.Typer(
    add_completion=True,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Compare vLLM's GLM-ASR with HuggingFace's on the same audio: biases, activations, logits, WER.",
)


class DTypeName(StrEnum):
    """The dtypes that both stacks run."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


class AttentionName(StrEnum):
    """HuggingFace's attention implementations; vLLM chooses its own, and the trace records it."""

    sdpa = "sdpa"
    eager = "eager"


class LoaderName(StrEnum):
    """The loader states."""

    installed = "installed"
    patched = "patched"
    reverted = "reverted"


Case = Annotated[str, typer.Option(help="Model family.")]
Checkpoint = Annotated[
    str,
    typer.Option(
        help="'random', or 'random:seed=1,dtype=bfloat16,shards=2,encoder_layers=4'; a folder; or a hub id."
    ),
]
Audio = Annotated[
    list[Path] | None,
    typer.Option(help="A file, a folder with .txt beside the audio, or a manifest. Default: embedded clips."),
]
DType = Annotated[DTypeName, typer.Option(help="Dtype of every leg.")]
Attention = Annotated[AttentionName, typer.Option(help="Attention of the HuggingFace legs.")]
Loader = Annotated[
    LoaderName,
    typer.Option(
        help="vLLM's loader as installed; with pull request 40160's zero bias added where it lacks it "
        "(patched); or with that taken out (reverted: must be red)."
    ),
]
DualPoison = Annotated[
    bool,
    typer.Option(
        "--dual-poison",
        help="Capture every vLLM leg twice, over two fills of uninitialised memory: no bit may differ.",
    ),
]
Interpreters = Annotated[
    list[str] | None, typer.Option(help="LEG=INTERPRETER that holds its backend; may be repeated.")
]
Timeout = Annotated[float, typer.Option(min=1, help="Seconds after which a leg is killed.")]
MaxNewTokens = Annotated[
    int | None, typer.Option(min=1, help="Longest transcript, in tokens. Default: 200; 16 on 'random'.")
]
Seed = Annotated[int, typer.Option(min=0, help="Seed of both stacks.")]
ToleranceFile = Annotated[
    Path | None, typer.Option(help="Judge by this file instead of the harness's tolerances.toml.")
]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="List every check that did not pass.")]
Out = Annotated[Path, typer.Option(file_okay=False, help="Folder of the report, traces and logs.")]


def _version(asked: bool) -> None:
    if asked:
        sys.stdout.write(f"glm-asr-harness {__version__}\n")
        raise typer.Exit


@app.callback()
def _options(
    _version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def run(
    case: Case = "glm_asr",
    reference: Annotated[
        str, typer.Option(help="Leg that the others are compared with: hf-cpu, hf-cuda, vllm-cpu, vllm-cuda.")
    ] = "hf-cpu",
    candidate: Annotated[
        list[str] | None,
        typer.Option(help="Leg to judge, BACKEND or BACKEND@LABEL; may be repeated. Default: vllm-cpu."),
    ] = None,
    require: Annotated[
        list[str] | None, typer.Option(help="Leg without which the run is incomplete; may be repeated.")
    ] = None,
    dtype: DType = DTypeName.float32,
    attention: Attention = AttentionName.sdpa,
    loader: Loader = LoaderName.installed,
    dual_poison: DualPoison = False,
    checkpoint: Checkpoint = "random",
    audio: Audio = None,
    python: Interpreters = None,
    out: Out = Path("glm-asr-report"),
    timeout: Timeout = 1800.0,
    max_new_tokens: MaxNewTokens = None,
    seed: Seed = 0,
    tolerances: ToleranceFile = None,
    verbose: Verbose = False,
) -> None:
    """Capture every leg, compare, and write a report.

    Examples:
      glm-asr-harness run

      glm-asr-harness run --dtype bfloat16 --out nightly --require vllm-cuda

      glm-asr-harness run --loader reverted

      glm-asr-harness run --candidate vllm-cpu@mine --python vllm-cpu@mine=/venvs/vllm-main/bin/python
    """
    from harness.progress import Progress
    from harness.report import write_report
    from harness.report.terminal import print_report
    from harness.run import RunOptions, claimed, prepare, read_interpreters
    from harness.run import run as run_legs

    options = RunOptions(
        out=out,
        case=case,
        reference=reference,
        candidates=tuple(candidate or ("vllm-cpu",)),
        require=tuple(require or ()),
        dtype=dtype.value,
        attention=attention.value,
        loader=loader.value,
        dual_poison=dual_poison,
        checkpoint=checkpoint,
        audio=tuple(audio or ()),
        python=read_interpreters(python or ()),
        timeout=timeout,
        max_new_tokens=max_new_tokens,
        seed=seed,
        tolerances=tolerances,
        command=tuple(sys.argv),
    )
    with claimed(out):
        with Progress() as progress:
            report = run_legs(prepare(options), progress=progress)
        paths = write_report(report, out)
    print_report(report, console=_console(), report_path=paths["json"], verbose=verbose)
    raise typer.Exit(report.exit_code)


@app.command()
def capture(
    backend: Annotated[str, typer.Option(help="Leg to capture, BACKEND or BACKEND@LABEL.")],
    out: Annotated[Path, typer.Option(help="Folder of the trace; replaced.")],
    case: Case = "glm_asr",
    dtype: DType = DTypeName.float32,
    attention: Attention = AttentionName.sdpa,
    loader: Loader = LoaderName.installed,
    checkpoint: Checkpoint = "random",
    audio: Audio = None,
    python: Annotated[str | None, typer.Option(help="Interpreter that holds the backend.")] = None,
    timeout: Timeout = 1800.0,
    max_new_tokens: MaxNewTokens = None,
    seed: Seed = 0,
) -> None:
    """Capture one leg into a trace, to be compared here or on another machine.

    Example:
      glm-asr-harness capture --backend hf-cuda --out traces/hf-cuda --dtype bfloat16
    """
    from harness.progress import Progress
    from harness.run import RunOptions, capture_one

    options = RunOptions(
        out=out,
        case=case,
        reference=backend,
        candidates=(),
        dtype=dtype.value,
        attention=attention.value,
        loader=loader.value,
        checkpoint=checkpoint,
        audio=tuple(audio or ()),
        python={} if python is None else {backend: python},
        timeout=timeout,
        max_new_tokens=max_new_tokens,
        seed=seed,
    )
    with Progress() as progress:
        capture_one(options, progress=progress)
    _console().print(f"trace of {backend}: {out}", markup=False, soft_wrap=True)


@app.command()
def audit(
    backend: Annotated[
        list[str] | None,
        typer.Option(help="Leg to audit, BACKEND or BACKEND@LABEL; may be repeated. Default: vllm-cpu."),
    ] = None,
    case: Case = "glm_asr",
    dtype: DType = DTypeName.float32,
    loader: Loader = LoaderName.installed,
    dual_poison: DualPoison = False,
    checkpoint: Checkpoint = "random",
    python: Interpreters = None,
    out: Out = Path("glm-asr-audit"),
    timeout: Timeout = 1800.0,
    seed: Seed = 0,
    verbose: Verbose = False,
) -> None:
    """Prove that a loader wrote every element of every parameter; no engine, no audio.

    Examples:
      glm-asr-harness audit

      glm-asr-harness audit --backend vllm-cpu --backend hf-cpu --checkpoint zai-org/GLM-ASR-Nano-2512

      glm-asr-harness audit --loader reverted --dual-poison
    """
    from harness.progress import Progress
    from harness.report import write_report
    from harness.report.terminal import print_report
    from harness.run import AuditOptions, claimed, read_interpreters
    from harness.run import audit as audit_legs

    options = AuditOptions(
        out=out,
        legs=tuple(backend or ("vllm-cpu",)),
        case=case,
        dtype=dtype.value,
        loader=loader.value,
        dual_poison=dual_poison,
        checkpoint=checkpoint,
        python=read_interpreters(python or ()),
        timeout=timeout,
        seed=seed,
        command=tuple(sys.argv),
    )
    with claimed(out):
        with Progress() as progress:
            report = audit_legs(options, progress=progress)
        paths = write_report(report, out)
    print_report(report, console=_console(), report_path=paths["json"], verbose=verbose)
    raise typer.Exit(report.exit_code)


@app.command()
def compare(
    reference: Annotated[Path, typer.Argument(help="Trace that the others are compared with.")],
    candidates: Annotated[list[Path], typer.Argument(help="Traces to judge.")],
    out: Out = Path("glm-asr-report"),
    tolerances: ToleranceFile = None,
    verbose: Verbose = False,
) -> None:
    """Compare traces on disk; needs no backend.

    Example:
      glm-asr-harness compare traces/hf-cpu traces/vllm-cuda --out report
    """
    from harness.report import write_report
    from harness.report.terminal import print_report
    from harness.run import judge_traces

    report = judge_traces(reference, candidates, tolerances=tolerances, command=tuple(sys.argv))
    paths = write_report(report, out)
    print_report(report, console=_console(), report_path=paths["json"], verbose=verbose)
    raise typer.Exit(report.exit_code)


@app.command()
def releases(
    only: Annotated[
        list[str] | None,
        typer.Option(help="Release to try, e.g. 0.19.1; may be repeated. Default: all known."),
    ] = None,
    since: Annotated[str | None, typer.Option(help="Oldest release to try.")] = None,
    until: Annotated[str | None, typer.Option(help="Newest release to try.")] = None,
    bisect: Annotated[
        bool,
        typer.Option("--bisect", help="Find the first good release as installed, with the fewest installs."),
    ] = False,
    full: Annotated[
        bool, typer.Option("--full", help="The whole parity run in each, and not the load audit alone.")
    ] = False,
    loader: Annotated[
        list[LoaderName] | None, typer.Option(help="Loader state to try; may be repeated. Default: all.")
    ] = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep the environments that are built, 3 to 9 GB each.")
    ] = False,
    environments: Annotated[
        Path | None,
        typer.Option(
            file_okay=False, help="Folder of the environments. Default: 'environments' in the cache."
        ),
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(file_okay=False, help="Folder of earlier results. Default: ~/.cache/glm-asr-harness."),
    ] = None,
    no_cache: Annotated[
        bool, typer.Option("--no-cache", help="Use no earlier result, and keep none.")
    ] = False,
    checkpoint: Checkpoint = "random",
    dtype: DType = DTypeName.float32,
    out: Annotated[
        Path, typer.Option(file_okay=False, help="Folder of the matrix, and of every report.")
    ] = Path("glm-asr-releases"),
    timeout: Timeout = 1800.0,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Show the verdict of every release and loader state.")
    ] = False,
) -> None:
    """Try old and new releases of vLLM, each in an environment of its own, in every loader state.

    Ends with 0 if all came to what is expected of it, with 1 if not, with 3 if something could not be tried.

    Examples:
      glm-asr-harness releases --only 0.19.1 --only 0.32.0

      glm-asr-harness releases --bisect --since 0.17.1 --until 0.32.0

      glm-asr-harness releases --full --loader patched --keep
    """
    from harness.progress import Progress
    from harness.releases import ReleasesOptions, default_folder, print_matrix, run_releases, write_matrix
    from harness.run import claimed

    folder = cache or default_folder()
    options = ReleasesOptions(
        out=out,
        environments=environments or folder / "environments",
        cache=None if no_cache else folder / "releases",
        only=tuple(only or ()),
        since=since,
        until=until,
        loaders=tuple(entry.value for entry in loader or ()),
        bisect=bisect,
        full=full,
        keep=keep,
        checkpoint=checkpoint,
        dtype=dtype.value,
        timeout=timeout,
        command=tuple(sys.argv),
    )
    with claimed(out):
        with Progress() as progress:
            matrix = run_releases(options, progress=progress)
        paths = write_matrix(matrix, out)
    print_matrix(matrix, console=_console(), path=paths["json"], verbose=verbose)
    raise typer.Exit(matrix.exit_code)


@app.command()
def doctor(
    python: Annotated[
        list[str] | None, typer.Option(help="BACKEND=INTERPRETER to look into; may be repeated.")
    ] = None,
) -> None:
    """Say which backends can run here, and what is missing for the others."""
    from harness.doctor import examine, print_doctor
    from harness.run import read_interpreters

    found = examine(read_interpreters(python or ()))
    print_doctor(found, console=_console())
    if not any(entry.available for entry in found.values()):
        raise typer.Exit(ExitCode.INCOMPLETE)


class _Interrupted(BaseException):
    """A signal asked the harness to stop: its legs are killed on the way out."""


def _interrupt(number: int, _frame: object) -> NoReturn:
    raise _Interrupted(signal.Signals(number).name)


def main() -> None:
    """Run the command line; errors raised on purpose become one line and their exit code."""
    started = time.monotonic()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    try:
        app()
    except InputError as error:
        _stop(str(error), ExitCode.USAGE)
    except HarnessError as error:
        _stop(str(error), ExitCode.INCOMPLETE)
    except _Interrupted as error:
        _stop(f"stopped by {error} after {time.monotonic() - started:.0f} s", ExitCode.INCOMPLETE)
    except Exception as error:  # noqa: BLE001 - Python would exit with 1, which says that a regression was found
        if not isinstance(error, OSError):
            traceback.print_exc()
        _stop(f"{type(error).__name__}: {error}", ExitCode.INCOMPLETE)


def _stop(message: str, code: ExitCode) -> NoReturn:
    sys.stderr.write(f"error: {message}\n")
    raise SystemExit(int(code))


def _console() -> Console:
    from rich.console import Console

    class Output(Console):
        """Standard output, whose reader may leave (``| head``): the exit code still says how it ended."""

        def on_broken_pipe(self) -> None:
            self.quiet = True
            with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
                os.dup2(nowhere.fileno(), sys.stdout.fileno())

    return Output()
