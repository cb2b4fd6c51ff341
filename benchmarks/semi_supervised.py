"""A step of M2, the semi-supervised VAE (Kingma et al. 2014), on unlabelled data, against Pyro's TraceEnum_ELBO.

    python benchmarks/semi_supervised.py      # writes benchmarks/results/semi_supervised.json

All contestants run in one process, in turns (10 classes, M = 200, 784-500-50, no label): Pyro's SVI on a stock program,
``fit``'s step on the same program, and on ``semi_supervised_vae``, whose first layer does not repeat the product with
the data for every class. The time of each is the best of the rounds. What summing the class out brings is in
``reproductions/tables/semi_supervised.py``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, TraceEnum_ELBO
from svi_step import fit_step
from torch import Tensor, nn

from ppvae.core import ModelGuidePair
from ppvae.core.compile import Mode
from ppvae.inference import elbo
from ppvae.inference.comparison.statistics import seconds_of
from ppvae.models import semi_supervised_vae

RESULTS = Path(__file__).parent / "results"
D, H, Z, K = 784, 500, 50, 10


def joined(*parts: Tensor) -> Tensor:
    """Side by side on the last axis, the axes to the left broadcast."""
    lead = torch.broadcast_shapes(*(part.shape[:-1] for part in parts))
    return torch.cat([part.expand(*lead, part.shape[-1]) for part in parts], -1)


class StockM2(nn.Module):
    """The same for unlabelled data, as a Pyro program."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier = nn.Sequential(nn.Linear(D, H), nn.Softplus(), nn.Linear(H, K))
        self.encoder = nn.Sequential(nn.Linear(D + K, H), nn.Softplus(), nn.Linear(H, 2 * Z))
        self.decoder = nn.Sequential(nn.Linear(Z + K, H), nn.Softplus(), nn.Linear(H, D))

    def model(self, x: Tensor) -> None:
        pyro.module("m2", self)
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.OneHotCategorical(x.new_ones(K) / K), infer={"enumerate": "parallel"})
            z = pyro.sample("z", dist.Normal(x.new_zeros(Z), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(joined(z, y)), validate_args=False).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        pyro.module("m2", self)
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.OneHotCategorical(logits=self.classifier(x)), infer={"enumerate": "parallel"})
            loc, log_scale = self.encoder(joined(x, y)).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


def pyro_step(x: Tensor) -> Callable[[], None]:
    """Pyro's SVI with TraceEnum_ELBO."""
    pyro.clear_param_store()
    program = StockM2()
    svi = SVI(program.model, program.guide, pyro.optim.Adam({"lr": 4.2e-4}), TraceEnum_ELBO(max_plate_nesting=1))

    def step() -> None:
        svi.step(x)

    return step


def speed(rounds: int, steps: int) -> dict[str, Any]:
    """Seconds of a step, the best of the rounds, and ratios to Pyro's."""
    torch.manual_seed(0)
    x = torch.rand(200, D).round()
    contestants = {"Pyro TraceEnum_ELBO": pyro_step(x)}
    unlabelled = {"x": x, "label": torch.full((200,), -1)}
    modes: tuple[Mode, ...] = ("graph", "compiled")
    for mode in modes:
        program = StockM2()
        stock = ModelGuidePair.from_callables(program.model, program.guide)
        m2 = semi_supervised_vae(D, K, latent_dim=Z, hidden=(H,))
        for name, pair, data in (("the same program", stock, x), ("semi_supervised_vae", m2, unlabelled)):
            step = fit_step(pair, data, elbo.TraceELBO(), num_data=200, learning_rate=4.2e-4, mode=mode)
            contestants[f"{name}, {mode}"] = step
    best = {name: min(times) for name, times in seconds_of(contestants, rounds, calls=steps).items()}
    pyros = best["Pyro TraceEnum_ELBO"]
    for name, seconds in best.items():
        print(f"{name:<34} {1e3 * seconds:8.2f} ms a step   {seconds / pyros:.2f} of Pyro's")
    return {
        "milliseconds": {name: round(1e3 * seconds, 3) for name, seconds in best.items()},
        "ratio": {name: round(seconds / pyros, 3) for name, seconds in best.items() if name != "Pyro TraceEnum_ELBO"},
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def main() -> None:
    """Measure, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--out", type=Path, default=RESULTS, help="the folder of the results")
    options = parser.parse_args()
    result = speed(options.rounds, options.steps)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "semi_supervised.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
