r"""How the noise of random weights enters a layer: one draw for all data, or noise of its own for every datum.

A layer is affine in its weights $w = \mu + \sigma \odot \epsilon + U \eta$, so that for one datum

$$h = f(x; \mu) + f(x; \sigma \odot \epsilon) + \sum_r \eta_r f(x; U_r).$$

Noise that is independent over the data makes the terms of a minibatch's bound uncorrelated, and the variance of its
gradient falls with the batch (Kingma, Salimans & Welling 2015, arXiv 1506.02557). The layers of a module are reached
by ``torch.overrides.TorchFunctionMode``: a program is run as it stands, and the calls of ``F.linear`` and of the
convolutions that involve a random weight are computed here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..core.errors import PairError, try_one_of
from ..distributions.weight_posteriors import GaussianWeight

WeightNoise = Literal["shared", "per-datum", "local-reparameterization", "flipout"]
SCHEMES: tuple[str, ...] = get_args(WeightNoise)

# The layers whose parameters all enter one of the functions below.
LAYERS: tuple[type[nn.Module], ...] = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)
CONVOLUTIONS = LAYERS[1:]

_EVENT_AXES: dict[Any, int] = {
    F.linear: 1,
    F.conv1d: 2,
    F.conv2d: 3,
    F.conv3d: 4,
    F.conv_transpose1d: 2,
    F.conv_transpose2d: 3,
    F.conv_transpose3d: 4,
}

Layer = Callable[[Tensor, Tensor, "Tensor | None"], Tensor]


class Rows(NamedTuple):
    """A layer's input as [particles, data, *event], and the leading axes that the program expects of its output."""

    input: Tensor
    lead: tuple[int, ...]

    def output(self, value: Tensor) -> Tensor:
        """[particles, data, *event] to the program's leading axes."""
        return value.reshape(*self.lead, *value.shape[2:])


class RandomLayers(TorchFunctionMode):
    """Inside, layers that are called with a random weight are computed particle by particle, or with noise per datum.

    Args:
        values: the random tensors as they stand in the modules, by name; each [*particle axes, *shape].
        shapes: shape of each.
        batch: B, number of data.
        scheme: how noise enters; "shared" computes at the values themselves.
        posteriors: posterior of each, for the schemes that draw noise here.
    """

    def __init__(
        self,
        values: Mapping[str, Tensor],
        shapes: Mapping[str, torch.Size],
        batch: int,
        scheme: WeightNoise = "shared",
        posteriors: Mapping[str, GaussianWeight] | None = None,
    ) -> None:
        super().__init__()
        self.names = {id(value): name for name, value in values.items()}
        self.shapes, self.batch, self.scheme, self.posteriors = shapes, batch, scheme, posteriors or {}
        ranks = {value.dim() - len(shapes[name]) for name, value in values.items()}
        self.particle_axes = max(ranks, default=0)
        self.particles = next((v.shape[0] for n, v in values.items() if v.dim() > len(shapes[n])), 1)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        weights = [self.names[id(a)] for a in (*args, *kwargs.values()) if id(a) in self.names]
        if not weights:
            return func(*args, **kwargs)
        if func in _EVENT_AXES:
            return self._layer(func, *args, **kwargs)
        result = func(*args, **kwargs)
        if self.scheme != "shared" and isinstance(result, Tensor):
            raise PairError(
                f"weight {weights[0]!r} is used by {getattr(func, '__name__', func)}, not by a linear or "
                f"convolutional layer alone: {self.scheme} does not know what noise to give it"
                + try_one_of('weight_noise="shared"', "leave this module out of modules=...")
            )
        return result

    def _layer(
        self, func: Any, input: Tensor, weight: Tensor, bias: Tensor | None = None, *rest: Any, **more: Any
    ) -> Tensor:
        def layer(x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
            return cast(Tensor, func(x, w, b, *rest, **more))

        axes = _EVENT_AXES[func]
        if self.scheme == "shared":
            if self.particles == 1:
                return layer(input, weight, bias)
            rows = self._rows(input, axes)
            return rows.output(self._in_particles(layer, rows.input, weight, bias, axes == 1))
        rows = self._rows(input, axes)
        flat = rows.input.reshape(-1, *input.shape[input.dim() - axes :])
        scheme = {"per-datum": _per_datum, "local-reparameterization": _local, "flipout": _flipout}[self.scheme]
        b = None if bias is None else self._posterior(bias)
        result = scheme(layer, flat, self._posterior(weight), b, rows.input.shape[0])
        return rows.output(result.reshape(*rows.input.shape[:2], *result.shape[1:]))

    def _posterior(self, value: Tensor) -> GaussianWeight:
        name = self.names.get(id(value))
        if name is None:
            return GaussianWeight(value, torch.zeros_like(value))
        return self.posteriors[name]

    def _rows(self, x: Tensor, axes: int) -> Rows:
        """Which of the leading axes are particles and data; flattened ones are told by their number."""
        lead, event = tuple(x.shape[: x.dim() - axes]), x.shape[x.dim() - axes :]
        particles, batch = self.particles, self.batch
        if lead == (batch,):
            if particles == 1:
                return Rows(x.unsqueeze(0), lead)
            # No particles in the input: the output has them, to the left of the plates' axes; the data's is the last.
            return Rows(x.expand(particles, *x.shape), (particles, *(1,) * (self.particle_axes - 2), *lead))
        if lead == (particles * batch,):
            return Rows(x.reshape(particles, batch, *event), lead)
        leads = particles > 1 and len(lead) >= 2 and lead[0] == particles
        if leads and (self.scheme == "shared" or lead == (particles, batch)):
            return Rows(x.reshape(particles, -1, *event), lead)
        raise PairError(
            f"a layer with random weights is applied to an input of leading axes {list(lead)}: expected one row for "
            f"each of {batch} data"
            + (f" and {particles} particles" if particles > 1 else "")
            + try_one_of(
                'weight_noise="shared", which serves any layer'
                if self.scheme != "shared"
                else "pair.vectorizes = False",
                "leave this module out of modules=...",
            )
        )

    def _in_particles(self, layer: Layer, x: Tensor, weight: Tensor, bias: Tensor | None, affine: bool) -> Tensor:
        w = self._particles_of(weight)
        b = None if bias is None else self._particles_of(bias)
        if affine:
            output = x @ w.mT
            return output if b is None else output + b.unsqueeze(1)
        return torch.stack([layer(x[k], w[k], None if b is None else b[k]) for k in range(self.particles)])

    def _particles_of(self, value: Tensor) -> Tensor:
        """[particles, *shape], whether the value is random or not."""
        name = self.names.get(id(value))
        shape = value.shape if name is None else self.shapes[name]
        if value.dim() == len(shape):
            return value.expand(self.particles, *shape)
        return value.reshape(self.particles, *shape)


def has_per_datum_noise(layer: nn.Module) -> bool:
    """Whether noise per datum is defined for every parameter of this layer."""
    return type(layer) in LAYERS


# --- the schemes; x is [particles * B, *event], one row for each particle and datum -----------------------------------


def _per_datum(layer: Layer, x: Tensor, w: GaussianWeight, b: GaussianWeight | None, particles: int) -> Tensor:
    """A draw of the weights for every datum; the faster schemes have the same distribution."""
    weights, biases = _draws(w, len(x)), None if b is None else _draws(b, len(x))
    if x.dim() == 2:
        output = (weights @ x.unsqueeze(-1)).squeeze(-1)
        return output if biases is None else output + biases
    one = x.unsqueeze(1)
    if biases is None:
        output = torch.func.vmap(lambda x, w: layer(x, w, None))(one, weights)
    else:
        output = torch.func.vmap(layer)(one, weights, biases)
    return output.squeeze(1)


def _local(layer: Layer, x: Tensor, w: GaussianWeight, b: GaussianWeight | None, particles: int) -> Tensor:
    """Noise on the activations, with the mean and variance that the noise of the weights induces."""
    mean = layer(x, w.loc, None if b is None else b.loc)
    variance = layer(x.square(), w.scale.square(), None if b is None else b.scale.square())
    # The added number keeps the root's slope finite where nothing is random; it is far below rounding.
    scale = (variance + float(torch.finfo(variance.dtype).tiny) ** 0.5).sqrt()
    output: Tensor = mean + scale * torch.randn_like(mean) + _common(layer, x, w, b)
    return output


def _flipout(layer: Layer, x: Tensor, w: GaussianWeight, b: GaussianWeight | None, particles: int) -> Tensor:
    """One draw for all data, made nearly independent over them by random signs (Wen et al. 2018, arXiv 1803.04386).

    Signs leave the products of two outputs correlated, so every particle has a draw of its own: only then does
    the variance of a mean over particles fall as their number.
    """
    mean = layer(x, w.loc, None if b is None else b.loc)
    shift = w.scale * _normal(w.scale, particles)
    # Signs of the input's and of the output's features: [n, C], beside positions of length one.
    positions = (1,) * (x.dim() - 2)
    into = _signs(x, x.shape[0], x.shape[1]).reshape(*x.shape[:2], *positions)
    out = _signs(x, x.shape[0], mean.shape[1]).reshape(*mean.shape[:2], *positions)
    by_particle = (x * into).reshape(particles, -1, *x.shape[1:])
    output = mean + out * torch.func.vmap(lambda x, w: layer(x, w, None))(by_particle, shift).reshape(mean.shape)
    if b is not None:
        shift = (b.scale * _normal(b.scale, particles)).repeat_interleave(x.shape[0] // particles, 0)
        output = output + (_signs(x, *mean.shape[:2]) * shift).reshape(*mean.shape[:2], *positions)
    return output + _common(layer, x, w, b)


def _common(layer: Layer, x: Tensor, w: GaussianWeight, b: GaussianWeight | None) -> Tensor | float:
    """The low-rank part, exact in every scheme: R noises for each datum."""
    total: Tensor | float = 0.0
    if w.factor is not None:
        for r in range(w.factor.shape[-1]):
            part = layer(x, w.factor[..., r], None)
            total = total + part * torch.randn(len(x), *(1,) * (part.dim() - 1), dtype=x.dtype, device=x.device)
    if b is not None and b.factor is not None:
        noise = torch.randn(len(x), b.factor.shape[-1], dtype=x.dtype, device=x.device)
        shift = noise @ b.factor.mT
        total = total + shift.reshape(*shift.shape, *(1,) * (x.dim() - 2))
    return total


def _draws(weight: GaussianWeight, count: int) -> Tensor:
    draws = weight.loc + weight.scale * _normal(weight.loc, count)
    if weight.factor is not None:
        eta = torch.randn(count, weight.factor.shape[-1], dtype=weight.loc.dtype, device=weight.loc.device)
        draws = draws + (eta @ weight.factor.flatten(0, -2).mT).reshape(draws.shape)
    return draws


def _normal(like: Tensor, count: int) -> Tensor:
    return torch.randn(count, *like.shape, dtype=like.dtype, device=like.device)


def _signs(like: Tensor, count: int, features: int) -> Tensor:
    return torch.randint(0, 2, (count, features), device=like.device).to(like.dtype) * 2 - 1
