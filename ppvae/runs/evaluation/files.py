"""The files of an evaluation: ``evaluation.json``, and the numbers of every datum in the file that it names.

That file has the start of its SHA-256 in its name and the whole of it in the JSON, and is written first: a process that
is killed between the two writes leaves the previous evaluation whole, and a reader never gets the rows of one beside
the numbers of the other.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from typing import Any

import safetensors.torch
from torch import Tensor

from ..storage.atomic import read_json, sha256, write_bytes, write_json
from ..storage.checkpoint import LaterVersion
from ..storage.folder import RunFolder
from ...core.errors import RunError, try_one_of

FORMAT = "ppvae-evaluation"
VERSION = 3

_NUMBERS = re.compile(r"evaluation(-[0-9a-f]{16})?\.safetensors")
_TRIES = 5


def read_evaluation(folder: RunFolder) -> dict[str, Any] | None:
    """The content of ``evaluation.json``; None where nothing was evaluated.

    Raises:
        RunError: the file is damaged, or a later version wrote it.
    """
    try:
        values = read_json(folder.evaluation)
    except RunError:
        if not folder.evaluation.exists():
            return None
        raise
    if not isinstance(values, dict) or values.get("format") != FORMAT or not isinstance(values.get("version"), int):
        raise RunError(f"{folder.evaluation}: not an evaluation" + _remedy(folder))
    if values["version"] > VERSION:
        raise LaterVersion(
            f"{folder.evaluation}: written by a later version of ppvae; this one is too old"
            + try_one_of("the version that wrote it", "move the file away")
        )
    if values["version"] < 3:
        values["estimates"] = [_with_trust(row) for row in values["estimates"]]
    return values


def _with_trust(row: dict[str, Any]) -> dict[str, Any]:
    """A row of an earlier version, whose mean was over all data with an estimate: valid where it has no messages."""
    fine = not row["messages"]
    means = {} if fine else {"mean": None, "monte_carlo_error": None, "sampling_error": None}
    return {
        **row,
        "mean_of_all": row["mean"],
        "mean_of_all_standard_error": row["monte_carlo_error"],
        "num_trusted": row["num_estimated"] if fine else 0,
        **means,
    }


def read_per_datum(folder: RunFolder) -> dict[str, Tensor]:
    """The numbers of every datum, "key/column" to [N]; empty where there are none.

    Raises:
        RunError: as for :func:`read_whole`.
    """
    return read_whole(folder)[1]


def read_whole(folder: RunFolder) -> tuple[dict[str, Any] | None, dict[str, Tensor]]:
    """Both, of one and the same evaluation, also while another process is writing.

    Raises:
        RunError: a file is damaged, or the numbers are not those of the rows.
    """
    for attempt in range(_TRIES):
        values = read_evaluation(folder)
        try:
            return values, {} if values is None else _columns(folder, values)
        except _Gone:  # replaced since the rows were read
            if attempt == _TRIES - 1 or read_evaluation(folder) == values:
                raise
    raise AssertionError


class _Gone(RunError):
    """The file with the numbers is absent."""


def _columns(folder: RunFolder, values: Mapping[str, Any]) -> dict[str, Tensor]:
    entry = values.get("per_datum")
    if values["version"] == 1:
        return {}  # its numbers do not say which rows they are of
    if not isinstance(entry, dict) or not _NUMBERS.fullmatch(str(entry.get("file"))):
        raise RunError(f"{folder.evaluation}: names no file with the numbers of every datum" + _remedy(folder))
    path = folder.path / entry["file"]
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise _Gone(f"{path}: no such file, but {folder.evaluation.name} names it" + _remedy(folder)) from None
    except OSError as error:
        raise RunError(f"{path}: cannot be read: {error.strerror or error}") from error
    if sha256(content) != entry.get("sha256"):
        raise RunError(f"{path}: damaged: its SHA-256 is not the one in {folder.evaluation.name}" + _remedy(folder))
    try:
        return dict(safetensors.torch.load(content))
    except Exception as error:  # safetensors has an error of its own
        raise RunError(f"{path}: damaged: {error}" + _remedy(folder)) from error


def write_whole(folder: RunFolder, values: Mapping[str, Any], columns: Mapping[str, Tensor]) -> dict[str, Any]:
    """Replace the evaluation; only for the holder of its lock.

    Args:
        folder: the run folder.
        values: the content of ``evaluation.json``, without the name of the other file.
        columns: the numbers of every datum, "key/column" to [N].

    Returns:
        the content of ``evaluation.json``.
    """
    content = safetensors.torch.save({name: value.clone().contiguous() for name, value in columns.items()})
    digest = sha256(content)
    name = f"evaluation-{digest[:16]}.safetensors"
    evaluation = {**values, "per_datum": {"file": name, "sha256": digest}}
    write_bytes(folder.path / name, content)
    write_json(folder.evaluation, evaluation)
    _drop_others(folder, name)
    return evaluation


def sweep(folder: RunFolder) -> None:
    """Remove the unfinished files of a killed evaluation; only for the holder of its lock."""
    folder.sweep_temporary(".evaluation*.tmp", f"{folder.chunks.name}/.*.tmp")
    with contextlib.suppress(RunError):
        entry = (read_evaluation(folder) or {}).get("per_datum")
        _drop_others(folder, entry.get("file") if isinstance(entry, dict) else None)


def forget(folder: RunFolder) -> None:
    """Remove the evaluation; only for the holder of its lock."""
    try:
        folder.evaluation.unlink(missing_ok=True)
    except OSError as error:
        raise RunError(f"{folder.evaluation}: cannot be removed: {error.strerror or error}") from error
    _drop_others(folder, None)


def _drop_others(folder: RunFolder, name: str | None) -> None:
    with contextlib.suppress(OSError):
        for path in list(folder.path.iterdir()):
            if _NUMBERS.fullmatch(path.name) and path.name != name:
                path.unlink(missing_ok=True)


def _remedy(folder: RunFolder) -> str:
    return try_one_of(f"ppvae evaluate {folder.path}")
