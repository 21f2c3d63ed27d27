"""The vLLM stack: the real engine through ``vllm.LLM``. Runs inside a leg's process."""

from __future__ import annotations

import os
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

# Read by vLLM when it is imported: the engine core stays in this process, where loader and hooks are.
os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
# The engine runs eagerly, but vLLM compiles the ranking of log-probabilities: 25 s at its first use.
os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
# On CUDA, float32 attention is a Triton kernel, whose products are TensorFloat-32 unless told otherwise.
os.environ.setdefault("TRITON_F32_DEFAULT", "ieee")

import numpy as np
import torch
import vllm
from vllm.v1.executor.uniproc_executor import UniProcExecutor

from harness.backends import vllm_loader
from harness.backends.backend import Backend, Captured
from harness.backends.probes import Recorder, exact_float32, group, hooked, record_parameters
from harness.backends.vllm_load_only import LoadedOnly, load_only
from harness.checkpoints.scan import tensor_names
from harness.errors import CaptureError
from harness.trace.schema import TranscriptRecord
from harness.trace.tensors import RawTensor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness.trace import TraceWriter
    from harness.trace.schema import ClipEntry


class Vllm(Backend):
    """``vllm.LLM`` on CPU or CUDA: all clips submitted together, greedy, eager mode."""

    _changes: tuple[str, ...] = ()

    def capture(self, writer: TraceWriter) -> Captured:
        """Start the engine, record the parameters as loaded, then all clips at once.

        Two requests per clip: the first token with the logits of the whole vocabulary, then the
        transcript. The engine's caches make the second one reuse what the first has computed.
        """
        request = self.request
        self._check_platform()
        clock = time.perf_counter()
        exact_float32()
        self.progress("starting the engine")
        llm = self._start(writer)
        started = time.perf_counter()
        clips = request.runnable
        prompts = [
            {
                "prompt_token_ids": list(request.prompt_token_ids),
                "multi_modal_data": {"audio": (self.samples(clip.id), 16000)},
                # vLLM encodes equal items once; named apart, every clip is encoded for itself.
                "multi_modal_uuids": {"audio": [clip.id]},
            }
            for clip in clips
        ]
        recorder = Recorder(
            writer, [(clip.id, self.case.chunks(clip.samples, self.configs)) for clip in clips]
        )
        self.progress(f"encoding {len(clips)} clips")
        first = self._first_tokens(llm, clips, prompts, recorder)
        if recorder.pending:
            msg = f"vLLM answered without encoding {', '.join(recorder.pending[:3])}…"
            raise CaptureError(msg)
        encoded = time.perf_counter()
        self.progress(f"transcribing {len(clips)} clips")
        outputs = llm.generate(prompts, self._sampling(request.max_new_tokens), use_tqdm=False)
        for clip, logits, output in zip(clips, first, outputs, strict=True):
            writer.add_activation(clip=clip.id, probe="lm.logits", tensor=RawTensor.of(logits))
            answer = output.outputs[0]
            tokens = tuple(token for token in answer.token_ids if token not in request.stop_token_ids)
            writer.add_transcript(TranscriptRecord(clip=clip.id, text=answer.text, token_ids=tokens))
        return Captured(
            attention=self._attention(llm),
            device_name=torch.cuda.get_device_name() if request.device == "cuda" else "",
            seconds={
                "load": started - clock,
                "clips": time.perf_counter() - started,
                "first_tokens": encoded - started,
            },
            loader_changes=self._changes,
        )

    def audit(self, writer: TraceWriter) -> Captured:
        """Build and load the model as the engine would, without an engine, a KV cache, or audio."""
        self._check_platform()
        clock = time.perf_counter()
        self.progress("building the model")
        load_only(self._arguments(writer), folder=self.request.progress.parent)
        return Captured(
            attention="none",
            device_name=torch.cuda.get_device_name() if self.request.device == "cuda" else "",
            seconds={"load": time.perf_counter() - clock},
            loader_changes=self._changes,
        )

    def _check_platform(self) -> None:
        request = self.request
        if (platform := vllm.platforms.current_platform.device_type) != request.device:
            msg = f"this vLLM {vllm.__version__} is built for {platform}, the leg asks for {request.device}"
            raise CaptureError(msg)

    def _arguments(self, writer: TraceWriter) -> dict[str, Any]:
        """What both an engine and a bare load are started with."""
        request = self.request

        def snapshot(model: torch.nn.Module, loaded: vllm_loader.Loaded) -> None:
            self.progress("recording the parameters")
            self._changes = loaded.changes
            writer.add_audit(loaded.audit)
            record_parameters(model, stack="vllm", case=self.case, configs=self.configs, writer=writer)
            if request.work == "audit":
                raise LoadedOnly
            self.progress("preparing the engine")

        plan = vllm_loader.LoadPlan(
            case=self.case,
            configs=self.configs,
            stored=tensor_names(request.checkpoint_folder, source=request.checkpoint.source),
            state=request.loader,
            fill=request.fill,
        )
        return {
            "model": str(request.checkpoint_folder),
            "dtype": request.dtype,
            "seed": request.seed,
            "load_format": vllm_loader.register(plan, snapshot),
            "enforce_eager": True,
            "limit_mm_per_prompt": {"audio": 1},
        }

    def _start(self, writer: TraceWriter) -> vllm.LLM:
        return vllm.LLM(
            **self._arguments(writer),
            max_logprobs=-1,
            logprobs_mode="raw_logits",
            # The class: by its name, 0.20 on the CPU takes the one that starts worker processes instead.
            distributed_executor_backend=UniProcExecutor,
        )

    def _sampling(self, max_tokens: int, **options: Any) -> vllm.SamplingParams:  # noqa: ANN401 - vLLM's
        return vllm.SamplingParams(
            temperature=0.0,
            max_tokens=max_tokens,
            stop_token_ids=list(self.request.stop_token_ids),
            **options,
        )

    def _first_tokens(
        self, llm: vllm.LLM, clips: Sequence[ClipEntry], prompts: Sequence[Any], recorder: Recorder
    ) -> list[np.ndarray[Any, np.dtype[np.float32]]]:
        """Generate one token per clip with the probes attached; return its logits, float32 [vocab].

        Clips are submitted in groups that one step of the engine takes whole: its scheduler may let a
        small item pass a large one that does not fit, and the recorder counts on their order.
        """
        sites = self.case.sites("vllm", self.configs)
        # Detokenising every entry of the vocabulary would be text that nobody reads.
        sampling = self._sampling(1, logprobs=-1, detokenize=False)
        outputs: list[Any] = []
        with ExitStack() as hooks:
            llm.apply_model(lambda model: hooks.enter_context(hooked(model, sites, recorder)))
            for start, stop in self._groups(llm, clips):
                outputs += llm.generate(prompts[start:stop], sampling, use_tqdm=False)
        rows = []
        for output in outputs:
            (entries,) = output.outputs[0].logprobs
            row = np.full(len(entries), np.nan, dtype=np.float32)
            for token, entry in entries.items():
                row[token] = entry.logprob
            rows.append(row)
        return rows

    def _groups(self, llm: vllm.LLM, clips: Sequence[ClipEntry]) -> list[tuple[int, int]]:
        scheduler = llm.llm_engine.vllm_config.scheduler_config
        tokens = [
            len(self.request.prompt_token_ids) + self.case.audio_tokens(clip.samples, self.configs)
            for clip in clips
        ]
        return group(tokens, most_tokens=scheduler.max_num_batched_tokens, most=scheduler.max_num_seqs)

    @staticmethod
    def _attention(llm: vllm.LLM) -> str:
        def ask(model: torch.nn.Module) -> str:
            found = {
                str(getattr(backend, "name", backend))
                for module in model.modules()
                if type(module).__name__ == "MMEncoderAttention"
                and (backend := getattr(module, "attn_backend", None)) is not None
            }
            return ", ".join(sorted(found)) or "unknown"

        return str(llm.apply_model(ask)[0])
