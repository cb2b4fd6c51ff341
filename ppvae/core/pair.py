"""What a model/guide pair is: two Pyro programs, the generative model and the guide, and their parameters."""

from __future__ import annotations

import functools
import inspect
import itertools
from abc import ABCMeta, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeAlias, overload

import pyro
import torch
from pyro.nn.module import PyroModule, _PyroModuleMeta, pyro_method
from torch import Tensor, nn
from torch.distributions import transform_to
from torch.distributions.constraints import Constraint

from .errors import PairError, try_one_of

Data: TypeAlias = Tensor | Mapping[str, Tensor] | tuple[Tensor, ...]
"""A batch: a tensor [B, *event], or a mapping or a tuple of tensors that share axis 0."""

DATA_PLATE = "data"

_instances = itertools.count()


def members_of(x: Data) -> dict[str, Tensor]:
    """The tensors of a batch by name: a lone one is "x", those of a tuple are "0", "1", ..."""
    if isinstance(x, Mapping):
        return dict(x)
    return {"x": x} if isinstance(x, Tensor) else {str(place): value for place, value in enumerate(x)}


def batch_size(x: Data) -> int:
    """Number of data in a batch, the length of axis 0."""
    return int(next(iter(members_of(x).values())).shape[0])


@overload
def map_tensors(change: Callable[[Tensor], Tensor], tensors: Tensor) -> Tensor: ...
@overload
def map_tensors(change: Callable[[Tensor], Tensor], tensors: Mapping[str, Any]) -> dict[str, Any]: ...
@overload
def map_tensors(change: Callable[[Tensor], Tensor], tensors: tuple[Any, ...]) -> tuple[Any, ...]: ...
@overload
def map_tensors(change: Callable[[Tensor], Tensor], tensors: Data) -> Data: ...
def map_tensors(change: Callable[[Tensor], Tensor], tensors: Any) -> Any:
    """A tensor changed, or all tensors of a mapping or a tuple, which may hold others."""
    if isinstance(tensors, Mapping):
        return {key: map_tensors(change, value) for key, value in tensors.items()}
    if isinstance(tensors, tuple | list):
        return tuple(map_tensors(change, value) for value in tensors)
    return change(tensors)


@overload
def rows_of(tensors: Tensor, index: Tensor) -> Tensor: ...
@overload
def rows_of(tensors: Mapping[str, Any], index: Tensor) -> dict[str, Any]: ...
@overload
def rows_of(tensors: tuple[Any, ...], index: Tensor) -> tuple[Any, ...]: ...
@overload
def rows_of(tensors: Data, index: Tensor) -> Data: ...
def rows_of(tensors: Any, index: Tensor) -> Any:
    """These rows of a tensor, or of all tensors of a mapping or a tuple, which may hold others."""
    return map_tensors(lambda value: value[index.to(value.device)], tensors)


class _AbstractPyroModule(_PyroModuleMeta, ABCMeta):
    """Pyro's metaclass and Python's abstract one, together."""


class ModelGuidePair(PyroModule, metaclass=_AbstractPyroModule):
    r"""A generative model and a guide, both legal Pyro programs.

    $$p_\theta(x, z, w) = p(w) \prod_{b=1}^{N} p_\theta(x_b, z_b \mid w), \qquad q_\phi(z, w \mid x)$$

    Local latent and observed sites stand inside the plate ``"data"`` (:meth:`data_plate` makes it, at dim -1; any other
    will do); global latents, such as weights, stand outside it. Networks are plain ``nn.Module`` attributes.

    Every instance has its own name in Pyro's global parameter store, so that two pairs of one class train side by
    side in stock ``pyro.infer.SVI``; under one shared name the second one would silently not train.

    Attributes:
        vectorizes: whether the programs broadcast over one more plate on the left (particles, chains). Where a
            program does not, :func:`ppvae.core.check_pair` sets it to False and the waist runs particle by particle.
        noise_per_datum: whether the model gives every datum noise of its own at global sites (weights under local
            reparameterisation), so that log q is undefined at the values that the likelihood used.
        noisy: whether its data went through noise (:class:`~.conditioning.PartlySeen`), so that they may lie where
            no mean of the likelihood does.
        plate_name: the name of the plate over data, where it is another than "data"; None to find it.
        one_datum: whether all the data are one datum: see :func:`ppvae.core.as_one_datum`.
        summed_out: discrete sites that are summed out of both programs: see :func:`ppvae.core.sum_out`.
    """

    vectorizes: bool = True
    accepts_num_data: bool = True
    noise_per_datum: bool = False
    noisy: bool = False
    parameter_store: str = "local"
    plate_name: str | None = None
    one_datum: bool = False
    summed_out: frozenset[str] = frozenset()

    def __init__(self) -> None:
        # Created under local parameters, so that Pyro gives its context the state that the waist's runs need.
        with pyro.settings.context(module_local_params=True):
            super().__init__(name=f"{type(self).__name__}_{next(_instances)}")
        self.adopted = nn.ParameterDict()
        self._adopted_constraints: dict[str, Constraint] = {}
        self._structures: dict[Any, Any] = {}
        self._fingerprint: dict[str, Any] | None = None  # of the programs, at these structures
        self._audits: set[Any] = set()
        self._found_plate: str | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # Pyro registers a module's parameters only inside its own context: `pyro_method` opens it.
        for name in ("model", "guide"):
            method = cls.__dict__.get(name)
            if inspect.isfunction(method) and not getattr(method, "__isabstractmethod__", False):
                setattr(cls, name, pyro_method(method))

    @abstractmethod
    def model(self, x: Any, num_data: int | None = None) -> Any:
        """The generative model of a batch: p(z) p(x | z) as Pyro sample statements.

        Args:
            x: the batch, [B, *event] or a mapping of such.
            num_data: N, the size of the data set that the batch stands for; ``None`` means that it is the data.
        """

    @abstractmethod
    def guide(self, x: Any, num_data: int | None = None) -> Any:
        """The guide q(z | x): the same latent sites as the model; arguments as for :meth:`model`."""

    def find_data_plate(self, x: Any) -> str | None:
        """The name of the plate over data, where it is known before the programs are run on a batch."""
        return self.plate_name

    def mean_sites(self, draw: Iterable[str] = ()) -> AbstractContextManager[frozenset[str]]:
        """A context in which the guide gives some sites their mean instead of a draw, and the names of these sites.

        For an estimator that uses no value of theirs, their KL being in closed form; most pairs draw every site.

        Args:
            draw: sites that are drawn from now on, because their KL has to be sampled after all.
        """
        return nullcontext(frozenset())

    @staticmethod
    def data_plate(x: Data, num_data: int | None = None) -> Any:
        """The plate ``"data"`` over a batch; it carries N, so that Pyro scales by N / B by itself.

        Args:
            x: the batch; only the length of its axis 0 is used.
            num_data: N, in data; ``None`` for B.
        """
        size = batch_size(x)
        # An explicit subsample: without one the plate would draw randperm(N) at every step.
        return pyro.plate(DATA_PLATE, num_data or size, subsample=torch.arange(size), dim=-1)

    def completed(self, x: Data) -> Data:
        """A batch with what is found from it once and then given, as a covariate is: totals of counts.

        A simulation keeps these, whatever it puts in the place of the data.
        """
        return x

    def gaps(self, x: Data) -> dict[str, Tensor]:
        """Which entries of a batch are there, member to a mask of its shape; none where all are.

        What stands in a gap, NaN included, changes no density: the programs see to that.
        """
        return {}

    def event_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of a datum of each member of a batch that the pair is made for; empty where it does not say."""
        return {}

    def sequence_lengths(self, x: Data) -> tuple[Tensor, ...]:
        """The lengths of the sequences of a batch, each [B], members of it that the programs read as they are.

        A recorded training step then leaves out the steps that no sequence of the batch has; no number changes by it.
        None by default: nothing is left out.
        """
        return ()

    @staticmethod
    def from_callables(
        model: Callable[..., Any],
        guide: Callable[..., Any],
        *,
        modules: Iterable[nn.Module] = (),
        unpack: bool = False,
        data_plate: str | None = None,
    ) -> CallablePair:
        """Wrap an existing Pyro program, unmodified.

        The plate over data may stand at any dim and among other plates. It is the one called "data"; else the only one
        around all observed sites that is as long as the batch and whose entries are its rows; else ``data_plate``.

        Modules are found where the callables carry them (``vae.model``, an ``AutoGuide``, a function's closure and
        globals); parameters made by bare ``pyro.param`` statements are adopted as parameters of the pair when it is
        first run.

        Args:
            model: the generative model, called as ``model(x)``, or ``model(x, num_data=N)`` where it takes that name;
                as ``model(x, y)`` for a batch that is a tuple (x, y). Arguments that are no data:
                ``functools.partial(model, flag=True)``.
            guide: the guide, called likewise.
            modules: further modules whose parameters the programs use.
            unpack: pass a mapping batch as keyword arguments rather than as one argument.
            data_plate: the name of the plate over data, where it cannot be told by its name or its size.
        """
        return CallablePair(model, guide, modules=modules, unpack=unpack, data_plate=data_plate)

    def adopt(self, name: str, value: Tensor, constraint: Constraint) -> None:
        """Take over a bare ``pyro.param`` statement: its unconstrained value becomes a parameter of this pair."""
        with torch.no_grad():
            unconstrained = transform_to(constraint).inv(value.detach()).clone()
        self._adopted_constraints[name] = constraint
        adopted = self._modules["adopted"]
        assert isinstance(adopted, nn.ParameterDict)
        adopted[_key(name)] = nn.Parameter(unconstrained)

    def adopted_value(self, name: str) -> Tensor | None:
        """The constrained value of an adopted parameter, or None where there is none of that name."""
        constraint = self._adopted_constraints.get(name)
        if constraint is None:
            return None
        # Through the registry: reading the attribute would itself be a Pyro statement.
        adopted = self._modules["adopted"]
        assert isinstance(adopted, nn.ParameterDict)
        value: Tensor = transform_to(constraint)(adopted[_key(name)])
        return value

    def adopted_names(self) -> tuple[str, ...]:
        """The names of the adopted parameters, as their ``pyro.param`` statements have them."""
        return tuple(self._adopted_constraints)

    def disown(self, names: Iterable[str]) -> None:
        """Undo :meth:`adopt`: the next run of the programs makes these parameters anew."""
        adopted = self._modules["adopted"]
        assert isinstance(adopted, nn.ParameterDict)
        for name in names:
            del self._adopted_constraints[name]
            del adopted[_key(name)]

    def __getstate__(self) -> dict[str, Any]:
        # The structures of the programs are not part of a copy.
        return {**super().__getstate__(), "_structures": {}, "_fingerprint": None, "_found_plate": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        old, new = self._pyro_name, f"{type(self).__name__}_{next(_instances)}"
        for module in self.modules():  # a copy trains apart from its original
            if isinstance(module, PyroModule) and module._pyro_name.startswith(old):
                module._pyro_name = new + module._pyro_name[len(old) :]


def _key(name: str) -> str:
    return name.replace(".", "/")  # nn.Module refuses dots in parameter names


class CallablePair(ModelGuidePair):
    """A pair around two callables that were written without ppvae: see :meth:`ModelGuidePair.from_callables`."""

    def __init__(
        self,
        model: Callable[..., Any],
        guide: Callable[..., Any],
        *,
        modules: Iterable[nn.Module] = (),
        unpack: bool = False,
        data_plate: str | None = None,
    ) -> None:
        super().__init__()
        for role, program in (("model", model), ("guide", guide)):
            if not callable(program):
                raise PairError(
                    f"the {role} must be callable, found {type(program).__name__}"
                    + try_one_of("pass vae.model and vae.guide", "pass a function and an AutoGuide instance")
                )
        self.unpack, self.plate_name = unpack, data_plate
        owners = {id(m): m for m in (*_modules_of(model), *_modules_of(guide), *modules)}
        for index, owner in enumerate(owners.values()):
            nn.Module.add_module(self, f"program_{index}", owner)
        # Not in nn.Module's registry: the callables themselves are called, whatever they are.
        self.__dict__["_programs"] = {"model": model, "guide": guide}
        self.accepts_num_data = all("num_data" in _parameter_names(program) for program in (model, guide))

    def model(self, x: Any, num_data: int | None = None) -> Any:
        """Run the wrapped model."""
        return self._run("model", x, num_data)

    def guide(self, x: Any, num_data: int | None = None) -> Any:
        """Run the wrapped guide."""
        return self._run("guide", x, num_data)

    def _run(self, role: str, x: Any, num_data: int | None) -> Any:
        program = self.__dict__["_programs"][role]
        extra = {"num_data": num_data} if self.accepts_num_data else {}
        if self.unpack and isinstance(x, Mapping):
            return program(**x, **extra)
        return program(*x, **extra) if isinstance(x, tuple | list) else program(x, **extra)


def _modules_of(program: Any) -> Iterator[nn.Module]:
    """Modules that a callable carries: itself, its object, what that holds, its closure and its globals."""
    if isinstance(program, functools.partial):
        yield from _modules_of(program.func)
        yield from (value for value in (*program.args, *program.keywords.values()) if isinstance(value, nn.Module))
    elif isinstance(program, nn.Module):
        yield program
    elif inspect.ismethod(program):
        owner = program.__self__
        members = [owner] if isinstance(owner, nn.Module) else vars(owner).values()
        yield from (value for value in members if isinstance(value, nn.Module))
    elif inspect.isfunction(program):
        variables = inspect.getclosurevars(program)
        for value in (*variables.nonlocals.values(), *variables.globals.values()):
            if isinstance(value, nn.Module):
                yield value


def _parameter_names(program: Any) -> set[str]:
    target = program.forward if isinstance(program, nn.Module) else program
    try:
        return set(inspect.signature(target).parameters)
    except (TypeError, ValueError):
        return set()
