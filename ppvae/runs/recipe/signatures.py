"""Options that a text file can state, read off the signatures of constructors.

A recipe names a model, an estimator or a method by the name of its constructor in kebab case and gives its arguments;
the signature says what is legal. So recipes and the command line know a new model that is in
``ppvae.models.__all__``, with nothing to register.
"""

from __future__ import annotations

import inspect
import json
import re
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError, create_model
from pydantic.fields import FieldInfo

from ...core.errors import RunError, did_you_mean, try_one_of

_SCALARS = (bool, int, float, str)
_SEQUENCES = (list, tuple, Sequence)


class Table(BaseModel):
    """A table of a recipe: no unknown key, no conversion between types, no change, no number that is not finite."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, protected_namespaces=(), allow_inf_nan=False)


@dataclass(frozen=True)
class Entry:
    """A constructor with a name.

    Attributes:
        name: its name in a recipe.
        build: the constructor.
        external: arguments that do not come from the recipe.
    """

    name: str
    build: Callable[..., Any]
    external: tuple[str, ...] = ()

    @property
    def summary(self) -> str:
        """The first line of its docstring."""
        return (inspect.getdoc(self.build) or "").partition("\n")[0]

    @cached_property
    def options(self) -> type[BaseModel] | None:
        """The legal options; None where a required argument cannot be stated in a text file."""
        target = self.build
        if inspect.isclass(target):
            target = target.__init__
        try:
            parameters = inspect.signature(target, eval_str=True).parameters.values()
        except (NameError, TypeError, ValueError):
            return None
        fields: dict[str, Any] = {}
        for parameter in parameters:
            if parameter.name in ("self", *self.external) or parameter.kind in (
                parameter.VAR_POSITIONAL,
                parameter.VAR_KEYWORD,
            ):
                continue
            kind = statable_type(parameter.annotation)
            if kind is not None:
                default = ... if parameter.default is parameter.empty else parameter.default
                fields[parameter.name] = (kind, list(default) if isinstance(default, tuple) else default)
            elif parameter.default is parameter.empty:
                return None
        return create_model(f"{self.name} options", __base__=Table, **fields)


def statable_type(annotation: Any) -> Any:
    """The part of a type that TOML can state, or None: ``Initializer | None`` has none, ``int | Tensor`` has int."""
    if annotation in _SCALARS:
        return annotation
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return annotation
    if origin in (Union, types.UnionType):
        members = [kind for kind in map(statable_type, arguments) if kind is not None]
        if not members:
            return None
        return Union[tuple([*members, type(None)] if type(None) in arguments else members)]  # noqa: UP007
    if origin in _SEQUENCES and arguments:
        item = statable_type(arguments[0])
        return None if item is None else list[item]  # type: ignore[valid-type]
    return None


def words_of(name: str) -> list[str]:
    """The words of a name in camel or snake case; nothing of it is left out.

    >>> words_of("HMCDensity"), words_of("SMC2"), words_of("factor_analysis")
    (['HMC', 'Density'], ['SMC2'], ['factor', 'analysis'])
    """
    return re.sub(r"([A-Z]+)([A-Z][a-z])|([a-z0-9])([A-Z])", r"\1\3 \2\4", name).replace("_", " ").split()


def kebab(name: str) -> str:
    """The name in a recipe: ``ImportanceSampling`` is "importance-sampling", ``bernoulli_vae`` "bernoulli-vae".

    >>> kebab("PriorSampling"), kebab("VIMCO"), kebab("factor_analysis")
    ('prior-sampling', 'vimco', 'factor-analysis')
    """
    return "-".join(words_of(name)).lower()


def entries_of(
    module: Any, *, external: Iterable[str] = (), of: type | None = None, suffix: str = ""
) -> dict[str, Entry]:
    """The entries of a room: the members of its ``__all__`` whose arguments a recipe can state.

    Args:
        module: the room.
        external: arguments that do not come from the recipe.
        of: a base class; None for functions and classes alike.
        suffix: an ending of class names that a recipe leaves out.
    """
    entries = {}
    for member in module.__all__:
        build = getattr(module, member)
        if of is not None and not (inspect.isclass(build) and issubclass(build, of) and build is not of):
            continue
        if not callable(build) or (inspect.isclass(build) and inspect.isabstract(build)):
            continue
        entry = Entry(kebab(member.removesuffix(suffix) or member), build, tuple(external))
        if entry.options is not None:
            entries[entry.name] = entry
    return entries


def choose(entries: Mapping[str, Entry], name: str, what: str) -> Entry:
    """The entry of this name.

    Raises:
        RunError: there is none; suggests the nearest.
    """
    if name not in entries:
        raise RunError(f"unknown {what} {name!r}: {did_you_mean(name, entries)}")
    return entries[name]


def complete_options(entry: Entry, options: Mapping[str, Any], where: str) -> dict[str, Any]:
    """All options of an entry, defaults filled in, None left out.

    Raises:
        RunError: an unknown option (suggests the nearest), or a wrong type (names key, expected, found).
    """
    model = entry.options
    assert model is not None
    setting = f"{where} {entry.name}:" if where.startswith("--") else None
    return validate(model, options, where, setting).model_dump(exclude_none=True)


def validate(model: type[BaseModel], values: Any, where: str, setting: str | None = None) -> BaseModel:
    """An instance of a table, or a RunError that names every key that is wrong, and shows a value that is right.

    Args:
        model: the table.
        values: what a recipe or a command line says.
        where: the key of the table.
        setting: what stands before the name of an option where one is set; None for the key and a dot.
    """
    too_long = list(_too_long(values, where))
    if too_long:
        raise RunError("\n".join(too_long))
    try:
        return model.model_validate(values)
    except ValidationError as error:
        problems = error.errors()
        lines = dict.fromkeys(_describe(model, problem, where) for problem in problems)
        texts = [text for problem in problems for text in _examples(model, problem)]
        if setting is None:
            examples = dict.fromkeys(f"{where}.{text}" if where else text for text in texts)
        else:
            examples = dict.fromkeys(setting + text.replace('"', "") for text in texts)
        raise RunError("\n".join(lines) + (try_one_of(*examples) if examples else "")) from None


def _too_long(value: Any, key: str) -> Iterator[str]:
    """What is wrong with whole numbers that no 64 bits hold: PyTorch takes none of them, as a size or as a seed."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from _too_long(item, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _too_long(item, key)
    elif isinstance(value, int) and not -(2**63) <= value < 2**64:
        yield f"{key}: expected a whole number of at most 64 bits, found {_abbreviate(value)} (int)"


def _describe(model: type[BaseModel], problem: Any, where: str) -> str:
    place = _place(problem)
    key = ".".join([*([where] if where else []), *place]) or "the recipe"
    if problem["type"] == "extra_forbidden":
        known = _keys(model, place[:-1])
        inside = [f"{table}.{place[-1]}" for table in known if place[-1] in _keys(model, [*place[:-1], table])]
        hint = f"did you mean {inside[0]!r}? Known: {', '.join(sorted(known))}" if inside else None
        return f"unknown key {key!r}: {hint or did_you_mean(place[-1], known)}"
    if problem["type"] == "missing":
        return f"{key}: expected a value, found none"
    expected = problem["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    value = problem["input"]
    return f"{key}: expected {expected}, found {_abbreviate(value)} ({type(value).__name__})"


def _place(problem: Any) -> list[str]:
    """The keys that lead to a value."""
    place = [str(part) for part in problem["loc"]]
    # A union adds a step of its own for its member; the last step may be a key of that name.
    union_step = re.compile(r"[\[\(]|^(int|float|str|bool|list|literal|none)$")
    last = place[-1:] if problem["type"] in ("extra_forbidden", "missing") else []
    return [part for part in place[: len(place) - len(last)] if not union_step.search(part)] + last


def _inner(field: FieldInfo | None) -> type[BaseModel] | None:
    """The table that a key holds, if it holds one."""
    kinds = [] if field is None else [field.annotation, *get_args(field.annotation)]
    return next((kind for kind in kinds if inspect.isclass(kind) and issubclass(kind, BaseModel)), None)


def _keys(model: type[BaseModel], place: list[str]) -> list[str]:
    for part in place:
        inner = _inner(model.model_fields.get(part))
        if inner is None:
            return []
        model = inner
    return list(model.model_fields)


def _examples(model: type[BaseModel], problem: Any) -> Iterator[str]:
    """A value that a key may have, as a line of TOML: ``batch_size=100``."""
    place = _place(problem)
    if problem["type"] == "extra_forbidden":
        return
    field: FieldInfo | None = None
    for count, part in enumerate(place):
        field = model.model_fields.get(part)
        inner = _inner(field)
        if field is None or inner is None:
            place = place[: count + 1]
            break
        model = inner
    else:  # a table: the first of its keys that has an example
        key, field = next((key, field) for key, field in model.model_fields.items() if _values(field))
        yield f"{'.'.join([*place, key])}={json.dumps(_values(field)[0])}"
        return
    for value in _values(field) if field is not None else ():
        yield f"{'.'.join(place)}={json.dumps(value)}"


_INSTANCES: dict[Any, Any] = {int: 10, float: 0.1, str: "name", bool: True}


def _values(field: FieldInfo) -> list[Any]:
    """Values of a field's type: its default, or the words that it may be."""
    kinds = [field.annotation, *get_args(field.annotation)]
    words = [word for kind in kinds if get_origin(kind) is Literal for word in get_args(kind)]
    default = None if field.is_required() else field.get_default(call_default_factory=True)
    if default is not None and default not in words:
        return [] if isinstance(default, dict) else [default, *words]
    lists = [kind for outer in kinds if get_origin(outer) is list for kind in get_args(outer)]
    return words + [[_INSTANCES[kind]] for kind in lists] + [_INSTANCES[kind] for kind in kinds if kind in _INSTANCES]


def _abbreviate(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
