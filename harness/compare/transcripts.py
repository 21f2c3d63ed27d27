"""Transcripts: WER and CER of each leg against the truth, and of one leg against the other."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

from harness.compare.activations import coarser_dtype
from harness.compare.normalise import is_unspaced, normalise
from harness.compare.result import AlignmentChunk, ClipTranscript, ErrorRate, LegTranscripts

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from harness.compare.plan import PlannedCheck
    from harness.compare.result import CheckResult, Status
    from harness.compare.tolerance import Tolerances
    from harness.trace import Trace
    from harness.trace.schema import ClipEntry, TranscriptRecord

Unit = Literal["words", "characters"]


def align(reference: str, hypothesis: str, *, unit: Unit) -> tuple[ErrorRate, tuple[AlignmentChunk, ...]]:
    """Align two normalised texts by word or by character, spaces apart, with jiwer.

    An empty reference, which jiwer refuses, makes everything said an insertion.
    """
    import jiwer

    truth, said = (
        (reference.split(), hypothesis.split())
        if unit == "words"
        else (list(reference.replace(" ", "")), list(hypothesis.replace(" ", "")))
    )
    if not truth:
        rate = ErrorRate(hits=0, substitutions=0, deletions=0, insertions=len(said))
        chunk = AlignmentChunk(type="insert", reference=(0, 0), hypothesis=(0, len(said)))
        return rate, (chunk,) if said else ()
    output = jiwer.process_words(" ".join(truth), " ".join(said))
    rate = ErrorRate(
        hits=output.hits,
        substitutions=output.substitutions,
        deletions=output.deletions,
        insertions=output.insertions,
    )
    return rate, tuple(
        AlignmentChunk(
            type=chunk.type,
            reference=(chunk.ref_start_idx, chunk.ref_end_idx),
            hypothesis=(chunk.hyp_start_idx, chunk.hyp_end_idx),
        )
        for chunk in output.alignments[0]
    )


@lru_cache(maxsize=32)
def score_leg(trace: Trace) -> LegTranscripts:
    """Score a leg against the truth; a clip in Chinese or Japanese counts in CER only.

    Remembered for each open trace, since its pairs and the report ask for it again.
    """
    return _score({clip.id: clip.transcript for clip in trace.manifest.clips}, trace)


@lru_cache(maxsize=32)
def score_between(candidate: Trace, reference: Trace) -> LegTranscripts:
    """Score what the candidate leg heard against what the reference leg heard."""
    return _score({clip: record.text for clip, record in reference.transcripts.items()}, candidate)


def _score(truths: Mapping[str, str | None], trace: Trace) -> LegTranscripts:
    clips = tuple(
        _score_clip(clip, truths.get(clip.id), trace.transcripts[clip.id])
        for clip in trace.manifest.clips
        if clip.id in trace.transcripts
    )
    return LegTranscripts(
        wer=_rate(clip.words for clip in clips), cer=_rate(clip.characters for clip in clips), clips=clips
    )


def _score_clip(clip: ClipEntry, reference: str | None, record: TranscriptRecord) -> ClipTranscript:
    truth = None if reference is None else normalise(reference, language=clip.language)
    said = normalise(record.text, language=clip.language)
    words = characters = None
    by_word: tuple[AlignmentChunk, ...] = ()
    by_character: tuple[AlignmentChunk, ...] = ()
    if truth is not None:
        characters, by_character = align(truth, said, unit="characters")
        if not is_unspaced(clip.language):
            words, by_word = align(truth, said, unit="words")
    return ClipTranscript(
        id=clip.id,
        language=clip.language,
        reference=reference,
        hypothesis=record.text,
        reference_normalised=truth,
        hypothesis_normalised=said,
        wer=words.rate if words else None,
        cer=characters.rate if characters else None,
        words=words,
        characters=characters,
        word_alignment=by_word,
        character_alignment=by_character,
        token_ids=record.token_ids,
    )


def _rate(counts: Iterable[ErrorRate | None]) -> float | None:
    known = [count for count in counts if count is not None]
    length = sum(count.length for count in known)
    return sum(count.errors for count in known) / length if length else None


@dataclass(frozen=True, kw_only=True)
class _Measured:
    """A rate of a pair: ``value`` is what is bounded, ``None`` where there is nothing to measure."""

    value: float | None
    metric: str
    text: str


def compare_transcripts(
    checks: Sequence[PlannedCheck], *, candidate: Trace, reference: Trace, tolerances: Tolerances
) -> list[CheckResult]:
    """Judge the change of WER and CER between the legs, and the rates of one leg against the other."""
    dtype = coarser_dtype(candidate.manifest.dtype, reference.manifest.dtype)
    measured = _measure(candidate, reference)
    same = sum(
        record.token_ids == reference.transcripts[clip].token_ids
        for clip, record in candidate.transcripts.items()
        if clip in reference.transcripts
    )
    equal = f"; tokens equal in {same} of {len(candidate.transcripts)} clips"
    lacking = _not_transcribed(candidate, reference)
    results = []
    for check in checks:
        found = measured[check.subject]
        tokens = equal if check.subject == "wer" else ""
        if lacking and not check.unsupported:
            results.append(check.result("missing", lacking))
        elif found.value is None:
            status: Status = "unsupported" if check.unsupported else "missing"
            name = check.subject.partition(".")[0].upper()
            message = check.unsupported or f"no {name}: nothing is left of the truth once it is normalised"
            results.append(check.result(status, message))
        elif check.unsupported:
            message = f"{found.text}{tokens}; {check.unsupported}"
            results.append(check.result("unsupported", message, metric=found.metric, measured=found.value))
        else:
            allowed = tolerances.for_rate(check.subject, dtype=dtype)
            good = found.value <= allowed
            results.append(
                check.result(
                    "pass" if good else "fail",
                    f"{found.text}{tokens}" + ("" if good else f"; allowed {found.metric} {allowed:.2%}"),
                    metric=found.metric,
                    measured=found.value,
                    allowed=allowed,
                )
            )
    return results


def _measure(candidate: Trace, reference: Trace) -> dict[str, _Measured]:
    ours, theirs, between = score_leg(candidate), score_leg(reference), score_between(candidate, reference)
    legs = candidate.manifest.leg, reference.manifest.leg
    words, characters = (
        [count for count in counts if count is not None]
        for counts in ([clip.words for clip in between.clips], [clip.characters for clip in between.clips])
    )
    return {
        "wer": _change("WER", ours.wer, theirs.wer, legs),
        "cer": _change("CER", ours.cer, theirs.cer, legs),
        "wer.between": _between("WER", between.wer, words, legs),
        "cer.between": _between("CER", between.cer, characters, legs),
    }


def _change(name: str, ours: float | None, theirs: float | None, legs: tuple[str, str]) -> _Measured:
    if ours is None or theirs is None:
        return _Measured(value=None, metric="change", text="")
    text = f"{name} {ours:.2%} on {legs[0]}, {theirs:.2%} on {legs[1]}"
    return _Measured(value=abs(ours - theirs), metric="change", text=text)


def _between(name: str, rate: float | None, counts: list[ErrorRate], legs: tuple[str, str]) -> _Measured:
    if rate is None and counts:
        # The reference leg heard nothing at all: a candidate leg that did is as wrong as can be.
        rate = float(any(count.insertions for count in counts))
    text = "" if rate is None else f"{name} {rate:.2%} of {legs[0]} against {legs[1]}"
    return _Measured(value=rate, metric="rate", text=text)


def _not_transcribed(candidate: Trace, reference: Trace) -> str:
    """Name the first clip, of those that can run, without a transcript on one leg or on both."""
    for clip in reference.manifest.clips:
        lacking = [trace.manifest.leg for trace in (candidate, reference) if clip.id not in trace.transcripts]
        if lacking and clip.unsupported is None:
            return f"{clip.id} was not transcribed on {' and '.join(lacking)}"
    return ""
