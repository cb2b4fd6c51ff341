"""What each site adds to the bound, its KL in closed form where there is one."""

from __future__ import annotations

from torch import Tensor

from .axes import to_pyro
from .density import over_groups, structure
from .errors import PairError, did_you_mean, try_one_of
from .guide_sum import draw_all_values
from .pair import Data, ModelGuidePair
from .parameters import local_parameters
from .terms import SiteTerm, join_particles, reduce_term, terms_of
from .tracing import run_model, run_program, width_of


def site_terms(
    pair: ModelGuidePair,
    x: Data,
    num_particles: int = 1,
    num_data: int | None = None,
    *,
    analytic: bool = True,
) -> dict[str, SiteTerm]:
    r"""What each site adds to the bound, with $\mathrm{KL}(q \| p)$ in closed form where there is one.

    $$\mathcal{L} = \sum_{\text{observed}} \log p - \sum_{\text{latent}} \mathrm{KL}(q \| p)$$

    The closed form is used site by site when PyTorch or Pyro registers one and the latent sites stand in the same
    order on both sides (then a site's parents in the model never descend from it in the guide).

    Discrete sites of the guide that are marked to be enumerated take all of their values: there are as many more
    particles, and every term is multiplied by its weight (:func:`draw_all_values`), so that means over particles are
    expectations. Sites that are summed out have no term; the observed sites under the sum share one.

    Args:
        pair: the pair.
        x: the batch, [B, *event].
        num_particles: K.
        num_data: N, handed to the programs.
        analytic: False to sample every KL.
    """
    shape = structure(pair, x)
    if shape.guide_summed:
        raise PairError(
            f"site {shape.guide_summed[0].name!r} is summed out of the guide as well: no site has a term of its own"
            + try_one_of("the pair that was given to sum_out")
        )
    draws = draw_all_values(pair, x, num_particles, num_data) if shape.guide_enumerated else None

    def visit(group: slice) -> dict[str, SiteTerm]:
        particles, values = width_of(group), {}
        if draws is not None:
            given = {**draws.latents, **draws.auxiliary}
            values = {i.name: to_pyro(given[i.name][group], i, shape.nesting) for i in shape.guide if i.name in given}
        guide_sites = run_program(pair, "guide", x, num_data, particles, shape.nesting, values)
        values = {info.name: guide_sites[info.name]["value"] for info in shape.guide_latents}
        model_sites = run_model(pair, x, shape, values, particles, num_data)
        return terms_of(guide_sites, model_sites, shape, particles, analytic)

    groups = over_groups(pair, num_particles if draws is None else len(draws.log_q), visit)
    terms = {name: join_particles([g[name] for g in groups]) for name in groups[0]} if len(groups) > 1 else groups[0]
    if draws is None or draws.log_share is None:
        return terms
    share = draws.log_share.exp()
    return {name: _weighted(term, share) for name, term in terms.items()}


def log_guide_site(pair: ModelGuidePair, x: Data, name: str, value: Tensor, num_data: int | None = None) -> Tensor:
    r"""$\log q(z_i \mid x, \ldots)$ of a local site of the guide at a value, given a draw of the sites before it, [B].

    Args:
        pair: the pair.
        x: the batch, [B, *event].
        name: the site.
        value: [B, *event] of the site.
        num_data: N, handed to the guide.

    Raises:
        PairError: the guide has no local latent of this name.
    """
    shape = structure(pair, x)
    infos = {info.name: info for info in shape.guide_latents if info.scope == "local"}
    if name not in infos:
        raise PairError(f"the guide has no latent {name!r} in the plate over data: {did_you_mean(name, list(infos))}")
    with local_parameters(pair):
        site = run_program(pair, "guide", x, num_data, nesting=shape.nesting)[name]
    log_q = site["fn"].log_prob(to_pyro(value[None], infos[name], shape.nesting))
    return reduce_term(log_q, site, shape, 1)[0]


def _weighted(term: SiteTerm, share: Tensor) -> SiteTerm:
    """A term with every draw multiplied by its weight; a global one has no enumerated site before it."""
    if term.scope == "global":
        return term

    def times(value: Tensor | None) -> Tensor | None:
        return None if value is None else value * share.reshape(*share.shape, *(1,) * (value.dim() - share.dim()))

    return term._replace(
        log_p=times(term.log_p),
        log_q=times(term.log_q),
        kl=times(term.kl),
        kl_per_dimension=times(term.kl_per_dimension),
        tilt=times(term.tilt),
    )
