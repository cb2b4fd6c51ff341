"""Checkpoints: nested tensors and plain values as safetensors and JSON, with a SHA-256 beside them; never a pickle."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from .atomic import make_folder, sha256, write_bytes
from ...core.errors import RunError, try_one_of

_log = logging.getLogger("ppvae.runs")

FORMAT = 1
NUM_LAST = 2


class LaterVersion(RunError):
    """A file that a later version of the package wrote."""


def save(folder: Path, kind: str, step: int, state: Mapping[str, Any], about: Mapping[str, Any]) -> None:
    """Write ``kind-step.safetensors``, ``.json`` and, last, the record ``.sha256``; remove old checkpoints.

    A crash at any moment leaves the previous checkpoint whole. ``sha256sum -c`` verifies one by hand.

    Args:
        folder: of the checkpoints.
        kind: "last" (two stay) or "best" (one).
        step: its number.
        state: tensors and plain values, nested.
        about: plain values about it, for messages (versions, fingerprints).

    Raises:
        RunError: the folder cannot be written, or the state holds something else.
    """
    tensors: dict[str, Tensor] = {}
    values = encode(state, tensors)
    stem = f"{kind}-{step:08d}"
    files = {
        f"{stem}.safetensors": safetensors.torch.save(tensors),
        f"{stem}.json": json.dumps(
            {"format": "ppvae-checkpoint", "version": FORMAT, "about": about, "values": values},
            allow_nan=False,
        ).encode(),
    }
    make_folder(folder)
    for name, content in files.items():
        write_bytes(folder / name, content)
    sums = "".join(f"{sha256(content)}  {name}\n" for name, content in files.items())
    write_bytes(folder / f"{stem}.sha256", sums.encode())
    # One of a later step is damaged, or from before a fallback: it would take the place of a good one.
    records = find_records(folder, kind)
    later = [record for record in records if _number(record) > step]
    for old in [*later, *records[len(later) :][NUM_LAST if kind == "last" else 1 :]]:
        # The record first: without it the other files do not count.
        for ending in (".sha256", ".json", ".safetensors"):
            with contextlib.suppress(OSError):
                old.with_suffix(ending).unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Remove the unfinished files of a killed process: temporary files, and files without their record.

    Only for the holder of the run folder's lock.
    """
    with contextlib.suppress(OSError):
        for path in list(folder.iterdir()):
            unfinished = path.name.startswith(".") and path.suffix == ".tmp"
            ours = re.fullmatch(r"[a-z]+-\d+\.(safetensors|json)", path.name)
            if unfinished or (ours and not path.with_suffix(".sha256").exists()):
                path.unlink(missing_ok=True)


def find_records(folder: Path, kind: str) -> list[Path]:
    """The records of the checkpoints of one kind, newest first."""
    pattern = re.compile(rf"{kind}-\d+\.sha256")
    with contextlib.suppress(OSError):
        return sorted((p for p in folder.iterdir() if pattern.fullmatch(p.name)), key=_number, reverse=True)
    return []


def _number(record: Path) -> int:
    return int(record.stem.rpartition("-")[2])


def load(folder: Path, kind: str = "last") -> tuple[dict[str, Any], dict[str, Any]]:
    """The state and the facts of the newest whole checkpoint of one kind; a damaged newer one is logged.

    Raises:
        RunError: there is none.
    """
    records = find_records(folder, kind)
    if not records:
        raise RunError(
            f"{folder}: holds no checkpoint of the kind {kind!r}"
            + try_one_of("train the run anew, with overwrite=True", "another run folder")
        )
    problems = []
    for record in records:
        try:
            state = read(record)
        except LaterVersion:  # no damage: an older checkpoint would lose the later version's training
            raise
        except RunError as error:
            problems.append(str(error).splitlines()[0])
            continue
        for problem in problems:
            _log.warning("%s; falling back to %s", problem, record.with_suffix("").name)
        return state
    raise RunError(
        "\n".join(problems)
        + try_one_of("a copy of the folder, if there is one", "train the run anew, with overwrite=True")
    )


def read(record: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """One checkpoint, verified.

    Raises:
        RunError: a file is absent, truncated or changed, or was written by a later version.
    """
    stem = record.with_suffix("").name
    try:
        sums = dict(line.split("  ")[::-1] for line in record.read_text("ascii").splitlines())
        contents = {name: (record.parent / name).read_bytes() for name in (f"{stem}.safetensors", f"{stem}.json")}
    except (OSError, ValueError, UnicodeDecodeError) as error:
        raise RunError(f"{record}: cannot be read: {error}") from error
    for name, content in contents.items():
        if sums.get(name) != sha256(content):
            raise RunError(f"{record.parent / name}: damaged: its SHA-256 is not the one in {record.name}")
    # The content is as written, but may have been written by another program or by hand.
    try:
        tensors = safetensors.torch.load(contents[f"{stem}.safetensors"])
        outer = json.loads(contents[f"{stem}.json"])
        if outer["format"] != "ppvae-checkpoint" or int(outer["version"]) > FORMAT:
            raise LaterVersion(
                f"{record.with_suffix('.json')}: written by a later version of ppvae; this one is too old"
                + try_one_of(
                    "the version that wrote it (run.json says which)", "train the run anew, with overwrite=True"
                )
            )
        state, about = decode(outer["values"], tensors), dict(outer["about"])
    except RunError:
        raise
    except Exception as error:  # any error is possible
        raise RunError(f"{record}: not a checkpoint: {type(error).__name__}: {error}") from error
    if not isinstance(state, dict):
        raise RunError(f"{record}: not a checkpoint: its values are no table")
    return state, about


def encode(value: Any, tensors: dict[str, Tensor], path: str = "") -> Any:
    """Plain JSON of a nested value; its tensors go into ``tensors``, by their paths in the value.

    >>> import torch
    >>> tensors = {}
    >>> encode({"a": (1, torch.ones(2)), "b": float("inf")}, tensors), list(tensors)
    ({'a': {'$tuple': [1, {'$tensor': 'a.1'}]}, 'b': {'$float': 'inf'}}, ['a.1'])
    """
    if isinstance(value, Tensor):
        tensors[path] = value.detach().cpu().clone().contiguous()
        return {"$tensor": path}
    if isinstance(value, Mapping):
        items = {key: encode(item, tensors, f"{path}.{key}" if path else str(key)) for key, item in value.items()}
        if isinstance(value, Counter):
            return {"$counter": list(map(list, items.items()))}
        if all(isinstance(key, str) and not key.startswith("$") for key in items):
            return items
        return {"$dict": list(map(list, items.items()))}
    if isinstance(value, list | tuple):
        parts = [encode(item, tensors, f"{path}.{index}" if path else str(index)) for index, item in enumerate(value)]
        return {"$tuple": parts} if isinstance(value, tuple) else parts
    if isinstance(value, float) and not math.isfinite(value):
        return {"$float": repr(float(value))}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise RunError(
        f"the training state holds a {type(value).__name__} at {path!r}, which a checkpoint cannot keep: expected "
        "tensors, numbers, strings, lists and dictionaries"
    )


def decode(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The inverse of :func:`encode`."""
    if isinstance(value, list):
        return [decode(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        ((tag, inner),) = value.items()
        if tag == "$tensor":
            return tensors[inner]
        if tag == "$float":
            return float(inner)
        if tag == "$tuple":
            return tuple(decode(item, tensors) for item in inner)
        if tag in ("$dict", "$counter"):
            items = {key: decode(item, tensors) for key, item in inner}
            return Counter(items) if tag == "$counter" else items
    return {key: decode(item, tensors) for key, item in value.items()}


def same(a: Any, b: Any) -> bool:
    """Whether two nested states are equal, bit for bit."""
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return (
            isinstance(a, Tensor)
            and isinstance(b, Tensor)
            and a.dtype == b.dtype
            and a.shape == b.shape
            and torch.equal(_bits(a), _bits(b))
        )
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


def _bits(x: Tensor) -> Tensor:
    return x.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
