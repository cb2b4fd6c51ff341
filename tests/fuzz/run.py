"""Hostile files: is each read, or refused with one clear error? ``python tests/fuzz/run.py [--minutes 10]``.

Small good files of every format that is read, of data and of run folders, are changed (``mutations.py``) and read
(``readers.py``) in a child process, which may take a gigabyte of address space beyond what it has after its imports and
after reading the good files: torch alone maps several gigabytes, so that a limit from zero would say nothing. A
PpvaeError or a finite result is right. Any other exception, a crash or a read of more than ``--seconds`` is a finding:
``--only KIND --case N --seed S`` reads its file again, ``--keep FOLDER`` keeps it. The exit
status is 1 where there are findings.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import resource
import select
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]

from ppvae.core.bounds import _UNITS  # noqa: E402

IMPORTS = 120.0
"""Seconds, beside those of a file, for the good files of a kind: they import what its readers need."""

SLOW = {".mat": 0.03, "report": 0.003}
"""The share of the turns of kinds that take seconds each: a process is started, or a page is drawn."""


class Finding(NamedTuple):
    """What went wrong with one file."""

    kind: str
    case: int
    what: str


# --- the child ------------------------------------------------------------------------------------


def address_space() -> int:
    """Bytes that this process has mapped."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def work(folder: Path, template: Path, seed: int, memory: int) -> None:
    """Read changed files, one for each line "KIND CASE" of standard input, and answer each with a line of JSON."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no answer
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    import readers
    import torch

    torch.set_num_threads(1)
    if not template.exists():
        readers.make_run(template)
    kinds, known = readers.targets(folder, template), set[str]()
    print(json.dumps(sorted(kinds)), file=answers, flush=True)
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    for line in sys.stdin:
        kind, case = line.split()
        for write in [] if kind in known else kinds[kind].good():
            kinds[kind].read(write())  # what is changed is a good file; and its libraries are imported
        known.add(kind)
        before = address_space()
        resource.setrlimit(resource.RLIMIT_AS, (before + memory, hard))
        started = time.monotonic()
        try:
            outcome, what = readers.one(kinds[kind], random.Random(f"{seed} {kind} {case}"))
        except BaseException as error:  # whatever it is, it is what is looked for
            place = traceback.extract_tb(error.__traceback__)[-4:]
            where = " < ".join(f"{Path(f.filename).name}:{f.lineno}" for f in reversed(place))
            outcome, what = "finding", f"{type(error).__name__}: {str(error)[:300]} ({where})"
        seconds = time.monotonic() - started
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY if hard < 0 else hard, hard))
        print(json.dumps([outcome, what, seconds]), file=answers, flush=True)


# --- the parent -----------------------------------------------------------------------------------


class Child:
    """A process that reads files, started anew after it died."""

    def __init__(self, folder: Path, template: Path, seed: int, memory: int, seconds: float) -> None:
        self.folder, self.seconds = folder, seconds
        self._command = [sys.executable, __file__, "--work", str(folder), str(template), str(seed), str(memory)]
        self._process: subprocess.Popen[str] | None = None
        self._known: set[str] = set()

    def start(self) -> list[str]:
        """Start it; the kinds of files that it reads."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PPVAE_CACHE": str(self.folder / "cache")}
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, env=environment
        )
        assert self._process.stdout is not None
        kinds: list[str] = json.loads(self._process.stdout.readline() or "[]")
        if not kinds:
            raise RuntimeError("the child that reads did not start")
        return kinds

    def ask(self, kind: str, case: int) -> tuple[str, str, float]:
        """The outcome of one file: "read", "refused" or "finding", a message, and seconds."""
        if self._process is None:
            self.start()
        process = self._process
        assert process is not None and process.stdin is not None and process.stdout is not None
        print(kind, case, file=process.stdin, flush=True)
        time_limit = self.seconds + (0 if kind in self._known else IMPORTS)
        self._known.add(kind)
        ready, _, _ = select.select([process.stdout], [], [], time_limit)
        line = process.stdout.readline() if ready else ""
        if line:
            outcome, what, seconds = json.loads(line)
            return outcome, what, seconds
        status = process.poll() if not ready else process.wait()
        self.end()
        return "finding", f"no answer in {self.seconds:g} s" if status is None else f"ended with {status}", self.seconds

    def end(self) -> None:
        self._known.clear()
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


def order(kinds: list[str], chooser: random.Random) -> Iterator[str]:
    """Kinds in turns, the slow ones seldom."""
    while True:
        yield from (kind for kind in kinds if chooser.random() < SLOW.get(kind, 1.0))


def fuzz(options: argparse.Namespace) -> tuple[dict[str, dict[str, Any]], list[Finding]]:
    """Files until the time is over, or so many of each kind: counts by kind, and what was found."""
    counts: dict[str, dict[str, Any]] = {}
    findings: list[Finding] = []
    with tempfile.TemporaryDirectory() as temporary:
        folders = Path(temporary) / "files", Path(temporary) / "template"
        child = Child(*folders, options.seed, options.memory, options.seconds)
        kinds = [kind for kind in child.start() if not options.only or kind in options.only]
        end = time.monotonic() + 60 * options.minutes
        try:
            for kind in order(kinds, random.Random(options.seed)):
                entry = counts.setdefault(kind, {"read": 0, "refused": 0, "finding": 0, "slowest": 0.0})
                count = sum(entry[name] for name in ("read", "refused", "finding"))
                if time.monotonic() > end or count == options.cases or (options.case is not None and count):
                    break
                case = count if options.case is None else options.case
                outcome, what, seconds = child.ask(kind, case)
                entry[outcome] += 1
                entry["slowest"] = max(entry["slowest"], seconds)
                if options.case is not None:
                    print(kind, outcome, what)
                if outcome == "finding":
                    findings.append(Finding(kind, case, what))
                    if options.keep is not None:
                        shutil.copytree(child.folder, options.keep / f"{kind}-{case}", dirs_exist_ok=True)
        finally:
            child.end()
    return counts, findings


def in_bytes(text: str) -> int:
    """Bytes of "1GB"."""
    number = text.rstrip("KMGTIBkmgtib ")
    return int(float(number) * _UNITS[text[len(number) :].strip().upper()])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--cases", type=int, help="files of the first kind after which to stop")
    parser.add_argument("--memory", type=in_bytes, default="1GB", help="beyond what the child has after its imports")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=30.0, help="that one file may take")
    parser.add_argument("--only", action="append", help="a kind of file; may be repeated")
    parser.add_argument("--case", type=int, help="one file, by the number that a finding has")
    parser.add_argument("--keep", type=Path, help="a folder for the files of the findings")
    counts, findings = fuzz(parser.parse_args())
    print(f"{'kind':24}{'read':>8}{'refused':>9}{'findings':>10}{'slowest, s':>12}")
    for kind, row in sorted(counts.items()):
        print(f"{kind:24}{row['read']:8}{row['refused']:9}{row['finding']:10}{row['slowest']:12.2f}")
    total = sum(row[name] for row in counts.values() for name in ("read", "refused", "finding"))
    print(f"{total} files, {len(findings)} findings")
    for what in sorted({finding.what for finding in findings}):
        same = [finding for finding in findings if finding.what == what]
        print(f"  {len(same)} x {same[0].kind}, case {same[0].case}: {what}")
    return 1 if findings else 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]:
        work(Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]))
    else:
        sys.exit(main())
