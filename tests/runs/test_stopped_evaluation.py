"""Evaluations that were stopped go on to the numbers of one that nobody stopped, and take nothing else for theirs."""

from __future__ import annotations

import logging
import shutil
import signal
from collections.abc import Callable
from itertools import count as counting
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from contracts.runs import newest, only_path
from torch import Tensor

from ppvae.core import RunError
from ppvae.data import random_rows
from ppvae.inference.evidence import AIS, RIS, EvidenceMethod, ImportanceSampling, log_evidence
from ppvae.report.html import build
from ppvae.runs import Run, RunInterrupt, load_run
from ppvae.runs.evaluation import chunks as chunk_files
from ppvae.runs.evaluation import evaluation
from ppvae.runs.evaluation import files as evaluation_files
from ppvae.runs.evaluation.evaluation import Method, evaluate
from ppvae.runs.storage import checkpoint
from ppvae.runs.storage.atomic import sha256
from ppvae.runs.storage.folder import EVALUATION_LOCK, REPORT_LOCK, RunFolder, hold_lock

IS = "importance-sampling:num_samples=6"
METHODS: dict[str, type[EvidenceMethod]] = {
    IS: ImportanceSampling,
    "ais:num_chains=2,num_temperatures=6,num_leapfrog=2": AIS,
    "ris:num_draws=40,num_leapfrog=2,num_chains=2,num_warmup=5,trust=true": RIS,
}
NUM_DATA, SIZE, CHUNKS = 30, 8, 4

Numbers = tuple[list[dict[str, Any]], dict[str, Tensor]]


@pytest.fixture
def run(trained: Run, tmp_path: Path) -> Run:
    return load_run(shutil.copytree(trained.folder.path, tmp_path / "run"))


@pytest.fixture
def count(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A one for every chunk that is computed; a negative number put in front stops at that many."""
    seen: list[int] = []
    for method in METHODS.values():
        monkeypatch.setattr(method, "estimate", _counted(method.estimate, seen))
    return seen


def _counted(original: Callable[..., Any], seen: list[int]) -> Callable[..., Any]:
    def estimate(self: EvidenceMethod, run: Any, x: Any) -> Any:
        found = original(self, run, x)
        seen.append(1)
        if seen[0] < 0 and sum(seen[1:]) == -seen[0]:
            raise KeyboardInterrupt  # the chunk is computed and its noise drawn, but it is not kept
        return found

    return estimate


def go(run: Run, *texts: str, **options: Any) -> dict[str, Any]:
    options = {"num_data": NUM_DATA, "chunk_size": SIZE, "device": "cpu", "progress": False, **options}
    return evaluate(run, [Method.parse(text) for text in texts], **options)


def stopped(run: Run, seen: list[int], *texts: str, after: int, **options: Any) -> None:
    """Stop with so many chunks finished, in the midst of the next."""
    seen[:] = [-(after + 1)]
    with pytest.raises(RunInterrupt):
        go(run, *texts, **options)
    seen.clear()


def timeless(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key not in ("seconds", "command")} for row in rows]


def numbers(folder: RunFolder) -> Numbers:
    one = newest(folder)
    return timeless(one.rows), dict(one.columns)


def kept_files(run: Run) -> list[Path]:
    return sorted(run.folder.chunks.iterdir()) if run.folder.chunks.exists() else []


@pytest.mark.parametrize(
    "text", [pytest.param(text, marks=pytest.mark.slow if kind is AIS else ()) for text, kind in METHODS.items()]
)
def test_stopped_at_every_chunk(run: Run, count: list[int], text: str) -> None:
    whole = go(run, text)
    assert len(count) == CHUNKS
    expected = numbers(run.folder)
    evaluation_files.forget(only_path(run.folder))
    for done in range(CHUNKS):  # every evaluation finishes one chunk more, and loses the one after it
        assert len(kept_files(run)) == done
        stopped(run, count, text, after=1 if done < CHUNKS - 1 else 0)
    count.clear()
    result = go(run, text)
    assert len(count) == 1
    assert checkpoint.same(numbers(run.folder), expected)
    assert [row["command"] for row in result["estimates"]] == [row["command"] for row in whole["estimates"]]
    assert kept_files(run) == []
    # Without a folder to keep anything in, the numbers are the same.
    found = log_evidence(
        run.pair,
        run.part("test").take(random_rows(len(run.part("test")), NUM_DATA)),
        method=Method.parse(text).make(),
        device="cpu",
        progress=False,
        chunk_size=SIZE,
    )
    assert checkpoint.same(found.log_evidence, expected[1][f"{Method.parse(text).key}/log_evidence"])


def test_a_stop_says_how_to_go_on(run: Run, count: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    count[:] = [-2]
    with pytest.raises(RunInterrupt, match="what is finished is kept; go on with: ppvae evaluate") as caught:
        go(run, IS, options=["--which", "last"])
    assert caught.value.signal == signal.SIGINT
    words = f"{run.folder.path} --which last --part test --num-data 30 --seed 0 --threads 1 --device cpu --chunk-size 8"
    assert str(caught.value).endswith(f"{words} --method {IS},defensive=0.0")
    monkeypatch.setattr(ImportanceSampling, "check", lambda self, run: signal.raise_signal(signal.SIGTERM))
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(RunInterrupt) as caught:
        go(run, IS)
    assert caught.value.signal == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == before
    # Where nothing is written, nothing is promised, and a part of the data is not taken for all.
    monkeypatch.undo()
    calls = iter([False, True])
    original = ImportanceSampling.estimate

    def estimate(self: ImportanceSampling, *args: Any) -> Any:
        if next(calls):
            raise KeyboardInterrupt
        return original(self, *args)

    monkeypatch.setattr(ImportanceSampling, "estimate", estimate)
    with pytest.raises(RunInterrupt, match="nothing is kept"):
        go(run, IS, write=False)


CHANGES: dict[str, dict[str, Any]] = {
    "seed": {"seed": 1},
    "number of data": {"num_data": NUM_DATA - 1},
    "part": {"part": "validation"},
    "chunk size": {"chunk_size": SIZE - 1},
}


@pytest.mark.parametrize("change", [*CHANGES, "parameters", "option", "version", "threads", "nothing"])
def test_chunks_of_other_conditions_are_not_used(
    run: Run, count: list[int], monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    stopped(run, count, IS, after=2)
    kept = kept_files(run)
    assert len(kept) == 2
    if change == "parameters":
        with torch.no_grad():
            next(run.pair.parameters()).view(-1)[0] += 1e-3
    if change == "version":
        monkeypatch.setattr(evaluation, "versions", lambda: {"torch": "0"})
    if change == "threads":
        monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    go(run, IS.replace("6", "7") if change == "option" else IS, **CHANGES.get(change, {}))
    everything = -(-NUM_DATA // (SIZE - 1)) if change == "chunk size" else CHUNKS
    assert len(count) == (everything - 2 if change == "nothing" else everything)
    # They stay for the evaluation that they belong to.
    assert kept_files(run) == ([] if change == "nothing" else kept)


def test_damaged_chunks_are_computed_anew(run: Run, count: list[int], caplog: pytest.LogCaptureFixture) -> None:
    go(run, IS)
    expected = numbers(run.folder)
    evaluation_files.forget(only_path(run.folder))

    def damage(kind: str) -> None:
        first, second, _ = kept_files(run)
        content = bytearray(first.read_bytes())
        if kind == "bit flipped":
            content[len(content) // 2] ^= 1
            first.write_bytes(content)
        elif kind == "bit of a number flipped":
            content[-1] ^= 1
            first.write_bytes(content)
        elif kind == "cut":
            first.write_bytes(content[:-1])
        elif kind == "empty":
            first.write_bytes(b"")
        elif kind == "of another chunk":
            stem = "-".join(first.name.split("-")[:2])
            first.with_name(f"{stem}-{second.name.split('-')[2]}").write_bytes(second.read_bytes())
            first.unlink()
        elif kind == "made up":
            stem = "-".join(first.name.split("-")[:2])
            first.with_name(f"{stem}-{sha256(b'junk')}.safetensors").write_bytes(b"junk")
            first.unlink()

    for kind in ("none", "bit flipped", "bit of a number flipped", "cut", "empty", "of another chunk", "made up"):
        stopped(run, count, IS, after=3)
        damage(kind)
        caplog.clear()
        with caplog.at_level(logging.WARNING, "ppvae.runs"):
            go(run, IS)
        assert len(count) == (1 if kind == "none" else 2), kind
        assert ("it is computed anew" in caplog.text) == (kind != "none"), kind
        assert checkpoint.same(numbers(run.folder), expected), kind
        evaluation_files.forget(only_path(run.folder))


def test_finished_estimates_are_kept(run: Run, count: list[int]) -> None:
    first, told = go(run, IS), list[str]()
    assert len(count) == CHUNKS
    assert go(run, IS, say=told.append) == first
    assert len(count) == CHUNKS
    assert [line.endswith("kept from an earlier evaluation, --again recomputes") for line in told] == [True, True]
    # Another method beside it; the bound and the other stay.
    both = go(run, IS, "prior-sampling:num_samples=4")
    assert [row for row in both["estimates"] if row["method"] != "prior-sampling"] == first["estimates"]
    count.clear()
    again = go(run, IS, again=True)
    assert len(count) == CHUNKS
    assert [row["mean"] for row in again["estimates"]] == [row["mean"] for row in both["estimates"]]
    # Asked again and stopped, it goes on without being asked to begin again.
    stopped(run, count, IS, again=True, after=2)
    go(run, IS)
    assert len(count) == CHUNKS - 2
    assert checkpoint.same(
        numbers(run.folder)[0], [{k: r[k] for k in r if k not in ("seconds", "command")} for r in again["estimates"]]
    )
    # Another seed is another estimate.
    count.clear()
    go(run, IS, seed=1)
    assert len(count) == CHUNKS


def test_only_one_evaluates_a_run(run: Run) -> None:
    def second(line: str) -> None:
        with pytest.raises(RunError, match=r"another process is evaluating this run \(process \d+\)"):
            go(run)
        with pytest.raises(RunError, match="evaluating this run"):
            run.folder.clear()
        assert go(run, write=False)["estimates"]  # this one writes nothing
        told.append(line)

    told: list[str] = []
    go(run, say=second)
    assert len(told) == 1
    assert go(run)["estimates"]  # the lock went with the one that held it
    with hold_lock(run.folder):  # training has a lock of its own
        go(run, again=True)


def test_killed_between_the_two_files(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Never one's rows with the other's numbers."""
    go(run, IS)
    expected = numbers(run.folder)

    def killed(*args: Any) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(evaluation_files, "write_json", killed)
        with pytest.raises(MemoryError):
            go(run, seed=1)
    assert len(list(run.folder.path.glob("evaluations/*.safetensors"))) == 2
    assert checkpoint.same(numbers(run.folder), expected)
    go(run, IS)
    assert len(list(run.folder.path.glob("evaluations/*.safetensors"))) == 1
    assert checkpoint.same(numbers(run.folder), expected)


def test_numbers_of_another_evaluation_are_refused(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    go(run, IS, seed=1)
    path = only_path(run.folder)
    foreign = next(run.folder.path.glob("evaluations/*.safetensors")).read_bytes()
    evaluation_files.forget(path)
    go(run, IS, again=True)
    expected = numbers(run.folder)
    for content in (foreign, b"junk", None):
        named = next(run.folder.path.glob("evaluations/*.safetensors"))
        named.unlink() if content is None else named.write_bytes(content)
        message = f"no such file, but {path.name} names it" if content is None else "damaged: its SHA-256"
        with pytest.raises(RunError, match=message):
            newest(run.folder)
        with caplog.at_level(logging.WARNING, "ppvae.runs"):
            go(run, IS)
        assert f"it is kept as {path.name}.damaged, and all is computed anew" in caplog.text
        caplog.clear()
        assert checkpoint.same(numbers(run.folder), expected)


def test_a_reader_meets_one_evaluation(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the files are replaced between its two reads."""
    old = go(run, IS, seed=1)
    new = go(run, IS)
    first = iter([old])
    monkeypatch.setattr(evaluation_files, "read_evaluation", lambda path: next(first, new))
    one = evaluation_files.read_whole(only_path(run.folder))
    assert one.values == new
    assert checkpoint.same(dict(one.columns), numbers(run.folder)[1])


def test_what_a_kill_left_is_swept(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = run.folder
    folder.chunks.mkdir()
    folder.figures.mkdir(exist_ok=True)
    go(run)
    name = only_path(folder).stem
    half = f"{name}-0123456789abcdef.safetensors"
    evaluations = [f"evaluations/.{name}.json.a.tmp", f"evaluations/.{half}.b.tmp", "chunks/.c-d-e.f.tmp"]
    evaluations += [f"evaluations/{half}", "evaluations/train-9-0123456789ab-0123456789abcdef.safetensors"]
    reports = [".report.html.a.tmp", "figures/.samples.png.b.tmp"]
    for name in evaluations + reports:
        (folder.path / name).write_text("half")
    go(run)
    assert [name for name in evaluations + reports if (folder.path / name).exists()] == reports

    def nothing(*args: Any, **options: Any) -> None:
        raise KeyError

    monkeypatch.setattr(build, "find", nothing)
    with hold_lock(folder, REPORT_LOCK), pytest.raises(RunError, match="another process is writing the report"):
        build.write_report(run)
    with pytest.raises(KeyError):
        build.write_report(run)
    assert [name for name in reports if (folder.path / name).exists()] == []


def test_a_later_version_is_refused_not_replaced(run: Run) -> None:
    go(run)
    path = only_path(run.folder)
    text = path.read_text().replace('"version": 4', '"version": 5')
    path.write_text(text)
    for attempt in (lambda: newest(run.folder), lambda: go(run)):
        with pytest.raises(RunError, match="written by a later version"):
            attempt()
    assert path.read_text() == text


def test_a_run_that_is_cleared_loses_its_evaluation(run: Run, count: list[int]) -> None:
    stopped(run, count, IS, after=1)
    run.folder.clear()
    left = [path.name for path in run.folder.path.rglob("*") if path.is_file()]
    assert sorted(left) == sorted({".lock", EVALUATION_LOCK})


def test_time_spent_before_a_stop_is_counted(run: Run, count: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    clock = counting(step=1000)  # every look at it is a thousand seconds later, and every chunk is looked at twice
    monkeypatch.setattr(chunk_files, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    stopped(run, count, IS, after=CHUNKS - 1)
    row = go(run, IS)["estimates"][1]
    assert 1000 * (CHUNKS - 1) <= row["seconds"] < 1000 * CHUNKS
