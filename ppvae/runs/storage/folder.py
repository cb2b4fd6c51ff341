"""A run folder: its files and its locks."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from . import checkpoint
from .atomic import make_folder, read_json, write_json, write_text
from .schema import Info, require
from ...core.errors import RunError, try_one_of

_log = logging.getLogger("ppvae.runs")

# The recipe last: while it exists, a partly cleared folder still counts as a run's.
_OURS = ("metrics.jsonl", "trackers.json", "report.html", "recipe.toml")

TRAINING_LOCK, EVALUATION_LOCK, REPORT_LOCK = ".lock", ".evaluation.lock", ".report.lock"
_LOCKS = {
    TRAINING_LOCK: "writing here",
    EVALUATION_LOCK: "evaluating this run",
    REPORT_LOCK: "writing the report of this run",
}
_REMEDIES = {
    TRAINING_LOCK: try_one_of("wait for it", "another folder"),
    EVALUATION_LOCK: try_one_of("wait for it", "a copy of the folder"),
    REPORT_LOCK: try_one_of("wait for it"),
}


@dataclass(frozen=True)
class RunFolder:
    """The files of one run.

    Attributes:
        path: the folder.
    """

    path: Path

    @property
    def recipe(self) -> Path:
        """The recipe, complete enough to run again."""
        return self.path / "recipe.toml"

    @property
    def info(self) -> Path:
        """Facts of the run: versions, fingerprint of the data, times, outcome."""
        return self.path / "run.json"

    @property
    def metrics(self) -> Path:
        """One line of JSON an epoch."""
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        """Checkpoints, see :mod:`ppvae.runs.storage.checkpoint`."""
        return self.path / "checkpoints"

    @property
    def evaluations(self) -> Path:
        """The numbers of ``ppvae evaluate``, see :mod:`ppvae.runs.evaluation.files`."""
        return self.path / "evaluations"

    @property
    def chunks(self) -> Path:
        """Finished chunks of an evaluation that is not finished."""
        return self.path / "chunks"

    @property
    def figures(self) -> Path:
        """Pictures."""
        return self.path / "figures"

    @property
    def report(self) -> Path:
        """The report."""
        return self.path / "report.html"

    @property
    def exists(self) -> bool:
        """Whether the folder holds a run."""
        return self.recipe.exists() or self.info.exists()

    def read_info(self) -> dict[str, Any]:
        """The content of ``run.json``.

        Raises:
            RunError: absent or damaged.
        """
        values: dict[str, Any] = read_json(self.info)
        require(Info, values, self.info)
        return values

    def read_info_if_whole(self) -> dict[str, Any]:
        """The same; empty where it is absent or, with a warning, damaged: nothing that a run goes on from is in it."""
        try:
            return self.read_info() if self.info.exists() else {}
        except RunError as error:
            _log.warning("%s; what it said of the run is lost", str(error).splitlines()[0])
            return {}

    def update_info(self, **values: Any) -> None:
        """Change some values of ``run.json``."""
        old = self.read_info_if_whole()
        write_json(self.info, {**old, **values})

    def clear(self) -> None:
        """Remove the files of a run, and no other files of the folder.

        Raises:
            RunError: they cannot be removed, or ``ppvae evaluate`` is at work on them.
        """
        if (self.path / EVALUATION_LOCK).exists():
            with hold_lock(self, EVALUATION_LOCK):
                self._clear()
        else:
            self._clear()

    def remove_if_empty(self) -> None:
        """Remove the folder where nothing was ever written into it but its lock."""
        with contextlib.suppress(OSError):
            if {path.name for path in self.path.iterdir()} <= {TRAINING_LOCK}:
                (self.path / TRAINING_LOCK).unlink(missing_ok=True)
                self.path.rmdir()

    def _clear(self) -> None:
        try:
            self.info.unlink(missing_ok=True)  # first: a partly removed run is no finished run
            others = (self.path / "dumps", self.path / "tensorboard")
            for folder in (self.checkpoints, self.figures, self.evaluations, self.chunks, *others):
                if folder.is_dir() and not folder.is_symlink():
                    shutil.rmtree(folder)
            for name in _OURS:
                (self.path / name).unlink(missing_ok=True)
        except OSError as error:
            raise RunError(f"{self.path}: cannot be cleared: {error.strerror or error}") from error

    def sweep(self) -> None:
        """Remove the unfinished files of a killed training process; only for the holder of the lock."""
        for folder in (self.checkpoints, self.path / "dumps"):
            checkpoint.sweep(folder)
        for path in (self.recipe, self.info, self.metrics):
            self.sweep_temporary(f".{path.name}.*.tmp")

    def sweep_report(self) -> None:
        """Remove the unfinished files of a killed report; only for the holder of its lock."""
        self.sweep_temporary(f".{self.report.name}.*.tmp", f"{self.figures.name}/.*.tmp")

    def sweep_temporary(self, *patterns: str) -> None:
        """Remove temporary files."""
        for pattern in patterns:
            for path in self.path.glob(pattern):
                with contextlib.suppress(OSError):
                    path.unlink(missing_ok=True)


def create(path: Path | str, *, overwrite: bool = False) -> RunFolder:
    """A folder for a new run.

    Raises:
        RunError: the folder holds a run or other files, or cannot be written.
    """
    folder = RunFolder(Path(path))
    if not overwrite:
        refuse_existing(folder)
    make_folder(folder.path)
    try:
        names = [p.name for p in folder.path.iterdir() if not p.name.startswith(".")]
    except OSError as error:
        raise RunError(
            f"{folder.path}: cannot be read: {error.strerror or error}" + try_one_of("a folder of yours")
        ) from error
    if names and not folder.exists:
        raise RunError(
            f"{folder.path}: is not empty and holds no run (it holds {sorted(names)[0]})" + try_one_of("another folder")
        )
    # Fails now, not after an hour of training, where the folder cannot be written.
    probe = folder.path / ".writable"
    write_text(probe, "")
    probe.unlink(missing_ok=True)
    return folder


def refuse_existing(folder: RunFolder) -> None:
    """Raise where the folder holds a run, except one that was refused before its first step.

    Raises:
        RunError: it does.
    """
    if folder.exists and not _holds_nothing(folder):
        raise RunError(
            f"{folder.path}: a run stands here already"
            + try_one_of(
                "overwrite=True to replace it",
                f"ppvae fit --resume {folder.path}, or resume of ppvae.runs",
                "another folder",
            )
        )


def _holds_nothing(folder: RunFolder) -> bool:
    if (
        (folder.metrics.exists() and folder.metrics.stat().st_size)
        or checkpoint.find_records(folder.checkpoints, "last")
        or (folder.path / "dumps").exists()
    ):
        return False
    try:
        return bool(folder.read_info().get("outcome") == "failed")
    except RunError:
        return False


def find_run(path: Path | str) -> RunFolder:
    """The folder of a run that exists.

    Raises:
        RunError: the folder holds no run.
    """
    folder = RunFolder(Path(path))
    if not folder.recipe.exists():
        what = "holds no run" if folder.path.is_dir() else "no such folder"
        raise RunError(f"{folder.path}: {what}" + try_one_of("the folder that `ppvae fit` or train wrote"))
    return folder


@contextmanager
def hold_lock(folder: RunFolder, name: str = TRAINING_LOCK) -> Iterator[None]:
    """Hold a run folder while writing into it; the lock goes with the process, however it ends.

    Args:
        folder: the run folder.
        name: of the lock: training, evaluating and reporting each have one, as they write files of their own.

    Raises:
        RunError: another process holds it.
    """
    path = folder.path / name
    # Beside the lock, as some systems do not let others read a locked file; for messages only.
    process = folder.path / f"{name}.process"
    lock = FileLock(path, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        holder = ""
        with contextlib.suppress(OSError):
            holder = process.read_text(encoding="ascii", errors="replace").strip()
        who = f" (process {holder})" if holder else ""
        raise RunError(f"{folder.path}: another process is {_LOCKS[name]}{who}" + _REMEDIES[name]) from None
    except OSError as error:
        raise RunError(f"{path}: cannot be written: {error.strerror or error}") from error
    try:
        with contextlib.suppress(OSError):  # a full disk
            process.write_text(str(os.getpid()), encoding="ascii")
        yield
    finally:
        with contextlib.suppress(OSError):
            process.unlink(missing_ok=True)
        lock.release()
