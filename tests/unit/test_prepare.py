"""From options to a plan: what is refused, what is unsupported, and that nothing is left out."""

from __future__ import annotations

import json
import re
import sys
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import soundfile

from harness.checkpoints.random import RANDOM_MARK
from harness.compare.plan import RATES, UNMAPPED, UNTRAINED
from harness.errors import InputError
from harness.run import TRAINED_TOKENS, UNTRAINED_TOKENS, RunOptions, plan_legs, prepare

if TYPE_CHECKING:
    from harness.run import Prepared

RATE = 16_000
TINY = "random:encoder_hidden=16,encoder_layers=2,text_hidden=8,text_layers=1,mel_bins=80"


def options(out: Path = Path("unused"), **changes: Any) -> RunOptions:  # noqa: ANN401 - any option's value
    return RunOptions(**{"out": out, "checkpoint": TINY, **changes})


def audio(folder: Path, *clips: tuple[str, float], words: bool = True) -> tuple[Path, ...]:
    """Write clips, each of so many seconds of noise."""
    folder.mkdir(exist_ok=True)
    for name, length in clips:
        samples = np.random.default_rng(0).uniform(-0.1, 0.1, round(length * RATE)).astype(np.float32)
        soundfile.write(folder / f"{name}.wav", samples, RATE, subtype="FLOAT")
        if words:
            (folder / f"{name}.txt").write_text("hello world", encoding="utf-8")
    return (folder,)


def prepared(folder: Path, **changes: Any) -> Prepared:  # noqa: ANN401
    if "audio" not in changes:
        changes["audio"] = audio(folder / "audio", ("a", 1), ("b", 5))
    return prepare(options(folder / "out", **changes))


class TestLegs:
    def test_by_default(self) -> None:
        reference, candidate = plan_legs(options())
        assert (str(reference.name), reference.role, reference.required) == ("hf-cpu", "reference", True)
        assert (str(candidate.name), candidate.role, candidate.required) == ("vllm-cpu", "candidate", False)
        assert {reference.interpreter, candidate.interpreter} == {sys.executable}

    @pytest.mark.parametrize(
        ("changes", "leg"),
        [
            ({"candidates": ("vllm-cpu", "vllm-cpu")}, "vllm-cpu"),
            ({"candidates": ("hf-cpu",)}, "hf-cpu"),
            ({"candidates": ("vllm-cpu@a", "vllm-cuda", "vllm-cpu@a")}, "vllm-cpu@a"),
        ],
    )
    def test_the_same_leg_twice(self, changes: dict[str, Any], leg: str) -> None:
        with pytest.raises(InputError, match=f"leg {leg} is named twice; .* with a label: {leg}@LABEL"):
            plan_legs(options(**changes))

    def test_labels_tell_legs_apart(self) -> None:
        legs = plan_legs(options(candidates=("vllm-cpu@old", "vllm-cpu", "hf-cpu@latest")))
        assert [leg.name.identifier for leg in legs] == [
            "hf_cpu",
            "vllm_cpu@old",
            "vllm_cpu",
            "hf_cpu@latest",
        ]
        assert [leg.role for leg in legs] == ["reference", *["candidate"] * 3]

    def test_required_legs_are_candidates_too(self) -> None:
        legs = plan_legs(options(require=("vllm-cuda", "vllm-cpu", "hf-cpu")))
        assert [(str(leg.name), leg.role, leg.required) for leg in legs] == [
            ("hf-cpu", "reference", True),
            ("vllm-cpu", "candidate", True),
            ("vllm-cuda", "candidate", True),
        ]

    def test_a_required_leg_is_candidate_enough(self) -> None:
        legs = plan_legs(options(candidates=(), require=("vllm-cuda",)))
        assert [str(leg.name) for leg in legs] == ["hf-cpu", "vllm-cuda"]

    def test_required_twice_is_required(self) -> None:
        legs = plan_legs(options(require=("vllm-cuda", "vllm-cuda")))
        assert [str(leg.name) for leg in legs] == ["hf-cpu", "vllm-cpu", "vllm-cuda"]

    @pytest.mark.parametrize("require", [(), ("hf-cpu",)])
    def test_nothing_to_compare(self, require: tuple[str, ...]) -> None:
        with pytest.raises(InputError, match="nothing to compare: give at least one --candidate"):
            plan_legs(options(candidates=(), require=require))

    def test_one_leg_alone_is_for_capturing(self) -> None:
        (leg,) = plan_legs(options(candidates=(), reference="vllm-cuda"), single=True)
        assert (str(leg.name), leg.role, leg.required) == ("vllm-cuda", "reference", True)

    @pytest.mark.parametrize(
        "changes", [{"reference": "tgi-cpu"}, {"candidates": ("tgi-cpu",)}, {"require": ("tgi-cpu",)}]
    )
    def test_unknown_leg(self, changes: dict[str, Any]) -> None:
        with pytest.raises(InputError, match="there is no backend 'tgi-cpu'"):
            plan_legs(options(**changes))

    def test_interpreters_by_leg_and_by_backend(self, tmp_path: Path) -> None:
        for name in ("one", "two"):
            (tmp_path / name).write_text("#!/bin/sh\n", encoding="utf-8")
            (tmp_path / name).chmod(0o755)
        one, two = str(tmp_path / "one"), str(tmp_path / "two")
        legs = plan_legs(
            options(candidates=("vllm-cpu@old", "vllm-cpu"), python={"vllm-cpu": one, "vllm-cpu@old": two})
        )
        assert [leg.interpreter for leg in legs] == [sys.executable, two, one]
        legs = plan_legs(options(candidates=("vllm-cpu@old", "vllm-cpu@new"), python={"vllm-cpu": one}))
        assert [leg.interpreter for leg in legs] == [sys.executable, one, one]

    @pytest.mark.parametrize("key", ["vllm-cuda", "vllm-cpu@old", "vllm", "", "vllm-cpu "])
    def test_an_interpreter_for_no_leg(self, key: str) -> None:
        message = f"--python {key}=…: no such leg in this run, its legs are hf-cpu, vllm-cpu"
        with pytest.raises(InputError, match=re.escape(message)):
            plan_legs(options(python={key: sys.executable}))

    def test_an_interpreter_that_is_not_there(self) -> None:
        with pytest.raises(InputError, match="interpreter '/gone/python': no such program"):
            plan_legs(options(python={"vllm-cpu": "/gone/python"}))


class TestPlan:
    def test_ids_are_unique(self, tmp_path: Path) -> None:
        found = prepared(tmp_path, candidates=("vllm-cpu", "vllm-cuda", "hf-cpu@latest", "vllm-cpu@0.19.1"))
        ids = [check.id for check in found.plan]
        assert len(set(ids)) == len(ids)
        assert all(id_.startswith("glm_asr-") for id_ in ids)
        assert {check.pair for check in found.plan if check.kind == "parameter"} == {
            "vllm_cpu-vs-hf_cpu",
            "vllm_cuda-vs-hf_cpu",
            "hf_cpu@latest-vs-hf_cpu",
            "vllm_cpu@0.19.1-vs-hf_cpu",
        }

    def test_the_check_that_it_is_all_about(self, tmp_path: Path) -> None:
        assert "glm_asr-layers.0.k_proj.bias-vllm_cpu-vs-hf_cpu" in {c.id for c in prepared(tmp_path).plan}

    def test_every_parameter_and_every_probe_of_every_clip(self, tmp_path: Path) -> None:
        found = prepared(tmp_path)
        case, configs = found.scope.case, found.checkpoint.configs
        parameters = [check.subject for check in found.plan if check.kind == "parameter"]
        assert parameters == [*(parameter.name for parameter in case.parameters(configs)), UNMAPPED]
        probes = [probe.name for probe in case.probes(configs)]
        for clip in ("a", "b"):
            checks = [c for c in found.plan if c.clip == clip and c.kind in {"activation", "logits"}]
            assert [check.subject for check in checks] == probes
            assert [check.kind for check in checks] == ["activation"] * (len(probes) - 1) + ["logits"]
            assert {check.pair for check in checks} == {"vllm_cpu-vs-hf_cpu"}
            assert not any(check.unsupported for check in checks)

    def test_the_checks_of_each_leg(self, tmp_path: Path) -> None:
        found = prepared(tmp_path)
        assert [check.id for check in found.plan if check.kind == "leg"] == [
            "glm_asr-leg-hf_cpu",
            "glm_asr-leg-vllm_cpu",
        ]
        assert [check.id for check in found.plan if check.kind == "features"] == [
            f"glm_asr-{clip}-features.mel-{leg}-vs-librosa" for leg in ("hf_cpu", "vllm_cpu") for clip in "ab"
        ]

    def test_a_plan_of_the_embedded_clips(self, tmp_path: Path) -> None:
        found = prepare(options(tmp_path / "out"))
        assert len(found.entries) >= 12
        assert len({check.id for check in found.plan}) == len(found.plan)
        assert {check.clip for check in found.plan} == {None, *(clip.id for clip in found.entries)}

    def test_clip_ids_that_look_like_other_parts(self, tmp_path: Path) -> None:
        clips = audio(tmp_path / "odd", ("leg", 1), ("wer", 1), ("layers.0", 1), ("hf_cpu-vs-librosa", 1))
        found = prepared(tmp_path, audio=clips)
        assert len({check.id for check in found.plan}) == len(found.plan)


class TestRates:
    def rates(self, found: Prepared) -> dict[str, str | None]:
        return {check.subject: check.unsupported for check in found.plan if check.kind == "transcript"}

    def trained(self, folder: Path) -> str:
        built = prepare(options(folder / "build", audio=audio(folder / "audio", ("a", 1))))
        (built.checkpoint.folder / RANDOM_MARK).unlink()
        return str(built.checkpoint.folder)

    def test_of_random_weights_are_not_gated(self, tmp_path: Path) -> None:
        assert self.rates(prepared(tmp_path)) == dict.fromkeys(RATES, UNTRAINED)

    def test_of_a_folder_are_gated(self, tmp_path: Path) -> None:
        found = prepared(tmp_path, checkpoint=self.trained(tmp_path))
        assert self.rates(found) == dict.fromkeys(RATES)

    def test_without_transcripts(self, tmp_path: Path) -> None:
        clips = audio(tmp_path / "silent", ("a", 1), words=False)
        found = prepared(tmp_path, checkpoint=self.trained(tmp_path), audio=clips)
        # One leg against the other needs no truth.
        assert self.rates(found) == {
            **dict.fromkeys(("wer", "cer"), "no clip has a transcript to measure against"),
            **dict.fromkeys(("wer.between", "cer.between")),
        }

    def test_transcripts_of_unsupported_clips_do_not_count(self, tmp_path: Path) -> None:
        clips = (
            *audio(tmp_path / "no-words", ("a", 1), words=False),
            *audio(tmp_path / "words", ("short", 0.01)),
        )
        found = prepared(tmp_path, checkpoint=self.trained(tmp_path), audio=clips)
        # One leg against the other needs no truth.
        assert self.rates(found) == {
            **dict.fromkeys(("wer", "cer"), "no clip has a transcript to measure against"),
            **dict.fromkeys(("wer.between", "cer.between")),
        }

    def test_no_clip_that_can_run(self, tmp_path: Path) -> None:
        clips = audio(tmp_path / "words", ("short", 0.01))
        found = prepared(tmp_path, checkpoint=self.trained(tmp_path), audio=clips)
        assert list(self.rates(found)) == list(RATES)
        assert None not in self.rates(found).values()


class TestUnsupported:
    def test_clips_that_the_model_cannot_take(self, tmp_path: Path) -> None:
        clips = audio(tmp_path / "audio", ("short", 0.05), ("good", 1), ("long", 21))
        found = prepared(tmp_path, audio=clips)
        reasons = {entry.id: entry.unsupported for entry in found.entries}
        assert reasons["good"] is None
        assert (reasons["short"] or "").startswith("too short: 0.050 s")
        assert (reasons["long"] or "").startswith("too long: 21.0 s")
        for check in found.plan:
            if check.clip is not None:
                assert check.unsupported == reasons[check.clip]
        assert {check.clip for check in found.plan} == {None, "short", "good", "long"}

    def test_the_length_of_the_transcript_counts(self, tmp_path: Path) -> None:
        clips = audio(tmp_path / "audio", ("a", 4))
        assert prepared(tmp_path, audio=clips, max_new_tokens=800).entries[0].unsupported is None
        reason = prepared(tmp_path, audio=clips, max_new_tokens=1000).entries[0].unsupported
        assert (reason or "").startswith("too long: needs ")


class TestPrepare:
    def test_entries_are_the_clips(self, tmp_path: Path) -> None:
        found = prepared(tmp_path)
        assert [(e.id, e.sha256, e.samples) for e in found.entries] == [
            (clip.id, clip.sha256, clip.samples.size) for clip in found.clips
        ]
        assert {(entry.transcript, entry.language) for entry in found.entries} == {("hello world", "en")}

    def test_length_of_the_transcripts(self, tmp_path: Path) -> None:
        random = prepared(tmp_path)
        assert random.max_new_tokens == UNTRAINED_TOKENS
        folder = random.checkpoint.folder
        assert prepared(tmp_path, checkpoint=str(folder)).max_new_tokens == UNTRAINED_TOKENS
        (folder / RANDOM_MARK).unlink()
        assert prepared(tmp_path, checkpoint=str(folder)).max_new_tokens == TRAINED_TOKENS
        assert prepared(tmp_path, max_new_tokens=3).max_new_tokens == 3

    def test_only_a_random_checkpoint_is_written(self, tmp_path: Path) -> None:
        found = prepared(tmp_path)
        out = tmp_path / "out"
        assert [path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_dir()] == [
            "work",
            "work/checkpoint",
        ]
        prepare(options(tmp_path / "other", checkpoint=str(found.checkpoint.folder)))
        assert not (tmp_path / "other").exists()

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"case": "whisper"}, "no case 'whisper'"),
            ({"candidates": ("tgi-cpu",)}, "no backend 'tgi-cpu'"),
            ({"audio": (Path("/gone.wav"),)}, "/gone.wav: no such file"),
            ({"checkpoint": "random:layers=2"}, "unknown setting 'layers'"),
            ({"checkpoint": "random:encoder_heads=3"}, "must be a multiple of"),
            ({"checkpoint": "/gone"}, "expected a folder with config.json"),
            ({"tolerances": Path("/gone.toml")}, "/gone.toml"),
        ],
    )
    def test_bad_input_leaves_nothing(self, tmp_path: Path, changes: dict[str, Any], said: str) -> None:
        clips = audio(tmp_path / "audio", ("a", 1))
        with pytest.raises(InputError, match=re.escape(said)):
            prepare(options(tmp_path / "out", **{"audio": clips, **changes}))
        assert not (tmp_path / "out").exists()

    def test_quantised_weights_are_for_the_audit(self, tmp_path: Path) -> None:
        """Their values are not the reference's: a run could only call that a regression."""
        folder = prepared(tmp_path).checkpoint.folder
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        config["quantization_config"] = {"quant_method": "compressed-tensors"}
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
        with pytest.raises(InputError, match=r"is quantised .*'harness audit' takes it"):
            prepare(options(tmp_path / "other", checkpoint=str(folder)))
        assert not (tmp_path / "other").exists()


class TestTolerances:
    """A rule that is missing is said before legs are captured that nothing could judge."""

    def refused(self, folder: Path, old: str, new: str, **changes: Any) -> str:  # noqa: ANN401
        shipped = (resources.files("harness") / "tolerances.toml").read_text(encoding="utf-8")
        assert old in shipped
        (folder / "own.toml").write_text(shipped.replace(old, new), encoding="utf-8")
        with pytest.raises(InputError) as caught:
            prepared(folder, tolerances=folder / "own.toml", **changes)
        return str(caught.value)

    def test_no_rule_for_a_probe(self, tmp_path: Path) -> None:
        said = self.refused(tmp_path, 'probes = "*"', 'probes = "encoder.*"')
        assert said.startswith("the tolerances have no rule for probe ")

    @pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
    def test_no_rule_at_the_dtype(self, tmp_path: Path, dtype: str) -> None:
        other = {"float32": "float16"}.get(dtype, "float32")
        said = self.refused(tmp_path, f'dtype = "{dtype}"', f'dtype = "{other}"', dtype=dtype)
        assert re.match(rf"the tolerances have no rule for probe \S+ at {dtype}; add one", said)

    def test_other_dtypes_need_none(self, tmp_path: Path) -> None:
        shipped = (resources.files("harness") / "tolerances.toml").read_text(encoding="utf-8")
        text = shipped.replace('dtype = "float16"', 'dtype = "bfloat16"')
        (tmp_path / "own.toml").write_text(text, encoding="utf-8")
        assert prepared(tmp_path, tolerances=tmp_path / "own.toml", dtype="bfloat16").plan
