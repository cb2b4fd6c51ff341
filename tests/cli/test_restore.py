"""``ppvae restore``: the numbers of the library, a picture or arrays, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner, Result

from ppvae.cli.main import app
from ppvae.inference import AdditiveNormal, Flips, denoise, hide, inpaint
from ppvae.report.figures.restored import restored_picture
from ppvae.report.restored import restore
from ppvae.runs import load_run

SMALL = ["--set", "data.num_train=200", "--set", "model.hidden=[8]", "--set", "training.compile=eager", "--epochs", "1"]
QUICK = ["--num-data", 4, "--steps", 20, "--device", "cpu"]


def call(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def good(*words: object) -> str:
    result = call(*words)
    assert result.exit_code == 0, result.output
    return result.stdout


def arrays(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("restore") / "run"
    good("fit", "--model", "bernoulli-vae", "--data", "digits", "--set", "model.latent_dim=2", *SMALL, "--out", out)
    return out


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on rows of numbers, which are no pictures."""
    folder = tmp_path_factory.mktemp("rows")
    np.save(folder / "rows.npy", np.random.default_rng(0).normal(size=(200, 6)) + 3)
    words = ["--set", "model.hidden=[8]", "--set", "model.mean=identity", "--set", "training.compile=eager"]
    words += ["--epochs", "1"]
    good("fit", folder / "rows.npy", "--model", "gaussian-vae", *words, "--out", folder / "run")
    return folder / "run"


def test_a_picture_and_a_table(run: Path) -> None:
    text = good("restore", run, *QUICK)
    assert "digits, test, 4 data; the left half hidden, 50% of the entries seen; epoch 1" in text
    for words in ("rmse", "log score", "restoration", "training mean", "nearest training datum", "chains agree on"):
        assert words in text
    assert text.splitlines()[-1] == str(run / "restored.png")
    assert (run / "restored.png").read_bytes().startswith(b"\x89PNG")


def test_numbers_are_those_of_the_library(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.npz"
    words = ["--mask", "random:0.4", "--draws", 2, "--seed", 3, "--out", out, "--json"]
    told, found = json.loads(good("restore", run, *QUICK, *words)), arrays(out)
    trained = load_run(run)
    truth = trained.part("test").take(4).binarize(3).tensor()
    seen = hide([8, 8], 0.4, num=4, seed=3).reshape(4, 64)
    restored = inpaint(trained.pair, truth, seen, num_steps=20, num_burn_in=10, num_draws=2, seed=3, device="cpu")
    for name in ("mean", "standard_deviation", "standard_error", "draws", "acceptance", "r_hat"):
        assert np.array_equal(found[name], getattr(restored, name).numpy()), name
    assert np.array_equal(found["truth"], truth) and np.array_equal(found["seen"], seen)
    assert np.isnan(found["damaged"][~seen.numpy()]).all()
    # What needs no model, by hand.
    train = trained.part("train").binarize(3).tensor()
    assert isinstance(truth, torch.Tensor) and isinstance(train, torch.Tensor)
    nearest = torch.stack([train[((train - x) * m).square().sum(1).argmin()] for x, m in zip(truth, seen, strict=True)])
    others = {
        "restoration": restored.mean,
        "training mean": torch.where(seen, truth, train.mean(0)),
        "nearest training datum": torch.where(seen, truth, nearest),
    }
    assert [score["name"] for score in told["scores"]] == list(others)
    for score, value in zip(told["scores"], others.values(), strict=True):
        hidden = ~seen
        each = ((value - truth).square() * hidden).sum(1) / hidden.sum(1)
        assert score["rmse"] == pytest.approx(float(each.mean().sqrt()), rel=1e-5)
        error = float(each.std()) / 2 / (2 * score["rmse"])  # of the root, by the delta method; four data
        assert score["rmse_error"] == pytest.approx(error, rel=1e-4)
        if score["name"] == "nearest training datum":
            assert score["log_score"] is None
        else:
            log_p = torch.where(truth > 0.5, value, 1 - value).clamp(2**-24).log() * hidden
            assert score["log_score"] == pytest.approx(float((log_p.sum(1) / hidden.sum(1)).mean()), rel=1e-5)
    assert told["num_seen"] == int(seen.sum()) and told["num_entries"] == 256
    assert told["worst_r_hat"] == pytest.approx(float(restored.r_hat.max()))
    assert told["largest_standard_error"] == pytest.approx(float(restored.standard_error.max()))


def test_every_task(run: Path, tmp_path: Path) -> None:
    trained = load_run(run)
    truth = trained.part("test").take(4).binarize(0).tensor()
    assert isinstance(truth, torch.Tensor)
    told = json.loads(
        good("restore", run, *QUICK, "--task", "denoise", "--noise", 0.2, "--out", tmp_path / "n.npz", "--json")
    )
    noisy = Flips(0.2).corrupt(truth)
    found = denoise(trained.pair, noisy, Flips(0.2), num_steps=20, num_burn_in=10, num_draws=3, device="cpu")
    archive = arrays(tmp_path / "n.npz")
    assert np.array_equal(archive["damaged"], noisy) and np.array_equal(archive["mean"], found.mean)
    assert [score["name"] for score in told["scores"]] == ["restoration", "noisy as it is", "nearest training datum"]
    assert told["scores"][1]["rmse"] == pytest.approx(float((noisy - truth).square().mean().sqrt()))
    assert told["damage"] == "each entry flipped with probability 0.2"
    for task in ("denoise", "super-resolve"):
        good("restore", run, *QUICK, "--task", task, "--out", tmp_path / f"{task}.png")
        assert (tmp_path / f"{task}.png").read_bytes().startswith(b"\x89PNG")
    told = json.loads(
        good("restore", run, *QUICK, "--task", "super-resolve", "--factor", 4, "--out", tmp_path / "s.npz", "--json")
    )
    assert told["num_seen"] == 4 * 64 // 16 and told["damage"] == "one pixel of every 4 x 4 seen"


def test_a_mask_of_a_file(run: Path, tmp_path: Path) -> None:
    """Of a datum, of its picture, or of each."""
    one = hide([8, 8], "box").numpy()
    for place, mask in enumerate((one, one.reshape(64), np.broadcast_to(one, (4, 8, 8)).astype(float))):
        np.save(tmp_path / "mask.npy", mask)
        good("restore", run, *QUICK, "--mask", tmp_path / "mask.npy", "--out", tmp_path / f"{place}.npz")
        assert np.array_equal(arrays(tmp_path / f"{place}.npz")["seen"], np.broadcast_to(one.reshape(64), (4, 64)))


def test_rows_that_are_no_pictures(rows: Path, tmp_path: Path) -> None:
    text = good("restore", rows, *QUICK, "--task", "denoise", "--noise", 0.5)
    assert "noise of standard deviation 0.5 added" in text and "log score" not in text
    assert text.splitlines()[-1] == str(rows / "restored.npz")
    found = arrays(rows / "restored.npz")
    truth = torch.from_numpy(found["truth"])
    assert np.array_equal(found["damaged"], AdditiveNormal(0.5).corrupt(truth))
    good("restore", rows, *QUICK, "--mask", "right", "--out", tmp_path / "x.npz")
    assert arrays(tmp_path / "x.npz")["seen"][0].tolist() == [True] * 3 + [False] * 3
    assert "one entry of every 3 seen" in good("restore", rows, *QUICK, "--task", "super-resolve", "--factor", 3)


def test_weights_are_held_and_it_is_said(tmp_path: Path) -> None:
    words = ["--model", "bernoulli-vae", "--data", "digits", "--bayesian", "likelihood", *SMALL]
    good("fit", *words, "--out", tmp_path / "run")
    assert "the left half hidden, weights at the guide's mean" in good("restore", tmp_path / "run", *QUICK)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--mask", "lefft"], "--mask lefft: did you mean 'left'"),
        (["--mask", "random:2"], "--mask random:2: expected a share of entries to hide, in (0, 1]"),
        (["--mask", "nothing.npy"], "--mask nothing.npy: no such file"),
        (["--mask", "WORDS"], "values of dtype <U4 are not numbers"),
        (["--mask", "HALF"], "not readable as .npy"),
        (["--mask", "SHAPE"], "a mask of shape [3, 3] for 4 data of [64]: expected one of"),
        (["--mask", "GREY"], "expected 1 where an entry is seen and 0 where it is hidden"),
        (["--mask", "ALL"], "and no entry is hidden"),
        (["--factor", "3"], "--factor is for --task super-resolve, found --task inpaint"),
        (["--task", "super-resolve", "--factor", "9"], "a factor of at most 8"),
        (["--task", "denoise", "--noise", "1.5"], "a probability strictly between 0 and 1, found 1.5"),
        (["--task", "denoise", "--mask", "left"], "--mask is for --task inpaint, found --task denoise"),
        (["--part", "tset"], "has no part 'tset'"),
        (["--draws", "1000"], "num_draws: expected at most"),
        (["--out", "x.gif"], "--out x.gif: expected a .png or .npz file"),
    ],
)
def test_what_is_refused(words: list[str], message: str, run: Path, tmp_path: Path) -> None:
    masks = {"SHAPE": np.ones((3, 3)), "GREY": np.full(64, 0.5), "ALL": np.ones(64), "WORDS": np.array(["seen"] * 64)}
    for name, mask in masks.items():
        np.save(tmp_path / f"{name}.npy", mask)
    (tmp_path / "HALF.npy").write_bytes((tmp_path / "ALL.npy").read_bytes()[:200])
    words = [str(tmp_path / f"{word}.npy") if word.isupper() else word for word in words]
    before = sorted(run.iterdir())
    result = call("restore", run, *QUICK, *words)
    assert result.exit_code in (1, 2) and result.stdout == ""
    assert message in " ".join(result.stderr.replace("│", " ").split())
    assert "error inside ppvae" not in result.stderr
    assert sorted(run.iterdir()) == before


def test_rows_have_no_picture_and_no_box(rows: Path) -> None:
    for words, message in ((["--out", "x.png"], "so it is no picture"), (["--mask", "box"], "needs rows and columns")):
        result = call("restore", rows, *QUICK, *words)
        assert result.exit_code == 1 and message in result.stderr


def test_grey_values_under_a_bernoulli_are_refused(tmp_path: Path) -> None:
    words = ["--model", "bernoulli-vae", "--data", "digits", "--set", "model.allow_grey=true", *SMALL]
    good("fit", *words, "--set", "data.binarize=none", "--out", tmp_path / "run")
    result = call("restore", tmp_path / "run", *QUICK)
    assert result.exit_code == 1 and "has grey values, and a Bernoulli draws zeros and ones" in result.stderr
    assert "a likelihood for grey values" in result.stderr


def test_an_interruption_is_clean(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ppvae.inference.prediction.restoration.Moments.add", stop)
    result = call("restore", run, *QUICK, "--out", tmp_path / "x.png")
    assert result.exit_code == 130 and "Traceback" not in result.output
    assert list(tmp_path.iterdir()) == []


def test_what_is_drawn(run: Path) -> None:
    """A row for each datum, a column for each of its pictures; a larger standard deviation is drawn darker."""
    from io import BytesIO

    from matplotlib.image import imread

    restored = restore(load_run(run), "inpaint", hidden="left", num_data=3, num_steps=20, device="cpu", progress=False)
    page = imread(BytesIO(restored_picture(restored)))
    assert page.shape[0] > 3 * 88 and page.shape[1] == 8 * 88 + 7 * 4 + 24
    row = page[69 + 5]  # within the first datum, below the headings
    truth, seen = row[12:100, :3], row[104:192, :3]
    assert np.ptp(truth[:, 0] - truth[:, 2]) < 0.2  # ink and paper
    assert (seen[:44] == seen[0]).all() and seen[0][2] - seen[0][0] > 0.1  # one tint, blue
    assert np.array_equal(seen[44:], truth[44:])


def test_colours_and_real_values_are_drawn() -> None:
    from dataclasses import replace

    from ppvae.data import Dataset
    from ppvae.inference import Restoration
    from ppvae.report.restored import Restored

    torch.manual_seed(0)
    for shape in ((3, 6, 5), (6, 5, 3), (6, 5)):
        data = Dataset(torch.rand(2, *shape), value_space="real", image_shape=shape)
        x = data.x
        assert isinstance(x, torch.Tensor)
        found = Restoration(x, x / 2, x / 9, x[None], torch.ones(2), torch.ones(2))
        seen = hide(shape, "top", num=2)
        restored = Restored(
            "test", "", data, x, seen, x.where(seen, torch.nan), None, found, {"nearest training datum": x}, []
        )
        assert restored_picture(restored).startswith(b"\x89PNG")
        assert restored_picture(replace(restored, seen=torch.ones_like(seen))).startswith(b"\x89PNG")
