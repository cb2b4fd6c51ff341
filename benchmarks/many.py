"""Eight seeds at once against eight fits one after another: a small network, and that of the paper.

In alternation, in one process: ``fit_many`` with ``how="sequence"``, which is eight fits, and with each way to do them
at once. The machine may be shared: beside the wall time stands the processor time of this process and its children,
which other programs do not lengthen. Processes spend as much of it as one after another, and that of their start
besides: what they save is wall time, on cores that are free.

    python benchmarks/many.py            # writes benchmarks/results/many.json
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ppvae.data import load
from ppvae.inference import ManyFits, fit_many
from ppvae.inference.execution.workers import cores
from ppvae.models import bernoulli_vae

RESULTS = Path(__file__).parent / "results"
CASES: dict[str, tuple[int, dict[str, Any], int, str]] = {
    # values of a datum, the sizes of the networks, epochs, mode
    "64-50-2,graph": (64, {"hidden": (50,), "latent_dim": 2}, 100, "graph"),
    "64-50-2,compiled": (64, {"hidden": (50,), "latent_dim": 2}, 100, "compiled"),
    "784-500-20,graph": (784, {"hidden": (500,), "latent_dim": 20}, 10, "graph"),
}


def timed(work: Callable[[], ManyFits]) -> tuple[ManyFits, dict[str, float]]:
    """The result, and seconds on the wall and of the processor, children included."""
    before, wall = os.times(), time.perf_counter()
    result = work()
    after = os.times()
    processor = sum(after[:4]) - sum(before[:4])
    return result, {"wall": time.perf_counter() - wall, "processor": processor}


def apart(one: ManyFits, other: ManyFits) -> float:
    """The largest difference of the last bound of a seed, in nats per datum."""
    return max(abs(a.history[-1]["elbo_train"] - b.history[-1]["elbo_train"]) for a, b in zip(one, other, strict=True))


def contest(case: str, ways: list[str], rounds: int) -> dict[str, Any]:
    """Each way in alternation, and what it takes in units of one after another."""
    size, sizes, num_epochs, mode = CASES[case]
    torch.manual_seed(0)
    data = load("digits", binarize="static") if size == 64 else torch.bernoulli(torch.rand(1300, size) ** 3)
    make_pair = functools.partial(bernoulli_vae, size, **sizes)
    options: dict[str, Any] = {"compile": mode, "progress": False}
    fit_many(make_pair, data, seeds=[0], how="sequence", num_epochs=1, **options)  # what is imported late
    taken: dict[Any, list[dict[str, float]]] = {way: [] for way in ("sequence", *ways)}
    differences: dict[str, float] = {}
    for _ in range(rounds):
        results = {}
        for way, times in taken.items():
            work = functools.partial(fit_many, make_pair, data, seeds=range(8), how=way, num_epochs=num_epochs)
            results[way], seconds = timed(functools.partial(work, **options))
            times.append(seconds)
            differences[way] = max(differences.get(way, 0.0), apart(results[way], results["sequence"]))
    medians = {
        way: {clock: statistics.median(one[clock] for one in times) for clock in ("wall", "processor")}
        for way, times in taken.items()
    }
    return {
        "seconds": medians,
        "all": taken,
        "ratio": {
            way: {clock: medians[way][clock] / medians["sequence"][clock] for clock in ("wall", "processor")}
            for way in ways
        },
        "nats_apart": differences,
    }


def main() -> None:
    """Run the contests and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ways", nargs="+", default=["stacked", "processes"])
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--out", type=Path, default=RESULTS, help="the folder of the results")
    options = parser.parse_args()
    results: dict[str, Any] = {}
    for case in options.cases:
        found = results[case] = contest(case, options.ways, options.rounds)
        alone = found["seconds"]["sequence"]
        print(f"{case}, M = 100: 8 one after another {alone['wall']:.1f} s, processor {alone['processor']:.1f} s")
        for way, ratio in found["ratio"].items():
            print(f"  {way:<12} wall {ratio['wall']:.2f}, processor {ratio['processor']:.2f}", end="")
            print(f"; at most {found['nats_apart'][way]:.1e} nats apart", flush=True)
    results["setting"] = {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "cores": cores(),
        "load": os.getloadavg(),
        "statistic": "median of rounds",
        "rounds": options.rounds,
    }
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "many.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
