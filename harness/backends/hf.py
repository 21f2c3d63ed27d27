"""The HuggingFace stack: the reference. Runs inside a leg's process."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import torch
import transformers

from harness.backends.backend import Backend, Captured
from harness.backends.hf_audit import audit_reference
from harness.backends.probes import Recorder, exact_float32, hooked, raw_tensor, record_parameters
from harness.errors import CaptureError, RefusedError
from harness.trace.schema import ClipEntry, TranscriptRecord

if TYPE_CHECKING:
    from harness.trace import TraceWriter


class HuggingFace(Backend):
    """``transformers`` on CPU or CUDA, one clip at a time, greedy."""

    def capture(self, writer: TraceWriter) -> Captured:
        """Load, record the parameters, then every clip."""
        request = self.request
        torch.manual_seed(request.seed)
        exact_float32()
        clock = time.perf_counter()
        self.progress("loading the checkpoint")
        model = self._load(writer)
        processor = transformers.AutoProcessor.from_pretrained(request.checkpoint_folder)
        loaded = time.perf_counter()
        with torch.inference_mode():
            for index, clip in enumerate(request.runnable):
                self.progress(f"clip {index + 1}/{len(request.runnable)} {clip.id}")
                self._run(clip, model=model, processor=processor, writer=writer)
        return Captured(
            attention=str(model.config._attn_implementation),  # noqa: SLF001 - its only place
            device_name=torch.cuda.get_device_name() if request.device == "cuda" else "",
            seconds={"load": loaded - clock, "clips": time.perf_counter() - loaded},
        )

    def audit(self, writer: TraceWriter) -> Captured:
        """Load, and record the parameters and the audit."""
        torch.manual_seed(self.request.seed)
        clock = time.perf_counter()
        self.progress("loading the checkpoint")
        model = self._load(writer)
        return Captured(
            attention=str(model.config._attn_implementation),  # noqa: SLF001 - its only place
            device_name=torch.cuda.get_device_name() if self.request.device == "cuda" else "",
            seconds={"load": time.perf_counter() - clock},
        )

    def _load(self, writer: TraceWriter) -> Any:  # noqa: ANN401 - a transformers model
        request = self.request
        architecture = request.checkpoint.config["config.json"]["architectures"][0]
        model_class = getattr(transformers, architecture, None)
        if model_class is None:
            msg = f"transformers {transformers.__version__} has no {architecture}: install 5.0 or later"
            raise CaptureError(msg)
        try:
            model, info = model_class.from_pretrained(
                request.checkpoint_folder,
                dtype=getattr(torch, request.dtype),
                attn_implementation=request.attention,
                local_files_only=True,
                output_loading_info=True,
            )
        except torch.cuda.OutOfMemoryError:
            raise
        except RuntimeError as error:
            msg = f"transformers {transformers.__version__} refuses this checkpoint: {error}"
            raise RefusedError(msg) from error
        writer.add_audit(
            audit_reference(
                model, info, folder=request.checkpoint_folder, case=self.case, configs=self.configs
            )
        )
        model = model.to(request.device).eval()
        record_parameters(model, stack="hf", case=self.case, configs=self.configs, writer=writer)
        return model

    def _run(self, clip: ClipEntry, *, model: Any, processor: Any, writer: TraceWriter) -> None:  # noqa: ANN401
        request, case = self.request, self.case
        samples = self.samples(clip.id)
        inputs = processor(text=[case.audio_token], audio=[samples], sampling_rate=16000, return_tensors="pt")
        audio_token = model.config.audio_token_id
        count = int((inputs["input_ids"] == audio_token).sum())
        prompt: list[int] = []
        for token in request.prompt_token_ids:
            prompt += [token] * (count if token == audio_token else 1)
        input_ids = torch.tensor([prompt], device=request.device)
        features = inputs["input_features"].to(request.device, getattr(torch, request.dtype))
        recorder = Recorder(writer, [(clip.id, features.shape[0])])
        with hooked(model, case.sites("hf", self.configs), recorder):
            output = model.generate(
                input_ids=input_ids,
                attention_mask=torch.ones_like(input_ids),
                input_features=features,
                input_features_mask=inputs["input_features_mask"].to(request.device),
                do_sample=False,
                num_beams=1,
                max_new_tokens=request.max_new_tokens,
                eos_token_id=list(request.stop_token_ids),
                pad_token_id=request.stop_token_ids[0],
                return_dict_in_generate=True,
                output_logits=True,
            )
        logits = output.logits[0][0].float()
        writer.add_activation(clip=clip.id, probe="lm.logits", tensor=raw_tensor(logits))
        tokens = output.sequences[0, len(prompt) :].tolist()
        if tokens and tokens[-1] in request.stop_token_ids:
            tokens.pop()
        text = processor.tokenizer.decode(tokens, skip_special_tokens=True)
        writer.add_transcript(TranscriptRecord(clip=clip.id, text=text, token_ids=tuple(tokens)))
