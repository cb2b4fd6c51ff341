"""Names at the command line: lists of them, their completion, and how options show in a help text."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
from typer.testing import CliRunner

from ppvae.cli import completion
from ppvae.cli.main import app
from ppvae.data.registry import REGISTRY
from ppvae.inference.prediction.masks import Region
from ppvae.runs.recipe.catalogue import elbo_entries, evidence_entries, model_entries, part_entries

LISTS: list[tuple[list[str], Any]] = [
    (["fit", "--model", "list"], model_entries),
    (["fit", "--elbo", "list"], elbo_entries),
    (["fit", "--prior", "list"], lambda: part_entries()["prior"]),
    (["fit", "--posterior", "list"], lambda: part_entries()["posterior"]),
    (["evaluate", "--method", "list"], evidence_entries),
    (["compare-elbos", "--estimator", "list"], elbo_entries),
]


def good(*words: str, **environment: str) -> str:
    result = CliRunner().invoke(app, list(words), env=environment)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.parametrize(("words", "entries"), LISTS)
def test_a_list_says_what_each_is_and_its_options(
    words: list[str], entries: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a pipe a line each, so that it can be searched; at a width, within it."""
    monkeypatch.delenv("COLUMNS", raising=False)
    known = dict(sorted(entries().items()))
    lines = good(*words).splitlines()
    heads = [line for line in lines if not line.startswith(" ")]
    assert [line.split()[0] for line in heads] == list(known)
    for line, entry in zip(heads, known.values(), strict=True):
        assert line.endswith(entry.summary)
    assert len(lines) == sum(1 + bool(entry.options.model_fields) for entry in known.values())
    for width in (80, 120):
        wrapped = good(*words, COLUMNS=str(width)).splitlines()
        assert max(map(len, wrapped)) <= width
        assert " ".join(" ".join(wrapped).split()) == " ".join(" ".join(lines).split())
    listed = json.loads(good(*words, "--json"))
    assert {name: one["summary"] for name, one in listed.items()} == {name: one.summary for name, one in known.items()}


def test_options_are_shown_as_they_are_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    text = good("evaluate", "--method", "list")
    assert "trust=false" in text
    assert "target_error=0.05, budget (none)" in text
    assert "hidden=[500], activation=tanh" in good("fit", "--model", "list")
    assert "alpha (required), num_particles=5" in good("fit", "--elbo", "list")


def test_data_sets_are_listed_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    lines = good("data", "list").splitlines()
    assert [line.split()[0] for line in lines[::2]] == list(REGISTRY)
    assert lines[1].strip() == "1297 train, 200 validation, 300 test; bundled with scikit-learn"
    details = dict(zip((line.split()[0] for line in lines[::2]), lines[1::2], strict=True))
    assert details["newsgroups"].strip().startswith("11258 train, 7487 test; ")  # no validation part
    assert max(map(len, good("data", "list", COLUMNS="80").splitlines())) <= 80


def test_what_is_completed_is_what_there_is() -> None:
    assert sorted(completion.MODELS) == sorted(model_entries())
    assert sorted(completion.PRIORS) == sorted(part_entries()["prior"])
    assert sorted(completion.POSTERIORS) == sorted(part_entries()["posterior"])
    assert sorted(completion.LIKELIHOODS) == sorted(part_entries()["likelihood"])
    assert sorted(completion.ELBOS) == sorted(elbo_entries())
    assert sorted(completion.METHODS) == sorted(evidence_entries())
    assert sorted(completion.DATA_SETS) == sorted(REGISTRY)
    assert get_args(Region) == completion.REGIONS


def completed(words: str, shell: str = "bash") -> list[str]:
    """What a shell is told, by the variables that its script sets; nothing heavy is imported for it."""
    environment = {"_PPVAE_COMPLETE": f"complete_{shell}", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    environment |= {"_TYPER_COMPLETE_ARGS": words, "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    command = [sys.executable, "-X", "importtime", "-m", "ppvae"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})
    assert done.returncode == 0, done.stderr
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "typer" in imported
    assert imported & {"torch", "pyro", "numpy", "pandas"} == set()
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ("ppvae fit --model b", ["bernoulli-vae"]),
        ("ppvae fit --elbo s", ["score-function", "sticking-the-landing"]),
        ("ppvae fit --data ", list(completion.DATA_SETS)),
        ("ppvae evaluate runs/x --method p", ["prior-sampling", "psis"]),
        ("ppvae compare-elbos runs/x --estimator vim", ["vimco"]),
        ("ppvae restore runs/x --mask b", ["bottom", "box"]),
        ("ppvae restore runs/x --task s", ["super-resolve"]),
        ("ppvae ev", ["evaluate"]),
    ],
)
def test_completion(words: str, names: list[str]) -> None:
    assert completed(words) == names


def test_other_shells() -> None:
    assert completed("ppvae fit --model b", "fish") == ["bernoulli-vae"]
    assert '"bernoulli-vae"' in " ".join(completed("ppvae fit --model b", "zsh"))


def test_completion_is_installed_without_a_network(tmp_path: Path) -> None:
    """In a home of its own; the script asks the command."""
    environment = {**os.environ, "HOME": str(tmp_path), "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    command = [sys.executable, "-m", "ppvae", "--install-completion", "bash"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    scripts = [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
    assert any("_PPVAE_COMPLETE=complete_bash" in text for text in scripts)


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["demo"],
        ["fit"],
        ["evaluate"],
        ["sample"],
        ["report"],
        ["restore"],
        ["compare-elbos"],
        ["replay"],
        ["data", "list"],
    ],
)
def test_flags_are_shown_as_flags(words: list[str]) -> None:
    text = good(*words, "--help", COLUMNS="100")
    assert "--help" in text
    assert "bool" not in text.replace("boolean", "").lower()
    assert "Usage: " in text
