r"""The reparameterisation trick by all three routes of AEVB section 2.4, as guide families.

$$z \sim q_\phi(z \mid x) \iff z = g_\phi(\epsilon, x),\ \epsilon \sim p(\epsilon)$$

1. tractable inverse CDF; 2. location and scale; 3. composition of other families. PyTorch draws the third route's
Gamma, and what is built on it, by implicit differentiation of the CDF (Figurnov et al. 2018, arXiv 1805.08498), which
gives the same expected gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import constraints, transform_to
from torch.distributions.constraints import Constraint

from .conditional import ConditionalDistribution, independent, require_context
from .inverse_cdf import Gompertz, Logistic, Rayleigh, Reciprocal, Triangular
from ..core.errors import PpvaeError, did_you_mean, try_one_of

Route = Literal["inverse CDF", "location-scale", "composition"]


@dataclass(frozen=True)
class Family:
    """One family of distributions whose draws carry gradients.

    Attributes:
        name: what :class:`Reparameterized` calls it.
        route: the route of AEVB section 2.4.
        parameters: parameter to the constraint that its values obey.
        make: from the parameters, by name, to the distribution.
        support: where its values lie, in words: a prior must have mass there.
        source: the package whose draw it is: "torch", "pyro" or "ppvae".
        formula: of the draw.
        joint: whether the axes of an event are drawn jointly (elliptical families, the Dirichlet).
    """

    name: str
    route: Route
    parameters: Mapping[str, Constraint]
    make: Callable[..., Any]
    support: str
    source: str
    formula: str
    joint: bool = False


def _reciprocal(low: Tensor, ratio: Tensor) -> Reciprocal:
    return Reciprocal(low, low * ratio)


def _uniform(loc: Tensor, scale: Tensor) -> Any:
    return dist.Uniform(loc - scale, loc + scale)


_REAL, _POSITIVE = constraints.real, constraints.positive
_LOC_SCALE = {"loc": _REAL, "scale": _POSITIVE}
# Above 2 degrees of freedom the variance is finite, without which no gradient estimate is of use.
_DF = constraints.greater_than(2.0)
_ELLIPTICAL = {"loc": _REAL, "scale_tril": constraints.lower_cholesky}
_TWO = {"concentration1": _POSITIVE, "concentration0": _POSITIVE}
_ALL = (
    Family("exponential", "inverse CDF", {"rate": _POSITIVE}, dist.Exponential, "positive", "torch", "-log(e) / rate"),
    Family("cauchy", "inverse CDF", _LOC_SCALE, dist.Cauchy, "real", "torch", "loc + scale tan(pi (e - 1/2))"),
    Family("logistic", "inverse CDF", _LOC_SCALE, Logistic, "real", "ppvae", "loc + scale log(e / (1 - e))"),
    Family("rayleigh", "inverse CDF", {"scale": _POSITIVE}, Rayleigh, "positive", "ppvae", "scale sqrt(-2 log(1 - e))"),
    Family(
        "pareto",
        "inverse CDF",
        {"scale": _POSITIVE, "alpha": _POSITIVE},
        dist.Pareto,
        "positive",
        "torch",
        "scale e^(-1 / alpha), above scale",
    ),
    Family(
        "weibull",
        "inverse CDF",
        {"scale": _POSITIVE, "concentration": _POSITIVE},
        dist.Weibull,
        "positive",
        "torch",
        "scale (-log e)^(1 / concentration)",
    ),
    Family("gumbel", "inverse CDF", _LOC_SCALE, dist.Gumbel, "real", "torch", "loc - scale log(-log e)"),
    Family(
        "reciprocal",
        "inverse CDF",
        {"low": _POSITIVE, "ratio": constraints.greater_than(1.0)},
        _reciprocal,
        "positive",
        "ppvae",
        "low ratio^e, in [low, low ratio]",
    ),
    Family(
        "gompertz",
        "inverse CDF",
        {"concentration": _POSITIVE, "rate": _POSITIVE},
        Gompertz,
        "positive",
        "ppvae",
        "log(1 - log(1 - e) / concentration) / rate",
    ),
    Family("normal", "location-scale", _LOC_SCALE, dist.Normal, "real", "torch", "loc + scale e"),
    Family("laplace", "location-scale", _LOC_SCALE, dist.Laplace, "real", "torch", "loc + scale e"),
    Family(
        "student_t",
        "location-scale",
        {"df": _DF, **_LOC_SCALE},
        dist.StudentT,
        "real",
        "torch",
        "loc + scale e, e from a normal and a chi-squared",
    ),
    Family("uniform", "location-scale", _LOC_SCALE, _uniform, "real", "torch", "loc + scale (2 e - 1)"),
    Family("triangular", "location-scale", _LOC_SCALE, Triangular, "real", "ppvae", "loc + scale (e1 + e2 - 1)"),
    Family(
        "multivariate_normal",
        "location-scale",
        _ELLIPTICAL,
        dist.MultivariateNormal,
        "real",
        "torch",
        "loc + scale_tril e (elliptical)",
        joint=True,
    ),
    Family(
        "multivariate_student_t",
        "location-scale",
        {"df": _DF, **_ELLIPTICAL},
        dist.MultivariateStudentT,
        "real",
        "pyro",
        "loc + scale_tril e (elliptical)",
        joint=True,
    ),
    Family("log_normal", "composition", _LOC_SCALE, dist.LogNormal, "positive", "torch", "exp(loc + scale e)"),
    Family(
        "gamma",
        "composition",
        {"concentration": _POSITIVE, "rate": _POSITIVE},
        dist.Gamma,
        "positive",
        "torch",
        "a sum of exponentials; drawn by implicit differentiation",
    ),
    Family(
        "dirichlet",
        "composition",
        {"concentration": _POSITIVE},
        dist.Dirichlet,
        "simplex",
        "torch",
        "gammas by their sum; drawn by implicit differentiation",
        joint=True,
    ),
    Family(
        "beta",
        "composition",
        _TWO,
        dist.Beta,
        "unit interval",
        "torch",
        "a ratio of gammas; drawn by implicit differentiation",
    ),
    Family("chi_squared", "composition", {"df": _POSITIVE}, dist.Chi2, "positive", "torch", "a sum of squared normals"),
    Family(
        "f",
        "composition",
        {"df1": _POSITIVE, "df2": _DF},
        dist.FisherSnedecor,
        "positive",
        "torch",
        "a ratio of chi-squareds",
    ),
)

FAMILIES: Mapping[str, Family] = {family.name: family for family in _ALL}
"""Every family, by name."""


def find_family(name: str) -> Family:
    """The family of this name.

    Raises:
        PpvaeError: an unknown name; suggests the nearest.
    """
    if name not in FAMILIES:
        raise PpvaeError(f"unknown family {name!r}: {did_you_mean(name, FAMILIES)}")
    return FAMILIES[name]


def table() -> str:
    """The families and their routes, as text.

    >>> print(table().splitlines()[2])
    cauchy                  inverse CDF     loc, scale           real           torch   loc + scale tan(pi (e - 1/2))
    """
    rows = [("family", "route", "parameters", "support", "draw of", "z = g(e)")]
    rows += [(f.name, f.route, ", ".join(f.parameters), f.support, f.source, f.formula) for f in _ALL]
    widths = (24, 16, 21, 15, 8, 0)
    return "\n".join("".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)


class Reparameterized(ConditionalDistribution):
    r"""$q(z \mid x)$ of any reparameterised family, its parameters read from a network.

    Every parameter is an affine function of the trunk's features, brought into its domain by PyTorch's transform for
    its constraint (a positive one by exp).

    Args:
        family: a name in :data:`FAMILIES`.
        trunk: a network from the context to features, with ``out_features``.
        event_shape: the number of dimensions, or a shape. An elliptical or Dirichlet family takes one axis.

    Raises:
        PpvaeError: an unknown family, a trunk without ``out_features``, or an event shape that does not fit.
    """

    def __init__(self, family: str, trunk: nn.Module, event_shape: int | Sequence[int]) -> None:
        super().__init__(event_shape)
        self.family = find_family(family)
        _require_one_axis(self.family, self.event_shape)
        features = getattr(trunk, "out_features", None)
        if not isinstance(features, int) or getattr(trunk, "per_event", False):
            raise PpvaeError(
                f"Reparameterized: trunk {type(trunk).__name__} must put out features of a whole datum and say how "
                f"many in out_features, found {features!r}" + try_one_of("MLP(...)", "ConvEncoder(...)")
            )
        self.trunk = trunk
        self.shapes = {name: _shape(self.family, name, self.event_shape) for name in self.family.parameters}
        self.layers = nn.ModuleDict(
            {name: nn.Linear(features, math.prod(shape)) for name, shape in self.shapes.items()}
        )
        init = getattr(trunk, "init", None)
        if init is not None:
            for layer in self.layers.values():
                init(layer)

    def forward(self, *context: Tensor) -> dist.TorchDistribution:
        """The distribution given a context [*S, *context event]."""
        features: Tensor = self.trunk(*require_context(context, self))
        values = {}
        for name, constraint in self.family.parameters.items():
            free: Tensor = self.layers[name](features)
            free = free.reshape((*free.shape[:-1], *self.shapes[name]))
            values[name] = transform_to(constraint)(free)
        return _as_event(self.family, values, self.event_shape)


class FixedPrior(ConditionalDistribution):
    """p(z) of any reparameterised family, with fixed parameters; a guide's support must lie within the prior's.

    Args:
        family: a name in :data:`FAMILIES`.
        event_shape: the number of dimensions, or a shape.
        parameters: every parameter of the family by name, a number or a tensor of its shape.

    Raises:
        PpvaeError: an unknown family, or parameters missing, unknown or out of range.

    >>> FixedPrior("exponential", 2, rate=2.0)().mean
    tensor([0.5000, 0.5000])
    """

    def __init__(self, family: str, event_shape: int | Sequence[int], **parameters: float | Tensor) -> None:
        super().__init__(event_shape)
        self.family = find_family(family)
        _require_one_axis(self.family, self.event_shape)
        if set(parameters) != set(self.family.parameters):
            raise PpvaeError(
                f"FixedPrior: family {family!r} has the parameters {', '.join(self.family.parameters)}, "
                f"found {', '.join(parameters) or 'none'}"
            )
        for name, constraint in self.family.parameters.items():
            value = torch.as_tensor(parameters[name], dtype=torch.get_default_dtype())
            value = value.expand(_shape(self.family, name, self.event_shape)).clone()
            if not value.is_meta and not bool(constraint.check(value).all()):
                raise PpvaeError(f"FixedPrior: parameter {name!r} of {family!r}: expected {constraint}, found {value}")
            self.register_buffer(f"parameter_{name}", value)

    def forward(self, *context: Tensor) -> dist.TorchDistribution:
        """The distribution, whatever the context."""
        values = {name: getattr(self, f"parameter_{name}") for name in self.family.parameters}
        return _as_event(self.family, values, self.event_shape)


def _as_event(family: Family, values: Mapping[str, Tensor], event_shape: tuple[int, ...]) -> dist.TorchDistribution:
    distribution = family.make(**values)
    return cast(dist.TorchDistribution, distribution) if family.joint else independent(distribution, event_shape)


def _shape(family: Family, name: str, event_shape: tuple[int, ...]) -> tuple[int, ...]:
    if family.joint and name == "df":
        return ()
    if name == "scale_tril":
        return (*event_shape, event_shape[-1])
    return event_shape


def _require_one_axis(family: Family, event_shape: tuple[int, ...]) -> None:
    if family.joint and len(event_shape) != 1:
        raise PpvaeError(
            f"family {family.name!r} draws one axis jointly: expected an event of one axis, found {event_shape}"
        )
