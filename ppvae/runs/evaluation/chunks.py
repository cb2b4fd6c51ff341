"""Finished chunks of an evaluation as files of its run folder, from which a stopped evaluation goes on.

The name of a file holds digests of its conditions, of its chunk and of its content. It counts if its content has that
digest: so it is whole or nothing, and never of another seed, method, data, parameters or version.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from ..storage.atomic import make_folder, plain, sha256, write_bytes
from ...core.errors import RunError
from ...inference.evidence import ChunkKey, Estimate
from ...inference.execution.processes import Processes

_log = logging.getLogger("ppvae.runs")

_FIELDS = ("log_evidence", "standard_error", "effective_sample_size", "pareto_k", "outcome")


class ChunkFiles:
    """A :class:`~ppvae.inference.evidence.SharedChunkStore` in a folder.

    Args:
        folder: of the files; made with the first.
        conditions: plain values: all that the numbers depend on, apart from the chunk.
        processes: that share the chunks.

    Attributes:
        seconds: the time that the chunks read from files took to compute, those of this process.
    """

    def __init__(self, folder: Path, conditions: Mapping[str, Any], processes: Processes | None = None) -> None:
        self.folder = folder
        self.processes = processes or Processes()
        self.conditions = plain(conditions)
        self.seconds = 0.0
        self._prefix = _digest(self.conditions)[:16]
        self._start = time.perf_counter()

    def __len__(self) -> int:
        """The number of chunks with files under these conditions."""
        return len(self._paths(f"{self._prefix}-"))

    def get(self, chunk: ChunkKey) -> Estimate | None:
        """The estimate of a chunk; a damaged file counts as absent, and is logged."""
        about = self._about(chunk)
        for path in self._paths(self._stem(about)):
            try:
                estimate, seconds = _read(path, about)
            except RunError as error:
                _log.warning("%s; it is computed anew", error)
                with contextlib.suppress(OSError):
                    path.unlink(missing_ok=True)
                continue
            if self.processes.takes(chunk.number):
                self.seconds += seconds
            self._start = time.perf_counter()
            return estimate
        self._start = time.perf_counter()
        return None

    def put(self, chunk: ChunkKey, estimate: Estimate) -> None:
        """Write the file of a chunk.

        Raises:
            RunError: the folder cannot be written.
        """
        make_folder(self.folder)
        key = self._about(chunk)
        tensors = {name: getattr(estimate, name) for name in _FIELDS}
        tensors |= {f"info/{name}": value for name, value in estimate.info.items()}
        about = {"about": json.dumps(key), "seconds": repr(time.perf_counter() - self._start)}
        # Cloned: safetensors refuses tensors that share memory, such as one NaN for two diagnostics.
        content = safetensors.torch.save({name: value.clone().contiguous() for name, value in tensors.items()}, about)
        write_bytes(self.folder / f"{self._stem(key)}-{sha256(content)}.safetensors", content)

    def rounds(self, num_chunks: int) -> Iterator[list[int]]:
        """The chunks of this process; then, when all processes are here, those of the others.

        Where these cannot be read, on a machine that has another disk, they are computed anew, to the same numbers.
        """
        own = [number for number in range(num_chunks) if self.processes.takes(number)]
        yield own
        self.processes.wait()
        yield sorted(set(range(num_chunks)) - set(own))

    def discard(self) -> None:
        """Remove the chunks of these conditions, and the folder where it is empty."""
        for path in self._paths(f"{self._prefix}-"):
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    def _about(self, chunk: ChunkKey) -> dict[str, Any]:
        return {"conditions": self.conditions, "chunk": chunk._asdict()}

    def _stem(self, about: Mapping[str, Any]) -> str:
        return f"{self._prefix}-{_digest(about)[:16]}"

    def _paths(self, start: str) -> list[Path]:
        with contextlib.suppress(OSError):
            names = re.compile(re.escape(start) + r"[0-9a-f-]+\.safetensors")
            return sorted(path for path in self.folder.iterdir() if names.fullmatch(path.name))
        return []


def _read(path: Path, key: Mapping[str, Any]) -> tuple[Estimate, float]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise RunError(f"{path}: cannot be read: {error.strerror or error}") from error
    if sha256(content) != path.stem.rpartition("-")[2]:
        raise RunError(f"{path}: damaged: its SHA-256 is not the one in its name")
    try:
        tensors = safetensors.torch.load(content)
        length = int.from_bytes(content[:8], "little")
        about = json.loads(content[8 : 8 + length])["__metadata__"]
        if json.loads(about["about"]) != plain(key):
            raise ValueError("it belongs to another chunk")
        fields = [tensors.pop(name) for name in _FIELDS]
        shape = fields[0].shape
        if len(shape) != 1 or any(value.shape != shape for value in [*fields, *tensors.values()]):
            raise ValueError("its tensors are not [B]")
        info = {name.removeprefix("info/"): value for name, value in tensors.items()}
        log_evidence, standard_error, ess, k, outcome = fields
        return Estimate(log_evidence, standard_error, ess, k, outcome, info), float(about["seconds"])
    except Exception as error:  # any error is possible
        raise RunError(f"{path}: not a chunk: {type(error).__name__}: {error}") from error


def _digest(value: Any) -> str:
    return sha256(json.dumps(value, sort_keys=True).encode())


def digest_of_state(state: Mapping[str, Any]) -> str:
    """SHA-256 (hex) over names, dtypes, shapes and bytes of the tensors of a state dictionary.

    >>> import torch
    >>> one, other = torch.zeros(2), torch.zeros(2, dtype=torch.float64)
    >>> digest_of_state({"a": one}) == digest_of_state({"a": one.clone()})
    True
    >>> digest_of_state({"a": one}) in (digest_of_state({"b": one}), digest_of_state({"a": other}))
    False
    """
    parts = []
    for name, value in sorted(state.items()):
        value = torch.as_tensor(value).detach().cpu().contiguous()
        content = bytes(value.reshape(-1).view(torch.uint8).numpy())
        parts.append([name, str(value.dtype), list(value.shape), sha256(content)])
    return _digest(parts)
