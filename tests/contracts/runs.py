"""What the tests of runs that are stopped share: what a run came to, and that nothing in its folder is half written."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

from ppvae.runs import RunFolder, read_history
from ppvae.runs.evaluation.files import Evaluation, path_of, paths_of, read_evaluations
from ppvae.runs.storage import checkpoint
from ppvae.runs.storage.atomic import sha256

CLOCK = ("seconds",)


def outcome(folder: Path) -> dict[str, Any]:
    """The last checkpoint and the metrics, without what a clock wrote."""
    state, _ = checkpoint.load(folder / "checkpoints")
    state = {key: value for key, value in state.items() if key not in CLOCK}
    state["history"] = [{k: v for k, v in row.items() if k not in CLOCK} for row in state["history"]]
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    state["lines"] = [{k: v for k, v in json.loads(line).items() if k not in CLOCK} for line in lines]
    if checkpoint.find_records(folder / "checkpoints", "best"):
        state["best"] = checkpoint.load(folder / "checkpoints", "best")[0]
    return state


def same(one: Path, other: Path) -> bool:
    """Whether two runs came to the same parameters, optimiser, random states and metrics, bit for bit."""
    return checkpoint.same(outcome(one), outcome(other))


def assert_whole(path: Path) -> int:
    """Everything that counts as a file of the run is complete; the number of checkpoints."""
    folder = RunFolder(path)
    if folder.recipe.exists():
        tomllib.loads(folder.recipe.read_text())
    if folder.info.exists():
        json.loads(folder.info.read_text())
    if folder.metrics.exists():
        read_history(folder.metrics)
    read_evaluations(folder)
    for chunk in folder.chunks.glob("*.safetensors"):
        assert sha256(chunk.read_bytes()) == chunk.stem.rpartition("-")[2]
    records = checkpoint.find_records(folder.checkpoints, "last") + checkpoint.find_records(folder.checkpoints, "best")
    for record in records:
        checkpoint.read(record)
    return len(records)


def newest(folder: RunFolder) -> Evaluation:
    """The evaluation that was written last."""
    return read_evaluations(folder)[0]


def newest_path(folder: RunFolder) -> Path:
    """Its file of JSON."""
    return path_of(folder, newest(folder).values)


def only_path(folder: RunFolder) -> Path:
    """The file of the only evaluation."""
    (path,) = paths_of(folder)
    return path


def left_over(path: Path) -> list[str]:
    """Temporary files, and files of checkpoints that have no record."""
    temporary = [p.name for p in path.rglob("*.tmp")]
    halves = [p.name for p in (path / "checkpoints").iterdir() if not p.with_suffix(".sha256").exists()]
    return sorted(temporary + halves)
