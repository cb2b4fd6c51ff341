"""Parameters of a pair that become random variables, with a posterior over weights."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from pyro.nn.module import PyroModule
from torch import Tensor, nn

from ..core.errors import PairError, did_you_mean, try_one_of
from ..core.pair import CallablePair, ModelGuidePair, _modules_of


class RandomParameter(NamedTuple):
    """One parameter that becomes a random variable.

    Attributes:
        name: its name in the pair, and of the site.
        owner: the module that holds it.
        attribute: its name in that module.
        value: its value, detached.
    """

    name: str
    owner: nn.Module
    attribute: str
    value: Tensor

    def lift(self) -> None:
        """Replace the parameter by a buffer that is not saved: a place for the random value."""
        del self.owner._parameters[self.attribute]
        self.owner.register_buffer(self.attribute, self.value.clone(), persistent=False)


def find_parameters(pair: ModelGuidePair, names: tuple[str, ...]) -> tuple[RandomParameter, ...]:
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
        raise PairError(f"modules: expected at least one module; {_module_names(modules)}")
    selection: set[str] = set()
    for name in names:
        if name in parameters:
            members = [name]
        elif name in modules:
            members = [n for n in parameters if n.startswith(f"{name}.") and parameters[n].requires_grad]
            if not members:
                kind = type(modules[name]).__name__
                raise PairError(
                    f"module {name!r} ({kind}) has no trainable parameters to give a posterior to; "
                    f"{_module_names(modules)}"
                )
        else:
            candidates = [*modules, *parameters]
            raise PairError(f"no module {name!r} in {type(pair).__name__}: {did_you_mean(name, candidates)}")
        selection.update(members)
    _refuse_running_statistics(modules, selection)
    _refuse_shared(parameters, selection)
    return tuple(_random_parameter(pair, name, parameters[name]) for name in parameters if name in selection)


def _random_parameter(pair: ModelGuidePair, name: str, value: Tensor) -> RandomParameter:
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
    return RandomParameter(name, owner, attribute, value.detach())


def _refuse_running_statistics(modules: dict[str, nn.Module], selection: set[str]) -> None:
    for name, module in modules.items():
        own = any(parameter.startswith(f"{name}.") for parameter in selection)
        if own and getattr(module, "running_mean", None) is not None:
            raise PairError(
                f"module {name!r} ({type(module).__name__}) keeps running statistics, which are not random: they would "
                "depend on the draws of the weights, and the density of a datum on the rest of its batch"
                + try_one_of("nn.LayerNorm or nn.GroupNorm instead", "track_running_stats=False", "other modules=...")
            )


def _refuse_shared(parameters: dict[str, nn.Parameter], selection: set[str]) -> None:
    names: dict[int, list[str]] = {}
    for name, parameter in parameters.items():
        names.setdefault(id(parameter), []).append(name)
    for same in names.values():
        if len(same) > 1 and selection.intersection(same):
            raise PairError(
                f"parameters {', '.join(map(repr, same))} are one shared tensor: two sites would draw it twice"
                + try_one_of("a parameter of its own for each", "other modules=...")
            )


def refuse_closures(pair: ModelGuidePair, copy: ModelGuidePair) -> None:
    """A copy must reach the copy's modules: a function that holds its modules in a closure does not.

    Raises:
        PairError: it does not.
    """
    if not isinstance(copy, CallablePair):
        return
    originals = {id(module) for module in pair.modules()}
    for role, program in _programs(copy):
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


def _module_names(modules: dict[str, nn.Module]) -> str:
    owners = [name for name, module in modules.items() if next(module.parameters(), None) is not None]
    return f"modules with parameters: {', '.join(owners) or 'none'}"
