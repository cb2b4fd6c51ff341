"""Would these settings have found the truth on data like these? Methods judged on data that the model itself made.

Of real data nobody knows log p(x). Of data that the model made, the z that made them is an exact draw of the posterior,
from which bidirectional Monte Carlo has an upper bound (Grosse, Ghahramani & Adams 2015, arXiv 1511.02543).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .estimates import Method
from .run import Run
from ..data import Dataset
from ..inference.evidence import Evidence, Outcome, log_evidence, simulate_data
from ..inference.seeds import seed_of

NUM_DATA = 50
"""Data that are simulated where nobody says how many."""
LEVELS = (0.5, 0.9, 0.95)
"""Quantiles over data of how far the truth may be."""


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

    Of datum b the truth lies between the lower bound $l_b$ and the upper bound $u_b$, in expectation. The gap
    $u_b - \hat\ell_b$ is how far below the truth an estimate may be at most, and where a method's interval of three
    standard errors lies outside of the sandwich, it missed.

    Args:
        run: the run.
        data: gives covariates and shapes.
        methods: the evidence methods, of which those for real data are run.
        sandwich: BDMC with its options.
        num_data: how many data are simulated.
        seed: of all draws.
        device: "auto", "cpu", "cuda".
        weights: where the weights are held: "mean", or None for a pair without a posterior over them.
        progress: show bars on a terminal.
        chunk_size: data in a chunk at most.
        say: told of every row.

    Returns:
        ``num_data``, ``seed`` and ``rows``: for each method how many data it can be trusted on, quantiles of the gap
        over these, and how many it missed; BDMC's own row has quantiles of the width.

    Raises:
        PairError: BDMC cannot be used on this pair (discrete latents, auxiliary sites).
        DataError: the observed sites do not make up the data.
    """
    made = simulate_data(run.pair, data, num_data, seed=seed_of(seed, "simulated"), global_sites=weights)
    options: dict[str, Any] = {
        "seed": seed_of(seed, "estimated"),
        "device": device,
        "progress": progress,
        "global_sites": weights,
        "chunk_size": chunk_size,
    }
    both = log_evidence(run.pair, made, method=sandwich.make(), **options)
    _whole(both)
    rows = [_sandwich_row(sandwich, both)]
    say(sentence(rows[-1], num_data))
    for method in methods:
        found = log_evidence(run.pair, made.x, method=replace(method, weights=None).make(), **options)
        _whole(found)
        rows.append(_row(method, found, both))
        say(sentence(rows[-1], num_data))
    return {"num_data": num_data, "seed": seed, "weights": weights, "levels": list(LEVELS), "rows": rows}


def sentence(row: Mapping[str, Any], num_data: int) -> str:
    """What a row says, in words."""
    label, high = row["label"], row["gap"][-1]
    start = f"on {num_data} data that the model made, {label}"
    if high is None:
        return f"{start} can be trusted on none"
    share = f"{LEVELS[-1]:.0%} of the {row['num_trusted']} that it can be trusted on"
    if row["is_sandwich"]:
        return f"{start} encloses the truth within {_nats(high)} for {share} (median {_nats(row['gap'][0])})"
    return (
        f"{start} was at most {_nats(high)} below the truth for {share} (median {_nats(row['gap'][0])}); of these, "
        f"{row['num_missed']} miss the truth by more than 3 standard errors"
    )


def _sandwich_row(method: Method, found: Evidence) -> dict[str, Any]:
    fine = found.trusted & torch.isfinite(found.info["upper"])
    return _told(method, found, found.info["width"].double(), fine, 0, True)


def _row(method: Method, found: Evidence, both: Evidence) -> dict[str, Any]:
    lower, upper = both.log_evidence.double(), both.info["upper"].double()
    fine = found.trusted & both.estimated & torch.isfinite(upper)
    value, error = found.log_evidence.double(), found.standard_error.double().nan_to_num()
    rounding = 16 * torch.finfo(found.log_evidence.dtype).eps * value.abs()
    below = value + 3 * (error.square() + both.standard_error.double().square()).sqrt() + rounding < lower
    above = value - 3 * (error.square() + both.info["upper_standard_error"].double().square()).sqrt() - rounding > upper
    return _told(method, found, upper - value, fine, int((fine & (below | above)).sum()), False)


def _told(
    method: Method, found: Evidence, gap: Tensor, fine: Tensor, num_missed: int, is_sandwich: bool
) -> dict[str, Any]:
    levels = torch.tensor(LEVELS, dtype=torch.float64)
    quantiles = gap[fine].quantile(levels).tolist() if bool(fine.any()) else [None] * len(LEVELS)
    return {
        "key": method.key,
        "label": method.label,
        "side": found.bound,
        "is_sandwich": is_sandwich,
        "num_trusted": int(fine.sum()),
        "num_missed": num_missed,
        "gap": quantiles,
        "seconds": found.seconds,
    }


def _whole(found: Evidence) -> None:
    if bool((found.outcome == Outcome.INTERRUPTED).any()):
        raise KeyboardInterrupt


def _nats(value: float) -> str:
    if not math.isfinite(value):
        return "no number of nats"
    return f"{value:.2f} nats" if abs(value) >= 0.1 else f"{value:.3f} nats" if abs(value) >= 1e-3 else "0.001 nats"
