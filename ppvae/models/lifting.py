"""Which parameters of a pair a posterior over weights takes over, and taking them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from pyro.nn.module import PyroModule
from torch import Tensor, nn

from ..core.errors import PairError, did_you_mean, try_one_of
from ..core.pair import CallablePair, ModelGuidePair, _modules_of


class Lifted(NamedTuple):
    """One parameter that becomes a random variable.

    Attributes:
        name: its name in the pair, which the site takes.
        owner: the module that holds it.
        attribute: its name there.
        value: its value, detached.
    """

    name: str
    owner: nn.Module
    attribute: str
    value: Tensor

    def lift(self) -> None:
        """Make the parameter a buffer that is not saved: a place for the random value."""
        del self.owner._parameters[self.attribute]
        self.owner.register_buffer(self.attribute, self.value.clone(), persistent=False)


def find_lifted(pair: ModelGuidePair, names: tuple[str, ...]) -> tuple[Lifted, ...]:
    """The parameters below these modules, in the pair's order.

    Args:
        pair: the pair.
        names: of modules or of single parameters.

    Raises:
        PairError: an unknown name, nothing to lift, shared parameters, running statistics, recurrent layers, or
            constrained parameters of Pyro's own kind.
    """
    modules = {name: module for name, module in pair.named_modules() if name and not name.startswith("adopted")}
    parameters = dict(pair.named_parameters(remove_duplicate=False))
    if not names:
        raise PairError(f"modules: expected at least one module; {_known(modules)}")
    chosen: set[str] = set()
    for name in names:
        if name in parameters:
            below = [name]
        elif name in modules:
            below = [n for n in parameters if n.startswith(f"{name}.") and parameters[n].requires_grad]
            if not below:
                kind = type(modules[name]).__name__
                raise PairError(
                    f"module {name!r} ({kind}) has no trainable parameters to give a posterior to; {_known(modules)}"
                )
        else:
            known = [*modules, *parameters]
            raise PairError(f"no module {name!r} in {type(pair).__name__}: {did_you_mean(name, known)}")
        chosen.update(below)
    _refuse_running_statistics(modules, chosen)
    _refuse_shared(parameters, chosen)
    return tuple(_lifted(pair, name, parameters[name]) for name in parameters if name in chosen)


def _lifted(pair: ModelGuidePair, name: str, value: Tensor) -> Lifted:
    path, _, attribute = name.rpartition(".")
    owner = pair.get_submodule(path)
    if isinstance(owner, nn.RNNBase):
        raise PairError(
            f"module {path!r} ({type(owner).__name__}) keeps its weights in a list of its own, where a random weight "
            "would not be seen" + try_one_of("leave it out of modules=...", "a cell (GRUCell, LSTMCell) in a loop")
        )
    if isinstance(owner, PyroModule) and attribute.endswith("_unconstrained"):
        plain = attribute.removesuffix("_unconstrained")
        if plain in getattr(owner, "_pyro_params", {}):
            raise PairError(
                f"parameter {name.removesuffix('_unconstrained')!r} is a constrained PyroParam, and a prior over "
                "weights is over the real line"
                + try_one_of("leave it out of modules=...", "a PyroSample in the model itself")
            )
    return Lifted(name, owner, attribute, value.detach())


def _refuse_running_statistics(modules: dict[str, nn.Module], chosen: set[str]) -> None:
    for name, module in modules.items():
        own = any(parameter.startswith(f"{name}.") for parameter in chosen)
        if own and getattr(module, "running_mean", None) is not None:
            raise PairError(
                f"module {name!r} ({type(module).__name__}) keeps running statistics, which are not random: they would "
                "depend on the draws of the weights, and the density of a datum on the rest of its batch"
                + try_one_of("nn.LayerNorm or nn.GroupNorm instead", "track_running_stats=False", "other modules=...")
            )


def _refuse_shared(parameters: dict[str, nn.Parameter], chosen: set[str]) -> None:
    names: dict[int, list[str]] = {}
    for name, parameter in parameters.items():
        names.setdefault(id(parameter), []).append(name)
    for same in names.values():
        if len(same) > 1 and chosen.intersection(same):
            raise PairError(
                f"parameters {', '.join(map(repr, same))} are one shared tensor: two sites would draw it twice"
                + try_one_of("a parameter of its own for each", "other modules=...")
            )


def refuse_closures(pair: ModelGuidePair, copied: ModelGuidePair) -> None:
    """A copy must reach the copy's modules: a function that holds its modules in a closure does not.

    Raises:
        PairError: it does not.
    """
    if not isinstance(copied, CallablePair):
        return
    originals = {id(module) for module in pair.modules()}
    for role, program in _programs(copied):
        if any(id(module) in originals for module in _modules_of(program)):
            raise PairError(
                f"the {role} is a function that holds its modules in a closure or in globals: a copy of the pair would "
                "not reach them"
                + try_one_of(
                    "bayesianise(..., copy=False), which takes over the pair and its modules",
                    "methods of a module as model and guide",
                )
            )


def _programs(pair: CallablePair) -> Iterator[tuple[str, Any]]:
    yield from pair.__dict__["_programs"].items()


def _known(modules: dict[str, nn.Module]) -> str:
    having = [name for name, module in modules.items() if next(module.parameters(), None) is not None]
    return f"modules with parameters: {', '.join(having) or 'none'}"
