"""What the harness costs: its main job against one bare ``vllm.LLM`` run plus one bare HuggingFace run.

Measured side by side, in turn, over the same checkpoint and clips, each as a whole process:

    python benchmarks/overhead.py [--repeat 3] [--checkpoint random] [--json FILE]

The bare runs load the same checkpoint and transcribe the same samples greedily; they record nothing.
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

_HERE = Path(__file__).resolve().parent
#: The main job may take this many times as long as both bare runs together.
ALLOWED = 2.0


def main() -> int:
    """Measure and print; the exit status is 1 if the ratio of the medians is over what is allowed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--checkpoint", default="random")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        env = {**os.environ, "PYTHONPATH": str(_HERE.parent), "HF_HUB_OFFLINE": "1"}
        run = [
            sys.executable,
            "-m",
            "harness",
            "run",
            "--checkpoint",
            options.checkpoint,
            "--out",
            str(folder / "report"),
        ]
        # Once uncounted: it warms the disk cache for all three, and leaves the checkpoint and the plan.
        cost_of(run, env=env)
        work = folder / "report" / "work"
        bare = {
            stack: [sys.executable, str(_HERE / f"bare_{stack}.py"), str(work / f"{leg}.request.json")]
            for stack, leg in (("vllm", "vllm-cpu"), ("hf", "hf-cpu"))
        }
        rows = []
        for _ in range(options.repeat):
            row = {stack: cost_of(command, env=env).seconds for stack, command in bare.items()}
            row["harness"] = cost_of(run, env=env).seconds
            row["ratio"] = row["harness"] / (row["vllm"] + row["hf"])
            rows.append(row)
            print(
                "  ".join(f"{key} {value:6.2f}{'' if key == 'ratio' else ' s'}" for key, value in row.items())
            )
    ratio = statistics.median(row["ratio"] for row in rows)
    print(f"median ratio {ratio:.2f}, allowed {ALLOWED:.2f}")
    if options.json:
        options.json.write_text(
            json.dumps({"rows": rows, "median_ratio": ratio, "allowed": ALLOWED}, indent=1)
        )
    return int(ratio > ALLOWED)


if __name__ == "__main__":
    raise SystemExit(main())
