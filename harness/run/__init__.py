"""Plans the legs, captures each once, compares, and puts the report together.

``options`` and ``prepare`` come before a backend starts, ``capture`` runs the legs, ``judge`` needs none.
"""

from harness.run.audit import audit, audit_many
from harness.run.capture import CapturedLeg, capture_one, captured_from
from harness.run.folder import claimed
from harness.run.job import run
from harness.run.judge import judge, judge_traces, make_report
from harness.run.options import DEFAULT_TIMEOUT, AuditOptions, Leg, RunOptions, plan_legs, read_interpreters
from harness.run.prepare import TRAINED_TOKENS, UNTRAINED_TOKENS, Prepared, prepare

__all__ = [
    "DEFAULT_TIMEOUT",
    "TRAINED_TOKENS",
    "UNTRAINED_TOKENS",
    "AuditOptions",
    "CapturedLeg",
    "Leg",
    "Prepared",
    "RunOptions",
    "audit",
    "audit_many",
    "capture_one",
    "captured_from",
    "claimed",
    "judge",
    "judge_traces",
    "make_report",
    "plan_legs",
    "prepare",
    "read_interpreters",
    "run",
]
