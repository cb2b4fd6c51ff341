"""A latent-variable model from one description: each variable declared once, with its parents by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyro
import torch
import torch.distributions as td
from torch import Tensor

from .description import Description, Program
from .graph import Graph, graph_of
from .variables import (
    Covariate,
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
from ..core.errors import PairError, PpvaeError, did_you_mean, try_one_of
from ..core.lengths import present as steps_within
from ..core.modes import evaluation_mode
from ..core.pair import Data, ModelGuidePair, batch_size
from ..core.wrappers import with_axes
from ..distributions.gaps import draw_gaps, observe_with_gaps, require_classes


class LatentModel(ModelGuidePair):
    r"""Both programs of a latent-variable model from one description.

    $$p(x, z) = \prod_v p(v \mid \mathrm{parents}(v)),\qquad
      q(z \mid x) = \prod_{v\ \mathrm{latent}} q(v \mid \mathrm{parents}_q(v))$$

    Every variable is declared once, in any order, with the names of what stands behind its bar::

        pair = LatentModel(
            z2=Latent(StandardNormal(20), posterior=DiagonalNormal(MLP(784, [200]), 20).given("x")),
            z1=Latent(
                DiagonalNormal(MLP(20, [100]), 40).given("z2"),
                posterior=DiagonalNormal(JoinedMLP([784, 20], [200]), 40).given("x", "z2"),
            ),
            x=Observed(Bernoulli(MLP(40, [200]), 784).given("z1")),
        )

    and ``print(pair)`` begins with::

        p(x, z2, z1) = p(z2) p(z1 | z2) p(x | z1)
        q(z2, z1 | x) = q(z2 | x) q(z1 | x, z2)

    A batch is a mapping with a member for each variable that is data (observed, label, covariate, mask, lengths,
    exposure), or a tensor where there is one. Every site is in the plate over data, and has the variable's name; a
    label has two, ``"y_observed"`` and ``"y_unobserved"``.

    Limitations: every latent belongs to one datum; weights that all data share are :func:`~ppvae.models.bayesianise`'s.
    A variable with gaps is no parent in the model, which would have to integrate them out. What cannot be said here,
    a pair with two programs of its own says.

    Args:
        variables: name to :class:`Latent`, :class:`Label`, :class:`Observed`, :class:`Features`, :class:`Covariate`,
            :class:`Exposure`, :class:`Mask` or :class:`Lengths`.

    Attributes:
        description: the variables, their factorisations and their order.

    Raises:
        PairError: an unknown parent, a circle, shapes that disagree, a role that does not fit, by name; shapes are
            found by one run of both programs on two made-up data.

    >>> from ppvae.distributions import Bernoulli, DiagonalNormal, StandardNormal
    >>> from ppvae.networks import MLP
    >>> pair = LatentModel(
    ...     z=Latent(StandardNormal(2), posterior=DiagonalNormal(MLP(6, [4]), 2).given("x")),
    ...     x=Observed(Bernoulli(MLP(2, [4]), 6).given("z")),
    ... )
    >>> print(pair)
    p(x, z) = p(z) p(x | z)
    q(z | x) = q(z | x)
    <BLANKLINE>
    z: latent [2], prior StandardNormal, posterior DiagonalNormal
    x: observed [6], likelihood Bernoulli
    """

    _exact = False  # whether latents without a posterior have the exact one, rather than being summed out

    def __init__(self, **variables: Variable) -> None:
        super().__init__()
        self.description = Description(variables, exact=self._exact)
        for role in ("network", "prior", "likelihood", "posterior"):
            for name, variable in variables.items():
                if role in (edges := edges_of(variable)):
                    setattr(self, self._attribute(name, role), edges[role].module)
        self._probe()

    @staticmethod
    def _attribute(name: str, role: str) -> str:
        """What a part of a variable is called among the modules: ``prior_z``, ``likelihood_x``, ..."""
        return f"{role}_{name}"

    def __str__(self) -> str:
        """Both factorisations, and what each variable is."""
        return str(self.description)

    def graph(self, num_data: int | None = None) -> Graph:
        """The graph of both programs: what a notebook draws, and ``to_svg()`` and ``to_dot()`` write.

        Args:
            num_data: the number of data N, where the plate is to tell it.

        >>> from ppvae.models import bernoulli_vae
        >>> [(a.parent, a.child, a.program) for a in bernoulli_vae(6).graph().arrows]
        [('z', 'x', 'model'), ('x', 'z', 'guide')]
        """
        return graph_of(self.description, num_data)

    # --- the programs -----------------------------------------------------------------------------

    def model(self, x: Data, num_data: int | None = None) -> None:
        """p(x, z) of a batch."""
        batch = self._members(x)
        present = self._present(batch)
        values = self._given(batch, present)
        with self.data_plate(batch, num_data):
            for name in self.description.orders["model"]:
                variable, found = self.description.variables[name], self._computed(name, "model", values)
                if isinstance(variable, Observed):
                    seen = batch[name]
                    if name in present:
                        found = _with_gaps(found, present[name])
                        filling = getattr(self, f"filling_{name}").to(seen.dtype)
                        seen = torch.where(with_axes(present[name], seen.dim()), seen, filling)
                    found = pyro.sample(name, found, obs=seen)
                elif isinstance(variable, Label):
                    found = observe_with_gaps(name, found.expand((batch_size(batch),)), batch[name])
                values[name] = _drawn(name, found) if isinstance(variable, Latent) else found

    def guide(self, x: Data, num_data: int | None = None) -> None:
        """q(z | x) of a batch."""
        batch = self._members(x)
        values = self._given(batch, self._present(batch))
        with self.data_plate(batch, num_data):
            for name in self.description.orders["guide"]:
                variable, found = self.description.variables[name], self._computed(name, "guide", values)
                if isinstance(variable, Label):
                    found = draw_gaps(name, found, batch[name])
                values[name] = _drawn(name, found) if isinstance(variable, Latent) else found

    def _computed(self, name: str, program: Program, values: Mapping[str, Tensor]) -> Any:
        """A variable's distribution in a program, or its features."""
        role = self.description.role(name, program)
        assert role is not None
        parents = self.description.parents(name, program)
        return getattr(self, self._attribute(name, role))(*(values[parent] for parent in parents))

    # --- data -------------------------------------------------------------------------------------

    def gaps(self, x: Data) -> dict[str, Tensor]:
        """Which entries of each observed variable with gaps are there: name to a mask of its shape."""
        batch = self._members(x)
        return {n: with_axes(here, batch[n].dim()).expand(batch[n].shape) for n, here in self._present(batch).items()}

    def completed(self, x: Data) -> Data:
        """A batch with the totals that it does not hold."""
        if not self.description.totals:
            return x
        return {**(x if isinstance(x, Mapping) else {}), **self._members(x)}

    def sequence_lengths(self, x: Data) -> tuple[Tensor, ...]:
        """The members that are :class:`Lengths`, each [B]."""
        return tuple(self._members(x)[name] for name in self.description.named(Lengths))

    def _members(self, x: Data) -> dict[str, Tensor]:
        """The batch by name, and the totals that are found from it.

        Raises:
            PairError: a variable that is data is missing.
        """
        batch = self._as_mapping(x)
        for name, of in self.description.totals.items():
            given = x.get(name) if isinstance(x, Mapping) else None
            batch[name] = batch[of].flatten(1).sum(1) if given is None else given
        return batch

    def _as_mapping(self, x: Data) -> dict[str, Tensor]:
        expected = self.description.data
        if isinstance(x, Tensor) and len(expected) == 1:
            return {expected[0]: x}
        names = ", ".join(map(repr, expected))
        if not isinstance(x, Mapping):
            found = "one tensor" if isinstance(x, Tensor) else f"a {type(x).__name__}"
            raise PairError(
                f"{type(self).__name__}: expected a batch with the members {names}, found {found}"
                + try_one_of(f"a mapping: {{{', '.join(f'{name!r}: ...' for name in expected)}}}")
            )
        for name in expected:
            if name not in x:
                role = type(self.description.variables[name]).__name__
                gaps = [f"{name!r}: torch.full((B,), -1), gaps alone"] if role == "Label" else []
                raise PairError(
                    f"{type(self).__name__}: the batch has no member {name!r} ({role}): expected {names}, found "
                    f"{', '.join(map(repr, x)) or 'none'}" + try_one_of(did_you_mean(name, list(x)), *gaps)
                )
        # Labels may stand beside; what has the shape of the data is a mask of them, under another name.
        shapes = {x[name].shape for name in self.description.named(Observed) if x[name].dim() > 1}
        for name in sorted(x.keys() - self.description.variables.keys()):
            if x[name].shape in shapes:
                raise PairError(
                    f"{type(self).__name__}: no variable reads the member {name!r} of shape {list(x[name].shape)}: "
                    f"expected {names}"
                    + try_one_of(
                        *(f"{mask!r} as its name" for mask in self.description.named(Mask)),
                        "missing_data_vae, or Observed(..., mask='seen') and seen=Mask(), for data with gaps",
                        f"the data without {name!r}",
                    )
                )
        for name in self.description.named(Covariate, Observed):
            shape = event_shape_of(self.description.variables[name]) or ()
            entries = tuple(x[name].shape[1:]) if name in expected else shape
            given = isinstance(self.description.variables[name], Covariate)
            # An observed sequence may have another number of steps; a class as its number is no row of entries.
            if entries != shape and (given or (len(shape) == 1 and not entries)):
                rows = [f"torch.eye({shape[0]})[labels], rows of 0 and 1"] if len(shape) == 1 else []
                raise PairError(
                    f"member {name!r}: expected {['B', *shape]}, found {list(x[name].shape)}".replace("'B'", "B")
                    + try_one_of(*rows, f"Covariate({list(entries)})" if given else f"{name}[:, None], of one entry")
                )
        return {name: x[name] for name in expected}

    def event_shapes(self) -> dict[str, tuple[int, ...]]:
        """Those of what is observed or given, as the distributions say."""
        variables = self.description.variables
        shapes = {name: event_shape_of(variables[name]) for name in self.description.data}
        return {name: tuple(shape) for name, shape in shapes.items() if shape is not None}

    def _given(self, batch: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What is given, as what depends on it sees it: 0 in the gaps, and numbers for a mask."""
        values = {}
        for name, value in batch.items():
            variable = self.description.variables[name]
            if isinstance(variable, Mask):
                value = value.to(self._floating(batch))
            elif name in present:
                value = torch.where(with_axes(present[name], value.dim()), value, torch.zeros_like(value))
            if not isinstance(variable, Label):
                values[name] = value
        return values

    @staticmethod
    def _floating(batch: Mapping[str, Tensor]) -> torch.dtype:
        return next((v.dtype for v in batch.values() if v.is_floating_point()), torch.get_default_dtype())

    def _present(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Which entries of each observed variable with gaps are there: of its shape, or [B]."""
        variables = self.description.variables
        return {n: self._present_of(n, batch) for n in self.description.named(Observed) if gaps_of(variables[n])}

    def _present_of(self, name: str, batch: Mapping[str, Tensor]) -> Tensor:
        """Which entries of a variable with gaps are there: of its shape, or [B]."""
        x, marks = batch[name], []
        for gap in gaps_of(self.description.variables[name]):
            marker = self.description.variables[gap]
            if isinstance(marker, Lengths):
                here = with_axes(steps_within(batch[gap], x.shape[1]), x.dim()).expand(x.shape)
            else:
                here = batch[gap] != 0
            whole = isinstance(marker, Mask) and marker.per_datum
            expected = x.shape[:1] if whole else x.shape
            if here.shape != expected:
                raise PairError(
                    f"member {gap!r}: expected {'one for each datum' if whole else 'the shape of'} {name!r}, "
                    f"{list(expected)}, found {list(here.shape)}"
                    + try_one_of("Mask(per_datum=True), for [B]", f"{gap}.expand_as({name})")
                )
            marks.append(here)
        return marks[0] if len(marks) == 1 else with_axes(marks[0], x.dim()) & with_axes(marks[1], x.dim())

    # --- checks -----------------------------------------------------------------------------------

    def _probe(self) -> None:
        """Run both programs on two made-up data, for their shapes."""
        if any(tensor.is_meta for tensor in (*self.parameters(), *self.buffers())):
            return  # shapes alone, of which someone counts the entries
        with torch.no_grad(), torch.random.fork_rng(devices=[]), evaluation_mode(self):
            torch.manual_seed(0)
            values = self._made_up()
            for name in self.description.orders["model"]:
                values[name] = self._probed(name, "model", values)
            for name in self.description.orders["guide"]:
                values[name] = self._probed(name, "guide", values)

    def _made_up(self) -> dict[str, Tensor]:
        """Two data of what no distribution describes."""
        variables = self.description.variables
        like = next((p for p in self.parameters() if p.is_floating_point()), torch.zeros(()))
        shapes = {n: event_shape_of(variables[n]) or () for n in self.description.named(Latent, Label, Observed)}
        data = {}
        for name, variable in variables.items():
            marked = [other for other, v in variables.items() if name in gaps_of(v)]
            if isinstance(variable, Covariate):
                data[name] = like.new_ones(2, *variable.shape)
            elif isinstance(variable, Lengths):
                steps = [shape[0] for other, shape in shapes.items() if len(shape) > 1 or other in marked]
                data[name] = torch.full((2,), max(steps, default=1))
            elif isinstance(variable, Mask):
                if not (marked or variable.per_datum):
                    raise PairError(
                        f"{name!r} is the mask of no variable"
                        + try_one_of(f"Observed(..., mask={name!r})", "a Covariate")
                    )
                data[name] = like.new_ones(2, *(() if variable.per_datum else shapes[marked[0]]))
        return data

    def _probed(self, name: str, program: Program, values: Mapping[str, Tensor]) -> Tensor:
        """A value of a variable, whose shapes were checked."""
        variable = self.description.variables[name]
        role, parents = self.description.role(name, program), self.description.parents(name, program)
        what = f"{name!r}, its {role}{' given ' if parents else ''}{', '.join(map(repr, parents))}"
        try:
            found = self._computed(name, program, values)
            if isinstance(variable, Label):
                require_classes(found)
        except PpvaeError as error:
            raise PairError(f"{what}: {error}") from error
        except Exception as error:
            shapes = ", ".join(f"{parent!r} {list(values[parent].shape)}" for parent in parents)
            raise PairError(
                f"{what}, fails at {shapes or 'no context'}: {type(error).__name__}: {error}"
                + try_one_of(
                    "a trunk whose first layer has as many features as the parents' values",
                    "JoinedMLP([...], [...]), a trunk of several parents, side by side",
                )
            ) from error
        if isinstance(variable, Features):
            return found  # type: ignore[no-any-return]
        stated = edges_of(variable)[str(role)].module.event_shape
        priors = event_shape_of(variable)
        if stated != priors:
            raise PairError(
                f"site {name!r}: expected the {role}'s event shape to be the prior's {priors}, found {stated}"
            )
        if tuple(found.event_shape) != stated or tuple(found.batch_shape) not in ((), (2,)):
            raise PairError(
                f"{what}: expected event shape {stated} for each of 2 data, found batch shape "
                f"{tuple(found.batch_shape)} and event shape {tuple(found.event_shape)}"
                + try_one_of(".to_event(...) of the distribution", "a network that keeps the axis of the data")
            )
        unguided = isinstance(variable, Latent | Label) and variable.posterior is None
        if unguided and not (self._exact or found.has_enumerate_support):
            raise PairError(
                f"{name!r} has no posterior, and its prior no list of values that could be summed out: found "
                f"{type(found).__name__}" + try_one_of("Latent(prior, posterior=...)", "OneHotCategorical, Categorical")
            )
        value: Tensor = found.expand((2,)).sample()
        if isinstance(variable, Observed) and not value.is_floating_point():
            value = value.to(torch.get_default_dtype())  # as data arrive
        if gaps_of(variable):
            _with_gaps(found, self._present_of(name, {**values, name: value}))
            # What stands in a gap has no density, but must have one for the validation of values: 0, or else a draw.
            zero = torch.zeros_like(value[0])
            filling = zero if bool(found.support.check(zero).all()) else value[0]
            self.register_buffer(f"filling_{name}", filling, persistent=False)
        return value


# --- below: values and gaps -----------------------------------------------------------------------


def _drawn(name: str, fn: Any) -> Tensor:
    """A draw at a site; a discrete one is marked, for those that can take all of its values."""
    value: Tensor = pyro.sample(name, fn, infer={"enumerate": "parallel"} if fn.has_enumerate_support else {})
    return value


def _with_gaps(fn: Any, present: Tensor) -> Any:
    """The likelihood of the entries that are there.

    Raises:
        PairError: the entries are no independent factors.
    """
    if present.dim() == 1:
        return fn.mask(present)
    base, depth = fn, 0
    while isinstance(base, td.Independent):
        base, depth = base.base_dist, depth + base.reinterpreted_batch_ndims
    if base.event_shape:
        raise PairError(
            f"{type(base).__name__} has one density for several entries: expected one for each, where some are gaps"
            + try_one_of("a likelihood of independent entries")
        )
    return base.mask(present).to_event(depth)
