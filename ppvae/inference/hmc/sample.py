"""The verb: sample p(z | x) of every datum, chunk by chunk, every chain for itself."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from .chains import ChunkDraws, MakeKernel, sample_chunk
from .draws import PosteriorDraws
from .integrator import PhasePoint, leapfrog
from .kernel import HMCInfo, hmc_kernel
from .options import HMC, ChEES, Options
from .target import Start, posterior_target, start_chains, start_positions, start_variance
from ..execution.memory import Footprint, data_per_chunk, footprint
from ..execution.over_data import Chunk, over_chunks
from ..execution.placement import Compile, choose_device, choose_mode, dtype_of, like_pair, to
from ..execution.progress import progress_bar
from ..execution.readiness import check_all
from ..execution.seeds import seed_of
from ...core import Data, ModelGuidePair, PpvaeError, batch_size, rows_of, unconstrained
from ...core.compile import Mode, capture, state_of
from ...core.conditioning import hold_sites
from ...core.errors import try_one_of
from ...core.modes import in_evaluation_mode
from ...data import as_dataset

MEMORY_BUDGET = 2**28


@in_evaluation_mode
def sample_posterior(
    pair: ModelGuidePair,
    data: Any,
    *,
    num_samples: int = 1000,
    num_warmup: int = 500,
    num_chains: int = 4,
    num_leapfrog: int | None = None,
    kernel: Options | None = None,
    start: Start = "guide",
    global_sites: Mapping[str, Tensor] | Literal["mean"] | None = None,
    seed: int = 0,
    device: str | torch.device = "auto",
    compile: Compile = "auto",
    memory_budget: int = MEMORY_BUDGET,
    progress: bool = True,
) -> PosteriorDraws:
    r"""Sample $p(z \mid x_b)$ of every datum by Hamiltonian Monte Carlo, every chain of every datum for itself.

    Each chain has its own step size, accept decision and divergence flag; the diagonal mass is estimated per datum,
    pooled over its chains. All is adapted in warm-up and frozen after it. Constrained latents are sampled through
    their bijections. Duane et al. 1987; Neal 2011 (arXiv 1206.1901); AEVB (arXiv 1312.6114), appendix D.

    The same seed, machine, thread count and memory budget give the same draws: a chunk's noise depends on the seed
    and its number. Ctrl-C raises KeyboardInterrupt, whose attribute ``partial`` is the PosteriorDraws of the finished
    chunks (the first data), or None.

    Global latents, such as weights, have fixed values; :func:`sample_global_posterior` samples them together with the
    latents of all data.

    Args:
        pair: the pair; its local latents are sampled, and must be continuous.
        data: the data, [N, *event]: a Dataset, a tensor, an array or a mapping of such.
        num_samples: draws per chain.
        num_warmup: transitions before them, in which step size and mass are adapted; zero only with a step size in
            ``kernel``.
        num_chains: chains per datum.
        num_leapfrog: L, leapfrogs of a transition, shorthand for ``kernel=HMC(num_leapfrog)``; default 10.
        kernel: :class:`HMC` or :class:`ChEES`, with all options.
        start: "guide" or "prior", where the chains start.
        global_sites: values of the global latent sites, or "mean" for their mean under the guide.
        seed: of all noise.
        device: "auto", "cpu", "cuda", ...
        compile: "auto", "eager", "graph" or "compiled"; auto compiles where the run is long enough to pay for it.
        memory_budget: bytes that the work on one chunk of data may take, beside the draws themselves.
        progress: show a bar with acceptance and divergences.

    Returns:
        Draws by site, statistics of the sampler, and an outcome for every chain: a failed one has its code there, does
        not stop the others, and appears in one RuntimeWarning.

    Raises:
        PairError: the pair breaks its contract, the data its support; a discrete local latent, none at all, or global
            sites without values.
        PpvaeError: numbers out of range, no warm-up and no step size, or a memory budget too small for one datum.
        DataError: data that cannot be used.

    >>> from ppvae.models import FactorAnalysis
    >>> pair = FactorAnalysis.from_parameters([0.0, 0.0], [[1.0], [2.0]], [1.0, 1.0])
    >>> draws = sample_posterior(pair, torch.ones(3, 2), num_samples=5, num_warmup=5, num_chains=2, progress=False)
    >>> draws.samples["z"].shape, draws.stats["acceptance"].shape
    (torch.Size([2, 5, 3, 1]), torch.Size([2, 5, 3]))
    """
    options = _options(num_leapfrog, kernel, num_warmup)
    for name, value, least in (
        ("num_samples", num_samples, 1),
        ("num_warmup", num_warmup, 0),
        ("num_chains", num_chains, 1),
    ):
        if value < least:
            raise PpvaeError(f"{name}: expected at least {least}, found {value}")
    if start not in ("guide", "prior"):
        raise PpvaeError(f"start: expected 'guide' or 'prior', found {start!r}")
    where = choose_device(device)
    pair.to(where)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed_of(seed, "data"))
        data = like_pair(as_dataset(data, dtype=dtype_of(pair)).tensor(dtype=dtype_of(pair)), dtype_of(pair))
        data = to(data, where)
        needs_all_data = check_all(pair, data)
        work = _Work(pair, data, num_chains, options, start, global_sites, needs_all_data)
        calls = (num_warmup + num_samples) * _mean_length(options)
        prints = work.measure()
        size = data_per_chunk(memory_budget, prints["fixed"].peak, prints["datum"].peak, num_chains)
        size = batch_size(data) if needs_all_data else size
        num_chunks = -(-batch_size(data) // size)
        mode = choose_mode(compile, calls * num_chunks, prints["datum"].traffic * min(size, batch_size(data)))
        parts: list[ChunkDraws] = []

        def visit(chunk: Chunk) -> ChunkDraws:
            draws = work.sample(chunk.rows, mode, f"{seed}/{chunk.number}", num_warmup, num_samples, bar)
            return _first(draws, chunk.valid)

        try:
            with _Bar(num_chunks, num_warmup + num_samples, progress) as bar:
                over_chunks(batch_size(data), size, visit, seed=seed, device=where, results=parts)
        except KeyboardInterrupt as interrupt:
            interrupt.partial = work.gather(parts, seed) if parts else None  # type: ignore[attr-defined]
            interrupt.add_note(f"{len(parts)} of {num_chunks} chunks of data were finished: see the attribute partial")
            raise
        draws = work.gather(parts, seed)
    if not bool(draws.ok.all()):
        warnings.warn(f"sample_posterior: {draws.summary()}", RuntimeWarning, stacklevel=2)
    return draws


class _Work:
    """One run: the pair, its target and its data."""

    def __init__(
        self,
        pair: ModelGuidePair,
        x: Data,
        num_chains: int,
        options: Options,
        start: Start,
        global_sites: Mapping[str, Tensor] | Literal["mean"] | None,
        needs_all_data: bool = False,
    ) -> None:
        self.needs_all_data = needs_all_data
        first = x if needs_all_data else rows_of(x, torch.zeros(1, dtype=torch.int64))
        pair = hold_sites(pair, first, global_sites)
        self.coordinates = unconstrained(pair, first)
        self.pair, self.x, self.num_chains, self.options, self.start = pair, x, num_chains, options, start
        self.target = posterior_target(pair, self.coordinates)
        self.state = state_of(pair)
        self._make_kernel: MakeKernel | None = None

    def sample(self, index: Tensor, mode: Mode, seed: str, num_warmup: int, num_samples: int, bar: _Bar) -> ChunkDraws:
        """All chains of the data at ``index``."""
        if self._make_kernel is None:
            step = capture(leapfrog(self.target), mode=mode, name="the leapfrog")
            # From a record the operations are removed that a step without a value does not need.
            recorded = mode != "eager"
            bare = capture(leapfrog(self.target, value=False), mode=mode, name="the leapfrog") if recorded else None
            self._make_kernel = partial(hmc_kernel, step, jitter=self.options.jitter, inner=bare)
        x = rows_of(self.x, index)
        context = (self.state, x)
        torch.manual_seed(seed_of(seed, "start"))
        state, failed = start_chains(self.pair, x, self.coordinates, self.target, context, self.num_chains, self.start)
        variance = start_variance(self.pair, x, self.coordinates, self.start)
        generator = torch.Generator(device=index.device).manual_seed(seed_of(seed, "noise"))
        return sample_chunk(
            self._make_kernel,
            state,
            failed,
            context,
            self.options,
            num_warmup,
            num_samples,
            variance,
            generator,
            bar,
        )

    def measure(self) -> dict[str, Footprint]:
        """Memory of one leapfrog: for each datum with all its chains, and the constant part."""
        footprints = []
        for size in (batch_size(self.x),) if self.needs_all_data else (2, 3):
            index = torch.arange(size).clamp(max=batch_size(self.x) - 1)
            x = rows_of(self.x, index)
            u = start_positions(self.pair, x, self.coordinates, self.num_chains, self.start).contiguous()
            point = PhasePoint(u, u, u[..., 0], u, torch.ones_like(u[..., 0], dtype=torch.bool))
            context = (self.state, x)
            footprints.append(footprint(leapfrog(self.target), point, u[..., 0], u[0], *context))
        if self.needs_all_data:
            count = batch_size(self.x)
            return {
                "datum": Footprint(footprints[0].peak // count, footprints[0].traffic // count),
                "fixed": Footprint(0, 0),
            }
        low, high = footprints
        datum = Footprint(max(1, high.peak - low.peak), max(0, high.traffic - low.traffic))
        # The parameters, and two data as a margin.
        return {"datum": datum, "fixed": Footprint(low.peak, 0)}

    def gather(self, parts: list[ChunkDraws], seed: int) -> PosteriorDraws:
        """The draws of all chunks, side by side."""
        stats = {name: _side_by_side([chunk.stats[name] for chunk in parts]) for name in parts[0].stats}
        outcome = torch.cat([chunk.outcome for chunk in parts], 1)
        return PosteriorDraws(
            unconstrained=torch.cat([chunk.u for chunk in parts], 2) if len(parts) > 1 else parts[0].u,
            stats=stats,
            outcome=outcome,
            inverse_mass=torch.cat([chunk.inverse_mass for chunk in parts]),
            coordinates=self.coordinates,
            pair=self.pair,
            x=rows_of(self.x, torch.arange(outcome.shape[1])),
            seed=seed,
        )


class _Bar:
    """A progress bar over the transitions of all chunks, with acceptance and divergences after warm-up."""

    def __init__(self, num_chunks: int, transitions: int, show: bool) -> None:
        self.bar = progress_bar(total=num_chunks * transitions, show=show, desc="sampling", leave=False)
        self.acceptance: Tensor | None = None
        self.divergences: Tensor | None = None
        self.count = 0

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def __call__(self, info: HMCInfo, warming: bool) -> None:
        self.bar.update()
        if self.bar.disable:
            return
        diverging = info.diverging.sum()
        if warming:
            self.count, self.acceptance, self.divergences = 0, None, None
        self.count += 1
        self.acceptance = (
            info.acceptance.mean() if self.acceptance is None else self.acceptance + info.acceptance.mean()
        )
        self.divergences = diverging if self.divergences is None else self.divergences + diverging
        if self.bar.n % 20 == 0:  # reading a number waits for the device
            self.bar.set_postfix(
                phase="warm-up" if warming else "draws",
                acceptance=f"{float(self.acceptance) / self.count:.2f}",
                divergences=int(self.divergences),
                refresh=False,
            )


def _options(num_leapfrog: int | None, kernel: Options | None, num_warmup: int) -> Options:
    if kernel is not None and num_leapfrog is not None:
        raise PpvaeError(
            "num_leapfrog and kernel were both given" + try_one_of(f"kernel=HMC(num_leapfrog={num_leapfrog}, ...)")
        )
    options = kernel if kernel is not None else HMC(10 if num_leapfrog is None else num_leapfrog)
    if not isinstance(options, HMC | ChEES):
        raise PpvaeError(
            f"kernel: expected HMC or ChEES with its options, found {kernel!r}"
            + try_one_of("ChEES()", "HMC(num_leapfrog=10)", "sample_global_posterior, whose kernel may be 'nuts'")
        )
    if num_warmup == 0 and options.step_size is None:
        raise PpvaeError(
            "num_warmup=0 leaves no transition to adapt the step size in"
            + try_one_of("num_warmup=200 or more", "kernel=HMC(num_leapfrog=..., step_size=0.1) to give it by hand")
        )
    return options


def _mean_length(options: Options) -> int:
    return options.num_leapfrog if isinstance(options, HMC) else 10


def _side_by_side(parts: list[Tensor]) -> Tensor:
    """Parts [chain, draw, datum] joined along the data; an expanded axis stays a view."""
    if len(parts) == 1:
        return parts[0]
    constant = [axis for axis in (0, 1) if all(part.stride(axis) == 0 for part in parts)]
    shape = [*parts[0].shape[:2], sum(part.shape[2] for part in parts)]
    for axis in constant:
        parts = [part.narrow(axis, 0, 1) for part in parts]
    return torch.cat(parts, 2).expand(shape)


def _first(chunk: ChunkDraws, valid: int) -> ChunkDraws:
    """Without the padding."""
    if valid == chunk.u.shape[2]:
        return chunk
    stats = {name: value[:, :, :valid] for name, value in chunk.stats.items()}
    return ChunkDraws(chunk.u[:, :, :valid], stats, chunk.outcome[:, :valid], chunk.inverse_mass[:valid])
