"""Cross-backend parity harness for speech LLMs.

Data flows one way: checkpoint and audio, through :mod:`harness.backends` (capture), into a
:mod:`harness.trace` on disk; two traces, through :mod:`harness.compare`, into a report.
"""

__version__ = "0.1.0"
