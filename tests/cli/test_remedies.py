"""What an error that reaches the command line suggests is something that the command line has."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import ppvae
from ppvae.cli.common import verb
from ppvae.cli.compare_elbos import compare_elbos
from ppvae.cli.evaluate import evaluate
from ppvae.cli.fit import fit
from ppvae.cli.main import app
from ppvae.cli.remedies import PHRASES, in_options
from ppvae.cli.report import report
from ppvae.cli.sample import sample
from ppvae.core import PairError
from ppvae.core.errors import RunError, change_remedies, prefix_lines, try_one_of
from ppvae.runs import Recipe

SMALL = ["--set", "data.num_train=100", "--set", "model.hidden=[4]", "--set", "training.compile=eager", "--epochs", "1"]
FIT = ["fit", "--model", "bernoulli-vae", *SMALL]


def refused(*words: object) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 1, result.output
    assert "an error inside ppvae" not in result.output
    return result.stderr


def remedies_of(text: str) -> list[str]:
    return [line.removeprefix("  - ") for line in text.splitlines() if line.startswith("  - ")]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("remedies") / "run"
    result = CliRunner().invoke(app, [*FIT, "--out", str(out)])
    assert result.exit_code == 0, result.output
    return out


# What a function of the library suggests, and what each command says instead; None where it has no word for it.
TRANSLATIONS: list[tuple[Callable[..., Any], dict[str, Any], str, str | None]] = [
    (fit, {}, "load(...).take(n) for fewer training rows", "--set data.num_train=N for fewer training rows"),
    (evaluate, {}, "load(...).take(n) for fewer training rows", None),
    (fit, {}, "batch_size=20 or smaller", "--batch-size 20 or smaller"),
    (fit, {}, "fit(..., batch_size=20)", "--batch-size 20"),
    (fit, {}, "batch_size=None for the full batch", "--set training.batch_size=all for the full batch"),
    (fit, {}, "a smaller learning_rate", "a smaller --learning-rate"),
    (fit, {}, "clip_norm=...", "--set training.clip_norm=..."),
    (fit, {}, "flatten=False", "--set data.flatten=false"),
    (fit, {}, 'device="cpu"', "--device cpu"),
    (sample, {}, 'device="cpu"', "--device cpu"),
    (report, {}, "seed=3", "--seed 3"),
    (fit, {}, "num_epochs=40", "--epochs 40"),
    (fit, {}, 'mean="identity"', "--set model.mean=identity"),
    (fit, {}, "leave it out of modules=...", "leave it out of --bayesian"),
    (
        fit,
        {},
        'weight_noise="shared", which serves any layer',
        "--set bayesian.weight_noise=shared, which serves any layer",
    ),
    (fit, {}, 'posterior="diagonal" or DiagonalPosterior(scale=...)', "--set bayesian.posterior=diagonal"),
    (fit, {}, "TraceMeanFieldELBO(on_missing_kl='sample')", "--elbo trace-mean-field:on_missing_kl=sample"),
    (compare_elbos, {}, "TraceELBO(), which samples every KL", "--estimator trace, which samples every KL"),
    (evaluate, {}, "TraceELBO()", None),
    (fit, {"elbo": "vimco:num_particles=1"}, "num_particles=2 or more", "--elbo vimco:num_particles=2 or more"),
    (evaluate, {}, "AIS(start='prior')", "--method ais:start=prior"),
    (evaluate, {}, "PriorSampling, ImportanceSampling", "--method prior-sampling, --method importance-sampling"),
    (fit, {}, "PriorSampling, ImportanceSampling", None),
    (
        evaluate,
        {},
        "method=ImportanceSampling(1000), AIS() or BridgeSampling()",
        "--method importance-sampling:num_samples=1000, --method ais or --method bridge-sampling",
    ),
    (evaluate, {"num_samples": [5]}, "defensive=0.5", "--method importance-sampling:defensive=0.5"),
    (evaluate, {"method": ["ris"]}, "trust=True", "--method ris:trust=true"),
    (evaluate, {}, "trust=True", None),
    (evaluate, {}, 'global_sites="mean"', "no --weights"),
    (sample, {}, 'global_sites="mean"', None),
    (evaluate, {}, "chunk_size=10", "--chunk-size 10"),
    (evaluate, {}, "memory_budget=4096", None),
    (compare_elbos, {}, "reference=evidence.ImportanceSampling(5000)", None),
    (fit, {}, "torch.as_tensor(x)", None),
    (fit, {}, "save the rows under the name 'x': numpy.savez(path, x=rows)", "save the rows under the name 'x'"),
    (fit, {}, "x[None] if it is one datum", "rows of shape [1, D] if it is one datum"),
    (report, {}, "load_run(folder, pair=MyPair)", None),
    (fit, {}, "PPVAE_MEMORY=4GB in the environment, on a machine that has them", "="),
    (fit, {}, "the folder that `ppvae fit` or train wrote", "="),
    (fit, {}, "a new run: ppvae fit r.toml --set training.batch_size=5 --out OTHER", "="),
    (fit, {}, "a path to .npy, .npz, .csv, .parquet, IDX, .amat or .mat", "="),
    (fit, {}, "rescale the values to [0, 1]", "="),
    (fit, {}, "the recipe.toml of that checkpoint", "="),
]


@pytest.mark.parametrize(("function", "values", "python", "options"), TRANSLATIONS)
def test_a_remedy_in_the_words_of_a_command(
    function: Callable[..., Any], values: dict[str, Any], python: str, options: str | None
) -> None:
    """And the heading goes with the last remedy."""
    told = in_options("what is wrong" + try_one_of(python), function, values, own_pair=False)
    expected = python if options == "=" else options
    assert told == "what is wrong" + ("" if expected is None else try_one_of(expected))


def test_python_is_for_the_programs_of_the_user() -> None:
    """Where a file of theirs is run, remedies for it stay; options are said in both cases."""
    message = "site 'z'" + try_one_of("with self.data_plate(x, num_data): ...", "TraceELBO()")
    assert remedies_of(in_options(message, fit, {}, own_pair=True)) == remedies_of(
        try_one_of("with self.data_plate(x, num_data): ...", "--elbo trace")
    )
    assert remedies_of(in_options(message, fit, {}, own_pair=False)) == ["--elbo trace"]

    @verb
    def broken(pair: str | None) -> None:
        raise PairError(message)

    for pair, count in (("file.py:Name", 2), (None, 0)):
        result = CliRunner().invoke(_app_of(broken), [] if pair is None else ["--pair", pair])
        assert len(remedies_of(result.stderr)) == count, result.output


def _app_of(function: Any) -> Any:
    import typer

    def command(pair: str | None = None) -> None:
        function(pair=pair)

    one = typer.Typer()
    one.command()(command)
    return one


def test_every_phrase_is_said_somewhere() -> None:
    """A translation of what no error says any more would be dead."""
    sources = [
        path.read_text(encoding="utf-8")
        for path in Path(ppvae.__file__).parent.rglob("*.py")
        if path.name != "remedies.py"
    ]
    for phrase in PHRASES:
        assert any(phrase in text.replace("\\'", "'").replace('\\"', '"') for text in sources), phrase


def test_remedies_are_told_from_the_message() -> None:
    message = "a\nb" + try_one_of("c", "d")
    assert prefix_lines(message, "f: ") == "f: a\nf: b" + try_one_of("c", "d")
    assert change_remedies(message, lambda remedy: None if remedy == "c" else remedy.upper()) == "a\nb" + try_one_of(
        "D"
    )
    assert change_remedies(message, lambda remedy: None) == "a\nb"
    assert change_remedies(message, lambda remedy: "e") == "a\nb" + try_one_of("e")
    assert change_remedies(message + "\nIn f, line 1", lambda remedy: None) == "a\nb\nIn f, line 1"


PYTHON = re.compile(r"[A-Za-z_]\w*\(|(?<![-\w.:=])[a-z_]+=|\btorch\.|\bnumpy\.")


@pytest.mark.parametrize(
    ("words", "remedies"),
    [
        (
            [*FIT, "--batch-size", 1000],
            ["--batch-size 100 or smaller", "--set training.batch_size=all for the full batch"],
        ),
        (
            [*FIT, "--set", "data.validation=0.5"],
            ["leave them out", "--set data.num_train=N for fewer training rows"],
        ),
        (
            [*FIT, "--elbo", "score-function:baseline=leave-one-out"],
            ["--elbo score-function:num_particles=2 or more", "--elbo score-function:baseline=decaying-average"],
        ),
        ([*FIT, "--elbo", "vimco:num_particles=1"], ["--elbo vimco:num_particles=2 or more", "--elbo score-function"]),
        ([*FIT, "--elbo", "renyi:alpha=1.0"], ["--elbo trace", "--elbo trace-mean-field", "an alpha other than 1"]),
        (
            [*FIT, "--data", "LINE.npy"],
            ["rows of shape [1, D] if it is one datum", "rows of shape [N, 1] if it holds one number for each datum"],
        ),
        ([*FIT, "--data", "OBJECTS.npy"], ["save plain numeric arrays"]),
        ([*FIT, "--data", "XYZ.xyz"], ["the rows in a .npy file"]),
        (
            [*FIT, "--data", "REAL.npy", "--binarize", "static"],
            ["rescale the values to [0, 1]", "--binarize none and a likelihood for such values"],
        ),
        (
            ["evaluate", "RUN", "--method", "importance-sampling:defensive=2.0"],
            ["--method importance-sampling:defensive=0.5", "--method prior-sampling, all draws from the prior"],
        ),
        (["evaluate", "RUN", "--weights", 3], ["leave --weights out", "ppvae fit --bayesian likelihood"]),
        (
            ["evaluate", "RUN", "--method", "exact"],
            ["--method importance-sampling:num_samples=1000, --method ais or --method bridge-sampling"],
        ),
        (
            ["compare-elbos", "RUN", "--estimator", "score-function:baseline=leave-one-out"],
            [
                "--estimator score-function:num_particles=2 or more",
                "--estimator score-function:baseline=decaying-average",
            ],
        ),
        (["sample", "RUN", "--out", "x.txt"], ["--out x.npy"]),
        ([*FIT, "--device", "cuda:99"], ["--device cpu"]),
        (["evaluate", "RUN", "--device", "cuda:99"], ["--device cpu"]),
        (["evaluate", "RUN", "--method", "auto:target_error=-1"], ["--method auto"]),
        (["fit", "--resume", "RUN"], ["--epochs N, for more epochs", "--overwrite to train it anew"]),
        (["report", "NOTHING"], ["the folder that `ppvae fit` or train wrote"]),
    ],
)
def test_what_a_command_suggests(
    words: list[Any], remedies: list[str], run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    np.save(tmp_path / "LINE.npy", np.ones(5, np.float32))
    np.save(tmp_path / "OBJECTS.npy", np.array([None, "a"], object), allow_pickle=True)
    np.save(tmp_path / "REAL.npy", np.array([[-1.5, 3.0]] * 200, np.float32))
    places = {"RUN": run, "NOTHING": tmp_path / "nothing"}
    (tmp_path / "XYZ.xyz").touch()
    places |= {"XYZ.xyz": tmp_path / "XYZ.xyz"}
    places |= {path.name: path for path in tmp_path.glob("*.npy")}
    new = words[0] == "fit" and "--resume" not in words
    text = refused(*[places.get(word, word) for word in words], *(["--out", tmp_path / "out"] if new else []))
    assert remedies_of(text) == remedies
    assert not PYTHON.search(" ".join(remedies).replace("(its --out)", ""))


@pytest.mark.parametrize(
    ("setting", "message", "remedies"),
    [
        (
            "training.lerning_rate=1",
            "unknown key 'training.lerning_rate': did you mean 'learning_rate'? Known: batch_size,",
            [],
        ),
        (
            "learning_rate=0.1",
            "unknown key 'learning_rate': did you mean 'training.learning_rate'? Known: bayesian, data,",
            [],
        ),
        (
            "training.kl_warmup.epochs=3",
            "training.kl_warmup.num_epochs: expected a value, found none\nunknown key 'training.kl_warmup.epochs': "
            "did you mean 'num_epochs'?",
            ["--set training.kl_warmup.num_epochs=10"],
        ),
        (
            "training.batch_size=x",
            "training.batch_size: expected a valid integer, found 'x' (str)",
            ["--set training.batch_size=100", "--set training.batch_size=all"],
        ),
        (
            "training.optimizer=adm",
            "training.optimizer: expected 'adam', 'adamw', 'adagrad' or 'sgd', found 'adm' (str)",
            [f"--set training.optimizer={name}" for name in ("adam", "adamw", "adagrad", "sgd")],
        ),
        (
            "training.clip_norm=yes",
            "training.clip_norm: expected a valid number, found 'yes' (str)",
            ["--set training.clip_norm=0.1"],
        ),
        ("training=3", "training: expected a valid dictionary", ["--set training.optimizer=adam"]),
        (
            "training.kl_warmup=3",
            "training.kl_warmup: expected a valid dictionary",
            ["--set training.kl_warmup.num_epochs=10"],
        ),
        (
            "training.learning_rate.x=1",
            "training.learning_rate: expected a valid number, found {'x': 1} (dict)",
            ["--set training.learning_rate=0.001"],
        ),
        (
            "model.hidden=[1.5]",
            "model.hidden.0: expected a valid integer, found 1.5 (float)",
            ["--set model.hidden=[500]"],
        ),
        (
            "model.latent_dim=many",
            "model.latent_dim: expected a valid integer, found 'many' (str)",
            ["--set model.latent_dim=20"],
        ),
        ("seed=one", "seed: expected a valid integer, found 'one' (str)", ["--seed 0"]),
        ("data.flatten=3", "data.flatten: expected a valid boolean, found 3 (int)", ["--set data.flatten=true"]),
    ],
)
def test_a_setting_that_is_wrong_shows_one_that_is_right(
    setting: str, message: str, remedies: list[str], tmp_path: Path
) -> None:
    text = refused(*FIT, "--set", setting, "--out", tmp_path / "out")
    assert text.startswith(f"error: {message}")
    assert remedies_of(text) == remedies


def test_options_of_an_estimator_have_examples_too(run: Path) -> None:
    text = refused(*FIT, "--elbo", "importance-weighted:num_particles=x")
    assert remedies_of(text) == ["--elbo importance-weighted:num_particles=5"]
    text = refused("evaluate", run, "--method", "ais:start=here")
    assert remedies_of(text) == ["--method ais:start=guide", "--method ais:start=prior"]


def test_a_recipe_file_shows_toml(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text('[training]\noptimizer = "adm"\nlearning_rate = "x"\n')
    with pytest.raises(RunError) as raised:
        Recipe.read(path)
    lines = str(raised.value).splitlines()
    assert [line.startswith(f"{path}: ") for line in lines] == [True, True] + [False] * (len(lines) - 2)
    assert 'optimizer = "adam" under [training]' in remedies_of(str(raised.value))
    assert remedies_of(refused("fit", path)) == remedies_of(str(raised.value))
