"""A few damaged files of every kind by default; ``make fuzz`` reads thousands. And: what it looks for, it sees."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random
from types import ModuleType

import pytest

HERE = Path(__file__).parent


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> dict[str, ModuleType]:
    """The files of this folder, which are no package."""
    import importlib

    monkeypatch.syspath_prepend(str(HERE))
    names = ("mutations", "readers", "run")
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
    found = {name: importlib.import_module(name) for name in names}
    for name in names:
        monkeypatch.delitem(sys.modules, name)
    return found


def test_damaged_files_are_read_or_refused() -> None:
    kinds = [".npy", ".npz", ".csv", ".csv.gz", ".idx", ".idx.gz", ".amat", ".amat.gz"]
    kinds += ["recipe.toml", "run.json", "metrics.jsonl", "evaluation.json", "evaluation.safetensors"]
    kinds += ["checkpoint.json", "checkpoint.safetensors", "checkpoint.sha256"]
    words = [word for kind in kinds for word in ("--only", kind)]
    command = [sys.executable, str(HERE / "run.py"), "--minutes", "3", "--cases", "15", *words]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines()[1:-1]}
    assert set(rows) == set(kinds)
    assert all(int(read) + int(refused) == 15 for read, refused, *_ in rows.values())
    assert sum(int(read) for read, *_ in rows.values()) > 15  # it reaches both sides
    assert sum(int(refused) for _, refused, *_ in rows.values()) > 100


def test_a_wrong_result_is_a_finding(modules: dict[str, ModuleType]) -> None:
    readers = modules["readers"]

    def wrong(size: int) -> None:
        raise readers.WrongResultError("3 values from 1 byte")

    def mute(size: int) -> None:
        raise readers.PpvaeError("no")

    def clear(size: int) -> None:
        raise readers.PpvaeError("x.npy: truncated after 3 bytes")

    def one(read: Callable[[int], None]) -> str:
        return str(readers.one(readers.Target("x", lambda random: 1, read, list), Random(0))[0])

    assert [one(read) for read in (wrong, mute, clear, lambda size: None)] == ["finding", "finding", "refused", "read"]


@pytest.mark.parametrize(
    ("deed", "message"),
    [("time.sleep(60)", "no answer in 0.5 s"), ("os.abort()", "ended with -6"), ("sys.exit(3)", "ended with 3")],
)
def test_a_child_that_hangs_or_dies_is_a_finding(
    modules: dict[str, ModuleType], tmp_path: Path, deed: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = modules["run"]
    monkeypatch.setattr(run, "IMPORTS", 5.0 if "sleep" not in deed else 0.0)
    child = run.Child(tmp_path / "files", tmp_path / "template", 0, 10**9, 0.5)
    child._command = [sys.executable, "-c", f"import os, sys, time\nprint('[\"x\"]', flush=True)\ninput()\n{deed}"]
    assert child.start() == ["x"]
    assert child.ask("x", 0)[:2] == ("finding", message)
    child.end()


def test_changes_are_seeded_and_change(modules: dict[str, ModuleType]) -> None:
    change, readers = modules["mutations"], modules["readers"]
    for suffix, originals in readers.good_data().items():
        files = [readers.changed_data(suffix, originals, Random(case)) for case in range(40)]
        assert files == [readers.changed_data(suffix, originals, Random(case)) for case in range(40)] or "z" in suffix
        assert sum(file not in originals for file in files) > 30
    good = b'{"a": [1, 2.5, {"b": null}], "c": "x"}'
    texts = {change.change_json(good, Random(case)) for case in range(60)}
    assert len(texts) > 40 and any(len(text) > 50_000 for text in texts)  # nested too deeply, among others
