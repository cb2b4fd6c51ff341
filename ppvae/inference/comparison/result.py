"""The result of a comparison of estimators: two tables, tidy data, files."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from ...core.errors import DataError, try_one_of

R = TypeVar("R", bound="EstimatorRow | BlockRow")

# The quantities of the tidy data, with their units.
_OF_ESTIMATORS = {
    "bound": "nats/datum",
    "bias": "nats/datum",
    "variance": "nats^2",
    "seconds": "s/step",
    "peak_memory": "bytes",
    "cost_adjusted_variance": "nats^2 s",
}
_OF_BLOCKS = {
    "signal": "nats/datum",
    "variance": "(nats/datum)^2",
    "snr": "1",
    "cost_adjusted_variance": "(nats/datum)^2 s",
}


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
        bias_error: its standard error, including the reference's.
        seconds: median wall-clock time of one step (value and gradient).
        peak_memory: most bytes of the tensors of one eager step at one time.
        cost_adjusted_variance: variance x seconds, the variance at equal time (Glynn & Whitt 1992).
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
        reference: description of the reference for the bias; empty where there is none.
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

    @property
    def checkpoints(self) -> list[str]:
        """The labels of the states, in their order; one empty label where there is one state."""
        return list(dict.fromkeys(row.checkpoint for row in self.estimators))

    def truth(self, checkpoint: str = "") -> float:
        """The reference for the bias at a checkpoint, nats per datum; NaN where there is none."""
        return next(row.bound - row.bias for row in self.estimators if row.checkpoint == checkpoint)

    def tidy(self) -> Any:
        """A ``pandas.DataFrame`` with a row for each number.

        Its columns: checkpoint, estimator, block, quantity, value, standard_error, unit.
        """
        import pandas as pd

        frames = [_tidy(self.estimators, _OF_ESTIMATORS)]
        frames += [_tidy(self.blocks, _OF_BLOCKS, "gradient_")] if self.blocks else []
        return pd.concat(frames, ignore_index=True)

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

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Comparison:
        """What :meth:`to_dict` gave, without the bounds of every repeat.

        Raises:
            DataError: it is no such thing.
        """
        try:
            estimators = tuple(_row(EstimatorRow, row) for row in values["estimators"])
            blocks = tuple(_row(BlockRow, row) for row in values["blocks"])
            counts = (int(values[name]) for name in ("num_repeats", "num_data", "seed"))
            return cls(estimators, blocks, {}, str(values["reference"]), *counts)
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"no comparison of estimators: {error!r}" + try_one_of("ppvae compare-elbos again")
            ) from None

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write :meth:`tidy` as CSV, in place; an empty field where there is no number."""
        self.tidy().to_csv(path, index=False)

    def to_json(self, path: str | os.PathLike[str]) -> None:
        """Write :meth:`to_dict` as JSON, in place."""
        Path(path).write_text(json.dumps(self.to_dict(), indent=2) + "\n", encoding="utf-8")

    def table(self) -> str:
        """Both tables as text."""
        about = f"{self.num_repeats} repeats on {self.num_data} data, seed {self.seed}; nats per datum"
        if self.reference:
            about += f"; bias against {self.reference}"
        first = _text(
            self.estimators,
            {
                "bound": lambda row: _with_error(row.bound, row.bound_error),
                "bias": lambda row: _with_error(row.bias, row.bias_error),
                "variance": lambda row: f"{row.variance:.3g}",
                "ms/step": lambda row: f"{1e3 * row.seconds:.2f}",
                "MB": lambda row: f"{row.peak_memory / 1e6:.2f}",
                "variance x s": lambda row: f"{row.cost_adjusted_variance:.3g}",
            },
        )
        second = _text(
            self.blocks,
            {
                "block": lambda row: row.block,
                "signal": lambda row: f"{row.signal:.3g}",
                "gradient variance": lambda row: f"{row.variance:.3g} ± {row.variance_error:.1g}",
                "signal-to-noise": lambda row: f"{row.snr:.3g} ± {row.snr_error:.1g}",
                "variance x s": lambda row: f"{row.cost_adjusted_variance:.3g}",
            },
        )
        return "\n\n".join((about, first, second))

    def __repr__(self) -> str:
        return self.table()


def _row(kind: type[R], values: Mapping[str, Any]) -> R:
    """A row of plain values; None is a number that was not finite."""
    types: dict[str, Callable[[Any], Any]] = {
        "str": str,
        "int": int,
        "float": lambda value: math.nan if value is None else float(value),
    }
    return kind(**{field.name: types[str(field.type)](values[field.name]) for field in fields(kind)})


def _tidy(rows: Sequence[Any], units: Mapping[str, str], prefix: str = "") -> Any:
    import pandas as pd

    frame = pd.DataFrame([{"block": "", **asdict(row)} for row in rows])
    parts = [
        frame[["checkpoint", "estimator", "block"]].assign(
            quantity=prefix + name,
            value=frame[name].astype(float),
            standard_error=frame.get(f"{name}_error", math.nan),
            unit=unit,
        )
        for name, unit in units.items()
    ]
    return pd.concat(parts).sort_index(kind="stable")  # the quantities of a row together


def _text(rows: Sequence[Any], columns: Mapping[str, Callable[[Any], str]]) -> str:
    import pandas as pd

    names = [f"{row.checkpoint}: {row.estimator}" if row.checkpoint else row.estimator for row in rows]
    frame = pd.DataFrame({name: [cell(row) for row in rows] for name, cell in columns.items()}, index=names)
    return str(frame.rename_axis(columns="estimator").to_string())


def _with_error(value: float, error: float) -> str:
    if math.isnan(value):
        return "–"
    return f"{value:.3f}" if math.isnan(error) else f"{value:.3f} ± {error:.1g}"


def _plain(record: dict[str, Any]) -> dict[str, Any]:
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
