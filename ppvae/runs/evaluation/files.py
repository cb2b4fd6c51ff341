"""The files of the evaluations: one of JSON for each set of parameters and data, and the numbers of every datum in the
file that it names.

An evaluation belongs to its parameters and its data: those of other parameters or data stand beside it, and none
replaces another. The file with the numbers has the start of its SHA-256 in its name and the whole of it in the JSON,
and is written first: a process that is killed between the two writes leaves the previous evaluation whole, and a reader
never gets the rows of one beside the numbers of the other.
"""

from __future__ import annotations

import contextlib
import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from ..storage.atomic import make_folder, read_json, sha256, write_bytes, write_json
from ..storage.checkpoint import LaterVersion
from ..storage.folder import RunFolder
from ..storage.schema import EvaluationFile, require
from ...core.errors import RunError, try_one_of

FORMAT = "ppvae-evaluation"
VERSION = 4

_JSON = re.compile(r"[a-z]+-\d+-[0-9a-f]{12}\.json")
_NUMBERS = re.compile(r"([a-z]+-\d+-[0-9a-f]{12})-[0-9a-f]{16}\.safetensors")
_TRIES = 5


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What is known of the evidence of some data under some parameters.

    Attributes:
        values: the content of its JSON file.
        columns: the numbers of every datum, "key/column" to [N].
    """

    values: Mapping[str, Any]
    columns: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The estimates."""
        return list(self.values["estimates"])

    @property
    def data(self) -> Mapping[str, Any]:
        """``name``, ``part``, ``num_data`` of ``num_whole``, ``fingerprint``, and ``whole``, that of the whole part."""
        data: Mapping[str, Any] = self.values["data"]
        return data

    @property
    def datum(self) -> Tensor:
        """Which rows of the part the data are, int64 [N]; the first ones in a file that does not say it."""
        return self.columns.get("datum", torch.arange(int(self.data["num_data"])))

    def on(self, rows: Tensor) -> Evaluation:
        """The same with the numbers of these rows of the part alone, which are among its own, int64 [n]."""
        at = torch.searchsorted(self.datum, rows)
        return replace(self, columns={name: column[at] for name, column in self.columns.items()})

    @property
    def commands(self) -> list[str]:
        """The commands that compute all of it again: one for each setting that its estimates differ in."""
        groups: dict[str, list[str]] = {}
        for row in self.rows:
            command, _, method = str(row["command"]).partition(" --method ")
            groups.setdefault(command, []).extend([method] if method else [])
        return [" --method ".join([command, *methods]) for command, methods in groups.items()]


def how_many(data: Mapping[str, Any]) -> str:
    """The number of data of an evaluation, in words."""
    count, whole = data["num_data"], data.get("num_whole")
    return f"{count} data" if whole in (None, count) else f"{count} data, drawn at random from {whole},"


def path_of(folder: RunFolder, about: Mapping[str, Any]) -> Path:
    """The file of the evaluation of these parameters and data."""
    data = about["data"]
    digest = sha256(json.dumps([about["parameters_sha256"], data["name"], data["fingerprint"]]).encode())
    return folder.evaluations / f"{data['part']}-{data['num_data']}-{digest[:12]}.json"


def paths_of(folder: RunFolder) -> list[Path]:
    """The files of all evaluations of a run."""
    with contextlib.suppress(OSError):
        return sorted(path for path in folder.evaluations.iterdir() if _JSON.fullmatch(path.name))
    return []


def read_evaluations(folder: RunFolder, problems: list[str] | None = None) -> list[Evaluation]:
    """All evaluations of a run, the newest first.

    Args:
        folder: the run folder.
        problems: takes the message of each that cannot be read; without it, the first such message is raised.

    Raises:
        RunError: a file is damaged, or a later version wrote it.
    """
    found = []
    for path in paths_of(folder):
        try:
            found.append(read_whole(path))
        except RunError as error:
            if problems is None:
                raise
            problems.append(str(error))
    return sorted(found, key=lambda evaluation: str(evaluation.values.get("written")), reverse=True)


def read_evaluation(path: Path) -> dict[str, Any]:
    """The content of the JSON file of an evaluation.

    Raises:
        RunError: the file is absent or damaged, or a later version wrote it.
    """
    values = read_json(path)
    if not isinstance(values, dict) or values.get("format") != FORMAT or not isinstance(values.get("version"), int):
        raise RunError(f"{path}: not an evaluation" + _remedy(path))
    if values["version"] > VERSION:
        raise LaterVersion(
            f"{path}: written by a later version of ppvae; this one is too old"
            + try_one_of("the version that wrote it", "move the file away")
        )
    try:
        require(EvaluationFile, values, path)
    except RunError as error:
        raise RunError(str(error) + _remedy(path)) from None
    return values


def read_whole(path: Path) -> Evaluation:
    """The content of an evaluation and its numbers of every datum, also while another process is writing.

    Raises:
        RunError: a file is damaged, or the numbers are not those of the rows.
    """
    for attempt in range(_TRIES):
        values = read_evaluation(path)
        try:
            return Evaluation(values, _columns(path, values))
        except _Gone:  # replaced since the rows were read
            if attempt == _TRIES - 1 or read_evaluation(path) == values:
                raise
    raise AssertionError


class _Gone(RunError):
    """The file with the numbers is absent."""


def _columns(path: Path, values: Mapping[str, Any]) -> dict[str, Tensor]:
    entry = values.get("per_datum")
    if not isinstance(entry, dict) or not _NUMBERS.fullmatch(str(entry.get("file"))):
        raise RunError(f"{path}: names no file with the numbers of every datum" + _remedy(path))
    numbers = path.parent / entry["file"]
    try:
        content = numbers.read_bytes()
    except FileNotFoundError:
        raise _Gone(f"{numbers}: no such file, but {path.name} names it" + _remedy(path)) from None
    except OSError as error:
        raise RunError(f"{numbers}: cannot be read: {error.strerror or error}") from error
    if sha256(content) != entry.get("sha256"):
        raise RunError(f"{numbers}: damaged: its SHA-256 is not the one in {path.name}" + _remedy(path))
    try:
        columns = dict(safetensors.torch.load(content))
    except Exception as error:  # safetensors has an error of its own
        raise RunError(f"{numbers}: damaged: {error}" + _remedy(path)) from error
    expected = values["data"]["num_data"]
    for name, column in columns.items():
        if column.shape != (expected,):
            raise RunError(
                f"{numbers}: {name!r}: expected a number for each of {expected} data, found {list(column.shape)}"
                + _remedy(path)
            )
    return columns


def write_whole(path: Path, values: Mapping[str, Any], columns: Mapping[str, Tensor]) -> dict[str, Any]:
    """Write an evaluation in place of its earlier state; only for the holder of the lock.

    Args:
        path: of its JSON file.
        values: the content of that, without the name of the other file.
        columns: the numbers of every datum, "key/column" to [N].

    Returns:
        the content of the JSON file.
    """
    content = safetensors.torch.save({name: value.clone().contiguous() for name, value in columns.items()})
    digest = sha256(content)
    name = f"{path.stem}-{digest[:16]}.safetensors"
    written = datetime.now(UTC).isoformat(timespec="microseconds")
    evaluation = {**values, "written": written, "per_datum": {"file": name, "sha256": digest}}
    make_folder(path.parent)
    write_bytes(path.parent / name, content)
    write_json(path, evaluation)
    _drop_numbers(path, name)
    return evaluation


def sweep(folder: RunFolder) -> None:
    """Remove the unfinished files of a killed evaluation; only for the holder of its lock."""
    folder.sweep_temporary(f"{folder.evaluations.name}/.*.tmp", f"{folder.chunks.name}/.*.tmp")
    for path in paths_of(folder):
        with contextlib.suppress(RunError):
            entry = read_evaluation(path).get("per_datum")
            _drop_numbers(path, entry.get("file") if isinstance(entry, dict) else None)
    with contextlib.suppress(OSError):  # killed before the first JSON of an evaluation
        for path in list(folder.evaluations.iterdir()):
            match = _NUMBERS.fullmatch(path.name)
            if match is not None and not path.with_name(f"{match[1]}.json").exists():
                path.unlink(missing_ok=True)


def forget(path: Path) -> None:
    """Remove an evaluation; only for the holder of the lock."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise RunError(f"{path}: cannot be removed: {error.strerror or error}") from error
    _drop_numbers(path, None)


def set_aside(path: Path) -> Path:
    """Rename a damaged evaluation, so that nothing is written over what is left of it: to ``NAME.damaged``."""
    aside = path.with_name(path.name + ".damaged")
    try:
        path.replace(aside)
        for numbers in _numbers_of(path):
            numbers.replace(numbers.with_name(numbers.name + ".damaged"))
    except OSError as error:
        raise RunError(f"{path}: cannot be renamed: {error.strerror or error}") from error
    return aside


def _numbers_of(path: Path) -> list[Path]:
    with contextlib.suppress(OSError):
        files = [(_NUMBERS.fullmatch(other.name), other) for other in path.parent.iterdir()]
        return [other for match, other in files if match is not None and match[1] == path.stem]
    return []


def _drop_numbers(path: Path, name: str | None) -> None:
    """Remove the numbers of an evaluation but those of this name."""
    for numbers in _numbers_of(path):
        if numbers.name != name:
            with contextlib.suppress(OSError):
                numbers.unlink(missing_ok=True)


def _remedy(path: Path) -> str:
    return try_one_of(shlex.join(["ppvae", "evaluate", str(path.parent.parent)]))
