"""A run that meets NaN keeps the step, and the step can be done again."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from ppvae.cli.main import app
from ppvae.core import FitError, RunError
from ppvae.inference import Callback, TrainingState
from ppvae.runs import Recipe, train
from ppvae.runs.training.forensics import _replay, read_dump, replay
from ppvae.runs.training.prepare import prepare

RECIPE = {
    "model": {"name": "bernoulli-vae", "latent_dim": 2, "hidden": [6]},
    "data": {"source": "digits", "num_train": 300},
    "training": {"num_epochs": 3, "batch_size": 100, "compile": "graph", "elbo": {"name": "trace"}},
}


class Poison(Callback):
    """Puts an infinity where a gradient step could have."""

    def on_step(self, state: TrainingState) -> None:
        if state.step == 4:
            with torch.no_grad():
                state.pair.likelihood.head.layers[0].weight[3, 1] = float("inf")  # type: ignore[union-attr]


@pytest.fixture
def failed(tmp_path: Path) -> tuple[Path, FitError]:
    out = tmp_path / "run"
    with pytest.raises(FitError) as error:
        train(Recipe.from_dict(RECIPE), out, callbacks=[Poison()], progress=False)
    return out, error.value


def test_the_error_names_the_dump_and_the_dump_reproduces_it(failed: tuple[Path, FitError]) -> None:
    out, error = failed
    assert f"ppvae replay {out / 'dumps'}" in str(error)
    state, about = read_dump(out)
    assert state["step"] == 5
    assert tuple(state["indices"]) == error.indices
    _, data, pair = prepare(Recipe.from_dict(about["recipe"]))
    torch.testing.assert_close(state["batch"]["x"], data.batch(torch.tensor(error.indices)))
    found = replay(out, pair)
    assert found.reproduced
    assert found.diagnosis.parameter == error.parameter == "likelihood.head.layers.0.weight"
    assert sum(file.stat().st_size for file in (out / "dumps").iterdir()) < 200_000


def test_a_mended_dump_is_finite(failed: tuple[Path, FitError]) -> None:
    """The replay can find nothing wrong: with the infinity taken out it does."""
    out, _ = failed
    state, about = read_dump(out)
    _, _, pair = prepare(Recipe.from_dict(about["recipe"]))
    original = pair.load_state_dict

    def mended(values: dict[str, torch.Tensor]) -> object:
        return original({name: value.nan_to_num(posinf=0.0) for name, value in values.items()})

    pair.load_state_dict = mended  # type: ignore[method-assign, assignment]
    found = replay(out, pair)
    assert not found.reproduced
    assert found.diagnosis.message == "all numbers are finite"
    assert found.elbo < 0
    assert state["kl_weight"] == 1.0


def test_the_verb(failed: tuple[Path, FitError]) -> None:
    out, _ = failed
    done = CliRunner().invoke(app, ["replay", str(out)])
    assert done.exit_code == 0
    assert "step 5, 100 rows of digits: parameter 'likelihood.head.layers.0.weight'" in done.stdout
    assert CliRunner().invoke(app, ["replay", str(out / "checkpoints")]).exit_code == 1


def test_damaged_dumps_are_refused(failed: tuple[Path, FitError], tmp_path: Path) -> None:
    out, _ = failed
    (weights,) = (out / "dumps").glob("*.safetensors")
    content = bytearray(weights.read_bytes())
    content[-3] ^= 1
    weights.write_bytes(bytes(content))
    with pytest.raises(RunError, match="damaged"):
        read_dump(out)
    with pytest.raises(RunError, match="nothing: no run and no dump of a step"):
        read_dump(Path("nothing"))
    with pytest.raises(RunError, match="no dump of a step"):
        read_dump(tmp_path)


class Overflow(Callback):
    """A weight whose unit is saturated: only its prior sees how large it is, and the gradient's square overflows."""

    def on_step(self, state: TrainingState) -> None:
        if state.step == 4:
            with torch.no_grad():
                state.pair.likelihood.head.trunk.layers[0].weight[0] = 3e22  # type: ignore[union-attr]


def test_a_replay_has_the_weight_prior_the_clipping_and_what_the_estimator_learnt(tmp_path: Path) -> None:
    """The bound and its gradient are finite here: without the weight prior nothing is found."""
    training = {**RECIPE["training"], "weight_prior_scale": 1.0, "clip_norm": 0.5}  # type: ignore[dict-item]
    training["elbo"] = {"name": "score-function", "baseline": "decaying-average"}
    recipe = Recipe.from_dict({**RECIPE, "training": training})
    out = tmp_path / "run"
    with pytest.raises(FitError):
        train(recipe, out, callbacks=[Overflow()], progress=False)
    state, _ = read_dump(out)
    assert float(state["estimator"]["weight"]) == pytest.approx(1 - 0.9**4)
    assert state["prior_names"] and all(name.startswith("likelihood.") for name in state["prior_names"])
    _, _, pair = prepare(recipe)
    found = replay(out, pair)
    assert found.reproduced
    plain = recipe.replace(training={"weight_prior_scale": None})
    state["prior_names"] = []
    assert not _replay(state, plain, pair).reproduced


class Scale(Callback):
    """The scale of a normal likelihood is exp of a parameter: it underflows to zero, or overflows."""

    def __init__(self, log_scale: float) -> None:
        self.log_scale = log_scale

    def on_step(self, state: TrainingState) -> None:
        if state.step == 1:
            with torch.no_grad():
                for name, parameter in state.pair.named_parameters():
                    if "likelihood" in name and name.endswith("bias"):
                        parameter.fill_(self.log_scale)


@pytest.mark.parametrize("compile", ["eager", "graph"])
@pytest.mark.parametrize("log_scale", [-200.0, 200.0])
def test_a_scale_of_zero_or_infinity_is_shown(compile: str, log_scale: float, tmp_path: Path) -> None:
    """Where Pyro's validation is on, it refuses such a distribution before anything can be said of the step."""
    recipe = Recipe.from_dict(
        {**RECIPE, "model": {"name": "gaussian-vae", "latent_dim": 2, "hidden": [4]}, "data": {"binarize": "none"}}
    ).replace(training={"compile": compile})
    out = tmp_path / "run"
    with pytest.raises(
        FitError, match=r"stopped in step 2 \(epoch 1\), which changed no parameter: site 'x' has"
    ) as caught:
        train(recipe, out, callbacks=[Scale(log_scale)], progress=False)
    _, _, pair = prepare(recipe)
    found = replay(out, pair)
    assert found.reproduced and found.step == caught.value.step == 2
    assert found.diagnosis.message == "site 'x' has a log density that is not finite"
    done = CliRunner().invoke(app, ["replay", str(out)])
    assert done.exit_code == 0 and "step 2, 100 rows of digits: site 'x' has a log density" in done.stdout
