"""HMC on the decoder 3-100-784: ours over 1000 data against Pyro's HMC on one, NumPyro's under vmap, and bare products.

All contestants run in one process and take turns; the time of each is the best of the rounds, for one leapfrog of one
datum, whole transitions of ten leapfrogs included. Then a mixture of five decoders, the class summed out, against the
matrix products of five times the data; and the protocol of AEVB's appendix D on MNIST, end to end.

    python benchmarks/hmc.py                              # writes benchmarks/results/hmc.json
    python benchmarks/hmc.py --also PATH/site-packages    # where jax and numpyro are installed, if elsewhere
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from ppvae.core import ModelGuidePair, structure, unconstrained
from ppvae.core.compile import Mode, capture, state_of
from ppvae.data import load
from ppvae.inference import fit
from ppvae.inference.comparison.statistics import seconds_of
from ppvae.inference.hmc import HMC, sample_posterior
from ppvae.inference.hmc.integrator import leapfrog
from ppvae.inference.hmc.kernel import HMCParameters, draw_noise, hmc_kernel, initial_state
from ppvae.inference.hmc.target import posterior_target
from ppvae.models import bernoulli_vae
from ppvae.networks import JoinedMLP

RESULTS = Path(__file__).parent / "results"
D, H, Z, NUM_DATA, LEAPFROGS, STEP_SIZE, CLASSES = 784, 100, 3, 1000, 10, 0.02, 5


class MixtureOfDecoders(ModelGuidePair):
    """The decoder with one of five classes beside z, summed out."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.trunk, self.head = JoinedMLP([Z, CLASSES], [hidden]), torch.nn.Linear(hidden, D)

    def model(self, x: Tensor, num_data: int | None = None) -> None:
        with self.data_plate(x, num_data):
            y = pyro.sample("y", dist.OneHotCategorical(x.new_ones(CLASSES)), infer={"enumerate": "parallel"})
            z = pyro.sample("z", dist.Normal(x.new_zeros(Z), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.head(self.trunk(z, y))).to_event(1), obs=x)

    def guide(self, x: Tensor, num_data: int | None = None) -> None:
        with self.data_plate(x, num_data):
            pyro.sample("z", dist.Normal(x.new_zeros(Z), 1.0).to_event(1))


def ours(pair: ModelGuidePair, x: Tensor, mode: Mode) -> Callable[[], None]:
    """One transition of all data."""
    coordinates = unconstrained(pair, x)
    target = posterior_target(pair, coordinates)
    context = (state_of(pair), x)
    inner = capture(leapfrog(target, value=False), mode=mode) if mode == "compiled" else None
    kernel = hmc_kernel(capture(leapfrog(target), mode=mode), LEAPFROGS, inner=inner)
    state = [initial_state(target, torch.randn(1, len(x), Z), *context)]
    parameters = HMCParameters(torch.full((1, len(x)), STEP_SIZE), torch.ones(len(x), Z))

    def transition() -> None:
        state[0], _ = kernel(state[0], draw_noise(state[0].u), parameters, *context)

    return transition


def pyro_hmc(pair: ModelGuidePair, x: Tensor, jit: bool) -> Callable[[], None]:
    """Transitions of Pyro's HMC on one datum, on the decoder's own modules."""
    weights = [p.detach() for p in pair.likelihood.parameters()]
    one = x[0]

    def model() -> None:
        z = pyro.sample("z", dist.Normal(torch.zeros(Z), torch.ones(Z)).to_event(1))
        hidden = torch.tanh(z @ weights[0].mT + weights[1])
        pyro.sample("x", dist.Bernoulli(logits=hidden @ weights[2].mT + weights[3]).to_event(1), obs=one)

    kernel = pyro.infer.HMC(
        model,
        step_size=STEP_SIZE,
        num_steps=LEAPFROGS,
        adapt_step_size=False,
        adapt_mass_matrix=False,
        jit_compile=jit,
        ignore_jit_warnings=True,
    )
    kernel.setup(0)
    params = [kernel.initial_params]

    def transition() -> None:
        params[0] = kernel.sample(params[0])

    return transition


def numpyro_hmc(pair: ModelGuidePair, x: Tensor) -> Callable[[], None] | None:
    """One transition of all data by NumPyro's HMC under vmap and jit, where NumPyro is installed."""
    try:
        import jax
        import jax.numpy as jnp
        import numpyro
        import numpyro.distributions as ndist
        from numpyro.infer import HMC as NHMC
    except ImportError:
        return None
    weights = [jnp.asarray(p.detach().numpy()) for p in pair.likelihood.parameters()]

    def model(one: object) -> None:
        z = numpyro.sample("z", ndist.Normal(jnp.zeros(Z), 1.0).to_event(1))
        hidden = jnp.tanh(z @ weights[0].T + weights[1])
        numpyro.sample("x", ndist.Bernoulli(logits=hidden @ weights[2].T + weights[3]).to_event(1), obs=one)

    kernel = NHMC(
        model,
        step_size=STEP_SIZE,
        num_steps=LEAPFROGS,
        adapt_step_size=False,
        adapt_mass_matrix=False,
    )
    data = jnp.asarray(x.numpy())
    keys = jax.random.split(jax.random.PRNGKey(0), len(x))
    # One initialisation outside of vmap, to build the potential; then a state for each datum.
    kernel.init(keys[0], 0, None, (data[0],), {})
    states = [jax.jit(jax.vmap(lambda key, one: kernel.init(key, 0, None, (one,), {})))(keys, data)]
    step = jax.jit(jax.vmap(lambda state, one: kernel.sample(state, (one,), {})))

    def transition() -> None:
        states[0] = step(states[0], data)
        states[0].z["z"].block_until_ready() if isinstance(states[0].z, dict) else states[0].z.block_until_ready()

    return transition


def products(chains: int, width: int = H) -> Callable[[], None]:
    """The two large matrix products of a leapfrog, alone: hidden to pixels, and back."""
    hidden, weight, pixels = torch.randn(chains, width), torch.randn(width, D), torch.randn(chains, D)
    out, back = torch.empty(chains, D), torch.empty(chains, width)

    def both() -> None:
        for _ in range(LEAPFROGS):
            torch.mm(hidden, weight, out=out)
            torch.mm(pixels, weight.mT, out=back)

    return both


def contest(rounds: int) -> tuple[dict[str, float], dict[str, float]]:
    """Best milliseconds per leapfrog and datum of every contestant, and the ratios."""
    torch.manual_seed(0)
    pair = bernoulli_vae(D, latent_dim=Z, hidden=(H,))
    x = torch.bernoulli(torch.full((NUM_DATA, D), 0.2))
    structure(pair, x)
    contestants: dict[str, tuple[Callable[[], None] | None, int]] = {
        "ppvae compiled": (ours(pair, x, "compiled"), NUM_DATA),
        "ppvae graph": (ours(pair, x, "graph"), NUM_DATA),
        "ppvae eager": (ours(pair, x, "eager"), NUM_DATA),
        "two products": (products(NUM_DATA), NUM_DATA),
        "Pyro, one datum": (pyro_hmc(pair, x, False), 1),
        "Pyro jit, one datum": (pyro_hmc(pair, x, True), 1),
        "NumPyro vmap": (numpyro_hmc(pair, x), NUM_DATA),
    }
    runners = {name: run for name, (run, _) in contestants.items() if run is not None}
    taken = seconds_of(runners, rounds, warm_up=3)
    best = {name: 1e3 * min(times) / (LEAPFROGS * contestants[name][1]) for name, times in taken.items()}
    mine = best["ppvae compiled"]
    ratios = {
        "Pyro / ours": best["Pyro, one datum"] / mine,
        "Pyro jit / ours": best["Pyro jit, one datum"] / mine,
        "ours / two products": mine / best["two products"],
    }
    if "NumPyro vmap" in best:
        ratios["NumPyro / ours"] = best["NumPyro vmap"] / mine
    return best, ratios


def mixture(rounds: int) -> dict[str, dict[str, float]]:
    """A decoder of five classes, summed out, beside the products of five times the data, at two widths.

    What is left is the pass over the pixels, whose share falls as the layer grows.
    """
    torch.manual_seed(0)
    x = torch.bernoulli(torch.full((NUM_DATA, D), 0.2))
    runners = {}
    for width in (H, 5 * H):
        pair = MixtureOfDecoders(width)
        structure(pair, x)
        runners[f"{width} units"] = ours(pair, x, "compiled")
        runners[f"{width} units, products"] = products(CLASSES * NUM_DATA, width)
    taken = seconds_of(runners, rounds, warm_up=3)
    best = {name: 1e3 * min(times) / (LEAPFROGS * NUM_DATA) for name, times in taken.items()}
    ratios = {name: best[name] / best[f"{name}, products"] for name in list(best)[::2]}
    return {"milliseconds per leapfrog and datum": best, "ours / products": ratios}


def protocol() -> dict[str, float | str]:
    """AEVB appendix D: 1000 data, 50 draws, 4 leapfrogs at 90 % acceptance, N_z = 3, 100 units."""
    known = bool(os.environ.get("PPVAE_DATA"))
    data = load("mnist", binarize="static").take(NUM_DATA).tensor() if known else torch.rand(NUM_DATA, D).round()
    assert isinstance(data, Tensor)
    pair = bernoulli_vae(D, latent_dim=Z, hidden=(H,))
    fit(pair, data, num_epochs=100, compile="graph", progress=False)
    start = time.perf_counter()
    draws = sample_posterior(
        pair, data, num_samples=50, num_warmup=150, num_chains=1, kernel=HMC(4, target_acceptance=0.9), progress=False
    )
    return {
        "data": "MNIST" if known else "random (PPVAE_DATA is unset)",
        "warm-up transitions": 150,
        "seconds": time.perf_counter() - start,
        "acceptance": float(draws.stats["acceptance"].mean()),
        "divergences": int(draws.stats["diverging"].sum()),
    }


def main() -> None:
    """Run the contest and the protocol, and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--also", type=Path, help="a site-packages folder that has jax and numpyro")
    parser.add_argument("--out", type=Path, default=RESULTS, help="the folder of the results")
    options = parser.parse_args()
    if options.also:
        sys.path.append(str(options.also))
    torch.set_num_threads(options.threads)
    best, ratios = contest(options.rounds)
    for name, value in best.items():
        print(f"  {name:<24}{value * 1e3:10.2f} us per leapfrog and datum")
    for name, value in ratios.items():
        print(f"  {name:<24}{value:10.2f}")
    if "NumPyro vmap" not in best:
        print("  NumPyro is not installed here: see --also")
    summed = mixture(options.rounds)
    print(f"  mixture of {CLASSES}, ours / its products: {summed['ours / products']}")
    paper = protocol()
    print(f"  appendix D: {paper}")
    results = {
        "milliseconds per leapfrog and datum": best,
        "ratios": ratios,
        f"mixture of {CLASSES}, summed out": summed,
        "appendix D": paper,
        "setting": {
            "torch": torch.__version__,
            "pyro": pyro.__version__,
            "threads": torch.get_num_threads(),
            "statistic": "best of rounds",
            "network": "decoder 3-100-784, 1000 data, 10 leapfrogs a transition, float32",
        },
    }
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "hmc.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
