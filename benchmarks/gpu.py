"""What a GPU gives: a step of training by how it is launched, and the evidence of many digits, TF32 beside FP32.

    python benchmarks/gpu.py                     # on the GPU; writes benchmarks/results/gpu.json
    python benchmarks/gpu.py --device cpu --small

A step is that of the paper's VAE (784-500-20, M = 100) as `fit` makes it, with the data on the device; its time is the
least of the epochs of one run, without the first. The floor is its arithmetic at the rate of a large matrix product,
measured here. TF32 is PyTorch's switch and off unless a program sets it: here once, to print what it changes.
"""

from __future__ import annotations

import argparse
import itertools
import json
from functools import partial
from pathlib import Path
from typing import Any

import pyro
import pyro.optim
import torch
from pyro.infer import SVI, Trace_ELBO
from torch import Tensor

from ppvae.inference import elbo, evidence, fit, log_evidence
from ppvae.inference.comparison.statistics import seconds_of
from ppvae.models import bernoulli_vae

RESULTS = Path(__file__).parent / "results"
D, H, Z, M = 784, 500, 20, 100
WAYS: dict[str, dict[str, Any]] = {
    "eager": {"compile": "eager", "steps_per_call": 1},
    "graph": {"compile": "graph", "steps_per_call": 1},
    "graph, 10 steps a call": {"compile": "graph", "steps_per_call": 10},
    "compiled": {"compile": "compiled", "steps_per_call": 1},
    "compiled, 10 steps a call": {"compile": "compiled", "steps_per_call": 10},
    "compiled, 50 steps a call": {"compile": "compiled", "steps_per_call": 50},
}


def seconds_of_step(x: Tensor, device: str, epochs: int, options: dict[str, Any]) -> float:
    """The least over the epochs of a run, the first left out."""
    torch.manual_seed(0)
    pair = bernoulli_vae(D, latent_dim=Z, hidden=(H,))
    found = fit(pair, x, elbo=elbo.TraceELBO(), num_epochs=epochs, device=device, progress=False, **options)
    at = [row["seconds"] for row in found.history]
    steps = found.history[0]["step"]
    return min(after - before for before, after in itertools.pairwise(at)) / steps


def seconds_of_stock(x: Tensor, device: str, steps: int) -> float:
    """Of a step of Pyro's own SVI on the same pair."""
    torch.manual_seed(0)
    pair, batch = bernoulli_vae(D, latent_dim=Z, hidden=(H,)).to(device), x[:M].to(device)
    svi = SVI(pair.model, pair.guide, pyro.optim.Adam({"lr": 1e-3}), loss=Trace_ELBO())
    times = seconds_of({"": lambda: svi.step(batch)}, 3, calls=steps, warm_up=1, device=torch.device(device))
    return min(times[""])


def rate_of_products(device: str, size: int) -> float:
    """Floating-point operations a second of a large matrix product in FP32."""
    a = torch.randn(size, size, device=device)
    times = seconds_of({"": lambda: torch.mm(a, a)}, 5, calls=5, device=torch.device(device))
    return 2 * size**3 / min(times[""])


def evidences(x: Tensor, device: str, small: bool) -> dict[str, Any]:
    """Seconds of two estimates of log p(x) in FP32 and in TF32, and how far TF32 moves their mean."""
    torch.manual_seed(0)
    pair = bernoulli_vae(D, latent_dim=Z, hidden=(H,))
    fit(pair, x, num_epochs=2, device=device, progress=False)
    methods: dict[str, tuple[evidence.EvidenceMethod, Tensor]] = {
        "importance sampling, 5000 draws": (evidence.ImportanceSampling(50 if small else 5000), x),
        "AIS, 16 chains, 1000 temperatures": (
            evidence.AIS(num_chains=16, num_temperatures=10 if small else 1000),
            x[: 5 if small else 1000],
        ),
    }
    result: dict[str, Any] = {}
    for name, (method, data) in methods.items():
        means: dict[str, float] = {}

        def estimate(
            precision: str, method: Any = method, data: Tensor = data, means: dict[str, float] = means
        ) -> None:
            torch.set_float32_matmul_precision("highest" if precision == "FP32" else "high")
            try:
                means[precision] = log_evidence(pair, data, method=method, device=device, progress=False).mean
            finally:
                torch.set_float32_matmul_precision("highest")

        precisions = ("FP32", "TF32") if device.startswith("cuda") else ("FP32",)
        works = {f"seconds, {precision}": partial(estimate, precision) for precision in precisions}
        taken = seconds_of(works, 1, warm_up=1, device=torch.device(device))  # the first time records
        row = {"data": float(len(data)), **{key: min(times) for key, times in taken.items()}}
        if "TF32" in means:
            row["nats per datum by which TF32 differs"] = means["TF32"] - means["FP32"]
        result[name] = row
    return result


def main() -> None:
    """Run all and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="to see that it runs")
    parser.add_argument("--out", type=Path, default=RESULTS, help="the folder of the results")
    options = parser.parse_args()
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error("PyTorch sees no GPU here; --device cpu --small shows that it runs")
    num_data, epochs = (200, 2) if options.small else (10_000, 8)
    x = torch.bernoulli(torch.full((num_data, D), 0.2, device=options.device))
    rate = rate_of_products(options.device, 256 if options.small else 8192)
    flops = 6 * M * (D * H + H * 2 * Z + Z * H + H * D)  # forward, and twice that backward
    microseconds = {"floor": 1e6 * flops / rate, "stock Pyro": 1e6 * seconds_of_stock(x, options.device, 5)}
    ways = {name: way for name, way in WAYS.items() if not options.small or way["compile"] != "compiled"}
    for name, way in ways.items():
        microseconds[name] = 1e6 * seconds_of_step(x, options.device, epochs, way)
    for name, value in microseconds.items():
        ratio = microseconds["stock Pyro"] / value
        print(f"{name:<28}{value:10.1f} µs a step{ratio:8.2f} times as fast as stock Pyro")
    found = evidences(x, options.device, options.small)
    for name, row in found.items():
        print(name, ", ".join(f"{key} {value:.4g}" for key, value in row.items()))
    cuda = options.device.startswith("cuda")
    setting = {
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "torch": torch.__version__,
        "pyro": pyro.__version__,
        "statistic": "least of the epochs of one run",
        "network": f"{D}-{H}-{Z}, Adam, M = {M}",
    }
    result = {"microseconds": microseconds, "evidence": found, "operations a second": rate, "setting": setting}
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "gpu.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
