"""Files that someone made up: a recipe, a checkpoint whose sums are right, a dump. Success or a clear error only.

The bounded versions take a few seconds; the long ones (slow) run for as many seconds each as the environment variable
PPVAE_FUZZ_SECONDS says, 60 where it is unset, and print how many files they tried.
"""

from __future__ import annotations

import copy
import json
import math
import os
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from ppvae.core import PpvaeError, RunError
from ppvae.runs import Recipe, Run, resume, train
from ppvae.runs.recipe.catalogue import SCHEDULES, build, build_model, elbo_entries
from ppvae.runs.storage import checkpoint
from ppvae.runs.training.forensics import read_dump, replay
from ppvae.runs.training.prepare import prepare

SECONDS = float(os.environ.get("PPVAE_FUZZ_SECONDS", "60"))
QUICK = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
# One draw of a long version is one file; Hypothesis starts anew, with other draws, until the time is over.
LONG = settings(
    max_examples=100, deadline=None, database=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate]
)
Draw = Callable[[st.SearchStrategy[Any]], Any]


def for_a_while(name: str, once: Callable[[Draw], str]) -> None:
    """Try files until the time is over; tell how many were accepted and how many refused."""
    counts: dict[str, int] = {}
    started = time.monotonic()

    @LONG
    @given(st.data())
    def many(data: st.DataObject) -> None:
        found = once(data.draw)
        counts[found] = counts.get(found, 0) + 1

    while time.monotonic() < started + SECONDS:
        many()
    print(f"\nfuzz {name}: {sum(counts.values())} files in {time.monotonic() - started:.0f} s: {counts}")
    assert counts.get("refused") and len(counts) > 1  # it reaches both sides


def clear(error: PpvaeError, named: str = "") -> None:
    """It says something, and names the file."""
    assert len(str(error)) > 10 and named in str(error)


# --- values, and changes to nested values ----------------------------------------------------------------------------

TELLING = (
    "name pair sha256 model data training elbo trace trace-mean-field vimco step cosine milestones seed digits auto "
    "all none int latent_dim hidden x.py:A ../../etc/passwd /dev/zero $tensor $tuple $dict $counter $float version"
)
WORDS = st.sampled_from(TELLING.split(" ")) | st.text(max_size=8)
NUMBERS = st.sampled_from([0, 1, -1, 2, 1000, 2**31, 2**63, -(2**63) - 1, 10**40]) | st.integers()
FLOATS = st.floats() | st.sampled_from([0.0, -0.0, 1e-320, 1e308, math.inf, math.nan])
LEAVES = st.booleans() | NUMBERS | FLOATS | WORDS
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner, max_size=4), max_leaves=8
)
TAGS = ("$tensor", "$tuple", "$dict", "$counter", "$float")


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all nested values."""
    found = [path]
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inner:
        found += places(item, (*path, key))
    return found


def mutated(draw: Draw, value: Any, values: st.SearchStrategy[Any] = VALUES) -> Any:
    """A nested value with one to three changes: another value, one less, one more, two exchanged."""
    value = copy.deepcopy(value)
    for _ in range(draw(st.integers(1, 3))):
        *path, key = draw(st.sampled_from(places(value)[1:] or [("new",)]))
        holder = value
        for part in path:
            holder = holder[part]
        if not isinstance(holder, dict | list):
            return value
        match draw(st.sampled_from(["replace", "remove", "add", "copy"])):
            case "replace":
                holder[key] = draw(values)
            case "remove":
                del holder[key]
            case "add" if isinstance(holder, dict):
                holder[draw(WORDS)] = draw(values)
            case "add":
                holder.append(draw(values))
            case "copy":
                holder[key] = copy.deepcopy(_at(value, draw(st.sampled_from(places(value)))))
        if not value:
            return value
    return value


def _at(value: Any, path: tuple[Any, ...]) -> Any:
    for part in path:
        value = value[part]
    return value


def bytes_changed(draw: Draw, content: bytes) -> bytes:
    """Bytes with a few changed, cut out, or put in."""
    result = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, max(0, len(result) - 1)))
        match draw(st.sampled_from(["flip", "set", "cut", "insert", "end"])):
            case "flip" if result:
                result[place] ^= 1 << draw(st.integers(0, 7))
            case "set" if result:
                result[place] = draw(st.integers(0, 255))
            case "cut":
                del result[place : place + draw(st.integers(1, 40))]
            case "insert":
                result[place:place] = draw(st.binary(max_size=12))
            case "end":
                del result[place:]
    return bytes(result)


# --- recipes ---------------------------------------------------------------------------------------------------------

RECIPES: list[dict[str, Any]] = [
    {
        "model": {"name": "bernoulli-vae", "latent_dim": 2, "hidden": [8]},
        "data": {"source": "digits", "num_train": 50, "binarize": "static", "image_shape": [8, 8], "test": 0.2},
        "training": {
            "num_epochs": 1,
            "batch_size": 25,
            "elbo": {"name": "importance-weighted", "num_particles": 3},
            "schedule": {"name": "multi-step", "milestones": [1, 2], "gamma": 0.5},
            "early_stopping": {"patience": 3},
            "kl_warmup": {"num_epochs": 2, "start": 0.1},
            "clip_norm": 1.0,
        },
        "seed": 1,
        "device": "cpu",
    },
    {"model": "factor-analysis", "training": {"optimizer": "sgd", "elbo": "trace", "batch_size": "all"}},
    {"model": {"pair": "my_model.py:MyPair", "sha256": "00", "depth": 3}, "data": {"source": "x.npz", "key": "a"}},
]


def recipe_text(draw: Draw) -> bytes:
    kind = draw(st.sampled_from(["values", "values", "text", "bytes"]))
    values = draw(st.sampled_from(RECIPES))
    if kind == "values":
        try:
            return tomli_w.dumps(mutated(draw, values)).encode()
        except (TypeError, UnicodeEncodeError, AttributeError, RecursionError):  # not TOML any more
            return b"seed = 0"
    text = tomli_w.dumps(values).encode()
    return bytes_changed(draw, text) if kind == "text" else bytes(draw(st.binary(max_size=200)))


def one_recipe(draw: Draw, path: Path) -> str:
    """Read it; what is accepted is written and read again, and its estimator, schedule and model are made."""
    path.write_bytes(recipe_text(draw))
    try:
        recipe = Recipe.read(path)
    except RunError as error:
        clear(error, str(path))
        return "refused"
    path.write_text(recipe.to_toml(), encoding="utf-8")
    again = Recipe.read(path).to_dict()
    assert repr(again) == repr(recipe.to_dict())  # repr: NaN is not equal to itself
    try:
        build(elbo_entries(), recipe.training.elbo)
        if recipe.training.schedule is not None:
            optimizer = torch.optim.SGD([torch.zeros(1)], 0.1)
            build(SCHEDULES, recipe.training.schedule)(optimizer)
        if "pair" not in recipe.model and _affordable(recipe.model):
            _, data, _ = _digits()
            with torch.random.fork_rng():
                build_model(recipe.model, data)
    except PpvaeError as error:
        clear(error)
        return "refused when built"
    return "accepted"


def _affordable(table: Mapping[str, Any]) -> bool:
    numbers = [item for value in table.values() for item in (value if isinstance(value, list) else [value])]
    return all(not isinstance(n, int) or n <= 1000 for n in numbers)


_KEPT: list[Any] = []


def _digits() -> Any:
    if not _KEPT:
        _KEPT.append(prepare(Recipe.from_dict(RECIPES[0]).replace(data={"test": None, "image_shape": None})))
    return _KEPT[0]


@QUICK
@given(data=st.data())
def test_recipes(tmp_path: Path, data: st.DataObject) -> None:
    one_recipe(data.draw, tmp_path / "r.toml")


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_recipes_for_a_while(tmp_path: Path) -> None:
    for_a_while("recipes", lambda draw: one_recipe(draw, tmp_path / "r.toml"))


# --- checkpoints, behind their sums ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that was finished, and is gone on with for one more epoch from changed checkpoints."""
    recipe = Recipe.from_dict(RECIPES[0]).replace(data={"test": None, "image_shape": None})
    return train(recipe, tmp_path_factory.mktemp("fuzz") / "run", progress=False)


Files = dict[str, bytes]


def files_of(record: Path) -> Files:
    return {ending: record.with_suffix(ending).read_bytes() for ending in (".json", ".safetensors")}


def write(record: Path, files: Files) -> None:
    """Write the files of a checkpoint with their right sums."""
    for ending, content in files.items():
        record.with_suffix(ending).write_bytes(content)
    record.write_text(
        "".join(f"{checkpoint.sha256(content)}  {record.stem}{ending}\n" for ending, content in files.items())
    )


def changed_files(draw: Draw, files: Files) -> Files:
    kind = draw(st.sampled_from(["state", "state", "values", "tensors", "header", "text"]))
    result = dict(files)
    if kind == "state":  # one value inside the state: most of these get past the decoder
        outer = json.loads(files[".json"])
        inside = [path for path in places(outer["values"]) if len(path) > 1]
        *path, key = draw(st.sampled_from(inside))
        _at(outer["values"], tuple(path))[key] = draw(LEAVES | VALUES)
        result[".json"] = json.dumps(outer).encode()
    elif kind == "values":
        tagged = st.builds(lambda tag, inner: {tag: inner}, st.sampled_from(TAGS), VALUES)
        outer = mutated(draw, json.loads(files[".json"]), VALUES | tagged)
        result[".json"] = json.dumps(outer).encode()  # NaN and Infinity too, which Python's JSON reads
    elif kind == "text":
        result[".json"] = bytes_changed(draw, files[".json"])
    elif kind == "tensors":
        result[".safetensors"] = bytes_changed(draw, files[".safetensors"])
    else:
        content = files[".safetensors"]
        size = int.from_bytes(content[:8], "little")
        header = json.dumps(mutated(draw, json.loads(content[8 : 8 + size]))).encode()
        result[".safetensors"] = len(header).to_bytes(8, "little") + header + content[8 + size :]
    return result


def one_checkpoint(draw: Draw, record: Path, files: Files) -> str:
    write(record, changed_files(draw, files))
    try:
        state, about = checkpoint.read(record)
    except RunError as error:
        clear(error, record.stem)
        return "refused"
    assert isinstance(state, dict)
    assert isinstance(about, dict)
    return "accepted"


def one_resume(draw: Draw, run: Run, record: Path, files: Files) -> str:
    """Go on from it for an epoch: what the decoder takes may still be nonsense to the optimiser."""
    run.folder.recipe.write_text(run.recipe.to_toml())
    write(record, changed_files(draw, files))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            resume(run.folder.path, num_epochs=2, progress=False)
    except PpvaeError as error:
        clear(error)
        return "refused"
    return "accepted"


@pytest.fixture
def record(saved: Run) -> Any:
    (record,) = checkpoint.find_records(saved.folder.checkpoints, "last")
    files = files_of(record)
    yield record
    write(record, files)


@QUICK
@given(data=st.data())
def test_checkpoints(saved: Run, tmp_path: Path, data: st.DataObject) -> None:
    (record,) = checkpoint.find_records(saved.folder.checkpoints, "last")
    one_checkpoint(data.draw, tmp_path / record.name, files_of(record))


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_checkpoints_for_a_while(saved: Run, tmp_path: Path) -> None:
    (record,) = checkpoint.find_records(saved.folder.checkpoints, "last")
    files = files_of(record)
    for_a_while("checkpoints", lambda draw: one_checkpoint(draw, tmp_path / record.name, files))


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_resuming_for_a_while(saved: Run, record: Path) -> None:
    files = files_of(record)

    def once(draw: Draw) -> str:
        for other in checkpoint.find_records(saved.folder.checkpoints, "last"):
            if other != record:
                other.unlink()
        return one_resume(draw, saved, record, files)

    for_a_while("resuming", once)


# --- dumps -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dump(saved: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dump of a step, as ``save_dump`` has it."""
    folder = tmp_path_factory.mktemp("dump")
    x = saved.data.batch(torch.arange(5))
    state = {
        "pair": dict(saved.pair.state_dict()),
        "batch": {"x": x},
        "mapping": False,
        "random_state": torch.get_rng_state(),
        "kl_weight": 1.0,
        "estimator": {},
        "prior_names": [],
        "num_data": 50,
        "indices": [0, 1, 2, 3, 4],
        "step": 4,
    }
    checkpoint.save(folder, "dump", 4, state, {"recipe": saved.recipe.to_dict(), "message": "x"})
    return checkpoint.find_records(folder, "dump")[0]


def one_dump(draw: Draw, path: Path, files: Files) -> str:
    write(path, changed_files(draw, files))
    try:
        read_dump(path)
    except RunError as error:
        clear(error, path.stem)
        return "refused"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            replay(path, _digits()[2])
    except PpvaeError as error:
        clear(error)
        return "refused when replayed"
    return "accepted"


@settings(QUICK, max_examples=60)
@given(data=st.data())
def test_dumps(dump: Path, tmp_path: Path, data: st.DataObject) -> None:
    one_dump(data.draw, tmp_path / dump.name, files_of(dump))


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_dumps_for_a_while(dump: Path, tmp_path: Path) -> None:
    files = files_of(dump)
    for_a_while("dumps", lambda draw: one_dump(draw, tmp_path / dump.name, files))
