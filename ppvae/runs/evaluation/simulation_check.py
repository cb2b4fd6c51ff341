"""A check of evidence methods on data simulated from the model.

For real data log p(x) is unknown. For simulated data, the z that they were simulated from is an exact draw of the
posterior, from which bidirectional Monte Carlo has an upper bound (Grosse, Ghahramani & Adams 2015, arXiv 1511.02543).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .estimates import Method
from ..training.run import Run
from ...data import Dataset
from ...inference.evidence import Evidence, Outcome, log_evidence, simulate_data
from ...inference.execution.seeds import seed_of

NUM_DATA = 50
"""Simulated data by default."""
LEVELS = (0.5, 0.9, 0.95)
"""Quantiles over data of the largest possible error."""


def check_by_simulation(
    run: Run,
    data: Dataset,
    methods: Sequence[Method],
    sandwich: Method,
    num_data: int,
    *,
    seed: int,
    device: str,
    weights: str | None,
    progress: bool,
    chunk_size: int | None,
    say: Callable[[str], None],
) -> dict[str, Any]:
    r"""Run every method on data simulated from the model, beside bidirectional Monte Carlo's sandwich around the truth.

    The truth of datum b lies between the lower bound $l_b$ and the upper bound $u_b$, in expectation. So an estimate
    $\hat\ell_b$ lies on average between $\overline{l - \hat\ell}$ and $\overline{u - \hat\ell}$ nats below the truth,
    both with the error of a mean over data. There is no verdict on a single datum, whose bounds are noisy (the reverse
    chains of a datum share their one exact draw); quantiles of the gap $u_b - \hat\ell_b$ contain that noise, and are
    conservative at their upper end.

    Args:
        run: the run.
        data: gives covariates and shapes.
        methods: the evidence methods for real data.
        sandwich: BDMC with its options.
        num_data: how many data are simulated.
        seed: of all draws.
        device: "auto", "cpu", "cuda".
        weights: the value of the weights: "mean", or None for a pair without a posterior over them.
        progress: show bars on a terminal, and elsewhere a line now and then.
        chunk_size: data in a chunk at most.
        say: called with a line on every row.

    Returns:
        ``num_data``, ``seed`` and ``rows``: for each method the number of data that it can be trusted on, and over
        these ``below``, the two means, each with its error, and ``gap``, the quantiles. BDMC's own row is about its
        lower bound: its gap is the width of the sandwich.

    Raises:
        PairError: BDMC cannot be used on this pair (discrete latents, auxiliary sites).
        DataError: the observed sites do not make up the data.
    """
    simulation = simulate_data(run.pair, data, num_data, seed=seed_of(seed, "simulated"), global_sites=weights)
    options: dict[str, Any] = {
        "seed": seed_of(seed, "estimated"),
        "device": device,
        "progress": progress,
        "global_sites": weights,
        "chunk_size": chunk_size,
    }
    bounds = log_evidence(run.pair, simulation, method=sandwich.make(), **options)
    _raise_if_interrupted(bounds)
    rows = [_row(sandwich, bounds, bounds)]
    say(sentence(rows[-1], num_data))
    for method in methods:
        evidence = log_evidence(run.pair, simulation.x, method=replace(method, weights=None).make(), **options)
        _raise_if_interrupted(evidence)
        rows.append(_row(method, evidence, bounds))
        say(sentence(rows[-1], num_data))
    return {"num_data": num_data, "seed": seed, "weights": weights, "levels": list(LEVELS), "rows": rows}


def sentence(row: Mapping[str, Any], num_data: int) -> str:
    """A row in words."""
    label, high = row["label"], row["gap"][-1]
    start = f"on {num_data} data that the model made, {label}"
    if high is None:
        return f"{start} can be trusted on none"
    share = f"{LEVELS[-1]:.0%} of the {row['num_trusted']} that it can be trusted on"
    (least, least_error), (most, most_error) = row["below"]
    if row["is_sandwich"]:
        return (
            f"{start} has its two bounds at most {_nats(high)} apart for {share}, and {_pair(most, most_error)} nats "
            "on average"
        )
    return (
        f"{start} was at most {_nats(high)} below the truth for {share}, and on average between "
        f"{_pair(least, least_error)} and {_pair(most, most_error)} nats below it"
    )


def _row(method: Method, evidence: Evidence, bounds: Evidence) -> dict[str, Any]:
    assert bounds.upper is not None
    upper = bounds.upper.double()
    fine = evidence.trusted & bounds.estimated & torch.isfinite(upper)
    value = evidence.log_evidence.double()
    gap, short = (upper - value)[fine], (bounds.log_evidence.double() - value)[fine]
    levels = torch.tensor(LEVELS, dtype=torch.float64)
    return {
        "key": method.key,
        "label": method.label,
        "side": evidence.bound,
        "is_sandwich": evidence is bounds,
        "num_trusted": int(fine.sum()),
        "below": [_mean(short), _mean(gap)],
        "gap": gap.quantile(levels).tolist() if len(gap) else [None] * len(LEVELS),
        "seconds": evidence.seconds,
    }


def _mean(values: Tensor) -> list[float]:
    """The mean over data and its error."""
    return [float(values.mean()), float(values.std()) / math.sqrt(len(values)) if len(values) > 1 else math.nan]


def _raise_if_interrupted(evidence: Evidence) -> None:
    if bool((evidence.outcome == Outcome.INTERRUPTED).any()):
        raise KeyboardInterrupt


def _pair(value: float, error: float | None) -> str:
    """A mean with its error, which a single datum does not have (null in a file)."""
    return f"{value:.3f}" if error is None or math.isnan(error) else f"{value:.3f} ± {error:.3f}"


def _nats(value: float) -> str:
    if not math.isfinite(value):
        return "no number of nats"
    return f"{value:.2f} nats" if abs(value) >= 0.1 else f"{value:.3f} nats" if abs(value) >= 1e-3 else "0.001 nats"
