"""Transcripts: WER and CER of each leg against the truth, and the change between legs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from harness.compare.activations import coarser_dtype
from harness.compare.normalise import is_unspaced, normalise
from harness.compare.result import AlignmentChunk, ClipTranscript, ErrorRate, LegTranscripts

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

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


def score_leg(trace: Trace) -> LegTranscripts:
    """Score every clip that the leg transcribed; a clip in Chinese or Japanese counts in CER only."""
    clips = tuple(
        _score_clip(clip, trace.transcripts[clip.id])
        for clip in trace.manifest.clips
        if clip.id in trace.transcripts
    )
    return LegTranscripts(
        wer=_rate(clip.words for clip in clips), cer=_rate(clip.characters for clip in clips), clips=clips
    )


def _score_clip(clip: ClipEntry, record: TranscriptRecord) -> ClipTranscript:
    spaced = not is_unspaced(clip.language)
    truth = None if clip.transcript is None else normalise(clip.transcript, language=clip.language)
    said = normalise(record.text, language=clip.language)
    words = characters = None
    alignment: tuple[AlignmentChunk, ...] = ()
    if truth is not None:
        characters, alignment = align(truth, said, unit="characters")
        if spaced:
            words, alignment = align(truth, said, unit="words")
    return ClipTranscript(
        id=clip.id,
        language=clip.language,
        reference=clip.transcript,
        hypothesis=record.text,
        reference_normalised=truth,
        hypothesis_normalised=said,
        wer=words.rate if words else None,
        cer=characters.rate if characters else None,
        words=words,
        characters=characters,
        alignment=alignment,
        token_ids=record.token_ids,
        error=record.error,
    )


def _rate(counts: Iterable[ErrorRate | None]) -> float | None:
    known = [count for count in counts if count is not None]
    length = sum(count.length for count in known)
    return sum(count.errors for count in known) / length if length else None


def compare_transcripts(
    checks: Sequence[PlannedCheck], *, candidate: Trace, reference: Trace, tolerances: Tolerances
) -> list[CheckResult]:
    """Judge the change of WER and CER from the reference leg to the candidate leg."""
    dtype = coarser_dtype(candidate.manifest.dtype, reference.manifest.dtype)
    ours, theirs = score_leg(candidate), score_leg(reference)
    same = sum(
        record.token_ids == reference.transcripts[clip].token_ids
        for clip, record in candidate.transcripts.items()
        if clip in reference.transcripts
    )
    tokens = f"tokens equal in {same} of {len(candidate.transcripts)} clips"
    lacking = _not_transcribed(candidate, reference)
    results = []
    for check in checks:
        rates = {"wer": (ours.wer, theirs.wer), "cer": (ours.cer, theirs.cer)}[check.subject]
        found, expected = rates
        name = check.subject.upper()
        if lacking and not check.unsupported:
            results.append(check.result("missing", lacking))
            continue
        if found is None or expected is None:
            status: Status = "unsupported" if check.unsupported else "missing"
            message = check.unsupported or f"no {name}: nothing is left of the truth once it is normalised"
            results.append(check.result(status, message))
            continue
        text = f"{name} {found:.2%} on {candidate.manifest.leg}, {expected:.2%} on {reference.manifest.leg}"
        change = abs(found - expected)
        if check.unsupported:
            message = f"{text}; {tokens}; {check.unsupported}"
            results.append(check.result("unsupported", message, metric="change", measured=change))
            continue
        allowed = tolerances.for_rate(check.subject, dtype=dtype).change
        results.append(
            check.result(
                "pass" if change <= allowed else "fail",
                f"{text}; {tokens}" + ("" if change <= allowed else f"; allowed change {allowed:.2%}"),
                metric="change",
                measured=change,
                allowed=allowed,
            )
        )
    return results


def _not_transcribed(candidate: Trace, reference: Trace) -> str:
    """Name the first clip, of those that can run, without a transcript on one leg or on both."""
    for clip in reference.manifest.clips:
        lacking = [trace.manifest.leg for trace in (candidate, reference) if clip.id not in trace.transcripts]
        if lacking and clip.unsupported is None:
            return f"{clip.id} was not transcribed on {' and '.join(lacking)}"
    return ""
