"""WER and CER: counted as jiwer counts, gated only where transcripts mean something."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jiwer
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.compare.plan import UNTRAINED
from harness.compare.transcripts import Unit, align, score_leg
from harness.trace import Trace, TraceWriter
from harness.trace.schema import TranscriptRecord
from tests.synthetic import CLIPS, compared, make_clip, write_trace

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from harness.compare.result import AlignmentChunk, CheckResult, LegTranscripts
    from harness.trace.schema import ClipEntry, DType

WORDS = st.lists(st.sampled_from(["a", "b", "ab", "ba", "über", "你", "x1"]), max_size=8)
UNITS: tuple[Unit, ...] = ("words", "characters")


def units(text: str, unit: Unit) -> list[str]:
    return text.split() if unit == "words" else list(text.replace(" ", ""))


def edits(reference: Sequence[str], hypothesis: Sequence[str]) -> int:
    """The least number of edits, by the textbook."""
    row = list(range(len(hypothesis) + 1))
    for index, wanted in enumerate(reference, start=1):
        above, row = row, [index]
        for at, found in enumerate(hypothesis):
            row.append(min(above[at] + (wanted != found), above[at + 1] + 1, row[at] + 1))
    return row[-1]


class TestAlign:
    @pytest.mark.parametrize("unit", UNITS)
    @given(reference=WORDS, hypothesis=WORDS)
    def test_counts(self, unit: Unit, reference: list[str], hypothesis: list[str]) -> None:
        truth, said = " ".join(reference), " ".join(hypothesis)
        rate, _ = align(truth, said, unit=unit)
        wanted, found = units(truth, unit), units(said, unit)
        assert rate.errors == edits(wanted, found)
        assert rate.length == len(wanted)
        assert rate.hits + rate.substitutions + rate.insertions == len(found)
        if not wanted:
            assert rate.rate is None
        elif unit == "words":
            assert rate.rate == pytest.approx(jiwer.wer(truth, said))
        else:
            assert rate.rate == pytest.approx(jiwer.cer("".join(reference), "".join(hypothesis)))

    @pytest.mark.parametrize("unit", UNITS)
    @given(reference=WORDS, hypothesis=WORDS)
    def test_alignment_covers_all(self, unit: Unit, reference: list[str], hypothesis: list[str]) -> None:
        truth, said = " ".join(reference), " ".join(hypothesis)
        rate, chunks = align(truth, said, unit=unit)
        wanted, found = units(truth, unit), units(said, unit)
        for side, length in (("reference", len(wanted)), ("hypothesis", len(found))):
            ends = [getattr(chunk, side) for chunk in chunks]
            assert [start for start, _ in ends] == ([0, *(stop for _, stop in ends[:-1])] if ends else [])
            assert (ends[-1][1] if ends else 0) == length
        counts = dict.fromkeys(("equal", "substitute", "delete", "insert"), 0)
        for chunk in chunks:
            (a, b), (c, d) = chunk.reference, chunk.hypothesis
            counts[chunk.type] += max(b - a, d - c)
            assert (wanted[a:b] == found[c:d]) == (chunk.type == "equal")
        assert counts == {
            "equal": rate.hits,
            "substitute": rate.substitutions,
            "delete": rate.deletions,
            "insert": rate.insertions,
        }

    def test_empty_reference(self) -> None:
        rate, chunks = align("", "thank you", unit="words")
        assert (rate.insertions, rate.errors, rate.length, rate.rate) == (2, 2, 0, None)
        assert [spans(chunk) for chunk in chunks] == [("insert", (0, 0), (0, 2))]

    def test_empty_hypothesis(self) -> None:
        rate, chunks = align("the cat sat", "", unit="words")
        assert (rate.deletions, rate.errors, rate.length, rate.rate) == (3, 3, 3, 1.0)
        assert [spans(chunk) for chunk in chunks] == [("delete", (0, 3), (0, 0))]

    @pytest.mark.parametrize("unit", UNITS)
    def test_both_empty(self, unit: Unit) -> None:
        rate, chunks = align("", "", unit=unit)
        assert (rate.errors, rate.length, rate.rate, chunks) == (0, 0, None, ())

    def test_example(self) -> None:
        rate, chunks = align("one two three four five", "one too four five six", unit="words")
        assert (rate.hits, rate.substitutions, rate.deletions, rate.insertions) == (3, 1, 1, 1)
        assert rate.rate == pytest.approx(3 / 5)
        assert [chunk.type for chunk in chunks][-2:] == ["equal", "insert"]
        assert spans(chunks[-1]) == ("insert", (5, 5), (4, 5))

    def test_spaces_are_no_characters(self) -> None:
        assert align("ab c", "a bc", unit="characters")[0].errors == 0


def spans(chunk: AlignmentChunk) -> tuple[str, tuple[int, int], tuple[int, int]]:
    return chunk.type, chunk.reference, chunk.hypothesis


def scored(
    folder: Path, said: Mapping[str, str | None], clips: Sequence[ClipEntry] = CLIPS
) -> LegTranscripts:
    return score_leg(write_trace(folder / "a", trained=True, clips=clips, said=said))


class TestOneLeg:
    def test_truth(self, tmp_path: Path) -> None:
        found = scored(tmp_path, {})
        assert (found.wer, found.cer) == (0.0, 0.0)
        assert [clip.id for clip in found.clips] == ["cat", "dog", "zh"]

    def test_rates_are_over_all_clips_together(self, tmp_path: Path) -> None:
        found = scored(tmp_path, {"cat": "the cat sat on the hat", "dog": "my dog"})
        assert found.wer == pytest.approx(2 / 9)
        assert found.cer == pytest.approx(4 / (17 + 8 + 4))
        cat, dog, _ = found.clips
        assert cat.wer == pytest.approx(1 / 6)
        assert dog.wer == pytest.approx(1 / 3)
        assert dog.words is not None
        assert (dog.words.hits, dog.words.deletions) == (2, 1)

    def test_case_and_punctuation_do_not_count(self, tmp_path: Path) -> None:
        found = scored(tmp_path, {"cat": "The cat sat, on the mat!", "zh": "你 好 世 界。"})
        assert (found.wer, found.cer) == (0.0, 0.0)
        assert found.clips[0].hypothesis == "The cat sat, on the mat!"
        assert found.clips[0].hypothesis_normalised == "the cat sat on the mat"
        assert found.clips[2].hypothesis_normalised == "你好世界"

    def test_chinese_counts_in_cer_only(self, tmp_path: Path) -> None:
        found = scored(tmp_path, {"zh": "你好"})
        zh = found.clips[2]
        assert (zh.wer, zh.words, zh.cer) == (None, None, 0.5)
        assert [spans(chunk) for chunk in zh.alignment] == [
            ("equal", (0, 2), (0, 2)),
            ("delete", (2, 4), (2, 2)),
        ]
        assert found.wer == 0.0
        assert found.cer == pytest.approx(2 / (17 + 8 + 4))

    def test_only_chinese_has_no_wer(self, tmp_path: Path) -> None:
        found = scored(tmp_path, {}, CLIPS[2:])
        assert (found.wer, found.cer) == (None, 0.0)

    def test_clip_without_truth(self, tmp_path: Path) -> None:
        found = scored(tmp_path, {"own": "whatever it says"}, (*CLIPS, make_clip("own")))
        own = found.clips[3]
        assert (own.reference, own.reference_normalised, own.wer, own.cer) == (None, None, None, None)
        assert (own.words, own.characters, own.alignment) == (None, None, ())
        assert (own.hypothesis, own.token_ids) == ("whatever it says", tuple(b"whatever it says"))
        assert (found.wer, found.cer) == (0.0, 0.0)

    def test_truth_of_which_nothing_is_left(self, tmp_path: Path) -> None:
        """Something said where the truth is silence counts as errors, and makes no rate of its own."""
        found = scored(tmp_path, {"hush": "thank you"}, (*CLIPS, make_clip("hush", "[music]")))
        assert (found.clips[3].wer, found.clips[3].cer) == (None, None)
        assert found.wer == pytest.approx(2 / 9)

    def test_clip_that_was_not_transcribed(self, tmp_path: Path) -> None:
        found = scored(tmp_path, {"cat": None})
        assert [clip.id for clip in found.clips] == ["dog", "zh"]

    def test_refusal_of_the_stack(self, tmp_path: Path) -> None:
        whole = write_trace(tmp_path / "whole")
        with TraceWriter.create(tmp_path / "refused") as writer:
            writer.add_transcript(TranscriptRecord(clip="cat", error="too much"))
            writer.finish(whole.manifest)
        (cat,) = score_leg(Trace(tmp_path / "refused")).clips
        assert (cat.error, cat.hypothesis, cat.wer, cat.cer) == ("too much", "", 1.0, 1.0)


#: One word of 300 is 0.33 %: less than float32 allows, and two are more.
LONG = (make_clip("long", " ".join(["cat"] * 300)), make_clip("zh", "好" * 300, language="zh"))


def heard(wrong: int, *, language: str = "en") -> str:
    return (
        "".join(["坏"] * wrong + ["好"] * (300 - wrong))
        if language == "zh"
        else " ".join(["dog"] * wrong + ["cat"] * (300 - wrong))
    )


def rates(
    folder: Path,
    *,
    candidate: Mapping[str, str | None] | None = None,
    reference: Mapping[str, str | None] | None = None,
    clips: Sequence[ClipEntry] = CLIPS,
    trained: bool = True,
    **settings: Any,  # noqa: ANN401
) -> tuple[CheckResult, CheckResult]:
    """Compare what two legs heard: the checks of WER and of CER."""
    results = compared(
        write_trace(folder / "c", leg="vllm-cpu", clips=clips, said=candidate, trained=trained, **settings),
        write_trace(folder / "r", leg="hf-cpu", clips=clips, said=reference, trained=trained),
    )
    return results["wer"], results["cer"]


class TestTrained:
    def test_equal(self, tmp_path: Path) -> None:
        wer, cer = rates(tmp_path)
        assert (wer.status, wer.measured, wer.allowed, wer.metric) == ("pass", 0, 0.005, "change")
        assert wer.message == "WER 0.00% on vllm-cpu, 0.00% on hf-cpu; tokens equal in 3 of 3 clips"
        assert cer.message == "CER 0.00% on vllm-cpu, 0.00% on hf-cpu; tokens equal in 3 of 3 clips"

    def test_equally_wrong(self, tmp_path: Path) -> None:
        said = {"cat": "a hat", "dog": "a log"}
        wer, cer = rates(tmp_path, candidate=said, reference=said)
        assert (wer.status, cer.status) == ("pass", "pass")

    def test_within_the_tolerance(self, tmp_path: Path) -> None:
        wer, _ = rates(tmp_path, clips=LONG, candidate={"long": heard(1)})
        assert wer.status == "pass"
        assert wer.measured == pytest.approx(1 / 300)
        assert "WER 0.33% on vllm-cpu, 0.00% on hf-cpu; tokens equal in 1 of 2 clips" in wer.message

    def test_over_the_tolerance(self, tmp_path: Path) -> None:
        wer, cer = rates(tmp_path, clips=LONG, candidate={"long": heard(2)})
        assert (wer.status, cer.status) == ("fail", "pass")
        assert wer.measured == pytest.approx(2 / 300)
        assert wer.message == (
            "WER 0.67% on vllm-cpu, 0.00% on hf-cpu; tokens equal in 1 of 2 clips; allowed change 0.50%"
        )

    def test_a_leg_that_got_better_has_changed_too(self, tmp_path: Path) -> None:
        wer, _ = rates(tmp_path, clips=LONG, reference={"long": heard(3)})
        assert wer.status == "fail"
        assert "WER 0.00% on vllm-cpu, 1.00% on hf-cpu" in wer.message

    def test_chinese_moves_cer_only(self, tmp_path: Path) -> None:
        wer, cer = rates(tmp_path, clips=LONG, candidate={"zh": heard(30, language="zh")})
        assert (wer.status, cer.status) == ("pass", "fail")
        assert cer.measured == pytest.approx(30 / 1200)

    @pytest.mark.parametrize(
        ("dtype", "status"), [("bfloat16", "pass"), ("float16", "pass"), ("float32", "fail")]
    )
    def test_coarser_dtype_of_both_sets_the_tolerance(
        self, tmp_path: Path, dtype: DType, status: str
    ) -> None:
        wer, _ = rates(tmp_path, clips=LONG, candidate={"long": heard(2)}, dtype=dtype)
        assert wer.status == status
        assert wer.allowed == (0.005 if dtype == "float32" else 0.01)

    @pytest.mark.parametrize("leg", ["vllm-cpu", "hf-cpu"])
    def test_transcribed_by_one_leg_only(self, tmp_path: Path, leg: str) -> None:
        lacking: dict[str, str | None] = {"dog": None}
        candidate, reference = (lacking, None) if leg == "vllm-cpu" else (None, lacking)
        found = rates(tmp_path, candidate=candidate, reference=reference)
        for result in found:
            assert (result.status, result.measured) == ("missing", None)
            assert result.message == f"dog was not transcribed on {leg}"

    def test_transcribed_by_neither(self, tmp_path: Path) -> None:
        """Both legs lost the same clip: what is left agrees, and is not all that was planned."""
        for result in rates(tmp_path, candidate={"dog": None}, reference={"dog": None}):
            assert result.status == "missing"
            assert result.message == "dog was not transcribed on vllm-cpu and hf-cpu"

    def test_nothing_transcribed(self, tmp_path: Path) -> None:
        nothing = dict.fromkeys(("cat", "dog", "zh"))
        for result in rates(tmp_path, candidate=nothing):
            assert result.status == "missing"
            assert result.message == "cat was not transcribed on vllm-cpu"

    def test_no_truth(self, tmp_path: Path) -> None:
        for result in rates(tmp_path, clips=(make_clip("a"), make_clip("b")), candidate={"a": "anything"}):
            assert result.status == "unsupported"
            assert result.message == "no clip has a transcript to measure against"

    def test_truth_of_which_nothing_is_left(self, tmp_path: Path) -> None:
        wer, cer = rates(tmp_path, clips=(make_clip("hush", "[music]"),))
        assert wer.status == cer.status == "missing"
        assert wer.message == "no WER: nothing is left of the truth once it is normalised"

    def test_truth_of_a_clip_that_cannot_run_is_none(self, tmp_path: Path) -> None:
        clips = (make_clip("a"), make_clip("long", "some words", unsupported="too long"))
        for result in rates(tmp_path, clips=clips):
            assert result.status == "unsupported"
            assert result.message == "no clip has a transcript to measure against"

    def test_unsupported_clip_is_not_missing(self, tmp_path: Path) -> None:
        for result in rates(tmp_path, clips=(*CLIPS, make_clip("long", "words", unsupported="too long"))):
            assert result.status == "pass"

    def test_clips_that_are_scored_by_character_alone(self, tmp_path: Path) -> None:
        wer, cer = rates(tmp_path, clips=CLIPS[2:])
        assert wer.status == "unsupported"
        assert wer.message == "no clip with a transcript is in a language that is scored by word"
        assert cer.status == "pass"


class TestUntrained:
    def test_reported_and_not_gated(self, tmp_path: Path) -> None:
        wer, cer = rates(tmp_path, trained=False, candidate={"cat": "entirely different"})
        assert (wer.status, cer.status) == ("unsupported", "unsupported")
        assert wer.message == (
            f"WER 66.67% on vllm-cpu, 0.00% on hf-cpu; tokens equal in 2 of 3 clips; {UNTRAINED}"
        )
        assert wer.measured == pytest.approx(6 / 9)
        assert wer.allowed is None
        assert cer.message.startswith("CER ")

    def test_without_truth(self, tmp_path: Path) -> None:
        wer, _ = rates(tmp_path, trained=False, clips=(make_clip("a"),))
        assert (wer.status, wer.message) == ("unsupported", UNTRAINED)
