"""What the load audit costs: ``harness audit`` against ``import vllm`` plus the bare build of the model.

Measured side by side, in turn, each as a whole process:

    python benchmarks/audit.py [--repeat 5] [--json FILE]

The bare build loads the same files, by vLLM's own loader. Time is measured on the ``random`` checkpoint, and
memory on a wider one, whose parameters are large beside what a process varies by itself: the peak of both
processes, in copies of the parameters. That is done with a whole checkpoint in float32, and in bfloat16 with
a tensor left out, which makes the audit load twice and keep masks.
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


def measure(
    checkpoint: str, *, label: str, repeat: int, folder: Path, dtype: str = "float32", status: int = 0
) -> list[dict[str, float]]:
    """Measure both in turn: seconds of each and their ratio, bytes of parameters and copies of them added.

    ``status`` is how the audit is to end.
    """
    env = {**os.environ, "PYTHONPATH": str(_ROOT), "HF_HUB_OFFLINE": "1"}
    out, kept = folder / label, folder / f"{label}-checkpoint"

    def audit(name: str) -> list[str]:
        words = ("audit", "--checkpoint", name, "--dtype", dtype, "--out", str(out))
        return [sys.executable, "-m", "harness", *words]

    # Once uncounted: it warms the disk cache, and leaves the checkpoint for both.
    cost_of(audit(checkpoint), env=env, status=status)
    (out / "work" / "checkpoint").rename(kept)
    bare = [sys.executable, str(_ROOT / "benchmarks" / "bare_load.py"), str(kept), dtype]
    size = sum(file.stat().st_size for file in kept.glob("*.safetensors"))
    rows = []
    for _ in range(repeat):
        plain = cost_of(bare, env=env)
        audited = cost_of(audit(str(kept)), env=env, status=status)
        row = {
            "bare": plain.seconds,
            "audit": audited.seconds,
            "ratio": audited.seconds / plain.seconds,
            "bytes": size,
            "copies": (audited.peak - plain.peak) / size,
        }
        rows.append(row)
        print(
            f"{label:6}  bare {plain.seconds:6.2f} s  audit {audited.seconds:6.2f} s"
            f"  ratio {row['ratio']:.2f}  peak {plain.peak / 1e9:.2f} and {audited.peak / 1e9:.2f} GB"
            f"  parameters {size / 1e9:.2f} GB",
            flush=True,
        )
    return rows


def main() -> int:
    """Measure and print; the exit status is 1 if a median is over what is allowed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        small = measure("random", label="random", repeat=options.repeat, folder=Path(name))
        wide = measure(WIDE, label="wide", repeat=3, folder=Path(name))
        lacking = measure(
            f"{WIDE},dtype=bfloat16,without=layers.0.fc1.weight",
            label="red",
            repeat=3,
            folder=Path(name),
            dtype="bfloat16",
            status=1,
        )
    ratio = statistics.median(row["ratio"] for row in small)
    copies = max(statistics.median(row["copies"] for row in rows) for rows in (wide, lacking))
    print(f"median ratio {ratio:.2f}, allowed {ALLOWED_TIME:.2f}")
    print(
        f"greater median of added memory {copies:.2f} copies of the parameters, allowed {ALLOWED_COPIES:.2f}"
    )
    if options.json:
        content = {"random": small, "wide": wide, "red": lacking, "ratio": ratio, "copies": copies}
        options.json.write_text(json.dumps(content, indent=1))
    return int(ratio > ALLOWED_TIME or copies > ALLOWED_COPIES)


if __name__ == "__main__":
    raise SystemExit(main())
