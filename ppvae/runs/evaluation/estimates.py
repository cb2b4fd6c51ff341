"""The rows of an evaluation: the bound, evidence methods, their order, and the line that describes a row."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..recipe.catalogue import build, evidence_entries, parse_table
from ..recipe.signatures import words_of
from ..training.run import Run
from ...core import DataError
from ...data import Dataset
from ...inference import elbo
from ...inference.elbo.evaluation import BoundEstimate, BoundEvaluator
from ...inference.evidence import Evidence, EvidenceMethod
from ...inference.execution.placement import choose_device, dtype_of, like_pair
from ...inference.execution.processes import Processes

REPEATS = 10
"""Independent evaluations of the bound, whose spread is its Monte Carlo error."""


@dataclass(frozen=True)
class Method:
    """An evidence method as a recipe or the command line states it.

    Attributes:
        table: ``{name, **options}``, complete.
        weights: where the pair has a posterior over weights, how many draws of them to average over; None to hold them
            at their mean.
    """

    table: Mapping[str, Any]
    weights: int | None = None

    @staticmethod
    def parse(text: str, weights: int | None = None) -> Method:
        """From "ais" or "ais:num_chains=16,num_temperatures=100".

        Raises:
            RunError: an unknown method or option, or a value of a wrong type.
        """
        return Method(parse_table(evidence_entries(), text, "--method", "evidence method"), weights)

    @property
    def key(self) -> str:
        """The key of its estimate: its name, its options, and the number of weights that it averages over."""
        return self.text + (f";weights={self.weights}" if self.weights else "")

    @property
    def text(self) -> str:
        """What :meth:`parse` reads."""
        options = [f"{key}={value}" for key, value in self.table.items() if key != "name"]
        return str(self.table["name"]) + (":" + ",".join(options) if options else "")

    @property
    def label(self) -> str:
        """What tables call it, where no other estimate has that name: see :func:`distinguish`."""
        return self._name + (f", {self.weights} weights" if self.weights else "")

    @property
    def _name(self) -> str:
        if self.table["name"] == "importance-sampling":
            share = self.table["defensive"]
            return f"L_{self.table['num_samples']}" + (f", defensive {share:g}" if share else "")
        words = words_of(evidence_entries()[self.table["name"]].build.__name__)
        return " ".join([words[0], *(word if word.isupper() else word.lower() for word in words[1:])])

    def make(self) -> EvidenceMethod:
        """The method itself."""
        method = build(evidence_entries(), self.table)
        assert isinstance(method, EvidenceMethod)
        return method


def key_of(method: str, seed: int) -> str:
    """The key of an estimate among those of the same parameters and data; ``method`` has all its options."""
    return method + (f";seed={seed}" if seed else "")


def distinguish(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows with labels that tell them apart: where several have one name, with the options in which they differ.

    >>> rows = [{"name": "AIS", "options": {"num_chains": c, "start": "guide"}, "seed": 0} for c in (4, 16)]
    >>> [row["label"] for row in distinguish(rows)]
    ['AIS, num_chains=4', 'AIS, num_chains=16']
    """
    settings = [(row, {**row["options"], "seed": row["seed"]}) for row in rows]
    result = []
    for row, options in settings:
        others = [other for same, other in settings if same["name"] == row["name"]]
        words = [f"{key}={value}" for key, value in options.items() if any(other.get(key) != value for other in others)]
        result.append({**row, "label": ", ".join([row["name"], *words])})
    return result


def bound_row(
    run: Run, data: Dataset, seed: int, device: str, command: str = "", processes: Processes | None = None
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The bound of all data, as the mean over ten evaluations, whose chunks processes share: its row, its columns."""
    start = time.perf_counter()
    bound = bound_of(run, data, seed, device, REPEATS, processes)
    columns = {name: getattr(bound, name).double() for name in ("elbo", "reconstruction", "kl")}
    value = columns["elbo"]
    row = {
        "key": key_of("elbo", seed),
        "name": "ELBO",
        "label": "ELBO",
        "method": "elbo",
        "options": {"repeats": REPEATS},
        "side": "lower",
        "mean": bound.mean,
        "monte_carlo_error": bound.mean_standard_error,
        "sampling_error": bound.sampling_standard_error if len(value) > 1 else None,
        "reconstruction": float(columns["reconstruction"].mean()),
        "kl": float(columns["kl"].mean()),
        "mean_of_all": bound.mean,
        "mean_of_all_standard_error": bound.mean_standard_error,
        "worst_pareto_k": None,
        "num_data": len(value),
        "num_estimated": len(value),
        "num_trusted": len(value),
        "messages": {},
        "seconds": time.perf_counter() - start,
        "seed": seed,
        "command": command,
    }
    return row, {name: value.float() for name, value in columns.items()}


def bound_of(
    run: Run, data: Dataset, seed: int, device: str, repeats: int, processes: Processes | None = None
) -> BoundEstimate:
    """The bound of every datum, as the mean over some evaluations."""
    where = choose_device(device)
    run.pair.to(where)
    data = data.to(where)
    few = like_pair(data.batch(torch.arange(min(2, len(data)), device=where)), dtype_of(run.pair))
    estimator = elbo.TraceMeanFieldELBO(on_missing_kl="sample")
    estimator.check(run.pair, few, trains=False)
    chunk = min(1000, len(data))
    calls = repeats * math.ceil(len(data) / chunk)
    options: dict[str, Any] = {"chunk_size": chunk, "num_data": len(run.data), "processes": processes}
    return BoundEvaluator(run.pair, estimator, calls=calls, **options)(data, seed, num_repeats=repeats)


def evidence_row(
    method: Method,
    evidence: Evidence,
    seed: int,
    command: str,
    seconds: float,
    bounds: Tensor | None = None,
    datum: Tensor | None = None,
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """An evidence method's row and columns.

    Args:
        method: the method.
        evidence: what it found.
        seed: of it.
        command: that makes it again.
        seconds: its time in earlier evaluations that were stopped.
        bounds: of all data of the part, [N], where the evidence is that of some.
        datum: which these are.
    """
    summary = evidence.to_dict(per_datum=False)
    row = {
        "key": key_of(method.key, seed),
        "name": method.label,
        "label": method.label,
        "method": method.table["name"],
        "options": {key: value for key, value in method.table.items() if key != "name"},
        "side": summary["bound"],
        "mean": summary["mean"],
        "monte_carlo_error": summary["mean_standard_error"],
        "sampling_error": summary["sampling_standard_error"],
        "mean_of_all": summary["mean_of_all"],
        "mean_of_all_standard_error": summary["mean_of_all_standard_error"],
        "worst_pareto_k": summary["worst_pareto_k"],
        "num_data": summary["num_data"],
        "num_estimated": summary["num_estimated"],
        "num_trusted": summary["num_trusted"],
        "messages": summary["messages"],
        "info": summary["info"],
        "seconds": summary["seconds"] + seconds,
        "seed": seed,
        "command": command,
    }
    with suppress(DataError):  # an upper bound that some of the data have not
        if bounds is not None and datum is not None:
            whole = evidence.over_all(bounds, datum)
            row["over_all"] = {**whole._asdict(), "error": whole.error if math.isfinite(whole.error) else None}
    names = ("log_evidence", "standard_error", "effective_sample_size", "pareto_k", "outcome")
    return row, {name: getattr(evidence, name) for name in names}


def describe(row: Mapping[str, Any]) -> str:
    """One line: ``L_5000 (lower): -20.13 ± 0.01 nats per datum (± 0.31 over the choice of data), 1.2 s``.

    Where not all estimates can be trusted, the mean is over those that can, with the mean over all beside it.
    """
    text = f"{row['label']} ({row['side']}): {_number(row['mean'], 3)}"
    if row["monte_carlo_error"]:
        text += f" ± {_number(row['monte_carlo_error'], 3)}"
    text += " nats per datum"
    if row["sampling_error"] is not None:
        text += f" (± {_number(row['sampling_error'], 2)} over the choice of data)"
    if not row["num_trusted"]:
        text += f", none that can be trusted ({of_all(row)})"
    elif row["num_trusted"] < row["num_data"]:
        text += f", over the {of_data(row)} that can be trusted ({of_all(row)})"
    if row["worst_pareto_k"] is not None:
        text += f", worst Pareto k {row['worst_pareto_k']:.2f}"
    return f"{text}, {row['seconds']:.1f} s"


def whole_mean(row: Mapping[str, Any]) -> str | None:
    """``AIS, over all 300 data: -24.61 ± 0.12 (lower), by their bound and ...``, where the data are some of a part."""
    found = row.get("over_all")
    if not found:
        return None
    error = "" if found["error"] is None else f" ± {_number(found['error'], 3)}"
    return (
        f"{row['label']}, over all {found['num_data']} data: {_number(found['value'], 3)}{error} ({found['side']}), by "
        f"their bound and what {row['label']} adds to that of these {found['num_estimated']}"
    )


def of_data(row: Mapping[str, Any]) -> str:
    """The number of data behind the mean: ``61 of 100 data``, or ``100 data``."""
    count, whole = row["num_trusted"], row["num_data"]
    return f"{whole} data" if count == whole else f"{count} of {whole} data"


def of_all(row: Mapping[str, Any]) -> str:
    """The mean that leaves nothing out: ``-21.30 ± 0.05 over all 98 that have an estimate``."""
    error = row["mean_of_all_standard_error"]
    mean = _number(row["mean_of_all"], 3) + (f" ± {_number(error, 3)}" if error else "")
    return f"{mean} over all {row['num_estimated']} that have an estimate"


def order(row: Mapping[str, Any]) -> tuple[int, int, str, int]:
    """The bound first, then lower bounds from crude to fine, estimates on neither side, upper bounds, the truth."""
    sides = {"lower": 0, "consistent": 1, "upper": 2, "exact": 3}
    methods = ("elbo", "prior-sampling", "importance-sampling", "ais")
    place = methods.index(row["method"]) if row["method"] in methods else len(methods)
    return sides.get(row["side"], 4), place, str(row["method"]), _samples(row)


def _samples(row: Mapping[str, Any]) -> int:
    count = row["options"].get("num_samples", 0)
    return count if isinstance(count, int) else 0


def _number(value: float | None, digits: int) -> str:
    return "—" if value is None else f"{value:.{digits}f}"
