"""Seconds of ``ppvae fit --quick``, ``evaluate`` and ``report`` for every model that has a name, each a process.

    python benchmarks/quick.py                        # all models; writes benchmarks/results/quick.json
    python benchmarks/quick.py --only topic-model --work /tmp/quick

Wall-clock and processor seconds, the start of Python among them.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from ppvae.runs.recipe.quick import QUICK

RESULTS = Path(__file__).parent / "results"


def measured(words: list[str]) -> dict[str, Any]:
    """Wall-clock and processor seconds of a command, and its error where it has failed."""
    start, before = time.perf_counter(), os.times()
    done = subprocess.run([sys.executable, "-m", "ppvae", *words], capture_output=True, text=True)
    after = os.times()
    processor = after.children_user + after.children_system - before.children_user - before.children_system
    row = {"seconds": round(time.perf_counter() - start, 1), "processor_seconds": round(processor, 1)}
    return row if done.returncode == 0 else {**row, "error": done.stderr.strip()}


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=sorted(QUICK), default=sorted(QUICK), metavar="MODEL")
    parser.add_argument("--epochs", type=int, help="another number of epochs than that of the table")
    parser.add_argument("--work", type=Path, help="where the run folders go; a temporary folder where absent")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = arguments.work or Path(temporary)
        rows = {}
        for name in arguments.only:
            folder = str(work / name)
            fit = ["fit", "--model", name, "--quick", "--out", folder, "--overwrite"]
            fit += [] if arguments.epochs is None else ["--epochs", str(arguments.epochs)]
            rows[name] = {words[0]: measured(words) for words in (fit, ["evaluate", folder], ["report", folder])}
            print(name, rows[name], flush=True)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "quick.json").write_text(json.dumps(rows, indent=2) + "\n")
    if failed := [name for name, verbs in rows.items() if any("error" in row for row in verbs.values())]:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
