"""What a pair's programs read besides their batch, and whether any of it has changed.

A recorded graph, and a pair's structure, are valid while attributes, modules, closures and globals stay as they were.
Parameters and buffers are compared as objects: their values are inputs of a graph and may change.
"""

from __future__ import annotations

import argparse
import functools
import inspect
import sys
import types
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from pyro.nn.module import PyroModule
from torch import Tensor, nn

from .pair import ModelGuidePair

# Bookkeeping of modules and pairs, which no program reads.
_OWN = {*vars(nn.Module()), *vars(PyroModule("own"))} - {"training"}
_OWN |= {
    "_keys",
    "_structures",
    "_fingerprint",
    "_audits",
    "_found_plate",
    "_adopted_constraints",
    "vectorizes",
    "accepts_num_data",
    "_mean_sites",
    "_draw_names",
}
_LIBRARIES = {"torch", "pyro", "ppvae", "numpy", "zuko", *sys.stdlib_module_names} - {"__main__"}
_RECORDS = (types.SimpleNamespace, argparse.Namespace)
_MANY = 64
_DEPTH = 6
_NOTHING = object()
_CONSTANT = (bool, int, float, complex, str, bytes, torch.dtype, torch.device)


def fingerprint(pair: ModelGuidePair) -> dict[str, Any]:
    """All that the programs of a pair read and that may change, by name.

    Modules, parameters, buffers and objects in general stand for themselves; of modules, objects and functions of the
    user's own the attributes, closures and globals of the same file are listed too, containers of up to 64 elements
    by their elements. What is hidden deeper (the state of a generator, say) is not seen.
    """
    entries: dict[str, Any] = {}
    walk = _Walk(entries)
    walk.module("", pair)
    walk.versions()
    return entries


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """The names whose entries differ between two fingerprints, sorted."""
    missing = [name for name in before if name not in after]
    return sorted(missing + [name for name, value in after.items() if not _same(before.get(name, _NOTHING), value)])


def _same(one: Any, other: Any) -> bool:
    return one is other or (type(one) is type(other) and isinstance(one, _CONSTANT) and bool(one == other))


class _Walk:
    """Collects a fingerprint; every object is entered once."""

    def __init__(self, entries: dict[str, Any]) -> None:
        self.entries = entries
        self.visited: set[int] = set()
        self.tensors: list[Tensor] = []
        self.loose: list[tuple[str, Tensor]] = []

    def module(self, prefix: str, module: nn.Module) -> None:
        """A module's attributes, tensors and submodules; the prefix ends with a dot, or is empty."""
        if id(module) in self.visited:
            return
        self.visited.add(id(module))
        entries = self.entries
        for name, parameter in module._parameters.items():
            entries[prefix + name] = parameter
            if parameter is not None:
                self.tensors.append(parameter)
                entries[prefix + name + ".requires_grad"] = parameter.requires_grad
        for name, buffer in module._buffers.items():
            entries[prefix + name] = buffer
            if buffer is not None:
                self.tensors.append(buffer)
        for name, part in module._modules.items():
            entries[prefix + name] = part
            if part is not None:
                self.module(f"{prefix}{name}.", part)
        for name, value in module.__dict__.items():
            if name not in _OWN:
                if type(value) in _CONSTANT or value is None:
                    entries[prefix + name] = value
                else:
                    self.value(prefix + name, value, 0)
        self.class_of(prefix, type(module))

    def class_of(self, prefix: str, kind: type) -> None:
        """Attributes and methods of a class of the user's own."""
        functions, attributes = _members(kind)
        for owner, name in attributes:
            if f"{prefix}{name}" not in self.entries and name in vars(owner):
                self.value(f"{prefix}{name}", vars(owner)[name], 1)
        for function in functions:
            self.function(function, 1)

    def value(self, name: str, value: Any, depth: int) -> None:
        """Anything that an attribute, a closure, a global or a container holds."""
        while name in self.entries:  # two functions of one name, or one attribute reached in two ways
            name += "'"
        if type(value) in _CONSTANT or value is None:
            self.entries[name] = value
        elif isinstance(value, Tensor):
            self.entries[name] = value
            if not isinstance(value, nn.Parameter) and not value.is_inference():
                self.loose.append((name, value))
        elif id(value) in self.visited:
            self.entries[name] = value
        elif isinstance(value, nn.Module):
            self.entries[name] = value
            self.module(f"{name}.", value)
        elif depth < _DEPTH:
            self.composite(name, value, depth)

    def versions(self) -> None:
        """Tensors that are no parameter or buffer are constants of a graph, unless they share the memory of one."""
        if self.loose:
            addresses = {tensor.data_ptr() for tensor in self.tensors}
            for name, tensor in self.loose:
                if tensor.data_ptr() not in addresses:
                    self.entries[name + " in place"] = tensor._version

    def composite(self, name: str, value: Any, depth: int) -> None:
        """What is no constant, tensor or module: by its parts where a program may change these."""
        kind: type = type(value)
        if isinstance(value, dict | list | tuple | set | frozenset):
            self.visited.add(id(value))
            self.entries[name + " length"] = len(value)
            if len(value) > _MANY or isinstance(value, set | frozenset):
                self.entries[name] = value if len(value) > _MANY else ", ".join(sorted(map(repr, value)))
                return
            items = list(value.items() if isinstance(value, dict) else enumerate(value))
            for key, item in items:
                self.value(f"{name}[{key!r}]" if isinstance(key, str | int) else f"{name}[...]", item, depth + 1)
        elif isinstance(value, functools.partial):
            self.value(f"{name}.func", value.func, depth + 1)
            self.value(f"{name}.args", value.args, depth + 1)
            self.value(f"{name}.keywords", value.keywords, depth + 1)
        elif isinstance(value, types.MethodType):
            self.value(f"{name}.owner", value.__self__, depth + 1)
            self.function(value.__func__, depth + 1)
        elif isinstance(value, types.FunctionType):
            self.entries[name] = value.__code__
            self.function(value, depth + 1)
        elif isinstance(value, _RECORDS) or (_is_user_class(kind) and hasattr(value, "__dict__")):
            self.visited.add(id(value))
            self.entries[name] = value
            for key, item in list(vars(value).items()):
                self.value(f"{name}.{key}", item, depth + 1)
            self.class_of(f"{name}.", kind)
        elif not _is_transient(kind):
            self.entries[name] = value
            if isinstance(value, np.ndarray) and value.size <= _MANY and not value.dtype.hasobject:
                self.entries[f"{name} in place"] = value.tobytes()

    def function(self, function: Callable[..., Any], depth: int) -> None:
        """What a function reads: its closure, and the globals of its file."""
        function = inspect.unwrap(function)
        if id(function) in self.visited or not isinstance(function, types.FunctionType) or depth > _DEPTH:
            return
        self.visited.add(id(function))
        where = function.__name__
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            try:
                content = cell.cell_contents
            except ValueError:  # empty still
                continue
            self.value(f"{name} in {where}", content, depth)
        if function.__module__ and function.__module__.partition(".")[0] in _LIBRARIES:
            return
        for name in _names(function.__code__):
            value = function.__globals__.get(name, _NOTHING)
            if value is _NOTHING or isinstance(value, types.ModuleType | type | types.BuiltinFunctionType):
                continue
            if isinstance(value, types.FunctionType) and value.__globals__ is not function.__globals__:
                continue  # imported: a library's
            self.value(f"{name} in {where}", value, depth)


@functools.lru_cache(maxsize=1024)
def _names(code: types.CodeType) -> tuple[str, ...]:
    """Names that a function, and the functions inside it, look up beyond their own variables."""
    inner = [name for part in code.co_consts if isinstance(part, types.CodeType) for name in _names(part)]
    return tuple(dict.fromkeys((*code.co_names, *inner)))


@functools.lru_cache(maxsize=1024)
def _members(kind: type) -> tuple[tuple[Callable[..., Any], ...], tuple[tuple[type, str], ...]]:
    """Functions of a user's class, and the names of its other attributes with the class that has them."""
    functions: list[Callable[..., Any]] = []
    attributes: list[tuple[type, str]] = []
    for owner in kind.__mro__:
        if not _is_user_class(owner):
            continue
        for name, value in vars(owner).items():
            value = value.__func__ if isinstance(value, staticmethod | classmethod) else value
            value = value.fget if isinstance(value, property) else value
            if isinstance(value, types.FunctionType):
                functions.append(value)
            elif not name.startswith("__") and name != "_abc_impl":
                attributes.append((owner, name))
    return tuple(functions), tuple(attributes)


@functools.lru_cache(maxsize=1024)
def _is_user_class(kind: type) -> bool:
    """Whether a class was written by the user, and not by a library."""
    return (kind.__module__ or "").partition(".")[0] not in _LIBRARIES


@functools.lru_cache(maxsize=1024)
def _is_transient(kind: type) -> bool:
    """Whether objects of a class come and go with every run of a program: plates, traces, handlers, weak references."""
    module = kind.__module__ or ""
    return (
        kind.__name__.startswith("Weak")
        or module in ("weakref", "_weakref")
        or (module.startswith("pyro.") and not module.startswith("pyro.distributions"))
    )
