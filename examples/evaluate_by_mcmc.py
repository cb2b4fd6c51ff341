"""The evidence of a Pyro program that was written without ppvae, by three methods with their diagnostics."""

import pyro
import pyro.distributions as dist
import torch

from ppvae.core import ModelGuidePair
from ppvae.inference.evidence import AIS, RIS, BridgeSampling, log_evidence

weight = torch.tensor([[1.2, -0.4], [0.3, 0.9], [-0.8, 0.5], [0.1, 1.1]])


def model(x):  # yesterday's model: two traits of a person, answers to four yes-no questions
    with pyro.plate("people", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("answers", dist.Bernoulli(logits=2 * z @ weight.T).to_event(1), obs=x)


def guide(x):  # yesterday's guide: not a good one
    with pyro.plate("people", len(x)):
        pyro.sample("z", dist.Normal((x - 0.5) @ weight / 2, 0.8).to_event(1))


def main():
    pyro.set_rng_seed(0)
    x = torch.bernoulli(torch.full((100, 4), 0.6))
    pair = ModelGuidePair.from_callables(model, guide)
    for method in (
        AIS(num_temperatures=50),
        RIS(1000, num_leapfrog=5),
        BridgeSampling(1000, num_leapfrog=5),
    ):
        found = log_evidence(pair, x, method=method, seed=1)
        print(found.summary())
        print(f"  acceptance {found.info['acceptance'].mean():.2f}, {found.info['divergences'].sum():.0f} divergences")


if __name__ == "__main__":
    main()
