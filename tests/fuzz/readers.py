"""What is read, from which good files, and what a reader may come to: its result, or a PpvaeError."""

from __future__ import annotations

import gzip
import io
import json
import shutil
import struct
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import mutations as change
import numpy as np
import tomli_w
import torch

from ppvae.core import PpvaeError
from ppvae.data import load
from ppvae.data.files import GZIP_MAX_RATIO
from ppvae.data.idx import TYPES
from ppvae.report import write_report
from ppvae.report.common_data import compare_runs, on_common_data
from ppvae.report.html.tables import evaluation_table
from ppvae.runs import Recipe, RunFolder, load_run, read_history, train
from ppvae.runs.evaluation.evaluation import Method, evaluate
from ppvae.runs.evaluation.files import paths_of, read_evaluations
from ppvae.runs.storage import checkpoint
from ppvae.runs.storage.atomic import sha256
from ppvae.runs.training.prepare import prepare
from ppvae.runs.training.restore import restore as restore_pair

RECIPE: dict[str, Any] = {
    "model": {"name": "bernoulli-vae", "latent_dim": 2, "hidden": [4]},
    "data": {"num_train": 60, "binarize": "static"},
    "training": {"num_epochs": 2, "batch_size": 30, "compile": "eager"},
    "device": "cpu",
}
TABLE = np.array([[1.5, -2.0, 3.25], [0.0, 4.0, 1e-3]])


class WrongResultError(AssertionError):
    """A reader gave something back that it should have refused."""


@dataclass(frozen=True)
class Target:
    """One kind of file.

    Attributes:
        name: of the kind.
        write: makes a changed file, and returns its size in bytes.
        read: reads it.
        good: writes the unchanged files, one a call, to see that what is changed is read.
    """

    name: str
    write: Callable[[Random], int]
    read: Callable[[int], None]
    good: Callable[[], list[Callable[[], int]]]


# --- data -----------------------------------------------------------------------------------------


def good_data() -> dict[str, list[bytes]]:
    """Small good files by suffix; .parquet where pyarrow is there."""
    from scipy.io import savemat

    def saved(save: Callable[..., Any], *args: Any, **kwargs: Any) -> bytes:
        buffer = io.BytesIO()
        save(buffer, *args, **kwargs)
        return buffer.getvalue()

    def idx(table: np.ndarray, code: int) -> bytes:
        head = struct.pack(">BBBBII", 0, 0, code, 2, *table.shape)
        return head + table.astype(TYPES[code]).tobytes()

    csv = b"1.5,-2,3.25\n0,4,0.001\n"
    tables = [csv, b"a,b,label\n" + csv, b"a,label,c\n1,cat,2.5\n3,dog,1e3\n", b"\xef\xbb\xbf" + csv]
    amat = [b"1.5 -2.0 3.25\n0 4 1e-3\n", b"0 1 0\n1 1 0\n", b"0 1 0 \n1 1 0 \n"]
    images = [idx(TABLE, 0x0E), idx(abs(TABLE) * 10, 0x08), idx(TABLE, 0x0D)]
    files = {
        ".npy": [saved(np.save, TABLE), saved(np.save, TABLE.astype(np.uint8)), saved(np.save, np.ones((2, 2), "f2"))],
        ".npz": [
            saved(save, **arrays)
            for save in (np.savez, np.savez_compressed)
            for arrays in ({"x": TABLE, "labels": np.array([1, 2])}, {"counts": TABLE, "dose": np.ones(2)})
        ],
        ".csv": tables,
        ".csv.gz": [gzip.compress(one) for one in tables],
        ".idx": images,
        ".idx.gz": [gzip.compress(one) for one in images],
        ".amat": amat,
        ".amat.gz": [gzip.compress(one) for one in amat],
        ".mat": [
            saved(savemat, {"rows": TABLE, "n": 3}, format=version, do_compression=packed)
            for version, packed in (("4", False), ("5", False), ("5", True))
        ],
    }
    try:
        import pandas as pd
        import pyarrow  # noqa: F401 - what pandas writes parquet with
    except ImportError:
        return files
    frames = [pd.DataFrame(TABLE, columns=list("abc")), pd.DataFrame({"a": [1, 2], "label": ["cat", "dog"]})]
    return files | {".parquet": [frame.to_parquet() for frame in frames]}


def changed_data(suffix: str, originals: list[bytes], random: Random) -> bytes:
    """A data file with a change of its bytes, or of what it claims."""
    content = random.choice(originals)
    claims = random.random() < 0.5
    if suffix == ".npy" and claims:
        return change.claim_npy(random)
    if suffix == ".npz" and claims:
        return change.change_inside_zip(content, random)
    if suffix == ".idx" and claims:
        return change.claim_idx(random)
    if suffix == ".idx.gz" and random.random() < 0.3:
        return gzip.compress(change.claim_idx(random))
    if suffix.endswith(".gz") and claims:
        return change.change_inside_gzip(content, random, originals)
    if suffix in (".csv", ".amat") and claims:
        return change.change_text(content, random)
    return change.change_bytes(content, random, originals)


def data_target(folder: Path, suffix: str, originals: list[bytes]) -> Target:
    """Files of data, read by ``load``."""
    path = folder / f"hostile{suffix}"

    def write(random: Random) -> int:
        return path.write_bytes(changed_data(suffix, originals, random))

    def read(size: int) -> None:
        data = load(path)
        for part in (data.train, data.validation, data.test):
            if part is None:
                continue
            for x in part.x.values() if isinstance(part.x, Mapping) else [part.x]:
                if x.is_floating_point() and not bool(torch.isfinite(x).all()):
                    raise WrongResultError("values that are not finite")
                if x.numel() > GZIP_MAX_RATIO * max(1, size):
                    raise WrongResultError(f"{x.numel()} values from {size} bytes")

    return Target(suffix, write, read, lambda: [lambda one=one: path.write_bytes(one) for one in originals])


# --- the files of a run folder --------------------------------------------------------------------


def make_run(path: Path) -> None:
    """A small run with an evaluation."""
    run = train(Recipe.from_dict(RECIPE), path, progress=False)
    methods = [Method.parse("importance-sampling:num_samples=10")]
    evaluate(run, methods, num_data=4, device="cpu", progress=False, say=lambda line: None)


def changed_toml(content: bytes, random: Random) -> bytes:
    if random.random() < 0.5:
        return change.change_bytes(content, random)
    try:
        return tomli_w.dumps(change.change_values(tomllib.loads(content.decode()), random, json_only=False)).encode()
    except (TypeError, ValueError, AttributeError, RecursionError):  # what TOML cannot hold
        return b"[" * random.choice(change.DEPTHS)


def run_targets(folder: Path, template: Path) -> list[Target]:
    """Every file of a run folder that is read back, each changed alone in a copy of a good run."""
    path = folder / "run"
    shutil.copytree(template, path)
    run = RunFolder(path)
    kept = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    _, data, pair = prepare(Recipe.read(run.recipe))
    record = checkpoint.find_records(run.checkpoints, "last")[0]
    state, tensors = record.with_suffix(".json"), record.with_suffix(".safetensors")
    (about,) = paths_of(run)
    numbers = about.parent / json.loads(kept[about])["per_datum"]["file"]

    def restore() -> int:
        for file in path.rglob("*"):
            if file.is_file() and file not in kept:
                file.unlink()
        for file, content in kept.items():
            if not file.exists() or file.read_bytes() != content:
                file.write_bytes(content)
        return 0

    def changed(file: Path, mutate: Callable[..., bytes], after: Callable[[], None] | None = None) -> Any:
        def write(random: Random) -> int:
            restore()
            size = file.write_bytes(mutate(kept[file], random))
            if after is not None and random.random() < 0.8:  # else its sum is wrong, as after a fault of the disk
                after()
            return size

        return write

    def sums() -> None:
        lines = [f"{sha256(file.read_bytes())}  {file.name}\n" for file in (state, tensors)]
        record.write_text("".join(lines))

    def sum_of_numbers() -> None:
        values = json.loads(kept[about])
        values["per_datum"]["sha256"] = sha256(numbers.read_bytes())
        about.write_text(json.dumps(values))

    def read_recipe(size: int) -> None:
        recipe = Recipe.read(run.recipe)
        run.recipe.write_text(recipe.to_toml(), encoding="utf-8")
        if repr(Recipe.read(run.recipe).to_dict()) != repr(recipe.to_dict()):
            raise WrongResultError("written and read again, the recipe is another one")

    def read_info(size: int) -> None:
        run.read_info_if_whole()
        run.update_info(outcome="completed")
        run.read_info()

    def read_metrics(size: int) -> None:
        for row in read_history(run.metrics):
            if not all(isinstance(value, int | float) for value in row.values()):
                raise WrongResultError(f"a row of metrics that is not numbers: {row}")

    def read_checkpoint(size: int) -> None:
        state, _ = checkpoint.load(run.checkpoints)
        restore_pair(pair, state.get("pair", {}), data, 30, str(path))
        if not all(bool(torch.isfinite(value).all()) for value in pair.parameters()):
            raise WrongResultError("parameters that are not finite")

    def read_numbers(size: int) -> None:
        found = read_evaluations(run)
        for evaluation in found:
            on_common_data(evaluation)
            evaluation_table(evaluation)
            evaluation.commands  # noqa: B018 - what it comes to is not the question
        compare_runs([found, found])

    def any_of_three(random: Random) -> int:
        tables = [(run.info, change.change_json), (run.metrics, change.change_lines), (about, change.change_json)]
        return int(changed(*random.choice(tables))(random))

    def write_page(size: int) -> None:
        write_report(load_run(path), out=folder / "page.html")

    # What is changed is given to the whole of its verb's reading, not to a parser alone.
    tasks: list[tuple[str, Any, Callable[[int], None]]] = [
        ("recipe.toml", changed(run.recipe, changed_toml), read_recipe),
        ("run.json", changed(run.info, change.change_json), read_info),
        ("metrics.jsonl", changed(run.metrics, change.change_lines), read_metrics),
        ("checkpoint.json", changed(state, change.change_json, sums), read_checkpoint),
        ("checkpoint.safetensors", changed(tensors, change.change_safetensors, sums), read_checkpoint),
        ("checkpoint.sha256", changed(record, change.change_bytes), read_checkpoint),
        ("evaluation.json", changed(about, change.change_json), read_numbers),
        (
            "evaluation.safetensors",
            changed(numbers, change.change_safetensors, sum_of_numbers),
            read_numbers,
        ),
        ("report", any_of_three, write_page),
    ]
    return [Target(name, write, read, lambda: [restore]) for name, write, read in tasks]


def targets(folder: Path, template: Path | None) -> dict[str, Target]:
    """All kinds of files, by name.

    Args:
        folder: for the changed files.
        template: a run folder made by :func:`make_run`; None leaves the files of runs out.
    """
    found = [data_target(folder, suffix, originals) for suffix, originals in good_data().items()]
    return {target.name: target for target in [*found, *(run_targets(folder, template) if template else [])]}


def one(target: Target, random: Random) -> tuple[str, str]:
    """Change a file and read it: "read", "refused" or "finding", with a message."""
    size = target.write(random)
    try:
        target.read(size)
    except PpvaeError as error:
        text = str(error)
        return ("refused", text) if len(text) > 10 else ("finding", f"an error that says nothing: {text!r}")
    except WrongResultError as error:
        return "finding", str(error)
    return "read", ""
