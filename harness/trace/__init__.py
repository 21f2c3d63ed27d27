"""What one leg recorded: a folder of JSON and safetensors, all that passes from capture to compare."""

from harness.trace.reader import Trace
from harness.trace.schema import Manifest
from harness.trace.writer import TraceWriter

__all__ = ["Manifest", "Trace", "TraceWriter"]
