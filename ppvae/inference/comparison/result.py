"""The result of a comparison of estimators: two tables, tidy data, files."""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

TIDY = ("checkpoint", "estimator", "block", "quantity", "value", "standard_error", "unit")


@dataclass(frozen=True)
class EstimatorRow:
    """One estimator at one state of the parameters; per datum, over repeats.

    Attributes:
        estimator: its name.
        checkpoint: which state of the parameters; empty where there is one.
        bound: mean of the bound, nats per datum.
        bound_error: its standard error over repeats.
        variance: variance of one estimate of the bound of this batch, nats squared.
        variance_error: its standard error.
        bias: bound minus reference, nats per datum; NaN where there is no reference.
        bias_error: standard error of it, the reference's included.
        seconds: median wall-clock time of one step (value and gradient).
        peak_memory: most bytes that the tensors of one eager step hold at once.
        cost_adjusted_variance: variance x seconds: what a fixed time buys (Glynn & Whitt 1992).
        mode: how the step ran: "eager", "graph" or "compiled".
    """

    estimator: str
    checkpoint: str
    bound: float
    bound_error: float
    variance: float
    variance_error: float
    bias: float
    bias_error: float
    seconds: float
    peak_memory: int
    cost_adjusted_variance: float
    mode: str


@dataclass(frozen=True)
class BlockRow:
    """The gradient of one block of parameters under one estimator, per datum; see ``GradientStatistics``.

    Attributes:
        estimator: its name.
        checkpoint: which state of the parameters; empty where there is one.
        block: "guide", "model", "shared", or a name of the caller's.
        num_parameters: its length.
        signal: norm of the mean gradient.
        variance: trace of the gradient's covariance.
        variance_error: its standard error.
        snr: signal-to-noise ratio.
        snr_error: its standard error.
        cost_adjusted_variance: variance x seconds of one step.
    """

    estimator: str
    checkpoint: str
    block: str
    num_parameters: int
    signal: float
    variance: float
    variance_error: float
    snr: float
    snr_error: float
    cost_adjusted_variance: float


@dataclass(frozen=True, repr=False)
class Comparison:
    """ELBO estimators compared on one pair, at one state of its parameters or at several.

    Attributes:
        estimators: one row for each estimator and checkpoint.
        blocks: one row for each estimator, checkpoint and block of parameters.
        values: (checkpoint, estimator) to the bounds of all repeats, [R], nats per datum; repeat r has the same
            random numbers for every estimator.
        reference: what the bias is against, in words; empty where there is none.
        num_repeats: R.
        num_data: how many data the batch holds.
        seed: of all noise.
    """

    estimators: tuple[EstimatorRow, ...]
    blocks: tuple[BlockRow, ...]
    values: dict[tuple[str, str], Tensor]
    reference: str
    num_repeats: int
    num_data: int
    seed: int

    def row(self, estimator: str, checkpoint: str = "") -> EstimatorRow:
        """The row of an estimator.

        Raises:
            KeyError: there is none.
        """
        for row in self.estimators:
            if (row.estimator, row.checkpoint) == (estimator, checkpoint):
                return row
        raise KeyError((estimator, checkpoint))

    def block(self, estimator: str, block: str, checkpoint: str = "") -> BlockRow:
        """The row of a block of parameters under an estimator.

        Raises:
            KeyError: there is none.
        """
        for row in self.blocks:
            if (row.estimator, row.block, row.checkpoint) == (estimator, block, checkpoint):
                return row
        raise KeyError((estimator, block, checkpoint))

    def tidy(self) -> list[dict[str, Any]]:
        """One record for each number: checkpoint, estimator, block, quantity, value, standard_error, unit."""
        records: list[dict[str, Any]] = []

        def add(where: Sequence[str], quantity: str, value: float, error: float, unit: str) -> None:
            records.append(dict(zip(TIDY, (*where, quantity, value, error, unit), strict=True)))

        for row in self.estimators:
            where = (row.checkpoint, row.estimator, "")
            add(where, "bound", row.bound, row.bound_error, "nats/datum")
            add(where, "bias", row.bias, row.bias_error, "nats/datum")
            add(where, "variance", row.variance, row.variance_error, "nats^2")
            add(where, "seconds", row.seconds, math.nan, "s/step")
            add(where, "peak_memory", row.peak_memory, math.nan, "bytes")
            add(where, "cost_adjusted_variance", row.cost_adjusted_variance, math.nan, "nats^2 s")
        for block in self.blocks:
            where = (block.checkpoint, block.estimator, block.block)
            add(where, "gradient_signal", block.signal, math.nan, "nats/datum")
            add(where, "gradient_variance", block.variance, block.variance_error, "(nats/datum)^2")
            add(where, "gradient_snr", block.snr, block.snr_error, "1")
            add(where, "gradient_cost_adjusted_variance", block.cost_adjusted_variance, math.nan, "(nats/datum)^2 s")
        return records

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain numbers, strings, lists and dictionaries; a number that is not finite becomes None."""
        return {
            "reference": self.reference,
            "num_repeats": self.num_repeats,
            "num_data": self.num_data,
            "seed": self.seed,
            "estimators": [_plain(asdict(row)) for row in self.estimators],
            "blocks": [_plain(asdict(row)) for row in self.blocks],
        }

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write :meth:`tidy` as CSV; an empty field where there is no number."""
        temporary = Path(path).with_name(Path(path).name + ".part")
        with temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, TIDY)
            writer.writeheader()
            for record in self.tidy():
                writer.writerow({key: "" if value != value else value for key, value in record.items()})
        temporary.replace(path)

    def to_json(self, path: str | os.PathLike[str]) -> None:
        """Write :meth:`to_dict` as JSON."""
        temporary = Path(path).with_name(Path(path).name + ".part")
        temporary.write_text(json.dumps(self.to_dict(), indent=2) + "\n", encoding="utf-8")
        temporary.replace(path)

    def table(self) -> str:
        """Both tables as text."""
        marked = any(row.checkpoint for row in self.estimators)
        first: list[list[str]] = [
            ["estimator", "bound", "bias", "variance", "ms/step", "MB", "variance x s"],
            *(
                [
                    _name(row, marked),
                    _with_error(row.bound, row.bound_error),
                    _with_error(row.bias, row.bias_error),
                    f"{row.variance:.3g}",
                    f"{1e3 * row.seconds:.2f}",
                    f"{row.peak_memory / 1e6:.2f}",
                    f"{row.cost_adjusted_variance:.3g}",
                ]
                for row in self.estimators
            ),
        ]
        second: list[list[str]] = [
            ["estimator", "block", "signal", "gradient variance", "signal-to-noise", "variance x s"],
            *(
                [
                    _name(block, marked),
                    block.block,
                    f"{block.signal:.3g}",
                    f"{block.variance:.3g} ± {block.variance_error:.1g}",
                    f"{block.snr:.3g} ± {block.snr_error:.1g}",
                    f"{block.cost_adjusted_variance:.3g}",
                ]
                for block in self.blocks
            ),
        ]
        about = f"{self.num_repeats} repeats on {self.num_data} data, seed {self.seed}; nats per datum"
        if self.reference:
            about += f"; bias against {self.reference}"
        return "\n".join((about, "", *_aligned(first), "", *_aligned(second)))

    def __repr__(self) -> str:
        return self.table()


def _name(row: EstimatorRow | BlockRow, marked: bool) -> str:
    return f"{row.checkpoint}: {row.estimator}" if marked else row.estimator


def _with_error(value: float, error: float) -> str:
    if math.isnan(value):
        return "–"
    return f"{value:.3f}" if math.isnan(error) else f"{value:.3f} ± {error:.1g}"


def _aligned(rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _plain(record: dict[str, Any]) -> dict[str, Any]:
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
