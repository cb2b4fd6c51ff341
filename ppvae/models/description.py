"""The description of a latent-variable model: its variables, in an order in which each program can compute them."""

from __future__ import annotations

import graphlib
from collections.abc import Mapping
from typing import Any, Literal, get_args

from .variables import (
    Covariate,
    Exposure,
    Features,
    Label,
    Latent,
    Lengths,
    Mask,
    Observed,
    Variable,
    edges_of,
    event_shape_of,
    gaps_of,
)
from ..core.errors import PairError, did_you_mean, try_one_of
from ..distributions.conditional import ConditionalDistribution

Program = Literal["model", "guide"]


class Description:
    """Variables by name, and what depends on what.

    Args:
        variables: name to variable.
        exact: whether latents without a posterior are drawn from the exact one, rather than summed out.

    Attributes:
        variables: the same.
        exact: the same.
        orders: what each program computes, parents first.

    Raises:
        PairError: an unknown parent, a circle, a role that does not fit, a variable that nothing uses.
    """

    def __init__(self, variables: Mapping[str, Variable], *, exact: bool = False) -> None:
        self.variables, self.exact = dict(variables), exact
        for name, variable in self.variables.items():
            self._check_variable(name, variable)
        for name in self.variables:
            self._check_parents(name)
        if not self.named(Observed):
            raise PairError("LatentModel: no variable is observed" + try_one_of("x=Observed(likelihood.given('z'))"))
        self.orders: dict[Program, list[str]] = {
            "model": self._order("model", self.named(Latent, Label, Observed)),
            "guide": self._order("guide", self.guided),
        }
        self._check_used()

    def named(self, *kinds: type[Any]) -> list[str]:
        """The variables of these kinds."""
        return [name for name, variable in self.variables.items() if isinstance(variable, kinds)]

    @property
    def guided(self) -> list[str]:
        """The latents that the guide draws."""
        return [name for name in self.named(Latent, Label) if "posterior" in edges_of(self.variables[name])]

    @property
    def data(self) -> list[str]:
        """The members of a batch."""
        return [name for name in self.named(Observed, Label, Covariate, Mask, Lengths) if name not in self.totals]

    @property
    def totals(self) -> dict[str, str]:
        """The exposures that are the total of an observed variable: name to its name."""
        named = {name: self.variables[name] for name in self.named(Exposure)}
        return {n: v.total_of for n, v in named.items() if isinstance(v, Exposure) and v.total_of is not None}

    def role(self, name: str, program: Program) -> str | None:
        """Which module of a variable a program runs; None where the variable is given there."""
        variable = self.variables[name]
        if isinstance(variable, Features):
            return "network"
        role = "posterior" if program == "guide" else "likelihood" if isinstance(variable, Observed) else "prior"
        return role if role in edges_of(variable) else None

    def parents(self, name: str, program: Program) -> tuple[str, ...]:
        """What a variable depends on in a program."""
        role = self.role(name, program)
        return () if role is None else edges_of(self.variables[name])[role].parents

    # --- words ------------------------------------------------------------------------------------

    def formulas(self) -> dict[Program, str]:
        """The factorisation of each program."""
        left = {"model": [*self.named(Observed), *self.named(Latent, Label)], "guide": self.guided}
        formulas: dict[Program, str] = {}
        for program, order in self.orders.items():
            behind = {p for name in order for p in self.parents(name, program)} - set(order)
            given = [name for name in self.variables if name in behind]
            joint = _factor(program, ", ".join(left[program]), ", ".join(given))
            formulas[program] = f"{joint} = {self._product(program)}"
        if self.exact and not self.guided:
            latents = ", ".join(n for n in self.orders["model"] if isinstance(self.variables[n], Latent))
            known = ", ".join(self.named(Observed, Covariate))
            formulas["guide"] = f"{_factor('guide', latents, known)} = {_factor('model', latents, known)}"
        return formulas

    def _product(self, program: Program) -> str:
        factors = [
            _factor(program, name, ", ".join(self.parents(name, program)))
            for name in self.orders[program]
            if not isinstance(self.variables[name], Features)
        ]
        return " ".join(factors) or "1"

    def described(self, name: str) -> str:
        """What a variable is, in a line."""
        variable = self.variables[name]
        if isinstance(variable, Features):
            return f"features, {type(variable.network).__name__} of {', '.join(variable.parents)}"
        edges = edges_of(variable)
        shape = event_shape_of(variable)
        words = [type(variable).__name__.lower() + (f" {list(shape)}" if shape else "")]
        words += [f"{role} {type(edge.module).__name__}" for role, edge in edges.items()]
        words += [f"gaps by {gap}" for gap in gaps_of(variable)]
        if isinstance(variable, Latent | Label) and variable.posterior is None:
            words.append("exact posterior" if self.exact else "summed out")
        return ", ".join(words)

    def __str__(self) -> str:
        """Both factorisations, and what each variable is."""
        return "\n".join([*self.formulas().values(), "", *(f"{n}: {self.described(n)}" for n in self.variables)])

    # --- checks -----------------------------------------------------------------------------------

    def _check_variable(self, name: str, variable: Variable) -> None:
        if not isinstance(variable, get_args(Variable)):
            raise PairError(
                f"{name!r}: expected a Latent, Label, Observed, Features, Covariate, Exposure, Mask or Lengths, found "
                f"a {type(variable).__name__}" + try_one_of("Latent(prior, posterior=...)", "Observed(likelihood)")
            )
        for role, edge in edges_of(variable).items():
            if role != "network" and not isinstance(edge.module, ConditionalDistribution):
                raise PairError(
                    f"{name!r}, its {role}: expected a conditional distribution, found a {type(edge.module).__name__}"
                    + try_one_of("one of ppvae.distributions", "a subclass of ConditionalDistribution")
                )
        if isinstance(variable, Exposure) and variable.total_of is not None:
            other = self.variables.get(variable.total_of)
            if not isinstance(other, Observed) or gaps_of(other) or variable.shape:
                raise PairError(
                    f"{name!r} is one number for each datum, the total of an observed variable without gaps, which "
                    f"{variable.total_of!r} is not: {did_you_mean(variable.total_of, self.named(Observed))}"
                    + try_one_of("Exposure(), a member of the batch")
                )
        for gap, kind in gaps_of(variable).items():
            if not isinstance(self.variables.get(gap), kind):
                raise PairError(
                    f"{name!r}: {gap!r} is no {kind.__name__} of the model: {did_you_mean(gap, self.named(kind))}"
                    + try_one_of(f"{gap}={kind.__name__}()")
                )

    def _check_parents(self, name: str) -> None:
        variable = self.variables[name]
        for program in ("model", "guide"):
            for parent in self.parents(name, program):
                other = self.variables.get(parent)
                if other is None:
                    raise PairError(
                        f"{name!r} depends on {parent!r}, which is no variable: {did_you_mean(parent, self.variables)}"
                        + try_one_of("declare it", "correct the spelling in .given(...)")
                    )
                if program == "guide" and not self._known_to_guide(parent):
                    if isinstance(variable, Features):
                        continue  # of the model alone
                    raise PairError(
                        f"{name!r}: its posterior depends on {parent!r}, which has none of its own: it is summed out"
                        + try_one_of(f"a posterior for {parent!r}", "a posterior given data alone")
                    )

    def _known_to_guide(self, name: str) -> bool:
        variable = self.variables[name]
        return not isinstance(variable, Latent | Label) or variable.posterior is not None

    def _order(self, program: Program, targets: list[str]) -> list[str]:
        computed = (Latent, Label, Features) if program == "guide" else (Latent, Label, Features, Observed)
        found: dict[str, list[str]] = {}
        waiting = list(targets)
        while waiting:
            name = waiting.pop()
            if name not in found:
                parents = self.parents(name, program)
                self._check_gaps(name, parents, program)
                found[name] = [parent for parent in parents if isinstance(self.variables[parent], computed)]
                waiting += found[name]
        in_order = {name: found[name] for name in self.variables if name in found}
        try:
            return list(graphlib.TopologicalSorter(in_order).static_order())
        except graphlib.CycleError as error:
            circle = " -> ".join(map(repr, reversed(error.args[1])))
            raise PairError(
                f"LatentModel: variables of the {program} depend on each other in a circle: {circle}"
                + try_one_of("leave out one of these parents")
            ) from None

    def _check_gaps(self, name: str, parents: tuple[str, ...], program: Program) -> None:
        gaps = [parent for parent in parents if gaps_of(self.variables[parent])]
        if program == "model" and gaps:
            raise PairError(
                f"{name!r} depends on {gaps[0]!r} in the model, which has gaps: what is missing there would have to be "
                "integrated out" + try_one_of("a parent without gaps", f"{gaps[0]!r} without mask and lengths")
            )

    def _check_used(self) -> None:
        used = {gap for variable in self.variables.values() for gap in gaps_of(variable)}
        used |= {parent for program, order in self.orders.items() for n in order for parent in self.parents(n, program)}
        for name in self.named(Covariate, Mask, Lengths, Features):
            if name not in used:
                raise PairError(
                    f"{name!r} is declared and nothing depends on it"
                    + try_one_of(f".given(..., {name!r})", f"mask={name!r} or lengths={name!r}", "leave it out")
                )


def _factor(program: Program, left: str, right: str) -> str:
    return f"{'p' if program == 'model' else 'q'}({left}{' | ' if right else ''}{right})"
