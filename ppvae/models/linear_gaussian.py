"""Linear Gaussian models of any structure, where everything is exact: layers, gaps, covariates."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from .latent_model import LatentModel
from .variables import Features, Label, Latent, Observed, Variable, edges_of, event_shape_of
from ..core.errors import PairError, try_one_of
from ..core.pair import Data, batch_size
from ..distributions.normals import DiagonalNormal, LinearNormal, StandardNormal


class Joint(NamedTuple):
    """The joint normal of all variables, given covariates.

    Attributes:
        loc: [B, N], N the dimensions of all variables side by side.
        covariance: [N, N].
        slices: name to its dimensions.
    """

    loc: Tensor
    covariance: Tensor
    slices: dict[str, slice]


class Known(NamedTuple):
    """What is known of every datum; where an entry is missing, a residual of zero and variance one stand in.

    Attributes:
        joint: of all variables.
        dims: which dimensions these are, [D].
        residual: their values less their means, [*S, B, D].
        covariance: of them, [B, D, D].
        here: which of them are there, [B, D].
    """

    joint: Joint
    dims: Tensor
    residual: Tensor
    covariance: Tensor
    here: Tensor

    @property
    def missing(self) -> Tensor:
        """How many are not there, [B]."""
        return (~self.here).to(self.residual.dtype).sum(-1)


class LinearGaussian(LatentModel):
    r"""A latent-variable model whose every variable is normal, with a mean that is linear in its parents.

    $$v \mid \mathrm{parents} \sim \mathcal{N}\bigl(b_v + \sum_i W_{v i}\, c_i,\ \mathrm{diag}\,\sigma_v^2\bigr)$$

    All variables are then jointly normal, $\mathcal{N}(m, C)$ with $m$ linear in the covariates, and for the observed
    entries $o$ of a datum and its latents $l$

    $$\log p(x_o) = \log \mathcal{N}(x_o; m_o, C_{oo}),\qquad
      p(z \mid x_o) = \mathcal{N}(m_l + C_{lo} C_{oo}^{-1} (x_o - m_o),\ C_{ll} - C_{lo} C_{oo}^{-1} C_{ol})$$

    It is the tuning fork for what a description can say: a hierarchy, factor analysis with gaps (o differs from datum
    to datum), with covariates, several observed variables::

        LinearGaussian(
            z2=Latent(StandardNormal(2)),
            z1=Latent(LinearNormal([2], 3).given("z2")),
            x=Observed(LinearNormal([3], 6).given("z1"), mask="seen"),
            seen=Mask(),
        )

    ====================  ==========================================  ==============================
    symbol                meaning                                     name in code
    ====================  ==========================================  ==============================
    $v$                   a variable of one datum                     site of its name
    $b_v$, $W_{vi}$       its mean, by parents                        ``prior_v.bias``, ``.weights``
    $\sigma_v$            its standard deviation                      ``prior_v.log_scale``
    ====================  ==========================================  ==============================

    Limitations: linear and Gaussian; dense in the number of all dimensions, so for small models.

    Args:
        variables: as :class:`LatentModel`; priors and likelihoods are StandardNormal, LinearNormal, or DiagonalNormal
            without a trunk. A latent without a posterior has the exact one, given the data and the latents before it.

    Raises:
        PairError: as :class:`LatentModel`, or a part that is not linear and Gaussian.
    """

    _exact = True

    def __init__(self, **variables: Variable) -> None:
        super().__init__(**variables)
        for name in self.description.named(Latent, Observed):
            part = next(iter(edges_of(variables[name]).values())).module
            free = isinstance(part, DiagonalNormal) and not hasattr(part.head, "trunk")
            if not (free or isinstance(part, StandardNormal | LinearNormal)):
                raise PairError(
                    f"LinearGaussian: {name!r} has a {type(part).__name__}, which is not linear and Gaussian"
                    + try_one_of("LinearNormal([dimensions of each parent], D)", "StandardNormal(D)", "LatentModel")
                )
        others = self.description.named(Label, Features)
        half = len(self.description.guided) not in (0, len(self._latents))
        if others or half:
            found = ", ".join(map(repr, others)) if others else "a posterior for some latents and none for others"
            raise PairError(
                "LinearGaussian: expected latents, observed variables and covariates, and posteriors for all latents "
                f"or none, found {found}" + try_one_of("LatentModel")
            )

    # --- what is exact ----------------------------------------------------------------------------

    def joint(self, x: Data) -> Joint:
        """p(z, x | covariates) of every datum of a batch, gaps and values left aside."""
        batch = self._members(x)
        size = batch_size(batch)
        loc: dict[str, Tensor] = {}
        noise: list[Tensor] = []
        maps: dict[str, Tensor] = {}  # of each variable, what the noises of all variables add to it
        order = self.description.orders["model"]
        widths = {name: (event_shape_of(self.description.variables[name]) or (0,))[0] for name in order}
        stops = dict(zip(order, torch.tensor([widths[n] for n in order]).cumsum(0).tolist(), strict=True))
        slices = {name: slice(stops[name] - widths[name], stops[name]) for name in order}
        total = sum(widths.values())
        for name in order:
            role = self.description.role(name, "model")
            part = getattr(self, self._attribute(name, str(role)))
            parents = self.description.parents(name, "model")
            at_zero = part(*(loc.get(parent, batch.get(parent)) for parent in parents)).base_dist
            loc[name] = at_zero.loc.expand(size, widths[name])
            noise.append(at_zero.scale.expand(size, widths[name])[0])
            maps[name] = torch.eye(total, dtype=noise[-1].dtype, device=noise[-1].device)[slices[name]]
            for weight, parent in zip(getattr(part, "weights", ()), parents, strict=False):
                if parent in maps:
                    maps[name] = maps[name] + weight @ maps[parent]
        root = torch.cat([maps[name] for name in order]) * torch.cat(noise)
        return Joint(torch.cat([loc[name] for name in order], -1), root @ root.mT, slices)

    def log_evidence(self, x: Data) -> Tensor:
        """log p(x) of what is observed of every datum, [B], in nats."""
        known = self._known(x, {})
        normal = dist.MultivariateNormal(torch.zeros_like(known.residual), known.covariance)
        # A missing entry stands as a residual of zero and variance one, which adds log N(0; 0, 1).
        log_evidence: Tensor = normal.log_prob(known.residual) + 0.5 * math.log(2 * math.pi) * known.missing
        return log_evidence

    def posterior(self, x: Data) -> dist.MultivariateNormal:
        """p(z | x) of every datum: the latents side by side, in the order of the model, [B, Z]."""
        return self._conditional(x, self._latents, {})

    def marginal_posterior(self, x: Data) -> dict[str, dist.MultivariateNormal]:
        """p(z_i | x) of every datum, for each latent."""
        return {name: self._conditional(x, [name], {}) for name in self._latents}

    def guide(self, x: Data, num_data: int | None = None) -> None:
        """q(z | x) of a batch: the posteriors of the description, or the exact one, latent by latent."""
        if self.description.guided:
            super().guide(x, num_data)
            return
        drawn: dict[str, Tensor] = {}
        with self.data_plate(self._members(x), num_data):
            for name in self._latents:
                drawn[name] = pyro.sample(name, self._conditional(x, [name], drawn))

    # --- below: conditioning ----------------------------------------------------------------------

    @property
    def _latents(self) -> list[str]:
        variables = self.description.variables
        return [name for name in self.description.orders["model"] if isinstance(variables[name], Latent)]

    def _known(self, x: Data, drawn: Mapping[str, Tensor]) -> Known:
        """What is observed, and latents that were drawn."""
        batch, joint = self._members(x), self.joint(x)
        present = self.gaps(x)
        names = [*self.description.named(Observed), *drawn]
        index = torch.cat([torch.arange(joint.loc.shape[-1])[joint.slices[name]] for name in names])
        values = {**{n: batch[n] for n in self.description.named(Observed)}, **drawn}
        whole = {name: torch.ones_like(joint.loc[:, joint.slices[name]], dtype=torch.bool) for name in names}
        here = torch.cat([present.get(name, whole[name]) for name in names], -1)
        lead = torch.broadcast_shapes(*(value.shape[:-1] for value in values.values()))
        value = torch.cat([values[name].expand(*lead, -1) for name in names], -1)
        residual = torch.where(here, value - joint.loc[:, index], torch.zeros(()).to(value))
        both = here[:, :, None] & here[:, None, :]
        eye = torch.eye(len(index), dtype=value.dtype, device=value.device)
        return Known(joint, index, residual, torch.where(both, joint.covariance[index][:, index], eye), here)

    def _conditional(self, x: Data, names: list[str], drawn: Mapping[str, Tensor]) -> dist.MultivariateNormal:
        """p(latents | x, latents that were drawn)."""
        known = self._known(x, drawn)
        loc, covariance, slices = known.joint
        target = torch.cat([torch.arange(loc.shape[-1])[slices[name]] for name in names])
        cross = covariance[target][:, known.dims] * known.here[:, None, :]
        gain = torch.cholesky_solve(cross.mT, torch.linalg.cholesky(known.covariance)).mT
        mean = loc[:, target] + (gain @ known.residual[..., None])[..., 0]
        rest = covariance[target][:, target] - gain @ cross.mT
        return dist.MultivariateNormal(mean, (rest + rest.mT) / 2)
