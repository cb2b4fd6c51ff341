"""Remedies of errors in the words of the command line: the rooms below speak Python, a command has options.

One translation for all errors, where a message leaves the command: what an option, a key of the recipe, a method or an
estimator can say becomes that; what only Python can say is left out.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, get_args

from typer.models import OptionInfo

from ..core.errors import change_remedies

PHRASES: dict[str, str] = {
    'load("jsb-chorales")': "--data jsb-chorales",
    'load("japanese-vowels")': "--data japanese-vowels",
    "load(...).take(n) for fewer training rows": "data.num_train=N for fewer training rows",
    "batch_size=None for the full batch": "training.batch_size=all for the full batch",
    "batch_size=None, all data at every step": "training.batch_size=all: all data at every step",
    "batch_size=None": "training.batch_size=all",
    "bayesianise(pair)": "ppvae fit --bayesian likelihood",
    'posterior="diagonal" or DiagonalPosterior(scale=...)': "bayesian.posterior=diagonal",  # of weights
    "log_evidence without global_sites": "no --weights",
    'global_sites="mean" (the guide\'s mean)': "no --weights: at the guide's mean",
    'global_sites="mean"': "no --weights",
    'binarization="none"': "data.binarize=none",
    'kind="sample", where the verb has a kind: generate, decode': "--kind sample",
    "fit(kl_warmup=KLWarmup(...)), which weights the KL of all latents": "training.kl_warmup.num_epochs=10, which "
    "weights the KL of all latents",
    "fit(kl_warmup=KLWarmup(...)) instead of poutine.scale": "training.kl_warmup.num_epochs=10",
    "x[None] if it is one datum": "rows of shape [1, D] if it is one datum",
    "x[:, None] if it holds one number for each datum": "rows of shape [N, 1] if it holds one number for each datum",
    "array.astype(float)": "the values as numbers",
    "numpy.save('rows.npy', rows)": "the rows in a .npy file",
    "numpy.savez_compressed(path, x=rows)": "the rows in an .npz file, under the name 'x'",
    "save it again with array.astype(array.dtype.newbyteorder('='))": "save it again in the byte order of this machine",
    "save it again with numpy.ascontiguousarray": "save it again in row order",
    "missing_data_vae and {'x': ..., 'seen': ...}: values filled in, and a mask, True where known": "--model "
    "missing-data-vae, and an .npz file with x, the gaps filled in, and seen, a mask that is True where known",
}
"""Remedies that no rule translates, in the words of Python and of a recipe. A test sees to it that each is said."""

_ALIASES = {"num_epochs": "epochs", "modules": "bayesian"}
"""Arguments that an option of the command calls otherwise."""

_CLASSES = (("method", "evidence_entries"), ("elbo", "elbo_entries"), ("estimator", "elbo_entries"))
"""Options that name a constructor, and the entries of the catalogue that they choose from."""

_CALL_OF_A_VERB = re.compile(r"\b(?:fit|bayesianise)\((?:\.\.\., *)?((?:[^()]|\([^()]*\))*=(?:[^()]|\([^()]*\))*)\)")
_KEYWORD = re.compile(
    r"(?<![\w.:,-])([a-z]\w*(?:\.[a-z]\w*)*)=(\"[^\"]*\"|'[^']*'|\[[^\]]*\]|[^\s,;()]+(?:\([^)]*\))?)"
)
_CALL = re.compile(
    r"[A-Za-z_]\w*\(|\w\[|`|\{|\b[a-z]\w*=\S|"
    r"\b(torch|np|numpy|nn|pyro|ppvae|elbo|evidence|poutine|inference|functools|self|pair|array)\.[A-Za-z_]"
)
_COMMAND = re.compile(
    r"`?(ppvae |pip install ).*|(?<!\w)--?[a-z][\w-]*([ =]\S+)?|\b[A-Z_]{3,}=\S+|\b[\w./-]+\.(npy|toml|py)\b"
)
_RECIPE_KEY = re.compile(r"(?<![\w.])(?<!--set )(?:model|data|training|bayesian)\.[a-z_.]+\b(?!=)")


def in_options(message: str, verb: Callable[..., Any], values: Mapping[str, Any], *, own_pair: bool) -> str:
    """A message whose remedies are those of a command.

    Args:
        message: of an error.
        verb: the function of the command, whose signature says its options.
        values: of its arguments.
        own_pair: whether the error is about programs of the user's own: remedies in Python are for their file.
    """
    words = _Words(verb, values, message)

    def change(remedy: str) -> str | None:
        text = words.translate(remedy)
        return text if text is not None else (remedy if own_pair else None)

    return change_remedies(message, change)


class _Words:
    """What one command can say: its options, the keys of its recipe, and the methods and estimators."""

    def __init__(self, verb: Callable[..., Any], values: Mapping[str, Any], message: str) -> None:
        self.flags = dict(_flags(verb))
        self.values, self.head = values, message.partition("\n")[0]

    def translate(self, remedy: str) -> str | None:
        """The remedy as options; None where only Python can say it."""
        text = PHRASES.get(remedy, remedy)
        if re.search(r"\bppvae [a-z]", text):
            return text  # a command already
        if text.startswith(("--", "no --")) and set(re.findall(r"--[a-z-]+", text)) - set(self.flags.values()):
            return None
        text = _CALL_OF_A_VERB.sub(r"\1", text)
        text = self._classes(text)
        text = _KEYWORD.sub(self._keyword, text)
        text = re.sub(r"\b[a-z]+_[a-z_]+\b(?!=| = )", lambda found: self.flags.get(found[0], found[0]), text)
        if "set_" in self.flags:
            text = _RECIPE_KEY.sub(lambda found: f"--set {found[0]}=...", text)
        return _without_python(text)

    def _classes(self, text: str) -> str:
        """``AIS(start="prior")`` as ``--method ais:start=prior``."""
        from ..runs.recipe import catalogue

        for parameter, entries in _CLASSES:
            if parameter not in self.flags:
                continue
            by_name = {entry.build.__name__: entry for entry in getattr(catalogue, entries)().values()}
            names = "|".join(sorted(by_name, key=len, reverse=True))
            pattern = rf"(?<![\w.=])(?:method=)?(?:elbo\.|evidence\.)?({names})\b(?:\(([^()]*)\))?"

            def say(found: re.Match[str], parameter: str = parameter, known: Mapping[str, Any] = by_name) -> str:
                entry = known[found[1]]
                positions = iter(entry.options.model_fields)
                given = [part.strip() for part in (found[2] or "").split(",") if part.strip(" .")]
                options = [_in_toml(one if "=" in one else f"{next(positions, '')}={one}") for one in given]
                return f"{self.flags[parameter]} {entry.name}" + (":" + ",".join(options) if options else "")

            text = re.sub(pattern, say, text)
        return text

    def _keyword(self, found: re.Match[str]) -> str:
        """``batch_size=20`` as ``--batch-size 20``, and what a recipe alone can say as ``--set KEY=VALUE``."""
        name, value = found[1], found[2].strip("\"'")
        name = _ALIASES.get(name, name)
        if "(" in value or value == "lambda" or value.startswith("--"):
            return found[0]
        if name in self.flags:
            flag = self.flags[name]
            if value == "True":
                return flag
            return f"no {flag}" if value in ("None", "False") else f"{flag}{'' if value == '...' else ' ' + value}"
        value = _in_toml(value)
        for parameter, entry in self._chosen():
            if name in entry.options.model_fields:
                return f"{self.flags[parameter]} {entry.name}:{name}={value}"
        key = self._key(name) if "set_" in self.flags else None
        return found[0] if key is None else f"--set {key}={value}"

    def _chosen(self) -> Iterator[tuple[str, Any]]:
        """The methods and estimators that the command names, with their options; first those that the error names."""
        from ..runs.recipe import catalogue

        found = []
        for parameter, entries in _CLASSES:
            given = self.values.get(parameter) or ()
            texts = [given] if isinstance(given, str) else list(given)
            if parameter == "method" and self.values.get("num_samples"):
                texts.append("importance-sampling")
            known = getattr(catalogue, entries)() if texts else {}
            found += [(parameter, known[name]) for text in texts if (name := text.partition(":")[0]) in known]
        yield from sorted(found, key=lambda item: item[1].build.__name__ not in self.head)

    def _key(self, name: str) -> str | None:
        """The key of a recipe that an argument is called by, ``training.clip_norm``; a key itself as it is."""
        from ..runs.recipe.catalogue import elbo_entries, model_entries
        from ..runs.recipe.recipe import Recipe

        if name.partition(".")[0] in Recipe.model_fields:
            return name
        for table, field in Recipe.model_fields.items():
            kinds = [kind for kind in (field.annotation, *get_args(field.annotation)) if inspect.isclass(kind)]
            if any(name in getattr(kind, "model_fields", {}) for kind in kinds):
                return f"{table}.{name}"
        model = model_entries().get(self.values.get("model") or "")
        if model is not None or not self.values.get("pair"):
            models = [model] if model is not None else list(model_entries().values())
            if any(one.options is not None and name in one.options.model_fields for one in models):
                return f"model.{name}"
        if any(one.options is not None and name in one.options.model_fields for one in elbo_entries().values()):
            return f"training.elbo.{name}"
        return None


def _in_toml(text: str) -> str:
    """A value as an option takes it: without quotes and blanks, and truth values as TOML has them."""
    text = re.sub(r"[\"'\s]", "", text)
    return re.sub(r"\b(True|False)$", lambda found: found[0].lower(), text)


def _flags(verb: Callable[..., Any]) -> Iterator[tuple[str, str]]:
    """The options of a verb: the name of the argument, and what the command line calls it."""
    for name, parameter in inspect.signature(verb, eval_str=True).parameters.items():
        for option in get_args(parameter.annotation)[1:]:
            if isinstance(option, OptionInfo):
                long = [word for word in option.param_decls or () if word.startswith("--")]
                yield name, long[0] if long else f"--{name.replace('_', '-')}"


def _without_python(text: str) -> str | None:
    """What of a remedy is no Python: its first alternatives, or what stands before a colon."""
    if not _is_python(text):
        return text
    for separator in (": ", " or ", ", "):
        pieces = text.split(separator)
        for count in range(len(pieces) - 1, 0, -1):
            if not _is_python(start := separator.join(pieces[:count])):
                return start.rstrip(" ,:")
    return None


def _is_python(text: str) -> bool:
    from ..runs.recipe.catalogue import elbo_entries, evidence_entries

    classes = {entry.build.__name__ for entry in (*elbo_entries().values(), *evidence_entries().values())}
    text = _COMMAND.sub("", text)
    return _CALL.search(text) is not None or not classes.isdisjoint(re.findall(r"\w+", text))
