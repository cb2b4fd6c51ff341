"""Compare ELBO estimators on a model of your own: bias, variance, gradient noise and cost, in a table and figures.

    python examples/compare_elbos.py                 # about a minute; writes compare_elbos/

Replace `MyPair` by your Pyro model and guide, and `data` by your data: nothing below them changes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppvae.core import ModelGuidePair
from ppvae.data import load
from ppvae.inference import Callback, TrainingState, elbo, fit
from ppvae.inference.comparison.compare import compare_along_run, compare_elbos
from ppvae.report.figures.estimators import save_figures


class MyPair(ModelGuidePair):
    """Handwritten digits, 64 binary pixels, from eight latent numbers; written as any Pyro model and guide."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder = nn.Sequential(nn.Linear(8, 100), nn.Tanh(), nn.Linear(100, 64))
        self.encoder = nn.Sequential(nn.Linear(64, 100), nn.Tanh(), nn.Linear(100, 16))

    def model(self, x: Tensor, num_data: int | None = None) -> None:
        with self.data_plate(x, num_data):
            z = pyro.sample("z", dist.Normal(torch.zeros(8), torch.ones(8)).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x)

    def guide(self, x: Tensor, num_data: int | None = None) -> None:
        with self.data_plate(x, num_data):
            loc, log_scale = self.encoder(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


ESTIMATORS = [
    elbo.TraceELBO(),
    elbo.TraceMeanFieldELBO(),
    elbo.StickingTheLandingELBO(),
    elbo.ScoreFunctionELBO(),
    elbo.ScoreFunctionELBO(num_particles=5, baseline="leave-one-out"),
    elbo.ImportanceWeightedELBO(5),
    elbo.RenyiELBO(0.5, num_particles=5),
    elbo.DoublyReparameterizedELBO(5),
    elbo.VIMCO(5),
    elbo.ReweightedWakeSleep(5),
]


class KeepStates(Callback):
    """Remembers the parameters after some epochs."""

    def __init__(self, epochs: set[int]) -> None:
        self.epochs, self.states = epochs, {}  # type: ignore[var-annotated]

    def on_epoch(self, state: TrainingState) -> None:
        if state.epoch in self.epochs:
            self.states[state.epoch] = {name: value.clone() for name, value in state.pair.state_dict().items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--out", type=Path, default=Path("compare_elbos"))
    options = parser.parse_args()

    torch.manual_seed(0)
    data = load("digits", binarize="static")
    pair = MyPair()
    keep = KeepStates({1, max(2, options.epochs // 4), options.epochs})
    fit(pair, data, num_epochs=options.epochs, learning_rate=3e-3, callbacks=[keep])

    batch = data.x[:100]
    found = compare_elbos(pair, batch, ESTIMATORS, num_repeats=options.repeats)
    print(found)
    options.out.mkdir(parents=True, exist_ok=True)
    found.to_csv(options.out / "estimators.csv")
    found.to_json(options.out / "estimators.json")
    save_figures(found, options.out)

    path = compare_along_run(pair, keep.states, batch, ESTIMATORS[:3], num_repeats=options.repeats, reference=None)
    print(path)
    save_figures(path, options.out / "along_run")
    print(f"tables and figures are in {options.out}")


if __name__ == "__main__":
    main()
