"""How time and peak memory of training and of three estimates of the evidence grow with everything they depend on.

    python benchmarks/scaling.py                       # writes benchmarks/results/scaling.json and scaling.svg
    python benchmarks/scaling.py --only "AIS"          # some of it
    python benchmarks/scaling.py --only products       # L_5000 against the bare matrix products alone

A VAE of binary data; one knob is turned at a time, the others stay at the base. Time is that of the processors (of one
thread), the least of the rounds, with the recording of the graph, which every call pays anew; memory is what the
resident memory rises by above what it is before. To the times of each knob k two things are fitted: the exponent p of
k^p over the upper half of its range, and the line a + b k, whose knee a / b is where what grows has the size of what
does not: of the recording, and of what the other knobs ask for.

The last part sets L_5000 of many digits against its matrix products, done bare in turns with it.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import resource
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from ppvae.inference import elbo, evidence, fit, log_evidence, sample_posterior
from ppvae.models import bernoulli_vae

RESULTS = Path(__file__).parent / "results"
BASE = {"data": 200, "pixels": 784, "latents": 10, "hidden": 100}
BASE |= {"draws": 200, "chains": 4, "steps": 20, "particles": 1, "epochs": 100}
RANGES: dict[str, tuple[int, ...]] = {
    "data": (50, 100, 200, 400, 800),
    "pixels": (98, 196, 392, 784, 1568),
    "latents": (2, 5, 10, 20, 50, 100),
    "hidden": (25, 50, 100, 200, 400, 800),
    "draws": (50, 200, 1000, 5000),
    "chains": (2, 4, 8, 16, 32),
    "steps": (5, 10, 20, 40, 80),
    "particles": (1, 2, 5, 10, 20),
}
SMALL = {
    "data": 40,
    "pixels": 20,
    "latents": 2,
    "hidden": 8,
    "draws": 10,
    "chains": 2,
    "steps": 4,
    "particles": 1,
    "epochs": 2,
}


def training(size: Mapping[str, int]) -> Callable[[], Any]:
    """Epochs of a fit."""
    pair, x = problem(size)

    def run() -> None:
        objective = elbo.TraceELBO(num_particles=size["particles"])
        fit(
            pair,
            x,
            elbo=objective,
            num_epochs=size["epochs"],
            batch_size=min(50, len(x)),
            compile="graph",
            progress=False,
        )

    return run


def estimate(method: evidence.EvidenceMethod, size: Mapping[str, int]) -> Callable[[], Any]:
    """The evidence of all data by a method."""
    pair, x = problem(size)
    return lambda: log_evidence(pair, x, method=method, compile="graph", memory_budget=2**28, progress=False)


def chains(size: Mapping[str, int]) -> Callable[[], Any]:
    """Draws of the posterior of every datum."""
    pair, x = problem(size)
    steps = {"num_chains": size["chains"], "num_warmup": size["steps"], "num_samples": size["steps"]}
    return lambda: sample_posterior(pair, x, **steps, compile="graph", memory_budget=2**28, progress=False)


WORK: dict[str, tuple[Callable[[Mapping[str, int]], Callable[[], Any]], tuple[str, ...]]] = {
    "fit": (training, ("data", "pixels", "latents", "hidden", "particles")),
    "importance sampling": (
        lambda size: estimate(evidence.ImportanceSampling(size["draws"]), size),
        ("data", "pixels", "latents", "hidden", "draws"),
    ),
    "AIS": (
        lambda size: estimate(evidence.AIS(num_temperatures=size["steps"], num_chains=size["chains"]), size),
        ("data", "pixels", "latents", "hidden", "chains", "steps"),
    ),
    "HMC": (chains, ("data", "pixels", "latents", "hidden", "chains", "steps")),
}


def problem(size: Mapping[str, int]) -> tuple[Any, torch.Tensor]:
    """An untrained VAE, and data."""
    torch.manual_seed(0)
    pair = bernoulli_vae(size["pixels"], latent_dim=size["latents"], hidden=(size["hidden"],))
    return pair, torch.bernoulli(torch.full((size["data"], size["pixels"]), 0.3))


def measured(run: Callable[[], Any], rounds: int) -> dict[str, float]:
    """The least processor time of a call, and what the resident memory rises by."""
    run()
    gc.collect()
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the highest mark so far is forgotten
    times = []
    for _ in range(rounds):
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return {"seconds": min(times), "bytes": max(0.0, resident("VmHWM") - before)}


def resident(key: str) -> float:
    """Bytes, as Linux counts them."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024.0 * next(int(line.split()[1]) for line in lines if line.startswith(key))


def growth(knob: tuple[int, ...], values: list[float]) -> dict[str, float | None]:
    """The exponent over the upper half of the range, and the knee of a line through all of it."""
    k, y = np.array(knob, float), np.array(values)
    upper = slice(min(len(k) // 2, len(k) - 2), None)
    exponent = np.polyfit(np.log(k[upper]), np.log(np.maximum(y[upper], 1e-9)), 1)[0]
    slope, constant = np.polyfit(k, y, 1, w=1 / np.maximum(y, 1e-9))
    knee = float(max(constant, 0.0) / slope) if slope > 0 else None  # None: it does not grow
    return {"exponent": float(exponent), "knee": knee}


def against_products(rounds: int, num_data: int, draws: int) -> dict[str, float]:
    """Seconds of L_draws, and of the matrix products that it cannot do without, in turns."""
    size = BASE | {"data": num_data, "latents": 50, "hidden": 200, "draws": draws}
    pair, x = problem(size)
    method = evidence.ImportanceSampling(draws)
    rows = 2000  # lanes at once
    z, first = torch.randn(rows, size["latents"]), torch.randn(size["latents"], size["hidden"])
    second, into = torch.randn(size["hidden"], size["pixels"]), torch.empty(rows, size["pixels"])
    between = torch.empty(rows, size["hidden"])

    def products() -> None:
        for _ in range(math.ceil(num_data * draws / rows)):
            torch.mm(torch.mm(z, first, out=between), second, out=into)

    best = {"L": math.inf, "products": math.inf}
    log_evidence(pair, x[:10], method=method, progress=False)
    for _ in range(rounds):
        for name, run in (("L", lambda: log_evidence(pair, x, method=method, progress=False)), ("products", products)):
            start = time.process_time()
            run()
            best[name] = min(best[name], time.process_time() - start)
    return {**best, "ratio": best["L"] / best["products"], "data": float(num_data), "draws": float(draws)}


def main() -> None:
    """Turn every knob, print a line for each, and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help='work whose name begins so, or "products"')
    parser.add_argument("--small", action="store_true", help="sizes for a test")
    parser.add_argument("--num-data", type=int, default=1000, help="of the comparison with bare products")
    parser.add_argument("--out", type=Path, default=RESULTS, help="the folder of the results")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", RuntimeWarning)  # chains this short are none to draw conclusions from
    base = SMALL if options.small else BASE
    result: dict[str, Any] = {"base": base, "torch": torch.__version__, "threads": 1, "work": {}}
    print(f"{'':<20} {'knob':<10} {'from':>6} {'to':>6} {'seconds':>18} {'exponent':>9} {'knee':>8} {'peak MiB':>16}")
    for name, (make, knobs) in WORK.items():
        if not name.startswith(options.only):
            continue
        for knob in knobs:
            values = (base[knob], 2 * base[knob]) if options.small else RANGES[knob]
            rows = [measured(make(base | {knob: value}), options.rounds) for value in values]
            seconds = [row["seconds"] for row in rows]
            found = {"values": values, "rows": rows, **growth(values, seconds)}
            result["work"].setdefault(name, {})[knob] = found
            knee = "none" if found["knee"] is None else f"{found['knee']:.0f}"
            peaks = [row["bytes"] / 2**20 for row in rows]
            print(
                f"{name:<20} {knob:<10} {values[0]:>6} {values[-1]:>6} {seconds[0]:>8.3f} {seconds[-1]:>9.3f} "
                f"{found['exponent']:>9.2f} {knee:>8} {peaks[0]:>7.0f} {peaks[-1]:>8.0f}",
                flush=True,
            )
    if "products".startswith(options.only):
        small = (20, 50) if options.small else (options.num_data, 5000)
        result["products"] = found = against_products(options.rounds, *small)
        seconds = f"{found['L']:.2f} s, its products {found['products']:.2f} s, {found['ratio']:.2f}"
        print(f"L_{small[1]} of {small[0]} data: {seconds}")
    result["peak of the process, MiB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "scaling.json").write_text(json.dumps(result, indent=1) + "\n")
    if result["work"]:
        picture(result).savefig(options.out / "scaling.svg", metadata={"Date": None})


def picture(result: Mapping[str, Any]) -> Figure:
    """A panel for each work: time against each knob, both divided by their first value."""
    figure = Figure(figsize=(3.6 * len(result["work"]), 3.6), layout="constrained")
    for axes, (name, knobs) in zip(
        figure.subplots(1, len(result["work"]), squeeze=False)[0], result["work"].items(), strict=True
    ):
        for knob, found in knobs.items():
            k, y = np.array(found["values"]), np.array([row["seconds"] for row in found["rows"]])
            axes.plot(k / k[0], y / y[0], "o-", label=f"{knob}: {found['exponent']:.2f}")
        axes.plot([1, 40], [1, 40], ":", color="gray")
        axes.set(title=name, xscale="log", yscale="log", xlabel="knob, times its least", ylabel="time, times the first")
        axes.legend(fontsize=7)
    return figure


if __name__ == "__main__":
    main()
