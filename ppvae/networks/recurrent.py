"""The recurrent trunk, which reads a sequence, and the one that joins what it read to the state before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .mlp import require_units
from ..core.errors import PpvaeError, did_you_mean, try_one_of
from ..core.lengths import present

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
        num_steps, inside, order = x.shape[-2], None, None
        if lengths is not None:
            if lengths.shape != x.shape[:-2]:
                raise PpvaeError(
                    f"Recurrent: expected lengths {list(x.shape[:-2])} as the leading axes of x, "
                    f"found {list(lengths.shape)}"
                )
            inside = present(lengths, num_steps)
            x = x.where(inside[..., None], 0.0)
            steps = torch.arange(num_steps, device=x.device)
            order = torch.where(inside, lengths[..., None].long() - 1 - steps, steps)
        features = [
            _run(layer, x, self.cell) if way == "forwards" else _turn(_run(layer, _turn(x, order), self.cell), order)
            for way, layer in self.layers.items()
        ]
        h = features[0] if len(features) == 1 else torch.cat(features, -1)
        return h if inside is None else h.where(inside[..., None], 0.0)


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


def _turn(x: Tensor, order: Tensor | None) -> Tensor:
    """Sequences [*S, T, D] from their last step to their first, the padding left where it is."""
    if order is None:
        return x.flip(-2)
    return x.gather(-2, order[..., None].expand_as(x))


def _run(layer: nn.Module, x: Tensor, cell: Cell) -> Tensor:
    """States [*S, T, H] of one direction at inputs [*S, T, D]."""
    parameters: list[Any] = [getattr(layer, f"{name}_l0") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
    states: Tensor = _recurrence(x.reshape(-1, *x.shape[-2:]), *parameters, cell)
    return states.unflatten(0, x.shape[:-2]) if x.dim() > 2 else states[0]


# --- one operation for all steps: PyTorch's own would be recorded step by step, some 30 nodes for each ---

_FORWARD = "(Tensor x, Tensor w_in, Tensor w_state, Tensor b_in, Tensor b_state, str cell) -> Tensor"
_BACKWARD = (
    "(Tensor grad, Tensor states, Tensor x, Tensor w_in, Tensor w_state, Tensor b_in, Tensor b_state, str cell) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor)"
)


@torch.library.custom_op("ppvae::recurrence", mutates_args=(), schema=_FORWARD)
def _recurrence(x: Tensor, w_in: Tensor, w_state: Tensor, b_in: Tensor, b_state: Tensor, cell: str) -> Tensor:
    """States [N, T, H] at inputs [N, T, D], from zero."""
    start = x.new_zeros(1, len(x), w_state.shape[1])
    weights = [w_in, w_state, b_in, b_state]
    # has_biases, num_layers, dropout, train, bidirectional, batch_first
    states, _ = _RUN[cell](x, start, weights, True, 1, 0.0, False, False, True)
    return states.contiguous()


@torch.library.custom_op("ppvae::recurrence_backward", mutates_args=(), schema=_BACKWARD)
def _recurrence_backward(
    grad: Tensor, states: Tensor, x: Tensor, w_in: Tensor, w_state: Tensor, b_in: Tensor, b_state: Tensor, cell: str
) -> tuple[Tensor, ...]:
    """Gradients by x and the parameters, from grad [N, T, H] by the states.

    With $\\delta_t$ the gradient by $h_t$, every gate's pre-activation has $\\delta_t$ times a factor of known values,
    so that only $\\delta_{t-1} = g_{t-1} + c_t \\delta_t + (f_t \\delta_t) U$ is a loop.
    """
    hidden = states.shape[-1]
    before = torch.cat([torch.zeros_like(states[:, :1]), states[:, :-1]], 1)
    carry: Tensor | None = None
    if cell == "gru":
        of_x, of_state = x @ w_in.mT + b_in, before @ w_state.mT + b_state
        reset, update = (of_x + of_state)[..., : 2 * hidden].sigmoid().chunk(2, -1)
        of_state = of_state[..., 2 * hidden :]
        new = (of_x[..., 2 * hidden :] + reset * of_state).tanh()
        by_new = (1 - update) * (1 - new.square())
        by_reset = by_new * of_state * reset * (1 - reset)
        by_update = (before - new) * update * (1 - update)
        factors_in = torch.stack([by_reset, by_update, by_new], -2)
        factors_state = torch.stack([by_reset, by_update, by_new * reset], -2)
        carry = update
    else:
        slope = 1 - states.square() if cell == "tanh" else (states > 0).to(states)
        factors_in = factors_state = slope[..., None, :]
    deltas, delta = [], torch.zeros_like(states[:, 0])
    for t in range(states.shape[1] - 1, -1, -1):
        delta = delta + grad[:, t]
        deltas.append(delta)
        back = (delta[:, None] * factors_state[:, t]).flatten(-2) @ w_state
        delta = back if carry is None else torch.addcmul(back, delta, carry[:, t])
    total = torch.stack(deltas[::-1], 1)[..., None, :]
    by_in, by_state = (total * factors_in).flatten(-2), (total * factors_state).flatten(-2)
    return (
        by_in @ w_in,
        by_in.flatten(0, 1).mT @ x.flatten(0, 1),
        by_state.flatten(0, 1).mT @ before.flatten(0, 1),
        by_in.sum((0, 1)),
        by_state.sum((0, 1)),
    )


@_recurrence.register_fake
def _(x: Tensor, w_in: Tensor, w_state: Tensor, b_in: Tensor, b_state: Tensor, cell: str) -> Tensor:
    return x.new_empty(*x.shape[:2], w_state.shape[1])


@_recurrence_backward.register_fake
def _(grad: Tensor, states: Tensor, x: Tensor, *parameters: Any) -> tuple[Tensor, ...]:
    return tuple(tensor.new_empty(tensor.shape) for tensor in (x, *parameters[:4]))


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(output, *inputs[:-1])
    ctx.cell = inputs[-1]


def _gradients(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    return (*_recurrence_backward(grad, *ctx.saved_tensors, ctx.cell), None)


_recurrence.register_autograd(_gradients, setup_context=_keep)
