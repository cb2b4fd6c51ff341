"""What cannot work is told before work begins, by the name of the option; and output never fails by its encoding."""

from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner, Result

from ppvae.cli import terminal
from ppvae.cli.main import app, main
from ppvae.core.bounds import MEMORY_VARIABLE

SMALL = ["--set", "data.num_train=100", "--set", "model.hidden=[4]", "--set", "training.compile=eager", "--epochs", "1"]
FIT = ["fit", "--model", "bernoulli-vae", *SMALL]
LONG = "9" * 23


def call(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def told(result: Result) -> str:
    """The message, without the frame that typer draws around its own."""
    assert result.exit_code in (1, 2), result.output
    assert "Traceback" not in result.output
    assert "an error inside ppvae" not in result.output
    assert result.stdout == ""
    return " ".join(result.stderr.replace("│", " ").split())


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("refusals") / "run"
    result = call(*FIT, "--out", out)
    assert result.exit_code == 0, result.output
    return out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        *(
            (["--learning-rate", x], f"training.learning_rate: expected a finite number, found {x}")
            for x in ("inf", "nan")
        ),
        *(
            (["--learning-rate", x], f"training.learning_rate: expected greater than 0, found {x}")
            for x in ("0.0", "-1.0")
        ),
        (["--set", "training.learning_rate=inf"], "training.learning_rate: expected a finite number"),
        (["--set", "bayesian.prior_scale=inf"], "bayesian.prior_scale: expected a finite number, found inf"),
        (["--seed", "-1"], "Invalid value for '--seed'"),
        (["--seed", str(2**64)], "Invalid value for '--seed'"),
        (["--set", f"seed={LONG}"], f"seed: expected a whole number of at most 64 bits, found {LONG}"),
        (["--set", "seed=-1"], "seed: expected greater than or equal to 0, found -1"),
        (["--set", f"data.seed={LONG}"], "data.seed: expected a whole number of at most 64 bits"),
        (["--set", "data.seed=-1"], "data.seed: expected greater than or equal to 0, found -1"),
        (["--epochs", LONG], "training.num_epochs: expected a whole number of at most 64 bits"),
        (["--threads", LONG], "Invalid value for '--threads'"),
        (["--set", "model.hidden=[0]"], "model.hidden: expected at least one unit in every layer, found [0]"),
        (["--set", "model.hidden=[5, -3]"], "model.hidden: expected at least one unit in every layer, found [5, -3]"),
        (["--set", "model.latent_dim=0"], "model.latent_dim: expected at least one latent dimension, found 0"),
        (["--set", f"model.latent_dim={LONG}"], "model.latent_dim: expected a whole number of at most 64 bits"),
        (["--set", f"model.latent_dim={2**62}"], "has more parameters than 64 bits can count"),
        (
            ["--set", "model.latent_dim=10000000000"],
            "model.latent_dim=10000000000, model.hidden=[4]: such a bernoulli-vae has 150,000,000,584 parameters, "
            "600.0 GB; with gradients and the averages of Adam, 4 times as much, that is more than the memory limit of",
        ),
    ],
)
def test_fit_refuses(words: list[str], message: str, tmp_path: Path) -> None:
    """And the folder holds no run, nor a part of one."""
    out = tmp_path / "out"
    assert message in told(call(*FIT, *words, "--out", out))
    assert [path for path in out.rglob("*") if not path.name.startswith(".")] == []


def test_a_seed_of_64_bits_is_one(tmp_path: Path) -> None:
    words = ["--seed", 2**64 - 1, "--set", f"data.seed={2**64 - 1}", "--set", "data.binarize=static"]
    assert call(*FIT, *words, "--out", tmp_path / "out").exit_code == 0


@pytest.mark.parametrize("verb", ["evaluate", "sample", "restore", "compare-elbos", "report"])
def test_seeds_of_every_verb(verb: str, run: Path) -> None:
    for seed in (-1, 2**64):
        assert "Invalid value for '--seed'" in told(call(verb, run, "--seed", seed))


@pytest.mark.parametrize(
    ("words", "place"),
    [
        (["fit", "--model", "bernoulli-vae"], "run"),
        (["demo"], "run"),
        (["evaluate", "RUN"], "numbers.json"),
        (["sample", "RUN"], "x.npy"),
        (["restore", "RUN"], "x.png"),
        (["compare-elbos", "RUN"], "folder"),
        (["report", "RUN"], "page.html"),
    ],
)
def test_a_place_that_cannot_be_written_is_told_before_work(
    words: list[str], place: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder below a file stands for one without permission, which root has everywhere."""
    for name in (
        "ppvae.runs.train",
        "ppvae.runs.evaluation.evaluation.evaluate",
        "ppvae.inference.prediction.generate",
        "ppvae.report.restored.restore",
    ):
        monkeypatch.setattr(name, lambda *_, **__: pytest.fail("work has begun"))
    monkeypatch.setattr("ppvae.report.write_report", lambda *_, **__: pytest.fail("work has begun"))
    monkeypatch.setattr(
        "ppvae.inference.comparison.compare.compare_elbos", lambda *_, **__: pytest.fail("work has begun")
    )
    file = tmp_path / "file"
    file.touch()
    text = told(call(*[word.replace("RUN", str(run)) for word in words], "--out", file / place))
    assert f"error: --out {file / place}: cannot be" in text
    assert "Not a directory" in text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


def test_a_file_cannot_stand_where_a_folder_does(run: Path, tmp_path: Path) -> None:
    (tmp_path / "x.npy").mkdir()
    assert "x.npy: cannot be written: it is a folder" in told(call("sample", run, "--out", tmp_path / "x.npy"))


def test_more_data_than_memory_holds(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = told(call("sample", run, "--num", 10**12))
    assert "--num 1000000000000: 1000000000000 data of 256 bytes, drawn and written: takes 768.0 TB" in text
    assert "Invalid value for '-k'" in told(call("evaluate", run, "-k", LONG)).replace("'--num-samples' / ", "")
    monkeypatch.setenv(MEMORY_VARIABLE, "much")
    assert "PPVAE_MEMORY: expected bytes, as 64GB or 500MB, found 'much'" in told(call("sample", run))


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried 9 bytes."
        ),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 bytes.\nmore"),
    ],
)
def test_memory_that_is_not_enough_is_told(error: Exception, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise error

    monkeypatch.setattr("ppvae.runs.load_run", fail)
    text = told(call("sample", run))
    assert text.startswith("error: out of memory: ")
    assert "Try one of: - fewer data at once" in text


def test_a_fifo_is_no_recipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "recipe.toml")
    assert f"{tmp_path / 'recipe.toml'}: a FIFO, not a file" in told(call("fit", tmp_path / "recipe.toml"))
    os.mkfifo(tmp_path / "rows.npy")
    text = told(call(*FIT, "--data", tmp_path / "rows.npy", "--out", tmp_path / "out"))
    assert "rows.npy: a FIFO, not a file" in text


# --- terminals that have few signs ----------------------------------------------------------------


def printed(monkeypatch: pytest.MonkeyPatch, encoding: str, *words: object) -> tuple[str, str]:
    """What the command writes to an output and an error stream of this encoding, which are strict at first."""
    streams = [io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict", write_through=True) for _ in range(2)]
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", streams[0])
        patch.setattr(sys, "stderr", streams[1])
        patch.setattr(sys, "argv", ["ppvae", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
    texts = [stream.buffer.getvalue().decode(encoding) for stream in streams]  # type: ignore[attr-defined]
    assert ended.value.code == 0, texts
    return texts[0], texts[1]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_no_output_fails_by_its_encoding(encoding: str, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The numbers are the same everywhere; the sign before an error is spelt where there is none."""
    sign = "+-" if encoding == "ascii" else "±"
    out, lines = printed(monkeypatch, encoding, "evaluate", run, "-k", 3, "--num-data", 20, "--again")
    assert f"{sign} noise" in out
    assert f" {sign} " in lines
    words = ["--repeats", 4, "--num-data", 5, "--estimator", "trace"]
    assert f" {sign} " in printed(monkeypatch, encoding, "compare-elbos", run, *words)[0]
    assert "Usage: " in printed(monkeypatch, encoding, "--help")[0]
    assert "digits" in printed(monkeypatch, encoding, "data", "list")[0]


def test_json_is_the_same_value_in_every_encoding(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "ŷ ± é.npy"
    for encoding in ("ascii", "latin-1", "utf-8"):
        text = printed(monkeypatch, encoding, "sample", run, "-n", 2, "--out", path, "--json")[0]
        assert json.loads(text)["file"] == str(path)


def test_every_sign_of_the_command_line_has_a_spelling() -> None:
    terminal.prepare_output()
    sources = Path(terminal.__file__).parent.parent.rglob("*.py")
    signs = sorted({sign for source in sources for sign in source.read_text(encoding="utf-8") if ord(sign) > 127})
    assert {"±", "…", "₁"} <= set(signs)
    for sign in signs:
        spelt = sign.encode("ascii", "ppvae-signs").decode("ascii")
        assert spelt.isprintable() and spelt
    text = "−1.0 ± 0.5 × 10 → ∞, é…, θ".encode("ascii", "ppvae-signs").decode("ascii")
    assert text == "-1.0 +- 0.5 x 10 -> inf, e..., \\u03b8"


def test_chains_are_of_one_run(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["report", str(tmp_path), str(tmp_path / "other"), "--chains", "3"])
    assert done.exit_code == 2 and "--chains is for the page of one run" in done.output
