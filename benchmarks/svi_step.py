"""One training step of the paper's VAE (784-500-20): ours against hand-written torch, stock Pyro and NumPyro.

All contestants run in one process and take turns; the time of each is the best of the rounds. Ours is the step that
``fit`` runs: value, gradient, the check for numbers that are not finite, and the optimiser.

    python benchmarks/svi_step.py            # M = 100 and M = 16; writes benchmarks/results/svi_step.json
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyro
import pyro.optim
import torch
from pyro.infer import SVI, Trace_ELBO
from torch import Tensor, nn
from torch.distributions import Distribution

from ppvae.core import ModelGuidePair, structure
from ppvae.core.compile import Mode
from ppvae.inference import elbo
from ppvae.inference.comparison.statistics import seconds_of
from ppvae.inference.training.ascent import names_of_model
from ppvae.inference.training.objective import Objective
from ppvae.inference.training.options import make_optimizer
from ppvae.models import bernoulli_vae

RESULTS = Path(__file__).parent / "results"
D, H, Z = 784, 500, 20


def fit_step(
    pair: ModelGuidePair,
    x: Any,
    estimator: elbo.ELBO,
    *,
    num_data: int,
    learning_rate: float,
    mode: Mode,
    optimizer: str = "adam",
    weight_prior: Distribution | None = None,
) -> Callable[[], None]:
    """The step of ``fit``: value, gradient, the check for numbers that are not finite, the optimiser."""
    structure(pair, x)
    objective = Objective(
        pair,
        estimator,
        num_data=num_data,
        weight_prior=weight_prior,
        prior_names=frozenset() if weight_prior is None else names_of_model(pair, x),
        clip_norm=None,
        mode=mode,
    )
    made, one = make_optimizer(optimizer, learning_rate, objective.trainable.values()), torch.ones(())

    def step() -> None:
        found = objective(x, one)
        if not math.isfinite(float(found.check)):
            raise RuntimeError("not finite")
        objective.apply(found, made)

    return step


def ours(x: Tensor, mode: Mode) -> Callable[[], None]:
    """The step of ``fit``, estimator A."""
    pair = bernoulli_vae(D, latent_dim=Z, hidden=(H,))
    return fit_step(pair, x, elbo.TraceELBO(), num_data=len(x), learning_rate=1e-3, mode=mode)


class HandWritten(nn.Module):
    """The same network and estimator, without Pyro."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.loc, self.log_scale = nn.Linear(D, H), nn.Linear(H, Z), nn.Linear(H, Z)
        self.decoder, self.out = nn.Linear(Z, H), nn.Linear(H, D)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.tanh(self.encoder(x))
        loc, log_scale = self.loc(hidden), self.log_scale(hidden)
        eps = torch.randn_like(loc)
        z = loc + eps * log_scale.exp()
        logits = self.out(torch.tanh(self.decoder(z)))
        log_px = -nn.functional.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(-1)
        log_pz = (-0.5 * z**2 - 0.5 * math.log(2 * math.pi)).sum(-1)
        log_q = (-0.5 * eps**2 - log_scale - 0.5 * math.log(2 * math.pi)).sum(-1)
        return -(log_px + log_pz - log_q).mean()


def hand_written(x: Tensor, compiled: bool) -> Callable[[], None]:
    """A training step as one would write it by hand; with the finite check that ours has."""
    net = HandWritten()
    loss_of = torch.compile(net) if compiled else net
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        loss = loss_of(x)
        if not math.isfinite(loss.item()):
            raise RuntimeError("not finite")
        loss.backward()
        optimizer.step()

    return step


def stock_pyro(x: Tensor) -> Callable[[], None]:
    """Pyro's SVI on the same pair, as its tutorial has it."""
    pair = bernoulli_vae(D, latent_dim=Z, hidden=(H,))
    svi = SVI(pair.model, pair.guide, pyro.optim.Adam({"lr": 1e-3}), loss=Trace_ELBO())
    return lambda: svi.step(x)


def numpyro_step(x: Tensor) -> Callable[[], None] | None:
    """NumPyro's jitted update, where NumPyro is installed."""
    try:
        import jax
        import jax.numpy as jnp
        import numpyro
        import numpyro.distributions as ndist
        from numpyro.infer import SVI as NSVI
        from numpyro.infer import Trace_ELBO as NTrace
    except ImportError:
        return None
    data = jnp.asarray(x.numpy())
    key = jax.random.PRNGKey(0)

    def weights(name: str, shape: tuple[int, ...]) -> object:
        return numpyro.param(name, lambda k: 0.1 * jax.random.normal(k, shape))

    def affine(name: str, value: object, size: int, out: int) -> object:
        return value @ weights(f"{name}.w", (size, out)) + weights(f"{name}.b", (out,))

    def model(data: object) -> None:
        with numpyro.plate("data", len(x)):
            z = numpyro.sample("z", ndist.Normal(jnp.zeros(Z), 1.0).to_event(1))
            logits = affine("out", jnp.tanh(affine("decoder", z, Z, H)), H, D)
            numpyro.sample("x", ndist.Bernoulli(logits=logits).to_event(1), obs=data)

    def guide(data: object) -> None:
        hidden = jnp.tanh(affine("encoder", data, D, H))
        with numpyro.plate("data", len(x)):
            scale = jnp.exp(affine("log_scale", hidden, H, Z))
            numpyro.sample("z", ndist.Normal(affine("loc", hidden, H, Z), scale).to_event(1))

    svi = NSVI(model, guide, numpyro.optim.Adam(1e-3), NTrace())
    state = [svi.init(key, data)]
    update = jax.jit(svi.update)

    def step() -> None:
        state[0], loss = update(state[0], data)
        loss.block_until_ready()

    return step


def contest(batch: int, rounds: int, steps: int) -> dict[str, float]:
    """Best milliseconds a step of every contestant."""
    torch.manual_seed(0)
    x = torch.bernoulli(torch.full((batch, D), 0.2))
    contestants: dict[str, Callable[[], None] | None] = {
        "ppvae compiled": ours(x, "compiled"),
        "ppvae graph": ours(x, "graph"),
        "ppvae eager": ours(x, "eager"),
        "hand-written eager": hand_written(x, False),
        "hand-written compiled": hand_written(x, True),
        "stock Pyro": stock_pyro(x),
        "NumPyro jitted": numpyro_step(x),
    }
    steppers = {name: step for name, step in contestants.items() if step is not None}
    taken = seconds_of(steppers, rounds, calls=steps, warm_up=1)
    return {name: 1e3 * min(times) for name, times in taken.items()}


def main() -> None:
    """Run the contest and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--out", type=Path, default=RESULTS, help="the folder of the results")
    options = parser.parse_args()
    results = {}
    for batch in (100, 16):
        best = contest(batch, options.rounds, options.steps)
        hand = min(best["hand-written eager"], best["hand-written compiled"])
        mine = best["ppvae compiled"]
        ratios = {"ours / faster hand-written": mine / hand, "stock Pyro / ours": best["stock Pyro"] / mine}
        if "NumPyro jitted" in best:
            ratios["NumPyro / ours"] = best["NumPyro jitted"] / mine
        print(f"M = {batch}")
        for name, value in best.items():
            print(f"  {name:<24}{value:8.3f} ms")
        for name, value in ratios.items():
            print(f"  {name:<28}{value:6.2f}")
        results[f"M={batch}"] = {"milliseconds": best, "ratios": ratios}
    options.out.mkdir(parents=True, exist_ok=True)
    results["setting"] = {
        "torch": torch.__version__,
        "pyro": pyro.__version__,
        "threads": torch.get_num_threads(),
        "statistic": "best of rounds",
        "network": "784-500-20, Adam",
    }
    (options.out / "svi_step.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
