"""Sequences: a deep Markov model, a mixed hidden Markov model, a local level."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import config_enumerate
from pyro.infer.autoguide import AutoNormal
from pyro.ops.indexing import Vindex
from stock.programs.music import LENGTHS, STEPS, TONES, forward, music
from stock.programs.regressions import noise
from stock.record import ALL, AS_ONE_DATUM, EXAMPLES, TUTORIALS, Case, Refusal, Stock
from torch import Tensor, nn
from torch.distributions import constraints
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

# --- a deep Markov model ---


def reversed_in_time(batch: Tensor, lengths: Tensor) -> Tensor:
    """Each sequence backwards, its padding where it was."""
    out = torch.zeros_like(batch)
    for b, length in enumerate(lengths.tolist()):
        out[b, :length] = batch[b, :length].flip(0)
    return out


class DMM(nn.Module):
    """A Markov chain of normals with networks for its steps; an RNN that reads the future in the guide."""

    def __init__(self, packs: bool) -> None:
        super().__init__()
        self.packs = packs  # whether the guide packs the reversed sequences, or is given them packed
        self.emitter = nn.Sequential(nn.Linear(1, 4), nn.ReLU(), nn.Linear(4, TONES), nn.Sigmoid())
        self.trans = nn.Sequential(nn.Linear(1, 4), nn.ReLU(), nn.Linear(4, 2))
        self.combiner = nn.Sequential(nn.Linear(1 + 5, 4), nn.Tanh(), nn.Linear(4, 2))
        self.rnn = nn.RNN(TONES, 5, nonlinearity="relu", batch_first=True)
        self.z_0 = nn.Parameter(torch.zeros(1))
        self.z_q_0 = nn.Parameter(torch.zeros(1))
        self.h_0 = nn.Parameter(torch.zeros(1, 1, 5))

    def model(
        self,
        mini_batch: Tensor,
        mini_batch_reversed: Any,
        mini_batch_mask: Tensor,
        mini_batch_seq_lengths: Tensor,
        annealing_factor: float = 1.0,
    ) -> None:
        """Steps that are padding are masked."""
        pyro.module("dmm", self)
        z = self.z_0.expand(mini_batch.size(0), 1)
        with pyro.plate("z_minibatch", len(mini_batch)):
            for t in pyro.markov(range(1, mini_batch.size(1) + 1)):
                loc, scale = self.trans(z).chunk(2, -1)
                here = mini_batch_mask[:, t - 1 : t]
                with poutine.scale(scale=annealing_factor):
                    z = pyro.sample(f"z_{t}", dist.Normal(loc, nn.functional.softplus(scale)).mask(here).to_event(1))
                emission = dist.Bernoulli(self.emitter(z)).mask(here).to_event(1)
                pyro.sample(f"obs_x_{t}", emission, obs=mini_batch[:, t - 1, :])

    def guide(
        self,
        mini_batch: Tensor,
        mini_batch_reversed: Any,
        mini_batch_mask: Tensor,
        mini_batch_seq_lengths: Tensor,
        annealing_factor: float = 1.0,
    ) -> None:
        """The RNN runs backwards in time over packed sequences."""
        pyro.module("dmm", self)
        h_0 = self.h_0.expand(1, mini_batch.size(0), self.rnn.hidden_size).contiguous()
        if self.packs:
            mini_batch_reversed = packed(mini_batch_reversed, mini_batch_seq_lengths)
        output, _ = self.rnn(mini_batch_reversed, h_0)
        output, _ = pad_packed_sequence(output, batch_first=True, total_length=mini_batch.size(1))
        output = reversed_in_time(output, mini_batch_seq_lengths)
        z = self.z_q_0.expand(mini_batch.size(0), 1)
        with pyro.plate("z_minibatch", len(mini_batch)):
            for t in pyro.markov(range(1, mini_batch.size(1) + 1)):
                hidden = output[:, t - 1, :].expand(*z.shape[:-1], 5)
                loc, scale = self.combiner(torch.cat([z, hidden], -1)).chunk(2, -1)
                here = mini_batch_mask[:, t - 1 : t]
                with poutine.scale(scale=annealing_factor):
                    z = pyro.sample(f"z_{t}", dist.Normal(loc, nn.functional.softplus(scale)).mask(here).to_event(1))


def packed(batch: Tensor, lengths: Tensor) -> Any:
    """Padded sequences, packed."""
    return pack_padded_sequence(batch, lengths, batch_first=True, enforce_sorted=False)


def deep_markov(packs: bool) -> Case:
    """A minibatch as Pyro's loader makes it: sequences, the same reversed, mask, lengths."""
    dmm, batch = DMM(packs), music()
    backwards = reversed_in_time(batch, LENGTHS)
    data = {
        "mini_batch": batch,
        "mini_batch_reversed": backwards if packs else packed(backwards, LENGTHS),
        "mini_batch_mask": torch.arange(STEPS) < LENGTHS[:, None],
        "mini_batch_seq_lengths": LENGTHS,
    }
    return Case(dmm.model, dmm.guide, data, unpack=True, about=dmm)


def deep_markov_exact(case: Case, _: Any) -> Tensor:
    """One latent a step: the forward recursion on a grid."""
    dmm, grid = case.about, torch.linspace(-8, 8, 1601)[:, None]
    loc, scale = dmm.trans(grid).chunk(2, -1)
    step = dist.Normal(loc, nn.functional.softplus(scale)).log_prob(grid.T) + torch.tensor(0.01).log()
    loc, scale = dmm.trans(dmm.z_0).chunk(2, -1)
    start = dist.Normal(loc, nn.functional.softplus(scale)).log_prob(grid).squeeze(-1) + torch.tensor(0.01).log()
    tones = dist.Bernoulli(dmm.emitter(grid)).to_event(1)
    found = []
    for sequence, length in zip(case.data["mini_batch"], case.data["mini_batch_seq_lengths"].tolist(), strict=True):
        alpha = start + tones.log_prob(sequence[0])
        for t in range(1, length):
            alpha = (alpha[:, None] + step).logsumexp(0) + tones.log_prob(sequence[t])
        found.append(alpha.logsumexp(0))
    return torch.stack(found)


# --- a mixed hidden Markov model: discrete random effects ---

STATES, EFFECTS = 2, 2


@config_enumerate
def seals_model(config: dict[str, Any]) -> None:
    """A discrete effect of every group and every animal on its transitions; all sites are enumerated."""
    sizes = config["sizes"]
    probs_g = pyro.param("probs_e_group", lambda: torch.rand(EFFECTS), constraint=constraints.simplex)
    theta_g = pyro.param("theta_group", lambda: torch.randn(EFFECTS, STATES**2))
    probs_i = pyro.param("probs_e_individual", lambda: torch.rand(EFFECTS), constraint=constraints.simplex)
    theta_i = pyro.param("theta_individual", lambda: torch.randn(EFFECTS, STATES**2))
    concentration = pyro.param("step_concentration", lambda: 1 + torch.rand(STATES), constraint=constraints.positive)
    rate = pyro.param("step_rate", lambda: 1 + torch.rand(STATES), constraint=constraints.positive)
    with pyro.plate("group", sizes["group"], dim=-1):
        gamma = theta_g[pyro.sample("e_g", dist.Categorical(probs_g))]
        with pyro.plate("individual", sizes["individual"], dim=-2), poutine.mask(mask=config["individual"]["mask"]):
            gamma = gamma + theta_i[pyro.sample("e_i", dist.Categorical(probs_i))]
            logits = gamma.reshape(*gamma.shape[:-1], STATES, STATES)
            y = torch.tensor(0)
            for t in pyro.markov(range(sizes["timesteps"])):
                with poutine.mask(mask=config["timestep"]["mask"][..., t]):
                    y = pyro.sample(f"y_{t}", dist.Categorical(logits=Vindex(logits)[..., y, :]))
                    step = dist.Gamma(concentration[y], rate[y])
                    pyro.sample(f"step_{t}", step, obs=config["observations"]["step"][..., t])


def seals_guide(config: dict[str, Any]) -> None:
    """No latent is left."""


def seals_exact(case: Case, held: dict[str, Tensor]) -> Tensor:
    """Over the effects of a group, those of each animal, and its states by the forward recursion."""
    steps = dist.Gamma(held["step_concentration"], held["step_rate"])
    found = []
    for group in case.data:
        of_group = []
        for e_g in range(EFFECTS):
            log = held["probs_e_group"][e_g].log()
            for animal in group:
                ways = []
                for e_i in range(EFFECTS):
                    gamma = held["theta_group"][e_g] + held["theta_individual"][e_i]
                    step = gamma.reshape(STATES, STATES).softmax(-1)
                    ways.append(held["probs_e_individual"][e_i].log() + forward(step, steps.log_prob(animal[:, None])))
                log = log + torch.stack(ways).logsumexp(0)
            of_group.append(log)
        found.append(torch.stack(of_group).logsumexp(0))
    return torch.stack(found)


def steps_of_seals() -> Tensor:
    """Lengths of steps, [individual, group, time]."""
    return 0.2 + torch.rand(3, 2, 3, generator=noise(22))


def seals() -> Case:
    """As it is published: a configuration of sizes, masks and observations."""
    config = {
        "MISSING": 1e-6,
        "sizes": {"group": 2, "individual": 3, "timesteps": 3},
        "individual": {"mask": torch.ones(3, 2).bool()},
        "timestep": {"mask": torch.ones(3, 2, 3).bool()},
        "observations": {"step": steps_of_seals()},
    }
    return Case(seals_model, seals_guide, config)


def seals_by_group() -> Case:
    """Groups on axis 0 of a tensor, the configuration made inside."""

    def config(steps: Tensor) -> dict[str, Any]:
        steps = steps.transpose(0, 1)
        individuals, groups, times = steps.shape
        return {
            "sizes": {"group": groups, "individual": individuals, "timesteps": times},
            "individual": {"mask": torch.ones(individuals, groups).bool()},
            "timestep": {"mask": torch.ones(steps.shape).bool()},
            "observations": {"step": steps},
        }

    def model(steps: Tensor) -> None:
        seals_model(config(steps))

    return Case(model, seals_guide, steps_of_seals().transpose(0, 1).contiguous())


# --- a local level, as in forecasting ---


def level_model(data: Tensor) -> None:
    """One series: drifts in a plate over time, their sum observed."""
    drift_scale = pyro.sample("drift_scale", dist.LogNormal(-1.0, 0.5))
    with pyro.plate("time", len(data), dim=-1):
        drift = pyro.sample("drift", dist.Normal(0.0, drift_scale))
        level = drift.cumsum(-1)
        pyro.sample("residual", dist.Normal(level, 0.5), obs=data)


def series() -> Tensor:
    """Six numbers."""
    return (0.4 * torch.randn(6, generator=noise(23))).cumsum(0)


def level() -> Case:
    """As it is published."""
    return Case(level_model, AutoNormal(level_model), {"data": series()}, unpack=True)


def level_exact(_: Case, __: Any) -> Tensor:
    """A normal given the scale; the midpoint rule in the quantiles of the scale."""
    data = series().double()
    size = len(data)
    u = (torch.arange(2000, dtype=torch.float64) + 0.5) / 2000
    scale = (-1.0 + 0.5 * dist.Normal(torch.zeros_like(u), 1.0).icdf(u)).exp()
    walk = torch.minimum(torch.arange(1, size + 1)[:, None], torch.arange(1, size + 1)).double()
    covariance = scale[:, None, None] ** 2 * walk + 0.25 * torch.eye(size).double()
    logs = dist.MultivariateNormal(torch.zeros(size).double(), covariance).log_prob(data)
    return (logs.logsumexp(0) - torch.tensor(2000.0).double().log()).reshape(1)


PROGRAMS: dict[str, Stock] = {
    "dmm": Stock(
        "deep Markov model: masks, lengths, an RNN in the guide",
        EXAMPLES + "dmm.py",
        lambda: deep_markov(packs=False),
        ALL,
        refusal=Refusal(
            "batch member 'mini_batch_reversed'.*found PackedSequence",
            "`pack_padded_sequence` inside the guide, the batch as the padded tensor",
            lambda: deep_markov(packs=True),
        ),
        exact=deep_markov_exact,
        warmup=200,
    ),
    "mixed-hmm": Stock(
        "mixed hidden Markov model: discrete random effects",
        EXAMPLES + "mixed_hmm/model.py",
        seals,
        ("fit", "evaluate_bound", "log_evidence"),
        refusal=Refusal(
            "batch member 'MISSING': expected a tensor",
            "groups on axis 0 of a tensor, the configuration made inside the program",
            seals_by_group,
        ),
        enumerates=True,
        exact=seals_exact,
    ),
    "local-level": Stock(
        "local level of one series, as in forecasting",
        TUTORIALS + "forecasting_i.html",
        level,
        ALL,
        refusal=Refusal(
            "its terms must not depend on the other data",
            AS_ONE_DATUM,
            lambda: level().whole(),
        ),
        whole=True,
        exact=level_exact,
    ),
}
