"""Tables of what was measured, read from ``benchmarks/results``: no number of theirs is typed by hand."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Any

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"

ESTIMATORS = {
    "SGVB-A": "TraceELBO()",
    "SGVB-B": "TraceMeanFieldELBO()",
    "StickingTheLanding": "StickingTheLandingELBO()",
    "ScoreFunction": "ScoreFunctionELBO()",
    "ScoreFunction-5, leave-one-out": 'ScoreFunctionELBO(num_particles=5, baseline="leave-one-out")',
    "IWAE-5": "ImportanceWeightedELBO(5)",
    "DReG-5": "DoublyReparameterizedELBO(5)",
    "Renyi-5 (0.5)": "RenyiELBO(0.5, num_particles=5)",
    "VIMCO-5": "VIMCO(5)",
    "RWS-5": "ReweightedWakeSleep(5)",
    "RWS-5, sleep": "ReweightedWakeSleep(5, sleep=0.5)",
}
"""The names of ``benchmarks/estimators.py`` in code."""

METHODS = ("ImportanceSampling", "Auto", "AIS", "AIS(prior)", "BridgeSampling", "RIS", "PriorSampling")
DIMENSIONS = {"fa3": "3", "fa10": "10", "fa30": "30"}

Row = list[str]


def read(name: str) -> Any:
    """The content of a file of results."""
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


def estimator_costs() -> tuple[Row, list[Row]]:
    """Header and rows: an estimator, time of a step and noise of its gradients, all over those of ``TraceELBO()``."""
    results = read("estimators.json")
    times = {row["estimator"]: row["compiled_ms"] for row in results["cost"]}
    blocks = {(row["estimator"], row["block"]): row["variance"] for row in results["noise"]["blocks"]}
    biases = {row["estimator"]: row["bias"] for row in results["noise"]["estimators"]}

    def ratio(value: float, one: float) -> str:
        share = value / one
        return f"{share:.2g}" if share < 10 else f"{share:.0f}"

    rows = [
        [
            f"``{code}``",
            ratio(times[name], times["SGVB-A"]),
            *(ratio(blocks[name, block], blocks["SGVB-A", block]) for block in ("guide", "model")),
            f"{biases[name]:.2f}",
        ]
        for name, code in ESTIMATORS.items()
    ]
    return ["estimator", "time of a step", "variance, guide", "variance, model", "bound − log p(x), nats"], rows


def evidence_reach() -> tuple[Row, list[Row]]:
    """Header and rows: a method, the share of data it can be trusted on in 3, 10 and 30 dimensions by the guide."""
    shares = {(row["target"], row["guide"], row["method"]): row["ok"] for row in read("calibration.json")}
    guides = ("best", "mean-field", "half-wide", "wide")
    rows = [
        [
            f"``{method}``",
            *(" / ".join(f"{100 * shares[target, guide, method]:.0f}" for guide in guides) for target in DIMENSIONS),
        ]
        for method in METHODS
    ]
    return ["method", *(f"{dimension} dimensions" for dimension in DIMENSIONS.values())], rows


def evidence_seconds() -> tuple[Row, list[Row]]:
    """Header and rows: a method, seconds for 100 data: the median over targets and guides, and the largest."""
    seconds: dict[tuple[str, str], list[float]] = defaultdict(list)
    for row in read("calibration.json"):
        dimension = DIMENSIONS.get(row["target"], "1 or 2")
        seconds[row["method"], dimension].append(100 * row["seconds"] / row["num_data"])
    columns = ["1 or 2", *DIMENSIONS.values()]

    def cell(values: list[float]) -> str:
        return (
            f"{median(values):.2g} ({max(values):.2g})"
            if max(values) < 100
            else f"{median(values):.0f} ({max(values):.0f})"
        )

    rows = [[f"``{method}``", *(cell(seconds[method, column]) for column in columns)] for method in METHODS]
    return ["method", *(f"{column} dimensions" for column in columns)], rows


def training_seconds() -> tuple[Row, list[Row]]:
    """Header and rows: what was trained on the digits, how long that took, and what it came to on held-out digits."""
    rows = [
        [row["run"], f"{row['seconds']:.0f}", f"{row['L_5000']:.2f} ± {row['monte_carlo_error']:.3f}"]
        for row in read("estimators.json")["training"]
    ]
    return ["trained by", "seconds", "L_5000, nats per digit"], rows
