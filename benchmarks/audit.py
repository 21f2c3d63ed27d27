"""What the load audit costs: ``harness audit`` against ``import vllm`` plus the bare build of the model.

Measured side by side, in turn, each as a whole process:

    python benchmarks/audit.py [--repeat 5] [--json FILE]

Time is measured on the ``random`` checkpoint. Memory is measured on a wider one, whose parameters are large
beside what a process varies by itself: the peak of both processes, in copies of the parameters.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path

from process import cost_of

_ROOT = Path(__file__).resolve().parent.parent
#: The audit may take this many times as long, and add this many copies of the parameters to memory.
ALLOWED_TIME, ALLOWED_COPIES = 1.3, 1.0
#: 205 M parameters: 0.8 GB in float32.
WIDE = (
    "random:encoder_hidden=1280,encoder_heads=20,encoder_kv_heads=20,encoder_layers=8,"
    "text_hidden=1024,text_heads=16,text_kv_heads=4,text_layers=4"
)


def main() -> int:
    """Measure and print; the exit status is 1 if a median is over what is allowed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    env = {**os.environ, "PYTHONPATH": str(_ROOT), "HF_HUB_OFFLINE": "1"}
    ratios, copies, rows = [], [], []
    with tempfile.TemporaryDirectory() as name:
        for label, checkpoint, repeat in (("random", "random", options.repeat), ("wide", WIDE, 3)):
            out = Path(name, label)
            audit = [sys.executable, "-m", "harness", "audit", "--checkpoint", checkpoint, "--out", str(out)]
            # Once uncounted: it warms the disk cache, and leaves the checkpoint for the bare build.
            cost_of(audit, env=env)
            folder = out / "work" / "checkpoint"
            size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
            kept = folder.rename(out.with_name(f"{label}-checkpoint"))
            again = [*audit[:-4], "--checkpoint", str(kept), *audit[-2:]]
            bare = [sys.executable, str(_ROOT / "benchmarks" / "bare_load.py"), str(kept), "float32"]
            for _ in range(repeat):
                plain, audited = cost_of(bare, env=env), cost_of(again, env=env)
                ratio = audited.seconds / plain.seconds
                more = (audited.peak - plain.peak) / size
                (ratios if label == "random" else copies).append(ratio if label == "random" else more)
                rows.append({"checkpoint": label, "bare": plain.seconds, "audit": audited.seconds,
                             "ratio": ratio, "bytes": size, "copies": more})  # fmt: skip
                print(
                    f"{label:6}  bare {plain.seconds:6.2f} s  audit {audited.seconds:6.2f} s"
                    f"  ratio {ratio:.2f}  peak {plain.peak / 1e9:.2f} and {audited.peak / 1e9:.2f} GB"
                    f"  parameters {size / 1e9:.2f} GB"
                )
    ratio, more = statistics.median(ratios), statistics.median(copies)
    print(f"median ratio {ratio:.2f}, allowed {ALLOWED_TIME:.2f}")
    print(f"median of added memory {more:.2f} copies of the parameters, allowed {ALLOWED_COPIES:.2f}")
    if options.json:
        options.json.write_text(json.dumps({"rows": rows, "ratio": ratio, "copies": more}, indent=1))
    return int(ratio > ALLOWED_TIME or more > ALLOWED_COPIES)


if __name__ == "__main__":
    raise SystemExit(main())
