"""The room of the paper's figures: cells go on where they stopped, the page is what the results say."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from contracts.training import binary, quiet, small
from typer.testing import CliRunner

from ppvae.inference import Callback, TrainingState
from ppvae.runs import RunInterrupt
from reproductions.__main__ import FIGURES, PAGES, ROOM, TABLES, found_of, main, modules_of
from reproductions.cells import Bench, Size
from reproductions.pages import markdown
from reproductions.training import FirstGradients, choose_step_size, marks, paper_recipe, train_as_published

AEVB = {"name": "trace-mean-field"}


def size_in(folder: Path, samples: float = 4000) -> Size:
    return Size(True, samples, folder / "runs", folder / "results")


def bench_in(folder: Path, samples: float = 4000) -> Bench:
    return Bench(size_in(folder, samples), folder / "runs" / "cell", folder / "results" / "cell.json")


def command(*words: str) -> Any:
    app = typer.Typer()
    app.command()(main)
    return CliRunner().invoke(app, [*map(str, words)])


def test_a_figure_is_a_short_file() -> None:
    for path in (*(ROOM / f"{name}.py" for name in FIGURES), *(ROOM / "tables" / f"{name}.py" for name in TABLES)):
        lines = path.read_text(encoding="utf-8").splitlines()
        assert len(lines) < 120, f"{path}: {len(lines)}"


@pytest.mark.parametrize("name", [*FIGURES, *TABLES])
def test_a_figure_of_nothing_has_no_picture(name: str) -> None:
    module = modules_of([name])[name]
    assert module.TITLE and module.WORDS
    assert dict(module.pictures({})) == {}
    for quick in (True, False):
        names = [cell.name for cell in module.cells(Size(quick, 1e5, Path(), Path()))]
        assert names and len(names) == len(set(names))


@pytest.mark.parametrize("name", PAGES)
def test_the_page_is_what_the_results_say(name: str) -> None:
    """docs/paper.md and docs/tables.md are made, not written."""
    size = Size(False, 1e7, Path("runs/paper"), ROOM / "results")
    modules = modules_of(PAGES[name].names)
    found = {name: found_of(name, module, size) for name, module in modules.items()}
    page = ROOM.parent / "docs" / f"{name}.md"
    made = markdown(PAGES[name], page, modules, found, size)
    assert page.read_text(encoding="utf-8") == made, f"python -m reproductions {name} --draw"


def test_marks() -> None:
    assert marks(5e4) == [1e3, 2e3, 3e3, 5e3, 7e3, 1e4, 2e4, 3e4, 5e4]
    assert marks(1e4)[-1] == 1e4


def test_what_was_kept_is_there_again(tmp_path: Path) -> None:
    bench_in(tmp_path).keep(a=1, curve={"10": 2.0})
    again = bench_in(tmp_path)
    before = again.found["seconds"]
    again.keep(a=3)
    kept = json.loads(again.path.read_text())
    assert (kept["a"], kept["curve"]) == (3, {"10": 2.0})
    assert kept["seconds"] >= before and {"ppvae", "torch", "pyro"} <= set(kept["versions"])


class Interrupt(Callback):
    """Ctrl-C after a number of epochs."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def on_epoch(self, state: TrainingState) -> None:
        if state.epoch == self.epochs:
            raise KeyboardInterrupt


def test_a_training_goes_on_to_the_same_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupted, in the warm-up, and gone on with, longer in a second session: the parameters of one that was not."""
    found: dict[str, Any] = {}
    for name in ("whole", "parts"):
        bench = bench_in(tmp_path / name)
        recipe = paper_recipe(bench.size, "digits", 2, AEVB, data={"num_train": 1000}, model={"hidden": [5]})
        to = partial(train_as_published, recipe=recipe, rate=0.02, warm_up=15)
        rows: list[tuple[int, float]] = []

        def visit(pair: Any, samples: int, rows: list[Any] = rows) -> None:
            rows.append((samples, float(next(pair.parameters()).detach().double().sum())))

        if name == "parts":
            short = bench_in(tmp_path / name, 2000)
            with monkeypatch.context() as patch:
                patch.setattr("reproductions.training.train", partial(_interrupted, 1))
                with pytest.raises(RunInterrupt):
                    to(short, visit=visit)
            assert {"recipe", "data", "seed"} <= set(short.found) and "ended" not in short.found
            assert to(short, visit=visit)[1] == 2000
        pair, samples = to(bench, visit=visit)
        assert samples == 4000 and to(bench, visit=visit)[1] == 4000  # nothing is left to do
        found[name] = dict(rows), {key: value.clone() for key, value in pair.state_dict().items()}
    assert found["whole"][0] == found["parts"][0] and set(found["whole"][0]) == {1000, 2000, 3000}
    for key, value in found["whole"][1].items():
        assert bool((value == found["parts"][1][key]).all())


def _interrupted(epochs: int, *args: Any, callbacks: Any = (), **options: Any) -> Any:
    from ppvae.runs import train

    return train(*args, callbacks=[*callbacks, Interrupt(epochs)], **options)


def test_the_step_size_is_that_of_the_best_training_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = bench_in(tmp_path)
    bench.keep(step_sizes={"0.01": -30.0, "0.02": -28.0, "0.1": "diverged"})
    recipe = paper_recipe(bench.size, "digits", 2, AEVB)
    assert choose_step_size(bench, recipe, 0) == 0.02


def test_the_first_gradients_are_summed_and_not_followed() -> None:
    """The fourth step is the first: rate * g4 / sqrt(g1^2 + ... + g4^2), where the sums are Adagrad's own."""
    sums, pairs = [], []
    for epochs in (3, 4):
        pairs.append(small())
        options: dict[str, Any] = {"batch_size": None, "optimizer": "adagrad", "learning_rate": 0.1}
        run = quiet(pairs[-1], binary(), num_epochs=epochs, callbacks=[FirstGradients(0.1, 3)], **options)
        sums.append([run.state.optimizer.state[p]["sum"] for p in run.state.optimizer.param_groups[0]["params"]])
    start = list(small().parameters())
    assert all(torch.equal(p, q) for p, q in zip(pairs[0].parameters(), start, strict=True))
    for p, q, third, fourth in zip(pairs[1].parameters(), start, *sums, strict=True):
        torch.testing.assert_close((p - q).abs(), 0.1 * ((fourth - third) / fourth).sqrt(), atol=1e-4, rtol=1e-3)


def test_one_figure_from_the_command(tmp_path: Path) -> None:
    done = command("divergences", "--quick", "--runs", tmp_path)
    assert done.exit_code == 0, done.output
    page = (tmp_path / "results" / "paper.md").read_text(encoding="utf-8")
    assert "| forward | -0.6000 | 3.0552 |" in page  # the mean and standard deviation of p, in closed form
    html = (tmp_path / "paper.html").read_text(encoding="utf-8")
    picture = tmp_path / "results" / "divergences" / "normals"
    assert 'src="results/divergences/normals.png"' in html and "<td>forward</td>" in html
    assert picture.with_suffix(".png").stat().st_size > 5000 and picture.with_suffix(".svg").exists()
    assert "divergences" in command("--list", "--quick", "--runs", tmp_path).output


def test_absent_data_are_said_and_the_rest_goes_on(tmp_path: Path) -> None:
    """Figure 4 needs the net of figure 2."""
    done = command("figure4", "--quick", "--runs", tmp_path)
    assert done.exit_code == 1
    assert "figure4: digits failed: figure 2 has not trained digits-2-AEVB" in done.output
    assert "figure2 --only digits-2-AEVB" in done.output
    assert command("figure9").exit_code == 2


def test_a_restoration_that_was_only_begun_has_a_page() -> None:
    assert "by" in modules_of(["restoration"])["restoration"].page({"mnist": {"step_sizes": {"0.01": -150.0}}})
