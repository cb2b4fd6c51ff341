"""``pyro.param`` statements answered from a pair's own modules rather than from Pyro's global store."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import pyro
from pyro.nn.module import PyroModule
from pyro.poutine.messenger import Messenger
from torch import nn
from torch.distributions import constraints

from .errors import PairError, try_one_of
from .pair import ModelGuidePair

_log = logging.getLogger("ppvae.pair")


@contextlib.contextmanager
def local_parameters(pair: ModelGuidePair, *, adopt: bool = False) -> Iterator[None]:
    """Inside, a pair's parameters come from its own modules, not from Pyro's global store.

    The waist's functions open this themselves; it is needed to hand a pair to Pyro's own classes, whose
    ``differentiable_loss`` then sees the pair's parameters. With ``adopt``, bare ``pyro.param`` statements become
    parameters of the pair, and Pyro's validation is on. A pair for stock ``pyro.infer.SVI`` (``parameter_store ==
    "pyro"``) is run as Pyro runs it.
    """
    if pair.parameter_store == "pyro":
        yield
        return
    for module in pair.modules():
        if isinstance(module, PyroModule) and not hasattr(module._pyro_context, "param_state"):
            module._pyro_context.param_state = {"params": {}, "constraints": {}}
    # Not validate_poutine: it refuses the prototype run of an autoguide, whose parameters no handler of ours sees.
    with (
        pyro.settings.context(
            module_local_params=True,
            validate_distributions_pyro=adopt,
            validate_distributions_torch=adopt,
            validate_infer=adopt,
            validate_poutine=False,
        ),
        warnings.catch_warnings(),
        _LocalParameters(pair, adopt),
    ):
        # Captured parameters are plain tensors, about which pyro.module warns.
        warnings.filterwarnings("ignore", message=".*was not registered in the param store.*")
        yield


class _LocalParameters(Messenger):
    """Answers every ``pyro.param`` statement from the pair."""

    def __init__(self, pair: ModelGuidePair, adopt: bool) -> None:
        super().__init__()
        self.pair, self.adopt = pair, adopt
        self.own_ids = {id(parameter) for parameter in pair.parameters()}
        self.new_parameters: list[tuple[str, Any]] = []
        # As pyro.param has it, what stock SVI has trained stays trained. A pair's own programs see another store.
        self.stored: dict[str, Any] = dict(pyro.get_param_store().items()) if adopt else {}

    def __exit__(self, *args: Any) -> None:
        super().__exit__(*args)
        if self.new_parameters and args[0] is None:
            own_ids = {id(parameter) for parameter in self.pair.parameters()}
            for name, parameter in self.new_parameters:
                if id(parameter) not in own_ids:
                    raise _homeless(name)

    def _pyro_param(self, msg: Any) -> None:
        name = msg["name"]
        value = self.pair.adopted_value(name)
        if value is None:
            initial = msg["args"][1] if len(msg["args"]) > 1 else None
            if initial is None:
                return  # a PyroModule's own statement, which carries its value in its closure
            if self.adopt and id(initial) not in self.own_ids and msg["fn"].__module__ == "pyro.nn.module":
                self.new_parameters.append((name, initial))  # by an AutoGuide, say, which does so when it is first run
                return
            if id(initial) in self.own_ids:
                value = initial
            elif not self.adopt or isinstance(initial, nn.Parameter):
                raise _homeless(name)
            else:
                if name in self.stored:
                    initial = self.stored[name].detach().clone()
                    _log.warning("parameter %r begins with the value that it has in Pyro's parameter store", name)
                initial = initial() if callable(initial) else initial
                self.pair.adopt(name, initial, msg["kwargs"].get("constraint", constraints.real))
                value = self.pair.adopted_value(name)
        msg["value"], msg["done"] = value, True


def _homeless(name: str) -> PairError:
    return PairError(
        f"parameter {name!r} belongs to no module of the pair"
        + try_one_of(
            "pass the module that holds it: from_callables(model, guide, modules=[...])",
            "make it when the programs first run, not later",
        )
    )
