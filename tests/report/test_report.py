"""The report: every number of the evaluation stands in it, every figure has words, and nothing is loaded."""

from __future__ import annotations

import base64
import copy
import io
import json
import re
import shutil
from collections.abc import Iterable
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from contracts.runs import newest
from matplotlib.image import imread

from ppvae.core import DataError, RunError
from ppvae.data import Dataset
from ppvae.inference.prediction import decode, embed
from ppvae.report import write_comparison, write_report
from ppvae.report.figures.charts import in_plane, label_of
from ppvae.report.figures.checks import check_pictures
from ppvae.report.figures.images import as_images, grid, picture_of
from ppvae.report.figures.pictures import pictures_of
from ppvae.report.figures.theme import DARK, LIGHT
from ppvae.report.findings import ACTIVE, FINE, find
from ppvae.report.html.build import render
from ppvae.report.html.page import number
from ppvae.report.html.tables import simulation_table
from ppvae.runs import Recipe, Run, load_run, train
from ppvae.runs.evaluation.evaluation import Evaluation, Method, evaluate

VOID = {"meta", "img", "source", "br", "link", "input"}


class Page(HTMLParser):
    """All elements with their attributes, and whether every one was closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("script", "style"):
            self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def recipe(**changes: Any) -> Recipe:
    values: dict[str, Any] = {
        "model": {"name": "bernoulli-vae", "latent_dim": 2, "hidden": [12]},
        "data": {"num_train": 200, "binarize": "static"},
        "training": {"num_epochs": 3, "batch_size": 50, "compile": "eager"},
        "device": "cpu",
    }
    return Recipe.from_dict(values).replace(**changes)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = train(recipe(), tmp_path_factory.mktemp("report") / "run", progress=False)
    evaluate(run, [Method.parse("importance-sampling:num_samples=8")], progress=False)
    write_report(run)
    return run


@pytest.fixture(scope="module")
def html(run: Run) -> str:
    return run.folder.report.read_text()


def test_every_number_of_the_evaluation_is_in_the_table(run: Run, html: str) -> None:
    text = Page(html).text
    rows = newest(run.folder).rows
    assert len(rows) == 2
    for row in rows:
        known = [row[key] for key in ("mean", "mean_of_all", "monte_carlo_error", "sampling_error")]
        assert row["mean_of_all"] is not None
        for value in known:  # of data none of which can be trusted there is no mean
            assert value is None or number(value, 3) in text
        assert row["side"] in text
        assert row["command"] in text


def test_what_was_run_is_told(run: Run, html: str) -> None:
    text = Page(html).text
    for word in ("bernoulli-vae", "latent_dim = 2", "digits, binarisation static", "train 200", "learning rate 0.001"):
        assert word in text
    assert run.info["versions"]["torch"] in text
    assert run.info["data"]["test"][:16] in text
    assert f"ppvae fit {run.folder.recipe} --out NEW_FOLDER" in text
    for line in run.recipe.to_toml().splitlines():
        assert line in unescape(html)


def test_the_page_loads_nothing(html: str) -> None:
    page = Page(html)
    assert page.open == []
    addresses = re.findall(r"""(?:src|srcset|href|action|url)\s*[=(]\s*["']?([^"')\s>]+)""", html)
    assert addresses
    assert all(address.startswith(("data:image/png;base64,", "#")) for address in addresses)
    assert not re.search(r"https?:|//cdn|@import|fetch\(|XMLHttpRequest", html)
    (policy,) = [meta["content"] for meta in page.all("meta") if meta.get("http-equiv")]
    assert policy is not None
    assert policy.startswith("default-src 'none'")


def test_it_reads_on_a_phone_in_the_dark_and_aloud(html: str) -> None:
    page = Page(html)
    assert any(meta.get("name") == "viewport" for meta in page.all("meta"))
    assert "@media (prefers-color-scheme: dark)" in html
    drawings = [one for one in page.all("div") if one.get("class") == "drawing"]
    assert len(drawings) == len(page.all("figure")) - 1 >= 11  # the other is the walk
    assert all(one["role"] == "img" and len(one["aria-label"] or "") > 20 for one in drawings)
    assert len(page.all("source")) == len(page.all("img")) >= 4
    vectors = html.count('<div class="desk"><svg')
    assert vectors == html.count('<div class="phone"><svg') == len(drawings) - len(page.all("img"))
    assert {link["href"] for link in page.all("a")} == {f"#{heading['id']}" for heading in page.all("h2")}
    for canvas in page.all("canvas"):
        assert canvas["aria-label"]
    assert len(page.all("figcaption")) == len(page.all("figure"))
    assert (page.all("html")[0]["lang"]) == "en"


def test_pictures_are_pictures(run: Run, html: str) -> None:
    assert run.folder.report.stat().st_size < 5e6
    for uri in re.findall(r"data:image/png;base64,([^\"\s]+)", html):
        assert imread(io.BytesIO(base64.b64decode(uri))).shape[2] == 4
    names = {path.stem for path in run.folder.figures.iterdir()}
    assert names == {
        "estimates",
        "learning_curve",
        "bound_parts",
        "reconstructions",
        "samples",
        "manifold",
        "latents",
        "kl_per_dimension",
        "per_datum",
        "extremes",
        "predictive_checks",
        "aggregate_posterior",
        "neighbours",
        "reliability",
    }


def test_the_walk_shows_what_the_decoder_says(run: Run, html: str) -> None:
    match = re.search(r'<script type="application/json" id="manifold-data">(.*?)</script>', html, re.S)
    assert match is not None
    data = json.loads(match[1])
    images = torch.frombuffer(bytearray(base64.b64decode(data["images"])), dtype=torch.uint8).float() / 255
    images = images.reshape(FINE, FINE, 64)
    (left, right), (bottom, top) = data["range"]
    corners = torch.tensor([[left, top], [right, top], [left, bottom]])
    expected = decode(run.pair, corners, like=run.data)
    for found, truth in zip((images[0, 0], images[0, -1], images[-1, 0]), expected, strict=True):
        assert torch.allclose(found, truth, atol=1 / 255)
    latents = embed(run.pair, run.part("test"))
    assert torch.allclose(torch.tensor(data["points"])[:, :2], latents, atol=1e-3)


def test_findings_are_those_of_the_pair(run: Run) -> None:
    found = find(run)
    latents = embed(run.pair, run.part("test"))
    latent = found.latent["z"]
    assert latent.latents is not None
    assert torch.equal(latent.latents, latents)
    assert latent.active is not None
    assert torch.allclose(latent.active, latents.var(0))
    x = run.part("test").tensor()
    posterior = run.pair.posterior(x)
    loc, scale = posterior.base_dist.loc.detach(), posterior.base_dist.scale.detach()
    kl = 0.5 * (loc.square() + scale.square() - 1) - scale.log()
    assert latent.kl is not None
    assert torch.allclose(latent.kl.float(), kl.mean(0), atol=1e-5)
    assert latent.prior is not None
    assert ((latent.prior.mean(0)).abs() < 5 / 20_000**0.5).all()
    assert found.notes == ()


def test_many_dimensions_and_no_labels(tmp_path: Path) -> None:
    run = train(recipe(model={"latent_dim": 5}), tmp_path / "five", progress=False)
    page = Page(write_report(run).read_text())
    assert "two largest principal components of 5 dimensions" in page.text
    assert not page.all("canvas")
    assert not (run.folder.figures / "manifold.png").exists()
    assert not (run.folder.figures / "estimates.png").exists()


def test_data_that_are_no_pictures(tmp_path: Path) -> None:
    import numpy as np

    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(200, 3)).astype("float32"))
    values = {
        "model": {"name": "factor-analysis", "latent_dim": 1},
        "data": {"source": str(tmp_path / "x.npy"), "validation": 50, "num_train": None, "binarize": "none"},
    }
    run = train(recipe(**values), tmp_path / "run", progress=False)
    write_report(run)
    names = {path.stem for path in run.folder.figures.iterdir()}
    assert {"reconstructions", "latents", "learning_curve"} <= names
    assert "samples" not in names
    with pytest.raises(DataError, match="so it is no picture"):
        picture_of(torch.zeros(2, 3), run.data)


def hostile(place: str) -> str:
    """What would be markup, an entity and the end of an attribute, were it not escaped."""
    return f"{place}<script>alert(1)</script><b title='{place}'>&copy;\"'</b>"


def assert_only_text(text: str, plain: Page, places: Iterable[str]) -> None:
    """What was put in these places is on the page, character for character, and made no element of it."""
    page = Page(text)
    told = "".join(page.words) + "".join(str(v) for _, attributes in page.elements for v in attributes.values())
    missing = [place for place in places if hostile(place) not in told]
    assert not missing
    assert "©" not in told
    assert [tag for tag, _ in page.elements].count("script") == len(plain.all("script"))
    assert not any(str(attributes.get("title", "")) in places for attributes in page.all("b"))


def test_hostile_names_are_text(run: Run) -> None:
    """Names of the user's, of files and of machines, messages, captions: each is text wherever it stands."""
    found = find(load_run(run.folder.path))
    assert found.evaluation is not None
    assert found.main is not None and found.main.checks is not None
    pictures = {**pictures_of(found), **check_pictures(found)}
    plain = Page(render(found, pictures))

    evaluation = copy.deepcopy(dict(found.evaluation.values))
    evaluation["parameters"] = hostile("shown")
    evaluation["data"] |= {"name": hostile("evaluated"), "part": hostile("part")}
    for row in evaluation["estimates"]:
        row |= {"label": hostile("label"), "side": hostile("side"), "command": hostile("command")}
        row["messages"] = {hostile("message"): 3}
    recipe = found.run.recipe.model_copy(
        update={
            "model": {**found.run.recipe.model, "name": hostile("model"), hostile("option"): hostile("value")},
            "data": found.run.recipe.data.model_copy(update={"source": hostile("source")}),
            "training": found.run.recipe.training.model_copy(
                update={
                    "optimizer": hostile("optimizer"),
                    "elbo": {"name": hostile("elbo"), hostile("elbo option"): hostile("elbo value")},
                }
            ),
        }
    )
    info = {
        **found.run.info,
        **{key: hostile(key) for key in ("message", "started", "machine", "threads", "steps")},
        "versions": {hostile("package"): hostile("version")},
        "data": {hostile("digested"): "0" * 64},
    }
    check = next(iter(found.main.checks.values()))
    checks = replace(
        found.main.checks,
        checks={hostile("check"): replace(check, name=hostile("check"), replicated=check.replicated + 1e6)},
        notes=(hostile("Note of a check"),),
    )
    strange = replace(
        found,
        run=replace(
            found.run,
            recipe=recipe,
            info=info,
            data=replace(found.run.data, name=hostile("data")),
            parameters=hostile("parameters"),
        ),
        evaluation=Evaluation(evaluation, found.evaluation.columns),
        stale_evaluations=(Evaluation({**evaluation, "parameters": hostile("stale")}),),
        observed={"x": replace(found.main, checks=checks)},
        notes=(hostile("note"),),
    )
    words = ("title", "alt", "caption")
    drawn = {
        name: replace(picture, **{key: hostile(f"{key} of {name}") for key in words})
        for name, picture in pictures.items()
    }
    places = [f"{key} of {name}" for name in drawn for key in words]
    places += [
        "shown",
        "stale",
        "evaluated",
        "part",
        "label",
        "side",
        "command",
        "message",
        "model",
        "option",
        "value",
        "source",
    ]
    places += ["optimizer", "elbo", "elbo option", "elbo value", "started", "machine", "threads", "steps", "package"]
    places += ["version", "digested", "check", "Note of a check", "data", "parameters", "note"]
    assert_only_text(render(strange, drawn), plain, places)


def test_hostile_folders_are_text(run: Run, tmp_path: Path) -> None:
    """The same for what a folder may be called, on the page of a run and side by side."""
    folders = [tmp_path / f"{place}<img src=x onerror=alert(1)>&copy;'" for place in ("one", "other")]
    for folder in folders:
        shutil.copytree(run.folder.path, folder)
    runs = [load_run(folder) for folder in folders]
    runs[1] = replace(runs[1], recipe=runs[1].recipe.model_copy(update={"device": hostile("device")}))
    text = write_comparison(runs, out=tmp_path / "c.html").read_text()
    found = find(runs[0])
    for page in (Page(text), Page(render(found, {}))):
        told = "".join(page.words) + "".join(str(v) for _, attributes in page.elements for v in attributes.values())
        assert folders[0].name in told or repr(folders[0].name)[1:-1] in told
        assert "©" not in told
        assert not any("onerror" in attributes for _, attributes in page.elements)
    assert hostile("device") in "".join(Page(text).words)


def test_hostile_labels_of_a_check_by_simulation_are_text() -> None:
    row = {"label": hostile("label"), "is_sandwich": False, "num_trusted": 3, "seconds": 1.0}
    row |= {"below": [(0.1, 0.01), (0.2, 0.01)], "gap": [0.1, 0.2]}
    text = simulation_table({"num_data": 3, "levels": [0.5, 0.9], "rows": [row]})
    assert_only_text(text, Page(""), ["label"])
    assert "90% quantile" in text


def test_several_runs_side_by_side(run: Run, tmp_path: Path) -> None:
    other = train(recipe(seed=1, training={"learning_rate": 0.01}), tmp_path / "other", progress=False)
    evaluate(other, [], progress=False)
    text = write_comparison([run, other], out=tmp_path / "c.html").read_text()
    page = Page(text)
    for folder in (run.folder, other.folder):
        rows = newest(folder).rows
        assert number(rows[0]["mean"], 3) in page.text
    differs, _, same = page.text.partition("What is the same in all recipes")
    assert "training.learning_rate" in differs and "training.optimizer" not in differs
    assert "training.optimizer" in same
    assert "https:" not in text
    with pytest.raises(RunError, match="at least two runs"):
        write_comparison([run])


def test_images_are_laid_out_as_asked() -> None:
    x = torch.zeros(5, 4)
    x[:, 1] = 1.0
    images = as_images(x, Dataset(x, value_space="binary", image_shape=(2, 2)))
    assert images is not None
    assert images.shape == (5, 2, 2)
    for theme in (LIGHT, DARK):
        pixels = imread(io.BytesIO(grid(images, 3, theme, gap=1, size=2)))
        assert pixels.shape == (5, 8, 4)
        assert pixels[2, 0, 3] == 0  # the gap is transparent
        paper, ink = pixels[0, 0, :3].mean(), pixels[0, 1, :3].mean()
        assert (ink < paper) == theme.ink_images
    colour = torch.rand(2, 3, 4, 5)
    images = as_images(colour, Dataset(colour, value_space="unit"))
    assert images is not None
    assert torch.equal(images[..., 1], colour[:, 1])
    assert as_images(torch.zeros(2, 3), Dataset(torch.zeros(2, 3))) is None
    # A grey photograph is not drawn in ink: its bright pixels are bright on every page.
    photograph = torch.full((2, 4), 0.8)
    images = as_images(photograph, Dataset(photograph, value_space="unit", image_shape=(2, 2)))
    assert images is not None
    assert images.shape == (2, 2, 2, 3)
    for theme in (LIGHT, DARK):
        assert abs(imread(io.BytesIO(grid(images, 2, theme)))[0, 0, 0] - 0.8) < 0.01
    real = torch.randn(300, 6) * 50
    images = as_images(real, Dataset(real, image_shape=(2, 3)))
    assert images is not None
    assert 0 <= float(images.min()) < float(images.max()) <= 1


def test_the_plane_of_many_dimensions_keeps_distances(float64: torch.dtype) -> None:
    torch.manual_seed(0)
    flat = torch.randn(50, 2) * torch.tensor([3.0, 1.0])
    turn, _ = torch.linalg.qr(torch.randn(6, 6))
    points, _, how = in_plane(torch.nn.functional.pad(flat, (0, 4)) @ turn)
    assert torch.allclose(torch.cdist(points, points), torch.cdist(flat, flat), atol=1e-6)
    assert "principal components of 6" in how
    assert in_plane(flat)[2] == ""
    assert in_plane(flat[:, :1])[0].shape == (50, 2)


def test_small_matters() -> None:
    assert label_of("L_5000") == "L₅₀₀₀"
    assert label_of("ais") == "ais"
    assert number(-1.5, 2) == "−1.50"
    assert number(None, 2) == "–"
    assert ACTIVE == 0.01
