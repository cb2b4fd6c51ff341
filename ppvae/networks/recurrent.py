"""The recurrent trunk, which reads a sequence, and the one that joins what it read to the state before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from .mlp import require_units
from ..core.errors import PpvaeError, did_you_mean, try_one_of

Cell = Literal["gru", "tanh", "relu"]
Direction = Literal["forward", "backward", "both"]

_RUN: dict[str, Callable[..., tuple[Tensor, Tensor]]] = {
    "gru": torch.gru,
    "tanh": torch.rnn_tanh,
    "relu": torch.rnn_relu,
}
DIRECTIONS: tuple[Direction, ...] = ("forward", "backward", "both")


class Recurrent(nn.Module):
    r"""A recurrent network that reads a sequence: a trunk, with features for every time step.

    $$h_t = \mathrm{cell}(x_t, h_{t-1}),\quad h_0 = 0\ \ (\text{forward}),\qquad
      h_t = \mathrm{cell}(x_t, h_{t+1}),\quad h_{L+1} = 0\ \ (\text{backward})$$

    The cell is the gated recurrent unit (Cho et al. 2014, arXiv 1406.1078, in the variant of ``torch.nn.GRU``) or
    $a(W x_t + U h + b)$ with $a$ tanh or relu. A sequence is read backwards from its own last step L, not from its
    padding; features of the padding are zero. All steps are one operation of a recorded graph
    (:func:`ppvae.core.compile.capture`), whatever T is, and so is their gradient; second derivatives are refused.

    Args:
        in_features: D, of one time step.
        hidden: H, units of one direction.
        cell: "gru", "tanh" or "relu".
        direction: "forward": features of step t are of what came until then; "backward": of what comes from then on;
            "both": the two side by side, each with parameters of its own.

    Attributes:
        out_features: H, or 2 H for both directions.

    Raises:
        PpvaeError: a layer without units, an unknown cell or direction.

    >>> import torch
    >>> Recurrent(3, 5, direction="both")(torch.zeros(2, 7, 3), torch.tensor([7, 4])).shape
    torch.Size([2, 7, 10])
    """

    def __init__(self, in_features: int, hidden: int, *, cell: Cell = "gru", direction: Direction = "forward") -> None:
        super().__init__()
        require_units("in_features", [in_features])
        require_units("hidden", [hidden])
        if cell not in _RUN:
            raise PpvaeError(f"Recurrent: unknown cell {cell!r}: {did_you_mean(cell, _RUN)}")
        if direction not in DIRECTIONS:
            raise PpvaeError(f"Recurrent: unknown direction {direction!r}: {did_you_mean(direction, DIRECTIONS)}")
        self.in_features, self.cell, self.direction = in_features, cell, direction
        ways = [f"{way}s" for way in DIRECTIONS[:2] if direction in (way, "both")]
        # PyTorch's own for their parameters and start; their forward would be recorded step by step.
        self.layers = nn.ModuleDict(
            {
                way: nn.GRU(in_features, hidden) if cell == "gru" else nn.RNN(in_features, hidden, nonlinearity=cell)
                for way in ways
            }
        )
        self.out_features = hidden * len(ways)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Features [*S, T, out_features] of x [*S, T, D], and of lengths [*S] from 1 to T where there is padding.

        Raises:
            PpvaeError: x of other axes, or lengths that do not fit it.
        """
        if x.dim() < 2 or x.shape[-1] != self.in_features:
            raise PpvaeError(
                f"Recurrent: expected sequences [*S, T, D] with D = {self.in_features}, found {list(x.shape)}"
                + try_one_of("x[None] for one sequence", "x[..., None] for one value a step, and in_features=1")
            )
        if lengths is not None and lengths.shape != x.shape[:-2]:
            raise PpvaeError(
                f"Recurrent: expected lengths {list(x.shape[:-2])} as the leading axes of x, "
                f"found {list(lengths.shape)}"
            )
        rows = x.reshape(-1, *x.shape[-2:])
        ends = None if lengths is None else lengths.reshape(-1)
        features: list[Tensor] = []
        for way, layer in self.layers.items():
            weights = [getattr(layer, f"{name}_l0") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
            features.append(_recurrence(rows, ends, *weights, self.cell, way == "backwards"))
        h = features[0] if len(features) == 1 else torch.cat(features, -1)
        return h.reshape(*x.shape[:-1], self.out_features)


class Combiner(nn.Module):
    r"""What was read, and the state before: the trunk of $q(z_t \mid z_{t-1}, x_{t:T})$, for a chain of latents.

    $$\tfrac12 \left(\tanh(W z_{t-1} + b) + h_t\right)$$

    Krishnan, Shalit & Sontag 2016 (arXiv 1609.09869), section 5, "DKS": $h_t$ is what a backward :class:`Recurrent`
    puts out.

    Args:
        latent_dim: Z, of the state before.
        features: H, of what was read.

    Attributes:
        out_features: H.

    Raises:
        PpvaeError: no dimension or no feature.
    """

    def __init__(self, latent_dim: int, features: int) -> None:
        super().__init__()
        require_units("latent_dim", [latent_dim])
        require_units("features", [features])
        self.layer = nn.Linear(latent_dim, features)
        self.out_features = features

    def forward(self, previous: Tensor, features: Tensor) -> Tensor:
        """[*S, H] of the state before [*S, Z] and what was read [*S, H]."""
        before: Tensor = self.layer(previous).tanh()
        return 0.5 * (before + features)


# --- one operation for all steps: PyTorch's own would be recorded step by step, some 30 nodes for each ---

_INPUTS = (
    "Tensor x, Tensor? lengths, Tensor w_in, Tensor w_state, Tensor b_in, Tensor b_state, str cell, bool backwards"
)
_FORWARD = f"({_INPUTS}) -> Tensor"
_BACKWARD = f"(Tensor grad, Tensor states, bool of_inputs, {_INPUTS}) -> (Tensor, Tensor, Tensor, Tensor, Tensor)"


class _Packed(NamedTuple):
    """Sequences [N, T, D] without their padding, in the order in which they are read, a step of all after another.

    Attributes:
        place: where each entry stands among the N * T steps, [P].
        sizes: how many sequences have a first, a second, ... step; the longer ones come first.
        before: of all entries after the first step, the entry of the step before, [P - sizes[0]].
    """

    place: Tensor
    sizes: list[int]
    before: Tensor


def _packed(x: Tensor, lengths: Tensor | None, backwards: bool) -> _Packed:
    num, num_steps = x.shape[:2]
    ends = torch.full((num,), num_steps) if lengths is None else lengths.detach().to("cpu", torch.long)
    ends, order = ends.clamp(0, num_steps).sort(descending=True, stable=True)
    steps = torch.arange(num_steps)[:, None].expand(-1, num)
    inside = steps < ends
    read = (ends - 1 - steps if backwards else steps)[inside]
    place = order.expand(num_steps, -1)[inside] * num_steps + read
    sizes = [size for size in inside.sum(1).tolist() if size]
    counts = torch.tensor(sizes)
    before = torch.arange(sum(sizes[:1]), len(place)) - counts[:-1].repeat_interleave(counts[1:])
    return _Packed(place.to(x.device), sizes, before.to(x.device))


@torch.library.custom_op("ppvae::recurrence", mutates_args=(), schema=_FORWARD)
def _recurrence(
    x: Tensor,
    lengths: Tensor | None,
    w_in: Tensor,
    w_state: Tensor,
    b_in: Tensor,
    b_state: Tensor,
    cell: str,
    backwards: bool,
) -> Tensor:
    """States [N, T, H] at inputs [N, T, D], from zero; of steps beyond the lengths [N], zero."""
    place, sizes, _ = _packed(x, lengths, backwards)
    states: Tensor = x.new_zeros(x.shape[0] * x.shape[1], w_state.shape[1])
    if sizes:
        start = x.new_zeros(1, sizes[0], w_state.shape[1])
        weights = [w_in, w_state, b_in, b_state]
        # has_biases, num_layers, dropout, train, bidirectional
        options = (True, 1, 0.0, False, False)
        states[place] = _RUN[cell](x.flatten(0, 1)[place], torch.tensor(sizes), start, weights, *options)[0]
    return states.view(*x.shape[:2], -1)


@torch.library.custom_op("ppvae::recurrence_backward", mutates_args=(), schema=_BACKWARD)
def _recurrence_backward(
    grad: Tensor,
    states: Tensor,
    of_inputs: bool,
    x: Tensor,
    lengths: Tensor | None,
    w_in: Tensor,
    w_state: Tensor,
    b_in: Tensor,
    b_state: Tensor,
    cell: str,
    backwards: bool,
) -> tuple[Tensor, ...]:
    """Gradients by x, where it is needed, and the parameters, from grad [N, T, H] by the states.

    With $\\delta_t$ the gradient by $h_t$, every gate's pre-activation has $\\delta_t$ times a factor of known values,
    so that only $\\delta_{t-1} = g_{t-1} + c_t \\delta_t + (f_t \\delta_t) U$ is a loop.
    """
    place, sizes, before = _packed(x, lengths, backwards)
    hidden, first = states.shape[-1], sum(sizes[:1])
    inputs, after, delta = (value.flatten(0, 1)[place] for value in (x, states, grad))
    earlier = after[before]
    carry: Tensor | None = None
    if cell == "gru":
        previous = torch.cat([torch.zeros_like(after[:first]), earlier])
        of_x, of_state = inputs @ w_in.mT + b_in, previous @ w_state.mT + b_state
        reset, update = (of_x + of_state)[..., : 2 * hidden].sigmoid().chunk(2, -1)
        of_state = of_state[..., 2 * hidden :]
        new = (of_x[..., 2 * hidden :] + reset * of_state).tanh()
        by_new = (1 - update) * (1 - new.square())
        by_reset = by_new * of_state * reset * (1 - reset)
        by_update = (previous - new) * update * (1 - update)
        factors_in = torch.stack([by_reset, by_update, by_new], -2)
        factors_state = torch.stack([by_reset, by_update, by_new * reset], -2)
        carry = update
    else:
        slope = 1 - after.square() if cell == "tanh" else (after > 0).to(after)
        factors_in = factors_state = slope[..., None, :]
    by_state = delta.new_empty(len(delta), factors_state.shape[1], hidden)
    end = len(delta)
    for t in range(len(sizes) - 1, -1, -1):
        now = slice(end - sizes[t], end)
        end = now.start
        torch.mul(delta[now, None], factors_state[now], out=by_state[now])
        if t:
            earlier_delta = delta[end - sizes[t - 1] : end - sizes[t - 1] + sizes[t]]
            earlier_delta.addmm_(by_state[now].flatten(1), w_state)
            if carry is not None:
                earlier_delta.addcmul_(delta[now], carry[now])
    by_in = by_state if factors_in is factors_state else delta[:, None] * factors_in
    by_in, by_state = by_in.flatten(1), by_state.flatten(1)
    of_x = x.new_zeros(x.shape if of_inputs else 0)
    if of_inputs:
        of_x.flatten(0, 1)[place] = by_in @ w_in
    return of_x, by_in.mT @ inputs, by_state[first:].mT @ earlier, by_in.sum(0), by_state.sum(0)


@_recurrence.register_fake
def _(x: Tensor, lengths: Tensor | None, w_in: Tensor, w_state: Tensor, *_: Any) -> Tensor:
    return x.new_empty(*x.shape[:2], w_state.shape[1])


@_recurrence_backward.register_fake
def _(
    grad: Tensor, states: Tensor, of_inputs: bool, x: Tensor, lengths: Tensor | None, *rest: Any
) -> tuple[Tensor, ...]:
    of_x = x.new_empty(x.shape if of_inputs else 0)
    return (of_x, *(tensor.new_empty(tensor.shape) for tensor in rest[:4]))


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(output, *inputs[:-2])
    ctx.cell, ctx.backwards = inputs[-2:]


def _gradients(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    states, *inputs = ctx.saved_tensors
    of_inputs = ctx.needs_input_grad[0]
    of_x, *of_weights = _recurrence_backward(grad, states, of_inputs, *inputs, ctx.cell, ctx.backwards)
    return (of_x if of_inputs else None, None, *of_weights, None, None)


_recurrence.register_autograd(_gradients, setup_context=_keep)
