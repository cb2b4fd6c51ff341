"""Deliberate faults: does a test fail for each? ``python tests/faults/run.py [--only FILE ...] [--count 10]``.

Of every file of ``targets.toml``, a seeded sample of the faults of ``mutations.py`` is put into a copy of the tree, one
at a time, and the tests that the file answers to are run until one fails. What no test sees has survived: it is
equivalent, and listed with its reason in ``equivalent.toml``, or a test is missing. Results are kept after every fault
in ``results.json`` beside this file, so that a run goes on where it was stopped; a fault is tried again once its file
has changed, or under ``--again``. The exit status is 1 where less than 95 % are caught.

A well-kept mutation tool was looked at first. mutmut 3 rewrites every function into a dispatcher of its mutants, which
recorded and compiled graphs would record; cosmic-ray pays the import of torch anew for every mutant; neither knows a
dropped ``detach``, nor draws a sample of a file. Here the libraries are imported once, and a child is forked per fault.
"""

from __future__ import annotations

import argparse
import compileall
import contextlib
import hashlib
import io
import json
import os
import py_compile
import shutil
import signal
import sys
import tempfile
import time
import tomllib
import warnings
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(HERE))

from mutations import Mutation, sample  # noqa: E402

RESULTS = HERE / "results.json"
NEEDED = 0.95


class Fault(NamedTuple):
    """One fault of one file, and the tests that should see it."""

    file: str
    mutation: Mutation
    mutant: str
    tests: tuple[str, ...]

    @property
    def key(self) -> str:
        return hashlib.sha256(f"{self.file}|{self.mutant}".encode()).hexdigest()[:16]


def targets(path: Path = HERE / "targets.toml") -> dict[str, tuple[str, ...]]:
    """Source file to the tests it answers to, the quickest first."""
    return {file: tuple(tests) for file, tests in tomllib.loads(path.read_text())["targets"].items()}


def faults(only: list[str], count: int, seed: str) -> list[Fault]:
    """The sample, file by file; ``only`` picks files by a part of their path."""
    found = []
    for file, tests in targets().items():
        if only and not any(part in file for part in only):
            continue
        source = (ROOT / file).read_text()
        found += [Fault(file, m, m.applied(source), tests) for m in sample(source, count, f"{seed}|{file}")]
    return found


def equivalents(path: Path = HERE / "equivalent.toml") -> dict[tuple[str, str, str], str]:
    """(file, line before, line after) of a fault that changes nothing, and why."""
    entries = tomllib.loads(path.read_text()).get("equivalent", [])
    return {(e["file"], e["before"], e["after"]): e["reason"] for e in entries}


def copy_of_the_tree(folder: Path) -> Path:
    """What the tests need, with bytecode that is checked by content: a mutant may be as long and as old as its file."""
    tree = folder / "tree"
    ignored = shutil.ignore_patterns("__pycache__", "_build", ".*_cache")
    for name in ("ppvae", "tests", "benchmarks"):
        shutil.copytree(ROOT / name, tree / name, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", tree)
    checked = py_compile.PycInvalidationMode.CHECKED_HASH
    compileall.compile_dir(tree / "ppvae", quiet=2, invalidation_mode=checked)
    return tree


def run_tests(tree: Path, tests: tuple[str, ...], limit: float) -> tuple[str, str, float]:
    """Run them in a child until one fails: "passed", "failed", "broken" (no import), "timed out"; the test; seconds."""
    begin = time.monotonic()
    log = tree.parent / "log"
    child = os.fork()
    if child == 0:
        _become_pytest(tree, tests, log)
    status: int | None = None
    try:
        while status is None and time.monotonic() - begin < limit:
            done, code = os.waitpid(child, os.WNOHANG)
            if done:
                status = os.waitstatus_to_exitcode(code)
            else:
                time.sleep(0.02)
    finally:  # too long, or this run is stopped
        if status is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
    if status is None:
        return "timed out", "", limit
    seconds = time.monotonic() - begin
    if status in (4, 5):  # pytest: bad usage, nothing collected
        raise SystemExit(f"no such tests: {' '.join(tests)}\n{log.read_text()[-2000:]}")
    lines = log.read_text(errors="replace").splitlines()
    failing = next((line.split(" ", 1)[1] for line in lines if line.startswith(("FAILED ", "ERROR "))), "")
    return {0: "passed", 1: "failed"}.get(status, "broken"), failing.split(" - ")[0], seconds


def _become_pytest(tree: Path, tests: tuple[str, ...], log: Path) -> None:
    os.setsid()
    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.chdir(tree)
    sys.path[:] = [str(tree), *(p for p in sys.path if Path(p or ".").resolve() not in (HERE, ROOT))]
    sys.dont_write_bytecode = True
    import pytest

    quiet = ["-x", "-q", "--tb=line", "--no-header", "-p", "no:cacheprovider", "-m", "not slow"]
    code = 3
    try:
        code = int(pytest.main([*quiet, *tests]))
    finally:
        sys.stdout.flush()
        os._exit(code)


def warm() -> None:
    """Import what is never mutated, once; only then is a child forked."""
    os.environ.setdefault("MPLBACKEND", "Agg")
    with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pyro.infer.autoguide
        import pytest
        import scipy.stats
        import sklearn.decomposition
        import torch

        del pyro, pytest, scipy, sklearn
        torch.set_num_threads(1)
    assert not any(name.partition(".")[0] == "ppvae" for name in sys.modules)


def load_results() -> dict[str, Any]:
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else {}


def keep(results: dict[str, Any]) -> None:
    """Whole or as before: a run may be stopped at any moment."""
    temporary = RESULTS.with_suffix(".tmp")
    temporary.write_text(json.dumps(results, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
    os.replace(temporary, RESULTS)


def try_all(wanted: list[Fault], results: dict[str, Any], again: str, limit: float) -> None:
    """Run what has no result yet; a test that sees a fault must pass without it."""
    redo = {"none": (), "survivors": ("passed", "timed out"), "all": ("passed", "failed", "broken", "timed out")}[again]
    todo = [f for f in wanted if f.key not in results or results[f.key]["outcome"] in redo]
    if not todo:
        return
    warm()
    sound: set[str] = set()  # tests that pass where there is no fault
    with tempfile.TemporaryDirectory() as folder:
        tree = copy_of_the_tree(Path(folder))
        for number, fault in enumerate(todo, 1):
            place = tree / fault.file
            source = place.read_text()
            place.write_text(fault.mutant)
            try:
                outcome, failing, seconds = run_tests(tree, fault.tests, limit)
            finally:
                place.write_text(source)
            if failing and failing not in sound:
                if run_tests(tree, (failing,), limit)[0] != "passed":
                    raise SystemExit(f"{failing} fails without any fault:\n{(tree.parent / 'log').read_text()[-2000:]}")
                sound.add(failing)
            m = fault.mutation
            results[fault.key] = {
                "file": fault.file,
                "line": m.line,
                "before": m.before,
                "after": m.after,
                "outcome": outcome,
                "seen by": failing,
                "seconds": round(seconds, 1),
            }
            keep(results)
            print(f"{number}/{len(todo)} {outcome:9} {seconds:5.1f} s  {fault.file}:{m.line}  {m.after}", flush=True)


def table(wanted: list[Fault], results: dict[str, Any]) -> bool:
    """Print what was caught, file by file, and every survivor; whether it is enough."""
    known = equivalents()
    width = max(len(f.file) for f in wanted)
    print(f"\n{'file':{width}}  faults  caught  equivalent  survived")
    sums = [0, 0, 0]
    survivors = []
    for file in dict.fromkeys(f.file for f in wanted):
        counts = [0, 0, 0]
        for fault in (f for f in wanted if f.file == file):
            m, result = fault.mutation, results[fault.key]
            same = (file, m.before, m.after) in known
            # Out of time is not caught: the tests may have been on their way to passing.
            kind = 0 if result["outcome"] in ("failed", "broken") else 1 if same else 2
            counts[kind] += 1
            if kind == 2:
                survivors.append(fault)
        print(f"{file:{width}}  {sum(counts):6}  {counts[0]:6}  {counts[1]:10}  {counts[2]:8}")
        sums = [a + b for a, b in zip(sums, counts, strict=True)]
    caught = sums[0] / max(1, sums[0] + sums[2])
    seconds = sum(results[f.key]["seconds"] for f in wanted)
    print(f"{'all':{width}}  {sum(sums):6}  {sums[0]:6}  {sums[1]:10}  {sums[2]:8}")
    print(f"{100 * caught:.1f} % of those that are not equivalent were caught; {seconds / 60:.0f} minutes of tests")
    for fault in survivors:
        m = fault.mutation
        outcome = results[fault.key]["outcome"]
        print(f"\nsurvived ({outcome}): {fault.file}:{m.line}\n  - {m.before}\n  + {m.after}")
    return caught >= NEEDED


def main() -> int:
    """Run, keep, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", nargs="+", default=[], metavar="FILE", help="files whose path contains this")
    parser.add_argument("--count", type=int, default=10, help="faults a file (default 10)")
    parser.add_argument("--seed", default="0", help="of the sample (default 0)")
    parser.add_argument("--again", choices=("none", "survivors", "all"), default="none", help="try again what is kept")
    parser.add_argument("--limit", type=float, default=300, help="seconds for the tests of a fault (default 300)")
    parser.add_argument("--list", action="store_true", help="print the sample and try nothing")
    options = parser.parse_args()
    wanted = faults(options.only, options.count, options.seed)
    if not wanted:
        parser.error(f"no file of targets.toml fits {options.only}")
    if options.list:
        for fault in wanted:
            m = fault.mutation
            print(f"{fault.file}:{m.line}\n  - {m.before}\n  + {m.after}")
        return 0
    results = load_results()
    try_all(wanted, results, options.again, options.limit)
    return 0 if table(wanted, results) else 1


if __name__ == "__main__":
    sys.exit(main())
