"""The estimates of an evaluation so far: which of them stand, which are made anew, and their file."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor

from .estimates import describe, distinguish, order
from .files import FORMAT, VERSION, forget, path_of, read_whole, set_aside, sweep, write_whole
from .simulation_check import sentence
from ..storage.atomic import plain
from ..storage.checkpoint import LaterVersion
from ..training.run import Run
from ... import __version__
from ...core.errors import RunError
from ...data import Dataset

Say = Callable[[str], None]

_log = logging.getLogger("ppvae.runs")


class EvaluationRecord:
    """The estimates so far, in the run folder."""

    def __init__(
        self, run: Run, part: str, data: Dataset, datum: Tensor, conditions: Mapping[str, Any], write: bool
    ) -> None:
        self.folder, self.write = run.folder, write
        whole = run.part(part)
        self.about: dict[str, Any] = {
            "format": FORMAT,
            "version": VERSION,
            "ppvae": __version__,
            "run": str(run.folder.path),
            "parameters": run.parameters,
            "parameters_sha256": conditions["parameters"],
            "data": {
                "name": run.data.name,
                "part": part,
                "num_data": len(data),
                "num_whole": len(whole),
                "fingerprint": conditions["data"],
                "whole": conditions["data"] if len(whole) == len(data) else whole.fingerprint(),
            },
        }
        self.path = path_of(run.folder, self.about)
        self.values: dict[str, Any] = {**self.about, "estimates": [], "simulation_checks": []}
        self.rows: list[dict[str, Any]] = []
        self.checks: list[dict[str, Any]] = []
        self.columns: dict[str, Tensor] = {"datum": datum}
        if write:
            sweep(self.folder)
            if self.path.exists():
                self._read()

    def _read(self) -> None:
        """Take over the estimates of these data under these parameters."""
        try:
            old = read_whole(self.path)
            rows = sorted(old.rows, key=order)
            for row in rows:
                describe(row)
            checks = list(old.values["simulation_checks"])
        except LaterVersion:
            raise
        except (RunError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            reason = str(error).splitlines()[0] if isinstance(error, RunError) else f"{self.path}: not an evaluation"
            _log.warning("%s; it is kept as %s, and all is computed anew", reason, set_aside(self.path).name)
            return
        self.rows, self.checks, self.values = rows, checks, dict(old.values)
        self.columns |= old.columns

    def has(self, key: str, conditions: Mapping[str, Any]) -> bool:
        """Whether there is an estimate of this name under these conditions."""
        return any(row.get("key") == key and row.get("conditions") == plain(conditions) for row in self.rows)

    def keeps(self, key: str, conditions: Mapping[str, Any], say: Say) -> bool:
        """As :meth:`has`, with a line on the estimate, or on why the one that is there does not serve."""
        row = next((row for row in self.rows if row["key"] == key), None)
        if row is None:
            return False
        if not self.has(key, conditions):
            before, now = row.get("conditions") or {}, plain(conditions)
            changes = ", ".join(f"{name} was {before.get(name)}" for name in now if before.get(name) != now[name])
            say(f"{row['label']}: computed anew, in place of an estimate under other conditions ({changes})")
            return False
        say(f"{describe(row)}; kept from an earlier evaluation, --again recomputes")
        return True

    def add(self, row: dict[str, Any], tensors: Mapping[str, Tensor], say: Say) -> None:
        """Add a row, in place of one with its key, and write the files."""
        self._remove(row["key"])
        self.rows = distinguish(sorted([*self.rows, row], key=order))
        self.columns.update({f"{row['key']}/{name}": value for name, value in tensors.items()})
        self._save()
        say(describe(next(found for found in self.rows if found["key"] == row["key"])))

    def keeps_check(self, conditions: Mapping[str, Any], say: Say) -> bool:
        """Whether there is a check on simulated data under these conditions, with a line on each of its rows."""
        check = next((check for check in self.checks if check.get("conditions") == plain(conditions)), None)
        if check is None:
            return False
        for row in check["rows"]:
            say(f"{sentence(row, check['num_data'])}; kept from an earlier evaluation, --again recomputes")
        return True

    def add_check(self, check: dict[str, Any]) -> None:
        """Add a check on simulated data, in place of one under the same conditions."""
        conditions = plain(check["conditions"])
        self.checks = [old for old in self.checks if old.get("conditions") != conditions] + [plain(check)]
        self._save()

    def drop(self, keys: Iterable[str]) -> None:
        """Remove these estimates, so that a stop of this evaluation does not leave the old ones."""
        for key in keys:
            self._remove(key)
        if self.rows or self.checks or not self.write:
            self._save()
        else:
            forget(self.path)

    def _remove(self, key: str) -> None:
        self.rows = [row for row in self.rows if row["key"] != key]
        for name in [name for name in self.columns if name.startswith(key + "/")]:
            del self.columns[name]

    def _save(self) -> None:
        values = {**self.about, "estimates": self.rows, "simulation_checks": self.checks}
        self.values = write_whole(self.path, values, self.columns) if self.write else values
