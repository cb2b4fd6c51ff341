"""A pair under other programs: sites held at values, the prior as guide, the guide as a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pyro
import torch
from torch import Tensor
from torch.distributions import biject_to
from torch.distributions.constraints import Constraint

from .audit import audit
from .axes import to_pyro
from .density import draw, structure
from .errors import PairError, did_you_mean, try_one_of
from .pair import Data, ModelGuidePair, batch_size, map_tensors, members_of
from .simulation import Noise
from .tracing import redistributed, untold
from .wrappers import within

_MEAN_DRAWS = 1000


class DerivedPair(ModelGuidePair):
    """The parameters of one pair under other programs; the pair itself is not touched.

    Args:
        pair: whose modules and adopted parameters these are.
        model: the model to run.
        guide: the guide to run.
        whole: whether the data of these programs are the only row of a batch: see :func:`as_one_datum`.
    """

    def __init__(
        self, pair: ModelGuidePair, *, model: Callable[..., Any], guide: Callable[..., Any], whole: bool = False
    ) -> None:
        super().__init__()
        self.__dict__["_whole"] = whole
        # Not as a submodule: Pyro would rename the pair and make its context this one's.
        self.__dict__["_pair"] = pair
        self.__dict__["_programs"] = (model, guide)
        # The pair's own dictionaries: modules and parameters are the same objects, under the same names.
        for registry in ("_modules", "_parameters", "_buffers"):
            self.__dict__[registry] = pair.__dict__[registry]
        self.vectorizes, self.accepts_num_data = pair.vectorizes, pair.accepts_num_data
        self.parameter_store, self.plate_name = pair.parameter_store, pair.plate_name
        self.one_datum, self.summed_out, self.noisy = pair.one_datum, pair.summed_out, pair.noisy

    def model(self, x: Any, num_data: int | None = None) -> Any:
        """Run the model."""
        return self.__dict__["_programs"][0](x, num_data)

    def guide(self, x: Any, num_data: int | None = None) -> Any:
        """Run the guide."""
        return self.__dict__["_programs"][1](x, num_data)

    def find_data_plate(self, x: Any) -> str | None:
        """That of the pair: where sites are held at values, which of them are data cannot be told any more."""
        return structure(self.__dict__["_pair"], x).data_plate

    def completed(self, x: Any) -> Any:
        """As the pair completes it."""
        return self._told("completed", x)

    def gaps(self, x: Any) -> dict[str, Tensor]:
        """Those of the pair."""
        gaps: dict[str, Tensor] = self._told("gaps", x)
        return gaps

    def sequence_lengths(self, x: Any) -> tuple[Tensor, ...]:
        """Those of the pair; none of all data as one datum, whose programs read a row of them."""
        return () if self.__dict__["_whole"] else self.__dict__["_pair"].sequence_lengths(x)

    def adopt(self, name: str, value: Tensor, constraint: Constraint) -> None:
        """The pair adopts it."""
        self.__dict__["_pair"].adopt(name, value, constraint)

    def adopted_value(self, name: str) -> Tensor | None:
        """The pair's value."""
        value: Tensor | None = self.__dict__["_pair"].adopted_value(name)
        return value

    def _told(self, method: str, x: Any) -> Any:
        """What a method of the pair tells of a batch."""
        tell = getattr(self.__dict__["_pair"], method)
        return map_tensors(lambda value: value[None], tell(_only_row(x))) if self.__dict__["_whole"] else tell(x)


def prior_as_guide(pair: ModelGuidePair, x: Data) -> DerivedPair:
    """The pair with its own model as guide: its draws are from the prior, given the observed sites.

    Sites that are summed out are drawn and not told, so that the model sums over them as before; log q of such a guide
    is without them, and is no density.

    Args:
        pair: the pair.
        x: a batch, to find what is summed out.
    """
    names = frozenset(info.name for info in structure(pair, x).enumerated)
    return DerivedPair(pair, model=pair.model, guide=untold(pair.model, names))


def guide_as_model(pair: ModelGuidePair, values: dict[str, Tensor] | None = None) -> DerivedPair:
    """The guide as a model, for the waist's functions that evaluate models.

    Args:
        pair: the pair.
        values: those of the guide's sites, in Pyro's order of axes, looked up when the program runs: all are observed
            then, and :func:`~ppvae.core.predict` gives the means of their distributions. None to leave them latent:
            ``log_joint`` is then log q(z | x).
    """
    if values is None:
        return DerivedPair(pair, model=pair.guide, guide=pair.guide)
    return DerivedPair(pair, model=_at(pair.guide, values), guide=lambda x, num_data: None)


def at_values(pair: ModelGuidePair, values: dict[str, Any]) -> DerivedPair:
    """The pair with sites of both programs observed at values, looked up when a program runs.

    The content of the mapping may change, and be an argument of a captured function: one pair, whose structure is found
    once, serves any number of draws.
    """
    return DerivedPair(pair, model=_at(pair.model, values), guide=_at(pair.guide, values))


def _at(program: Callable[..., Any], values: dict[str, Any]) -> Callable[..., Any]:
    return lambda x, num_data: pyro.condition(program, data=values)(x, num_data)


def sum_out(pair: ModelGuidePair, *sites: str) -> DerivedPair:
    r"""The pair with discrete sites summed out of both programs: what is left are its continuous latents.

    $$p(x, z) = \sum_y p(x, y, z),\qquad q(z \mid x) = \sum_y q(y \mid x)\, q(z \mid x, y)$$

    For the evidence and for sampling, which need coordinates, of a pair that was trained with q(y | x) in its guide.
    No estimator that differentiates through draws takes it: z is drawn by way of y.

    Args:
        pair: the pair; its parameters are shared, not copied.
        sites: names of local sites of both programs, marked ``infer={"enumerate": "parallel"}``.

    Raises:
        PairError: when it is checked: a site that is not so marked in both programs.
    """
    summed = DerivedPair(pair, model=pair.model, guide=pair.guide)
    summed.summed_out = pair.summed_out | frozenset(sites)
    return summed


def as_one_datum(pair: ModelGuidePair) -> DerivedPair:
    r"""The pair with all its data as one datum: every latent belongs to it, and its evidence is that of the data set.

    $$\log p(x_{1:N}) = \log \int p(w) \prod_{b=1}^{N} p(x_b, z_b \mid w)\, dw\, dz_{1:N}$$

    For programs whose observations have no plate over data (a Gaussian process: one observation of all points), stand
    in several plates, or share latents that are to be integrated out with the others. The programs are run as they are.
    Data are given with an axis of length 1 before the others, ``x[None]``; of a mapping or a tuple, each tensor.
    :func:`~ppvae.inference.fit` then takes ``batch_size=None``.

    Args:
        pair: the pair; its parameters are shared, not copied.

    Raises:
        PairError: when it is run, on a batch of another length than 1.

    >>> import pyro, pyro.distributions as dist
    >>> def model(x):
    ...     w = pyro.sample("w", dist.Normal(0.0, 1.0))
    ...     pyro.sample("x", dist.Normal(w.unsqueeze(-1), torch.ones(3)).to_event(1), obs=x)
    >>> def guide(x):
    ...     pyro.sample("w", dist.Normal(x.sum() / 4, 0.5))
    >>> pair = as_one_datum(ModelGuidePair.from_callables(model, guide))
    >>> x = torch.tensor([0.1, -0.2, 0.4])[None]
    >>> one = draw(pair, x, 2)
    >>> from ppvae.core import log_joint
    >>> log_weights = log_joint(pair, x, one.latents).local - one.log_q
    >>> exact = dist.MultivariateNormal(torch.zeros(3), torch.eye(3) + 1).log_prob(x)
    >>> log_weights.shape, bool(torch.isclose(log_weights, exact).all())
    (torch.Size([2, 1]), True)
    """

    def of_all(program: Callable[..., Any]) -> Callable[..., Any]:
        return lambda x, num_data: program(_only_row(x), None)

    whole = DerivedPair(pair, model=of_all(pair.model), guide=of_all(pair.guide), whole=True)
    whole.one_datum, whole.accepts_num_data = True, False
    return whole


def _only_row(x: Data) -> Data:
    if batch_size(x) != 1:
        raise PairError(
            f"as_one_datum: expected a batch of one datum, which holds all the data, found {batch_size(x)}"
            + try_one_of("x[None]; of a mapping, {key: value[None] for key, value in x.items()}")
        )
    return map_tensors(lambda value: value[0], x)


class PartlySeen(DerivedPair):
    r"""A pair of which a part of the data is seen: $p(y, z)$ with $y$ its observed site, whatever else is hidden.

    $$p(y \mid z) = \prod_{i\,\text{seen}} \int p(y_i \mid x_i)\, p(x_i \mid z)\, dx_i$$

    Its data are a mapping: ``values``, y as a batch of the pair's, and ``seen``, 1 where an entry of it is seen and
    0 elsewhere, where what stands is in no density, but the guide reads it.

    Args:
        pair: the pair, whose data are one tensor, all of it observed by one site; entries that depend on each other
            given z are seen together or not at all.
        x: a batch of the pair's, to find the site's axes.
        site: the observed site.
        noise: what seen entries went through; None for nothing.
    """

    def __init__(self, pair: ModelGuidePair, x: Data, site: str, noise: Noise | None = None) -> None:
        shape = structure(pair, x)
        info = shape.site(site)

        def model(y: Any, num_data: int | None) -> Any:
            seen = to_pyro(y["seen"][None], info, shape.nesting).bool()

            def change(base: Any) -> Any:
                fn = base if noise is None else noise.marginal(base)
                return fn.mask(seen.flatten(-base.event_dim).any(-1) if base.event_dim else seen)

            return redistributed(pair.model, site, lambda fn: within(fn, change))(y["values"], num_data)

        super().__init__(pair, model=model, guide=lambda y, num_data: pair.guide(y["values"], num_data))
        self.noisy = noise is not None

    def find_data_plate(self, x: Any) -> str | None:
        """That of the pair."""
        return super().find_data_plate(x["values"])

    def completed(self, x: Any) -> Any:
        """As it is."""
        return x

    def gaps(self, x: Any) -> dict[str, Tensor]:
        """Those of the pair."""
        return super().gaps(x["values"])

    def sequence_lengths(self, x: Any) -> tuple[Tensor, ...]:
        """Those of the pair."""
        return super().sequence_lengths(x["values"])


def global_values(pair: ModelGuidePair, x: Data, values: Mapping[str, Tensor] | str | int | None) -> dict[str, Tensor]:
    """A value for every global site of a pair; none where it has none.

    Args:
        pair: the pair.
        x: a batch, to find the sites with.
        values: site name to value [*event]; or "mean", the mean of 1000 draws from the guide; None for a pair
            without global sites.

    Raises:
        PairError: a number of draws, global sites without a value, or a value for what is no global site or of
            another shape.
    """
    if isinstance(values, int):
        raise PairError(
            f"global_sites={values}: a number of draws to average over is for log_evidence; here the global sites are "
            "held at one value" + try_one_of('global_sites="mean"', "global_sites={site: value}")
        )
    shape = structure(pair, x)
    sites = {info.name: info for info in shape.global_latents}
    if not sites:
        if values is not None and values != "mean":
            raise PairError(f"global_sites names {sorted(values)}, but the pair has no global latent site")
        return {}
    if values is None:
        names = ", ".join(repr(name) for name in sites)
        raise PairError(
            f"global latent site {names}: the posterior and the evidence of one datum, p(z | x, w) and log p(x | w), "
            "need a value w at which the global sites are held"
            + try_one_of(
                'global_sites="mean" (the guide\'s mean)',
                "global_sites={site: value}, for instance a draw of the guide; average p(x | w) over several "
                "draws for the posterior predictive density",
            )
        )
    if isinstance(values, str):
        if values != "mean":
            raise PairError(f"global_sites: expected 'mean' or a mapping from site to value, found {values!r}")
        values = _guide_mean(pair, x, list(sites))
    for name in set(values) - set(sites):
        raise PairError(f"{name!r} is not a global latent site: {did_you_mean(name, sites)}")
    for name, info in sites.items():
        if name not in values:
            raise PairError(f"global latent site {name!r} has no value in global_sites, which names {sorted(values)}")
        if tuple(values[name].shape) != info.shape:
            raise PairError(
                f"global latent site {name!r}: expected a value of shape {list(info.shape)}, "
                f"found {list(values[name].shape)}"
            )
    return {name: value.to(_device_of(x)) for name, value in values.items()}


def hold_sites(pair: ModelGuidePair, x: Data, values: Mapping[str, Tensor] | str | int | None) -> ModelGuidePair:
    """The pair with its global sites held at given values; the pair itself where it has none.

    Args:
        pair: the pair.
        x: a batch, to find the sites with.
        values: as for :func:`global_values`, which says what is wrong with them.
    """
    data = global_values(pair, x, values)
    if not data:
        return pair
    shape = structure(pair, x)
    sites = {info.name: info for info in shape.global_latents}
    # What an automatic guide computes a held site from is held with it, and neither is told: they are no part of log q.
    behind = {f"{name}_unconstrained": info for name, info in sites.items()}
    auxiliaries = {info.name: behind[info.name] for info in shape.guide if info.name in behind}
    for name, info in auxiliaries.items():
        data[name] = data[info.name] if info.support is None else biject_to(info.support).inv(data[info.name])

    def hold(program: Callable[..., Any]) -> Callable[..., Any]:
        def run(x: Data, num_data: int | None) -> Any:
            # On the device of the data: the pair may be run on another device than its own.
            device = _device_of(x)
            return pyro.condition(program, data={name: value.to(device) for name, value in data.items()})(x, num_data)

        return run

    hidden = frozenset(auxiliaries) | {info.name for info in auxiliaries.values()}
    held = DerivedPair(pair, model=hold(pair.model), guide=untold(hold(pair.guide), hidden))
    if type(pair).vectorizes and not pair.vectorizes and (shape := structure(held, x)).model_latents:
        held.vectorizes = True  # what is held has no axis of particles: without it the programs may broadcast
        audit(held, x, shape)
    return held


def _device_of(x: Data) -> torch.device:
    return next(iter(members_of(x).values())).device


def _guide_mean(pair: ModelGuidePair, x: Data, names: list[str]) -> dict[str, Tensor]:
    totals: dict[str, Tensor] = {}
    with torch.no_grad():
        for _ in range(_MEAN_DRAWS // 50):
            latents = draw(pair, x, 50).latents
            for name in names:
                totals[name] = totals.get(name, 0) + latents[name].sum(0)
    return {name: total / (_MEAN_DRAWS // 50 * 50) for name, total in totals.items()}
