"""Reference draws of all latents of a small pair, including global ones such as weights, by Pyro's own NUTS."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, cast

import numpy as np
import pyro
import torch
from pyro.infer.mcmc import HMC, MCMC, NUTS
from torch import Tensor
from torch.distributions import biject_to
from torch.distributions.transforms import Transform

from .diagnostics import ess, rhat
from ..execution.placement import Compile, choose_mode, dtype_of, like_pair
from ..execution.progress import progress_bar
from ..execution.seeds import chunk_seed
from ...core import (
    Data,
    ModelGuidePair,
    PairError,
    PpvaeError,
    SiteInfo,
    batch_size,
    draw,
    log_joint,
    members_of,
    structure,
)
from ...core.compile import bind, capture, state_of
from ...core.errors import try_one_of
from ...core.modes import in_evaluation_mode
from ...core.unconstrained import moving_support
from ...data import as_dataset


class _Slot(NamedTuple):
    info: SiteInfo
    transform: Transform
    shape: tuple[int, ...]  # of the unconstrained value
    start: int
    stop: int


@dataclass(frozen=True, eq=False, repr=False)
class GlobalDraws:
    """Draws from p(z, w | all data), weights and latents together.

    Attributes:
        samples: site to draws: a global site [chain, draw, *event], a local one [chain, draw, datum, *event].
        stats: name to [chain, draw]: ``log_density`` (nats, of the unconstrained state), ``diverging`` (bool),
            ``step_size``.
        unconstrained: all sites as one vector of unconstrained coordinates, [chain, draw, d].
        acceptance: mean acceptance probability of each chain, [chain].
        global_sites: the names of the global sites.
        x: the data.
        kernel: "NUTS" or "HMC", of Pyro.
        seed: of the run.
    """

    samples: dict[str, Tensor]
    stats: dict[str, Tensor]
    unconstrained: Tensor
    acceptance: Tensor
    global_sites: tuple[str, ...]
    x: Data
    kernel: str
    seed: int

    def __repr__(self) -> str:
        chains, draws = self.stats["log_density"].shape
        return (
            f"GlobalDraws({self.kernel}, {chains} chains x {draws} draws, acceptance "
            f"{float(self.acceptance.mean()):.2f}, {int(self.stats['diverging'].sum())} divergences)"
        )

    def rhat(self) -> dict[str, Tensor]:
        """Rank-normalised split R-hat: site to [*event], or [datum, *event]."""
        return {name: rhat(value) for name, value in self.samples.items()}

    def ess(self) -> dict[str, Tensor]:
        """Bulk effective sample size, in draws: site to [*event], or [datum, *event]."""
        return {name: ess(value) for name, value in self.samples.items()}

    def to_arviz(self) -> Any:
        """The draws for ArviZ: an ``InferenceData`` (0.x) or an ``xarray.DataTree`` (1.x)."""
        # ArviZ takes over a second to import.
        from ... import __version__
        from ...inference_data import to_arviz

        data = members_of(self.x)
        parts: list[tuple[str, list[str], dict[str, Tensor]]] = [
            ("posterior", ["chain", "draw"], self.samples),
            ("sample_stats", ["chain", "draw"], {_ARVIZ_NAMES.get(k, k): v for k, v in self.stats.items()}),
            ("observed_data", ["datum"], data),
        ]
        groups: dict[str, dict[str, np.ndarray]] = {}
        dims: dict[str, dict[str, list[str]]] = {}
        for group, lead, variables in parts:
            groups[group] = {name: value.detach().cpu().numpy() for name, value in variables.items()}
            dims[group] = {}
            for name, value in variables.items():
                local = group == "posterior" and name not in self.global_sites
                axes = [*lead, "datum"] if local else lead
                dims[group][name] = axes + [f"{name}_dim_{i}" for i in range(value.dim() - len(axes))]
        chains, draws = self.stats["log_density"].shape
        coords = {"chain": np.arange(chains), "draw": np.arange(draws), "datum": np.arange(batch_size(self.x))}
        attrs = {"inference_library": "pyro", "inference_library_version": str(pyro.__version__), "ppvae": __version__}
        return to_arviz(groups, dims, coords, attrs)


_ARVIZ_NAMES = {"log_density": "lp"}


@in_evaluation_mode
def sample_global_posterior(
    pair: ModelGuidePair,
    data: Any,
    *,
    num_samples: int = 1000,
    num_warmup: int = 500,
    num_chains: int = 4,
    kernel: Literal["nuts", "hmc"] = "nuts",
    trajectory_length: float = math.pi / 2,
    target_acceptance: float = 0.8,
    max_tree_depth: int = 10,
    full_mass: bool = False,
    seed: int = 0,
    compile: Compile = "auto",
    progress: bool = True,
) -> GlobalDraws:
    r"""Sample $p(z, w \mid x_1, \ldots, x_N)$, the latents of all data and the global sites together, on the CPU.

    $$\log \tilde p(u) = \log p(w) + \sum_{b=1}^{N} \log p(x_b, z_b \mid w)
      + \log \left| \det \frac{\partial (z, w)}{\partial u} \right|$$

    A reference for small pairs: one chain has one state of all latents and one accept decision, by Pyro's own NUTS
    (Hoffman & Gelman 2014, arXiv 1111.4246) or HMC. The density is :func:`ppvae.core.log_joint`, captured with its
    gradient. The data are the whole data set: nothing is scaled.

    Args:
        pair: a pair with global latents, all continuous.
        data: all the data, [N, *event].
        num_samples: draws per chain.
        num_warmup: transitions before them, in which step size and mass are adapted.
        num_chains: chains, one after another, each started at a draw of the guide.
        kernel: "nuts" or "hmc".
        trajectory_length: step size times leapfrogs of a transition, for "hmc", in posterior standard deviations once
            the mass is adapted. Pyro fixes this, not the number of leapfrogs; near 2 pi a trajectory returns to its
            start, and the chain does not mix.
        target_acceptance: acceptance probability for the adaptation of the step size.
        max_tree_depth: of NUTS.
        full_mass: a dense mass matrix.
        seed: of all noise.
        compile: "auto", "eager", "graph" or "compiled" density.
        progress: show a bar on a terminal, and elsewhere a line now and then.

    Raises:
        PairError: no global latent, or a discrete one.
        PpvaeError: numbers out of range.
    """
    for name, value in (("num_samples", num_samples), ("num_warmup", num_warmup), ("num_chains", num_chains)):
        if value < 1:
            raise PpvaeError(f"{name}: expected at least 1, found {value}")
    if kernel not in ("nuts", "hmc"):
        raise PpvaeError(f"kernel: expected 'nuts' or 'hmc', found {kernel!r}")
    pair.to("cpu")
    dtype = dtype_of(pair)
    data = like_pair(as_dataset(data, dtype=dtype).tensor(dtype=dtype), dtype)
    slots = _slots(pair, data)
    potential = _potential(pair, data, slots, choose_mode(compile, (num_warmup + num_samples) * 2**4))
    columns: list[Tensor] = []
    watches: list[_Watch] = []
    options: dict[str, Any] = {"target_accept_prob": target_acceptance, "full_mass": full_mass}
    for chain in range(num_chains):
        with torch.random.fork_rng(), torch.enable_grad():
            torch.manual_seed(chunk_seed(seed, chain))
            start = _start(pair, data, slots, potential)
            sampler: NUTS | HMC = (
                NUTS(potential_fn=potential, max_tree_depth=max_tree_depth, **options)
                if kernel == "nuts"
                else HMC(potential_fn=potential, trajectory_length=trajectory_length, **options)
            )
            u, watch = _chain(sampler, start, num_samples, num_warmup, f"chain {chain + 1}" if progress else None)
        columns.append(u)
        watches.append(watch)
    unconstrained = torch.stack(columns)
    with torch.no_grad():
        samples = _latents(unconstrained, slots)[0]
    return GlobalDraws(
        samples,
        {name: torch.tensor([watch.columns[name] for watch in watches]) for name in watches[0].columns},
        unconstrained,
        torch.tensor([watch.acceptance for watch in watches]),
        tuple(slot.info.name for slot in slots if slot.info.scope == "global"),
        data,
        kernel.upper(),
        seed,
    )


def _chain(
    kernel: NUTS | HMC, start: Tensor, num_samples: int, num_warmup: int, name: str | None
) -> tuple[Tensor, _Watch]:
    """One chain by Pyro: its draws [draw, d] and its statistics; with a bar of this name, None for no bar."""
    with progress_bar(total=num_warmup + num_samples, desc=name, show=bool(name), leave=False) as bar:
        watch = _Watch(bar, num_samples)
        run = MCMC(
            kernel,
            num_samples=num_samples,
            warmup_steps=num_warmup,
            initial_params={"u": start},
            hook_fn=watch,
            disable_progbar=True,
            disable_validation=None,
        )
        run.run()
    return run.get_samples()["u"].detach(), watch


@in_evaluation_mode
def log_density_of_all(pair: ModelGuidePair, x: Data, u: Tensor) -> Tensor:
    r"""$\log \tilde p(u)$ of :func:`sample_global_posterior` at u [*S, d]: [*S], nats."""
    latents, log_jacobian = _latents(u, _slots(pair, x))
    return log_joint(pair, x, latents).total() + log_jacobian


def _slots(pair: ModelGuidePair, x: Data) -> tuple[_Slot, ...]:
    """The place of each latent in the unconstrained vector."""
    shape = structure(pair, x)
    if not shape.global_latents:
        raise PairError(
            "the pair has no global latent site"
            + try_one_of("sample_posterior(pair, x), which samples every datum's latents", "bayesianise(pair)")
        )
    slots: list[_Slot] = []
    start = 0
    for info in shape.model_latents:
        if info.name in shape.moving:
            raise moving_support(info)
        if info.masked:
            raise PairError(
                f"latent site {info.name!r} is masked out in part: what is masked has no density to sample"
                + try_one_of("sample_posterior(pair, x, global_sites=...), which leaves it out of the target")
            )
        if info.is_discrete or info.support is None:
            raise PairError(f"latent site {info.name!r} is discrete ({info.family_name}): it has no gradient to follow")
        transform = biject_to(info.support)
        full = (shape.batch, *info.shape) if info.scope == "local" else info.shape
        unconstrained = tuple(transform.inverse_shape(torch.Size(full)))
        slots.append(_Slot(info, transform, unconstrained, start, start + math.prod(unconstrained)))
        start = slots[-1].stop
    return tuple(slots)


def _latents(u: Tensor, slots: tuple[_Slot, ...]) -> tuple[dict[str, Tensor], Tensor]:
    """Latents [*S, (B,) *event] and the log-Jacobian [*S] at u [*S, d]."""
    lead = u.shape[:-1]
    latents: dict[str, Tensor] = {}
    log_jacobian = u.new_zeros(lead)
    for slot in slots:
        part = u[..., slot.start : slot.stop].reshape((*lead, *slot.shape))
        value = slot.transform(part)
        latents[slot.info.name] = value
        log_jacobian = log_jacobian + slot.transform.log_abs_det_jacobian(part, value).reshape(*lead, -1).sum(-1)
    return latents, log_jacobian


class _Watch:
    """Reads the statistics of Pyro's kernel after every transition, because they are lost when the run ends."""

    def __init__(self, bar: Any, num_samples: int) -> None:
        self.bar, self.num_samples = bar, num_samples
        self.columns: dict[str, list[Any]] = {"log_density": [], "diverging": [], "step_size": []}
        self.acceptance = math.nan

    def __call__(self, kernel: Any, state: Any, stage: str, number: int) -> None:
        self.bar.update(1)
        if not stage.lower().startswith("sample"):
            return
        self.columns["log_density"].append(-float(kernel._potential_energy_last))
        self.columns["step_size"].append(float(kernel.step_size))
        # Pyro records a divergence by the number of transitions before this one, counted from the end of warm-up.
        self.columns["diverging"].append(kernel._t - 1 - kernel._warmup_steps in kernel._divergences)
        self.acceptance = float(kernel._mean_accept_prob)


class _Potential:
    """Minus the log density of the vector ``u``, for Pyro; value and gradient are captured together."""

    def __init__(self, run: Any, state: dict[str, Tensor], x: Data) -> None:
        self.run, self.state, self.x = run, state, x

    def __call__(self, z: Mapping[str, Tensor]) -> Tensor:
        apply: Any = _ValueWithGradient.apply
        return cast(Tensor, apply(z["u"], self))

    def value_and_gradient(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """At u [d]."""
        value, gradient = self.run(self.state, self.x, u)
        return value, gradient


class _ValueWithGradient(torch.autograd.Function):
    """A function whose gradient is computed with its value."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, potential: _Potential) -> Tensor:
        value, gradient = potential.value_and_gradient(u.detach())
        ctx.save_for_backward(gradient)
        return value

    @staticmethod
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return outer * gradient, None


def _potential(pair: ModelGuidePair, x: Data, slots: tuple[_Slot, ...], mode: Any) -> _Potential:
    def value(pair: ModelGuidePair, x: Data, u: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            u = u.detach().requires_grad_()
            latents, log_jacobian = _latents(u, slots)
            total = -(log_joint(pair, x, latents).total() + log_jacobian)
            (gradient,) = torch.autograd.grad(total, u)
        return total.detach(), gradient

    return _Potential(capture(bind(pair, value), mode=mode, name="the log density"), state_of(pair), x)


def _start(pair: ModelGuidePair, x: Data, slots: tuple[_Slot, ...], potential: _Potential) -> Tensor:
    """A draw of the guide where the density and its gradient are finite."""
    for _ in range(10):
        with torch.no_grad():
            latents = draw(pair, x, 1).latents
            parts = [slot.transform.inv(latents[slot.info.name][0]).reshape(-1) for slot in slots]
            u = torch.cat(parts).detach().contiguous()
            value, gradient = potential.value_and_gradient(u)
        if bool(torch.isfinite(value)) and bool(torch.isfinite(gradient).all()):
            return u
    raise PpvaeError("the log density is not finite at ten draws of the guide: no chain can start")
