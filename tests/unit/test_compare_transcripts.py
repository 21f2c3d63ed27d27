"""WER and CER: counted as jiwer counts, gated only where transcripts mean something."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jiwer
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.compare.plan import RATES, UNTRAINED
from harness.compare.transcripts import Unit, align, score_between, score_leg
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
        assert zh.word_alignment == ()
        assert [spans(chunk) for chunk in zh.character_alignment] == [
            ("equal", (0, 2), (0, 2)),
            ("delete", (2, 4), (2, 2)),
        ]
        assert found.wer == 0.0
        assert found.cer == pytest.approx(2 / (17 + 8 + 4))

    def test_a_language_with_words_keeps_both_alignments(self, tmp_path: Path) -> None:
        dog = scored(tmp_path, {"dog": "my dog sat"}).clips[1]
        assert [spans(chunk) for chunk in dog.word_alignment] == [
            ("equal", (0, 2), (0, 2)),
            ("substitute", (2, 3), (2, 3)),
        ]
        assert [spans(chunk) for chunk in dog.character_alignment] == [
            ("equal", (0, 5), (0, 5)),
            ("substitute", (5, 6), (5, 6)),
            ("equal", (6, 7), (6, 7)),
            ("substitute", (7, 8), (7, 8)),
        ]

    def test_only_chinese_has_no_wer(self, tmp_path: Path) -> None:
        found = scored(tmp_path, {}, CLIPS[2:])
        assert (found.wer, found.cer) == (None, 0.0)

    def test_clip_without_truth(self, tmp_path: Path) -> None:
        found = scored(tmp_path, {"own": "whatever it says"}, (*CLIPS, make_clip("own")))
        own = found.clips[3]
        assert (own.reference, own.reference_normalised, own.wer, own.cer) == (None, None, None, None)
        assert (own.words, own.characters) == (None, None)
        assert own.word_alignment == own.character_alignment == ()
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
    """Compare what two legs heard: the checks of WER and of CER against the truth."""
    found = all_rates(
        folder, candidate=candidate, reference=reference, clips=clips, trained=trained, **settings
    )
    return found["wer"], found["cer"]


def all_rates(
    folder: Path,
    *,
    candidate: Mapping[str, str | None] | None = None,
    reference: Mapping[str, str | None] | None = None,
    clips: Sequence[ClipEntry] = CLIPS,
    trained: bool = True,
    **settings: Any,  # noqa: ANN401
) -> dict[str, CheckResult]:
    """Compare what two legs heard: all checks of rates."""
    results = compared(
        write_trace(folder / "c", leg="vllm-cpu", clips=clips, said=candidate, trained=trained, **settings),
        write_trace(folder / "r", leg="hf-cpu", clips=clips, said=reference, trained=trained),
    )
    return {rate: results[rate] for rate in RATES}


class TestTrained:
    def test_equal(self, tmp_path: Path) -> None:
        wer, cer = rates(tmp_path)
        assert (wer.status, wer.measured, wer.allowed, wer.metric) == ("pass", 0, 0.005, "change")
        assert wer.message == "WER 0.00% on vllm-cpu, 0.00% on hf-cpu; tokens equal in 3 of 3 clips"
        assert cer.message == "CER 0.00% on vllm-cpu, 0.00% on hf-cpu"

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


class TestBetween:
    """One leg's transcripts against the other's: no truth is needed, and nothing cancels."""

    def test_equal(self, tmp_path: Path) -> None:
        found = all_rates(tmp_path)
        wer, cer = found["wer.between"], found["cer.between"]
        assert (wer.status, wer.measured, wer.allowed, wer.metric) == ("pass", 0, 0.01, "rate")
        assert wer.message == "WER 0.00% of vllm-cpu against hf-cpu"
        assert cer.message == "CER 0.00% of vllm-cpu against hf-cpu"

    def test_opposite_changes_do_not_cancel(self, tmp_path: Path) -> None:
        found = all_rates(tmp_path, candidate={"cat": "the cat sat on the"}, reference={"dog": "my dog"})
        # A word too few on either leg, in another clip each: no change against the truth.
        assert (found["wer"].status, found["wer"].measured) == ("pass", 0)
        wer = found["wer.between"]
        assert wer.status == "fail"
        assert wer.measured == pytest.approx(2 / 8)
        assert wer.message == "WER 25.00% of vllm-cpu against hf-cpu; allowed rate 1.00%"
        assert found["cer.between"].status == "fail"

    def test_equally_wrong(self, tmp_path: Path) -> None:
        said = {"cat": "a hat", "dog": "a log"}
        found = all_rates(tmp_path, candidate=said, reference=said)
        assert {(result.status, result.measured) for result in found.values()} == {("pass", 0)}

    def test_without_truth(self, tmp_path: Path) -> None:
        clips = (make_clip("a"), make_clip("b"))
        said = {"a": "some words", "b": "and more"}
        good = all_rates(tmp_path / "good", clips=clips, candidate=said, reference=said)
        assert [result.status for result in good.values()] == ["unsupported"] * 2 + ["pass"] * 2
        wrong = all_rates(tmp_path / "wrong", clips=clips, candidate=said, reference={**said, "b": "no more"})
        assert wrong["wer.between"].status == wrong["cer.between"].status == "fail"
        assert wrong["wer.between"].measured == pytest.approx(1 / 4)

    def test_reference_legs_words_are_the_length(self, tmp_path: Path) -> None:
        found = all_rates(
            tmp_path, clips=CLIPS[1:2], candidate={"dog": "my dog ran far away"}, reference={"dog": "my dog"}
        )
        assert found["wer.between"].measured == pytest.approx(3 / 2)

    @pytest.mark.parametrize(
        ("wrong", "dtype", "status"),
        [
            (3, "float32", "pass"),
            (4, "float32", "fail"),
            (15, "bfloat16", "pass"),
            (16, "bfloat16", "fail"),
            (15, "float16", "pass"),
        ],
    )
    def test_tolerance_is_that_of_the_coarser_dtype(
        self, tmp_path: Path, wrong: int, dtype: DType, status: str
    ) -> None:
        found = all_rates(tmp_path, clips=LONG, candidate={"long": heard(wrong)}, dtype=dtype)["wer.between"]
        assert (found.status, found.allowed) == (status, 0.01 if dtype == "float32" else 0.05)
        assert found.measured == pytest.approx(wrong / 300)

    def test_two_silent_legs_do_not_differ(self, tmp_path: Path) -> None:
        silent = dict.fromkeys(("cat", "dog", "zh"), "")
        found = all_rates(tmp_path, candidate=silent, reference={**silent, "dog": "[noise]"})
        for rate in ("wer.between", "cer.between"):
            assert (found[rate].status, found[rate].measured) == ("pass", 0)
        # Against the truth both are wrong alike.
        assert (found["wer"].status, found["wer"].measured) == ("pass", 0)

    @pytest.mark.parametrize("silent", ["candidate", "reference"])
    def test_one_silent_leg_is_never_green(self, tmp_path: Path, silent: str) -> None:
        candidate, reference = ("", "words") if silent == "candidate" else ("words", "")
        found = all_rates(
            tmp_path, clips=(make_clip("a"),), candidate={"a": candidate}, reference={"a": reference}
        )
        for rate in ("wer.between", "cer.between"):
            assert (found[rate].status, found[rate].measured) == ("fail", 1)

    def test_clips_that_are_scored_by_character_alone(self, tmp_path: Path) -> None:
        found = all_rates(tmp_path, clips=CLIPS[2:], candidate={"zh": "你好"})
        assert (found["wer.between"].status, found["wer.between"].measured) == ("unsupported", None)
        assert (found["cer.between"].status, found["cer.between"].measured) == ("fail", 0.5)

    @pytest.mark.parametrize("leg", ["vllm-cpu", "hf-cpu"])
    def test_transcribed_by_one_leg_only(self, tmp_path: Path, leg: str) -> None:
        lacking: dict[str, str | None] = {"dog": None}
        candidate, reference = (lacking, None) if leg == "vllm-cpu" else (None, lacking)
        for result in all_rates(tmp_path, candidate=candidate, reference=reference).values():
            assert (result.status, result.message) == ("missing", f"dog was not transcribed on {leg}")

    def test_what_was_heard_is_set_against_what_was_heard(self, tmp_path: Path) -> None:
        candidate = write_trace(tmp_path / "c", leg="vllm-cpu", said={"dog": "My dog, ran.", "zh": "你好"})
        reference = write_trace(tmp_path / "r", said={"dog": "my hog ran", "cat": None})
        found = score_between(candidate, reference)
        cat, dog, zh = found.clips
        # One that the reference leg did not transcribe has nothing to be set against.
        assert (cat.reference, cat.wer, cat.cer) == (None, None, None)
        assert (dog.reference, dog.hypothesis) == ("my hog ran", "My dog, ran.")
        assert (dog.reference_normalised, dog.hypothesis_normalised) == ("my hog ran", "my dog ran")
        assert dog.wer == pytest.approx(1 / 3)
        assert dog.cer == pytest.approx(1 / 8)
        assert dog.word_alignment
        assert dog.character_alignment
        assert (zh.wer, zh.cer) == (None, 0.5)
        assert found.wer == pytest.approx(1 / 3)
        assert found.cer == pytest.approx(3 / 12)


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

    def test_between_is_reported_and_not_gated(self, tmp_path: Path) -> None:
        found = all_rates(tmp_path, trained=False, candidate={"cat": "entirely different"})["wer.between"]
        assert (found.status, found.metric, found.allowed) == ("unsupported", "rate", None)
        assert found.measured == pytest.approx(6 / 9)
        assert found.message == f"WER 66.67% of vllm-cpu against hf-cpu; {UNTRAINED}"

    def test_without_truth(self, tmp_path: Path) -> None:
        wer, _ = rates(tmp_path, trained=False, clips=(make_clip("a"),))
        assert (wer.status, wer.message) == ("unsupported", UNTRAINED)
