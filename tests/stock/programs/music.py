"""Music: the hidden Markov models of examples/hmm.py."""

from __future__ import annotations

import functools
import itertools
from types import SimpleNamespace
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoDelta, AutoNormal
from pyro.ops.indexing import Vindex
from stock.programs.regressions import noise
from stock.record import AS_ONE_DATUM, EXAMPLES, Case, Refusal, Stock
from torch import Tensor, nn
from torch.distributions import constraints

LENGTHS = torch.tensor([4, 4, 3, 2, 1])
STEPS, TONES = 4, 3


def music() -> Tensor:
    """Tones, [sequence, step, tone]; zero in the padding."""
    tones = torch.bernoulli(torch.full((len(LENGTHS), STEPS, TONES), 0.4), generator=noise(21))
    return tones * (torch.arange(STEPS) < LENGTHS[:, None]).unsqueeze(-1)


ARGS = SimpleNamespace(hidden_dim=4, jit=False)


def priors(hidden: int, shape: tuple[int, ...], include: bool) -> tuple[Tensor, Tensor]:
    """Probabilities of transitions and emissions."""
    with poutine.mask(mask=include):
        x = pyro.sample("probs_x", dist.Dirichlet(0.9 * torch.eye(hidden) + 0.1).to_event(1))
        y = pyro.sample("probs_y", dist.Beta(0.1, 0.9).expand([hidden, *shape]).to_event(1 + len(shape)))
    return x, y


def hmm_0(sequences: Tensor, lengths: Tensor, args: Any, batch_size: int | None = None, prior: bool = True) -> None:
    """Sequence by sequence."""
    probs_x, probs_y = priors(args.hidden_dim, sequences.shape[2:], prior)
    tones = pyro.plate("tones", sequences.shape[2], dim=-1)
    for i in pyro.plate("sequences", len(sequences), batch_size):
        length = lengths[i]
        sequence = sequences[i, :length]
        x: Any = 0
        for t in pyro.markov(range(length)):
            x = pyro.sample(f"x_{i}_{t}", dist.Categorical(probs_x[x]), infer={"enumerate": "parallel"})
            with tones:
                pyro.sample(f"y_{i}_{t}", dist.Bernoulli(probs_y[x.squeeze(-1)]), obs=sequence[t])


def hmm_1(sequences: Tensor, lengths: Tensor, args: Any, batch_size: int | None = None, prior: bool = True) -> None:
    """All sequences at once, in a plate at dim -2."""
    size, longest, tones = sequences.shape
    probs_x, probs_y = priors(args.hidden_dim, (tones,), prior)
    tones_plate = pyro.plate("tones", tones, dim=-1)
    with pyro.plate("sequences", size, batch_size, dim=-2) as batch:
        lengths = lengths[batch]
        x: Any = 0
        for t in pyro.markov(range(longest if args.jit else lengths.max())):
            with poutine.mask(mask=(t < lengths).unsqueeze(-1)):
                x = pyro.sample(f"x_{t}", dist.Categorical(probs_x[x]), infer={"enumerate": "parallel"})
                with tones_plate:
                    pyro.sample(f"y_{t}", dist.Bernoulli(probs_y[x.squeeze(-1)]), obs=sequences[batch, t])


def hmm_2(sequences: Tensor, lengths: Tensor, args: Any, batch_size: int | None = None, prior: bool = True) -> None:
    """The tones depend on those before them."""
    size, longest, tones = sequences.shape
    probs_x, probs_y = priors(args.hidden_dim, (2, tones), prior)
    tones_plate = pyro.plate("tones", tones, dim=-1)
    with pyro.plate("sequences", size, batch_size, dim=-2) as batch:
        lengths = lengths[batch]
        x: Any = 0
        y: Any = 0
        for t in pyro.markov(range(longest if args.jit else lengths.max())):
            with poutine.mask(mask=(t < lengths).unsqueeze(-1)):
                x = pyro.sample(f"x_{t}", dist.Categorical(probs_x[x]), infer={"enumerate": "parallel"})
                with tones_plate as each:
                    y = pyro.sample(f"y_{t}", dist.Bernoulli(probs_y[x, y, each]), obs=sequences[batch, t]).long()


def hmm_3(sequences: Tensor, lengths: Tensor, args: Any, batch_size: int | None = None, prior: bool = True) -> None:
    """Two chains behind the tones."""
    size, longest, tones = sequences.shape
    hidden = int(args.hidden_dim**0.5)
    with poutine.mask(mask=prior):
        probs_w = pyro.sample("probs_w", dist.Dirichlet(0.9 * torch.eye(hidden) + 0.1).to_event(1))
    probs_x, probs_y = priors(hidden, (hidden, tones), prior)
    tones_plate = pyro.plate("tones", tones, dim=-1)
    with pyro.plate("sequences", size, batch_size, dim=-2) as batch:
        lengths = lengths[batch]
        w: Any = 0
        x: Any = 0
        for t in pyro.markov(range(longest if args.jit else lengths.max())):
            with poutine.mask(mask=(t < lengths).unsqueeze(-1)):
                w = pyro.sample(f"w_{t}", dist.Categorical(probs_w[w]), infer={"enumerate": "parallel"})
                x = pyro.sample(f"x_{t}", dist.Categorical(probs_x[x]), infer={"enumerate": "parallel"})
                with tones_plate as each:
                    pyro.sample(f"y_{t}", dist.Bernoulli(probs_y[w, x, each]), obs=sequences[batch, t])


def hmm_4(sequences: Tensor, lengths: Tensor, args: Any, batch_size: int | None = None, prior: bool = True) -> None:
    """Two chains, of which one drives the other."""
    size, longest, tones = sequences.shape
    hidden = int(args.hidden_dim**0.5)
    with poutine.mask(mask=prior):
        probs_w = pyro.sample("probs_w", dist.Dirichlet(0.9 * torch.eye(hidden) + 0.1).to_event(1))
        probs_x = pyro.sample("probs_x", dist.Dirichlet(0.9 * torch.eye(hidden) + 0.1).expand_by([hidden]).to_event(2))
        probs_y = pyro.sample("probs_y", dist.Beta(0.1, 0.9).expand([hidden, hidden, tones]).to_event(3))
    tones_plate = pyro.plate("tones", tones, dim=-1)
    with pyro.plate("sequences", size, batch_size, dim=-2) as batch:
        lengths = lengths[batch]
        w = x = torch.tensor(0)
        for t in pyro.markov(range(longest if args.jit else lengths.max())):
            with poutine.mask(mask=(t < lengths).unsqueeze(-1)):
                w = pyro.sample(f"w_{t}", dist.Categorical(probs_w[w]), infer={"enumerate": "parallel"})
                x = pyro.sample(f"x_{t}", dist.Categorical(Vindex(probs_x)[w, x]), infer={"enumerate": "parallel"})
                with tones_plate as each:
                    pyro.sample(f"y_{t}", dist.Bernoulli(probs_y[w, x, each]), obs=sequences[batch, t])


class TonesGenerator(nn.Module):
    """Logits of the tones from the state and the tones before."""

    def __init__(self, hidden: int, tones: int) -> None:
        super().__init__()
        self.hidden, self.tones = hidden, tones
        self.x_to_hidden, self.y_to_hidden = nn.Linear(hidden, 4), nn.Linear(2 * tones, 4)
        self.conv = nn.Conv1d(1, 2, 3, padding=1)
        self.hidden_to_logits = nn.Linear(4, tones)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """The state as one of so many, the tones through a convolution."""
        one_hot = y.new_zeros((*x.shape[:-1], self.hidden)).scatter_(-1, x, 1)
        y_conv = self.conv(y.reshape(-1, 1, self.tones)).relu().reshape((*y.shape[:-1], -1))
        logits: Tensor = self.hidden_to_logits((self.x_to_hidden(one_hot) + self.y_to_hidden(y_conv)).relu())
        return logits


def hmm_5(
    sequences: Tensor,
    lengths: Tensor,
    args: Any,
    generator: TonesGenerator,
    batch_size: int | None = None,
    prior: bool = True,
) -> None:
    """The tones by a network of the state and all tones before, in a plate of their own at every step."""
    size, longest, tones = sequences.shape
    pyro.module("tones_generator", generator)
    with poutine.mask(mask=prior):
        probs_x = pyro.sample("probs_x", dist.Dirichlet(0.9 * torch.eye(args.hidden_dim) + 0.1).to_event(1))
    with pyro.plate("sequences", size, batch_size, dim=-2) as batch:
        lengths = lengths[batch]
        y = sequences.new_zeros(tones)
        x = torch.tensor(0)
        for t in pyro.markov(range(longest if args.jit else lengths.max())):
            with poutine.mask(mask=(t < lengths).unsqueeze(-1)):
                x = pyro.sample(f"x_{t}", dist.Categorical(probs_x[x]), infer={"enumerate": "parallel"})
                with pyro.plate(f"tones_{t}", tones, dim=-1):
                    y = pyro.sample(f"y_{t}", dist.Bernoulli(logits=generator(x, y)), obs=sequences[batch, t])


def hmm_6(sequences: Tensor, lengths: Tensor, args: Any, batch_size: int | None = None) -> None:
    """Second order; the probabilities are parameters, so that nothing is left for the guide."""
    size, _, tones = sequences.shape
    hidden = args.hidden_dim
    probs_x = pyro.param("probs_x", torch.rand(hidden, hidden, hidden), constraint=constraints.simplex)
    probs_y = pyro.param("probs_y", torch.rand(hidden, tones), constraint=constraints.unit_interval)
    tones_plate = pyro.plate("tones", tones, dim=-1)
    with pyro.plate("sequences", size, batch_size, dim=-2) as batch:
        lengths = lengths[batch]
        now, before = torch.tensor(0), torch.tensor(0)
        for t in pyro.markov(range(lengths.max()), history=2):
            with poutine.mask(mask=(t < lengths).unsqueeze(-1)):
                probs = Vindex(probs_x)[before, now]
                before, now = (
                    now,
                    pyro.sample(f"x_{t}", dist.Categorical(probs), infer={"enumerate": "parallel"}),
                )
                with tones_plate:
                    pyro.sample(f"y_{t}", dist.Bernoulli(probs_y[now.squeeze(-1)]), obs=sequences[batch, t])


def hmm_7(sequences: Tensor, lengths: Tensor, args: Any, batch_size: int | None = None, prior: bool = True) -> None:
    """The whole chain as one site, a DiscreteHMM."""
    probs_x, probs_y = priors(args.hidden_dim, sequences.shape[2:], prior)
    with pyro.plate("sequences", len(sequences), batch_size, dim=-1) as batch:
        lengths = lengths[batch]
        y = sequences[batch, : lengths.max()]
        t = torch.arange(y.size(1))
        init = torch.full((args.hidden_dim,), -float("inf"))
        init[0] = 0
        emission = dist.Bernoulli(probs_y).to_event(1)
        emission = emission.expand([len(lengths), y.size(1), args.hidden_dim])
        emission = emission.mask((t < lengths.unsqueeze(-1)).unsqueeze(-1))
        pyro.sample("y", dist.DiscreteHMM(init, probs_x.log(), emission), obs=y)


def hidden_markov(model: Any, auto: Any) -> Case:
    """The guide sees the probabilities alone."""
    generator = TonesGenerator(ARGS.hidden_dim, TONES) if model is hmm_5 else None
    model = functools.partial(model, args=ARGS, **({"generator": generator} if generator else {}))
    guide = auto(poutine.block(model, expose_fn=lambda msg: msg["name"].startswith("probs_")))
    return Case(model, guide, {"sequences": music(), "lengths": LENGTHS}, unpack=True, about=generator)


def hidden_markov_without_guide() -> Case:
    """Nothing is left for the guide."""

    def guide(sequences: Tensor, lengths: Tensor) -> None:
        """No latent."""

    return Case(functools.partial(hmm_6, args=ARGS), guide, {"sequences": music(), "lengths": LENGTHS}, unpack=True)


def forward(step: Tensor, emission: Tensor) -> Tensor:
    """log p of a sequence that starts before its first step in state 0; steps [S, S], log p of its tones [step, S]."""
    alpha = torch.full((len(step),), -torch.inf)
    alpha[0] = 0.0
    for log in emission:
        alpha = (alpha[:, None] + step.log()).logsumexp(0) + log
    return alpha.logsumexp(0)


def hmm_1_exact(case: Case, held: dict[str, Tensor]) -> Tensor:
    """By the forward recursion, sequence by sequence."""
    tones = dist.Bernoulli(held["probs_y"]).to_event(1)
    pairs = zip(case.data["sequences"], case.data["lengths"].tolist(), strict=True)
    return torch.stack([forward(held["probs_x"], tones.log_prob(one[:n, None])) for one, n in pairs])


def hmm_2_exact(case: Case, held: dict[str, Tensor]) -> Tensor:
    """The same with tones that depend on those before them."""
    found = []
    for one, n in zip(case.data["sequences"], case.data["lengths"].tolist(), strict=True):
        before = torch.cat([torch.zeros(1, TONES), one[: n - 1]]).long()
        probs = held["probs_y"][:, before, torch.arange(TONES)].transpose(0, 1)
        found.append(forward(held["probs_x"], dist.Bernoulli(probs).to_event(1).log_prob(one[:n, None])))
    return torch.stack(found)


def hmm_3_exact(case: Case, held: dict[str, Tensor]) -> Tensor:
    """The same over pairs of states."""
    step = torch.kron(held["probs_w"], held["probs_x"])
    return hmm_1_exact(case, {"probs_x": step, "probs_y": held["probs_y"].flatten(0, 1)})


def hmm_4_exact(case: Case, held: dict[str, Tensor]) -> Tensor:
    """The same over pairs of states, of which the second follows the new first."""
    step = torch.einsum("ab,bcd->acbd", held["probs_w"], held["probs_x"]).reshape(4, 4)
    return hmm_1_exact(case, {"probs_x": step, "probs_y": held["probs_y"].flatten(0, 1)})


def hmm_5_exact(case: Case, held: dict[str, Tensor]) -> Tensor:
    """By the forward recursion, the network at every state."""
    found, generator = [], case.about
    states = torch.arange(ARGS.hidden_dim)[:, None]
    for one, n in zip(case.data["sequences"], case.data["lengths"].tolist(), strict=True):
        before = torch.cat([torch.zeros(1, TONES), one[: n - 1]])
        logits = torch.stack([generator(states, y.expand(len(states), -1)) for y in before])
        found.append(forward(held["probs_x"], dist.Bernoulli(logits=logits).to_event(1).log_prob(one[:n, None])))
    return torch.stack(found)


def hmm_6_exact(case: Case, held: dict[str, Tensor]) -> Tensor:
    """Over all sequences of states."""
    found = []
    for one, n in zip(case.data["sequences"], case.data["lengths"].tolist(), strict=True):
        logs = []
        for states in itertools.product(range(ARGS.hidden_dim), repeat=n):
            path = (0, 0, *states)
            ways = [held["probs_x"][path[t], path[t + 1], path[t + 2]].log() for t in range(n)]
            tones = dist.Bernoulli(held["probs_y"][list(states)]).log_prob(one[:n]).sum()
            logs.append(sum(ways) + tones)
        found.append(torch.stack(logs).logsumexp(0))
    return torch.stack(found)


def music_program(name: str, title: str, model: Any, exact: Any, **options: Any) -> dict[str, Stock]:
    """A model of examples/hmm.py."""
    return {
        name: Stock(
            title,
            EXAMPLES + "hmm.py",
            lambda: hidden_markov(model, AutoDelta),
            ("fit", "evaluate_bound", "log_evidence"),
            refusal=Refusal(
                "guide site 'probs_[wxy]' is a point",
                "`AutoNormal` for `AutoDelta`",
                lambda: hidden_markov(model, functools.partial(AutoNormal, init_scale=0.1)),
            ),
            exact=exact,
            **options,
        )
    }


PROGRAMS: dict[str, Stock] = {
    "hmm-0": Stock(
        "hidden Markov model 0: sequence by sequence",
        EXAMPLES + "hmm.py",
        lambda: hidden_markov(hmm_0, AutoDelta),
        ("fit", "evaluate_bound"),
        refusal=Refusal(
            "guide site 'probs_[xy]' is a point",
            f"`AutoNormal` for `AutoDelta`, and {AS_ONE_DATUM}",
            lambda: hidden_markov(hmm_0, functools.partial(AutoNormal, init_scale=0.1)).whole(),
            lines=2,
        ),
        enumerates=True,
    ),
    **music_program("hmm-1", "hidden Markov model 1: sequences at dim -2", hmm_1, hmm_1_exact, enumerates=True),
    **music_program("hmm-2", "hidden Markov model 2: tones that depend on tones", hmm_2, hmm_2_exact, enumerates=True),
    **music_program("hmm-3", "hidden Markov model 3: two chains", hmm_3, hmm_3_exact, enumerates=True),
    **music_program("hmm-4", "hidden Markov model 4: one chain drives the other", hmm_4, hmm_4_exact, enumerates=True),
    **music_program("hmm-5", "hidden Markov model 5: tones by a network", hmm_5, hmm_5_exact, enumerates=True),
    "hmm-6": Stock(
        "hidden Markov model 6: second order, nothing left for the guide",
        EXAMPLES + "hmm.py",
        hidden_markov_without_guide,
        ("fit", "evaluate_bound", "log_evidence"),
        enumerates=True,
        exact=hmm_6_exact,
    ),
    **music_program("hmm-7", "hidden Markov model 7: one `DiscreteHMM` site", hmm_7, hmm_1_exact),
}
