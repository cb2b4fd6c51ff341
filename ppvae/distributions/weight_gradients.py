"""The gradient of a weight that a loop multiplies by at every step: one product for all steps."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode


class WeightGradientsAtOnce(TorchFunctionMode):
    r"""Affine maps $x_t W^\top + b$ inside of it have their gradients by W and b from one product.

    $$\frac{\partial}{\partial W} = \sum_t \delta_t^\top x_t
      = \begin{bmatrix} \delta_1 \\ \vdots \\ \delta_T \end{bmatrix}^\top
        \begin{bmatrix} x_1 \\ \vdots \\ x_T \end{bmatrix}$$

    Autograd adds up T products instead, each of few rows and as large as W. Values, and gradients of any order, are
    the same up to the order of the sum.
    """

    def __init__(self) -> None:
        super().__init__()
        # Each with the tensors that it goes by: one that were let go would leave its id to another.
        self._weights: dict[tuple[int, int], tuple[tuple[Tensor, Tensor | None], tuple[Any, ...]]] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is functional.linear and not kwargs and _applies(*args):
            x, weight, bias = (*args, None)[:3]
            key = id(weight), id(bias)
            if key not in self._weights:
                products = _Products()
                gated = (*_Gate.apply(weight, bias, products), products)  # type: ignore[no-untyped-call]
                self._weights[key] = (weight, bias), gated
            return _Product.apply(x, *self._weights[key][1])  # type: ignore[no-untyped-call]
        return func(*args, **(kwargs or {}))


def _applies(x: Any, weight: Any, bias: Any = None) -> bool:
    return (
        torch.is_grad_enabled()
        and type(x) is Tensor
        and all(type(value) in (Tensor, nn.Parameter) for value in (weight, bias) if value is not None)
        and weight.dim() == 2
        and weight.requires_grad
        and not torch._C._are_functorch_transforms_active()
    )


class _Products:
    """Inputs and gradients of the products with one weight, as the backward pass comes by them.

    A backward pass that does not ask for the weight's gradient leaves them behind, so each has its own.
    """

    def __init__(self) -> None:
        self._task, self._pairs = -1, list[tuple[Tensor, Tensor]]()

    def add(self, x: Tensor, gradient: Tensor) -> None:
        if self._task != (task := torch._C._current_graph_task_id()):
            self._task, self._pairs = task, []
        self._pairs.append((x, gradient))

    def take(self) -> tuple[Tensor, Tensor] | None:
        pairs, self._pairs = self._pairs, []
        if not pairs or self._task != torch._C._current_graph_task_id():
            return None
        x, gradient = (
            torch.cat([value.reshape(-1, value.shape[-1]) for value in part]) for part in zip(*pairs, strict=True)
        )
        return x, gradient


def _rows(value: Tensor) -> Tensor:
    return value if value.dim() == 2 else value.reshape(-1, value.shape[-1])


class _Gate(torch.autograd.Function):
    """Weight and bias as they are; the backward pass comes here last, when all products have been seen."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, bias: Tensor | None, products: _Products) -> Any:
        ctx.products = products
        ctx.set_materialize_grads(False)
        return weight.view_as(weight), None if bias is None else bias.view_as(bias)

    @staticmethod
    def backward(ctx: Any, of_weight: Tensor | None, of_bias: Tensor | None) -> Any:
        found = ctx.products.take()
        if found is not None:
            x, gradient = found
            by_weight, by_bias = gradient.mT @ x, gradient.sum(0)
            # Second derivatives come by the weight itself, too.
            of_weight = by_weight if of_weight is None else of_weight + by_weight
            of_bias = by_bias if of_bias is None else of_bias + by_bias
        return of_weight, of_bias if ctx.needs_input_grad[1] else None, None


class _Product(torch.autograd.Function):
    """An affine map whose gradients by weight and bias are left to :class:`_Gate`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, products: _Products) -> Tensor:
        ctx.products = products
        ctx.save_for_backward(x, weight)
        return functional.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        ctx.products.add(x, gradient)
        return gradient @ weight if ctx.needs_input_grad[0] else None, None, None, None
