"""Write the report of a run: its figures as files, and one page that shows them with every number."""

from __future__ import annotations

import base64
import time
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import torch

from .page import code, details, explorer, facts, figure, number, page, table, tiles
from .tables import aggregate_table, check_table
from ..figures.checks import CHECKED, checked
from ..figures.compared import COMPARED, compared
from ..figures.images import as_images
from ..figures.pictures import Picture, pictures_of
from ..figures.theme import LABELS
from ..findings import FINE, Findings, find, kind_of, on_common_data, tightest
from ...core.errors import RunError
from ...runs import Run
from ...runs.evaluation.simulation_check import sentence
from ...runs.storage.atomic import write_bytes, write_text
from ...runs.storage.folder import REPORT_LOCK, locked

_ESTIMATES = (
    ("estimate", False),
    ("side", False),
    ("mean", True),
    ("± noise", True),
    ("± data", True),
    ("mean of all", True),
    ("worst Pareto k", True),
    ("trusted", True),
    ("seconds", True),
)


def write_report(
    run: Run, *, out: Path | None = None, seed: int = 0, device: str = "auto", chains_for: int = 0
) -> Path:
    """Write ``figures/*.png`` and ``report.html`` into the run folder.

    Args:
        run: the run.
        out: where the page goes instead.
        seed: of samples.
        device: "auto", "cpu", "cuda".
        chains_for: for so many data HMC chains are run and their trace and ranks shown; it takes some seconds.

    Returns:
        the path of the page.

    Raises:
        RunError: the folder cannot be written, or another process writes the report of this run.
    """
    with locked(run.folder, REPORT_LOCK):
        run.folder.sweep_report()
        return _write(run, find(run, seed=seed, device=device, chains_for=chains_for), out)


def _write(run: Run, found: Findings, out: Path | None) -> Path:
    pictures = {**pictures_of(found), **checked(found), **compared(found)}
    folder = run.folder.figures
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise RunError(f"{folder}: cannot be made: {error.strerror or error}") from error
    for picture in pictures.values():
        if picture.name in COMPARED:
            continue  # their files stand in the folder of the comparison
        write_bytes(folder / f"{picture.name}.png", picture.light)
    path = run.folder.report if out is None else out
    write_text(path, render(found, pictures))
    return path


def render(found: Findings, pictures: Mapping[str, Picture]) -> str:
    """The page of one run."""
    run = found.run
    walk, script = _explorer(found)
    title = f"{run.recipe.model_name} on {run.data.name}"
    sections = [
        f'<header><p class="eyebrow">ppvae · run report</p><h1>{escape(title)}</h1>'
        f'<p class="lead">{_lead(found)}</p></header>',
        tiles(_headline(found)),
    ]
    if found.evaluation is not None:
        sections += [
            "<h2>How good is it?</h2>",
            _evaluation(found.evaluation),
            simulation_check(found.evaluation.get("simulation_check")),
            _grid(pictures, ("estimates", "sandwich", "per_datum", "extremes")),
        ]
    sections += [
        "<h2>How it learnt</h2>",
        _grid(pictures, ("learning_curve", "bound_parts")),
        "<h2>What it learnt</h2>",
        _grid(pictures, ("reconstructions", "samples"), before=walk),
        _gap(),
        _grid(pictures, ("manifold", "latents", "kl_per_dimension")),
    ]
    if any(name in pictures for name in CHECKED):
        sections += [
            "<h2>Does the model make data like the data?</h2>",
            check_table(found),
            _gap(),
            _grid(pictures, CHECKED),
            details("The latents of all data in numbers", aggregate_table(found)) if found.aggregate else "",
        ]
    if "weight_noise" in pictures:
        sections += ["<h2>What is known of the weights</h2>", _grid(pictures, ("weight_noise", "uncertainty"))]
    if "chains" in pictures:
        sections += ["<h2>Did the chains mix?</h2>", _grid(pictures, ("chains",))]
    if any(name in pictures for name in COMPARED):
        sections += ["<h2>How noisy are the estimators?</h2>", _grid(pictures, COMPARED)]
    sections += [
        "<h2>What was run</h2>",
        facts(_facts(found)),
        details("The whole recipe", code(run.recipe.to_toml())),
        "<h2>How to get these numbers again</h2>",
        _again(found),
    ]
    if found.notes:
        sections.append(details("What this report could not show", code("\n".join(found.notes))))
    sections.append(
        f"<footer>Written by ppvae {escape(_version())} on {time.strftime('%Y-%m-%d')}. "
        "This page loads nothing: it can be sent as it is.</footer>"
    )
    return page(title, "\n".join(sections), script)


def _lead(found: Findings) -> str:
    run, info = found.run, found.run.info
    size = f"{info.get('num_parameters', 0):,} parameters".replace(",", " ")
    text = f"{escape(size)}, trained on {len(run.data):,} data in {number(info.get('seconds'), 1)} s; ".replace(
        ",", " "
    )
    return f"{text}shown is {escape(run.parameters)}. All numbers are in nats per datum; up is better."


def _evaluated(evaluation: Mapping[str, Any]) -> str:
    data = evaluation["data"]
    return f"{data['num_data']} {kind_of(data['part'])} data"


def _headline(found: Findings) -> list[tuple[str, str, str]]:
    items = []
    rows, count = on_common_data(found)
    part = "" if found.evaluation is None else _evaluated(found.evaluation)
    if found.evaluation is not None and count < found.evaluation["data"]["num_data"]:
        part = f"{count} of {part} that every method can be trusted on"
    best_bound = tightest(rows)
    # Beside the bound, the tightest lower one and the one that is on no side, if there are such.
    chosen = [row for row in rows if row["key"] == "elbo" or row is best_bound]
    chosen += [row for row in rows if row["side"] in ("exact", "consistent")][-1:]
    for row in chosen:
        side = f"{row['side']} bound" if row["side"] in ("lower", "upper") else row["side"]
        side = f"tightest {side}" if row is best_bound else side
        shown = f"{number(row['mean'], 2)} <small>± {number(row['monte_carlo_error'], 3)}</small>"
        items.append((_name(row["label"]), shown, f"{side}, {part}"))
    history = found.run.history
    best = found.run.info.get("best_epoch")
    if history:
        row = history[best - 1] if best else history[-1]
        key = "validation" if "elbo_validation" in row else "train"
        items.append((f"ELBO, {key}", number(row[f"elbo_{key}"], 2), f"epoch {int(row['epoch'])} of {len(history)}"))
    return items


def _evaluation(evaluation: Mapping[str, Any]) -> str:
    data = evaluation["data"]
    rows = []
    for row in evaluation["estimates"]:
        k = row["worst_pareto_k"]
        shown = number(k, 2)
        if k is not None and k > 0.7:
            shown = f'<span class="warn" title="not to be trusted for the worst datum">{shown}</span>'
        rows.append(
            (
                _name(row["label"]),
                f'<span class="side {escape(row["side"])}">{escape(row["side"])}</span>',
                number(row["mean"], 3),
                number(row["monte_carlo_error"], 3),
                number(row["sampling_error"], 3),
                f"{number(row['mean_of_all'], 3)} ± {number(row['mean_of_all_standard_error'], 3)}",
                shown,
                _trusted(row),
                number(row["seconds"], 1),
            )
        )
    text = (
        f"<p>Log evidence of {data['num_data']} data of {escape(data['name'])} ({escape(data['part'])}), "
        f"{escape(evaluation['parameters'])}. <em>mean</em> is over the data on which the method can be trusted, "
        "<em>mean of all</em> over all that have an estimate, good or bad. <em>± noise</em> is what another seed would "
        "change; <em>± data</em> is what other data of the same kind would change. Above 0.7, Pareto k says that for "
        "the worst datum the noise is larger than its standard error tells.</p>"
    )
    if any(row.get("info", {}).get("global_sites") == "mean" for row in evaluation["estimates"]):
        text += (
            "<p>The weights have a posterior. The ELBO counts their KL, shared out over the training data; the other "
            "estimates are log p(x | w) with the weights w held at their posterior mean, and no bound of the same "
            "number (<code>ppvae evaluate --weights 10</code> averages over ten draws of them).</p>"
        )
    trouble = [
        f"{escape(row['label'])}: {count} data: {escape(message)}"
        for row in evaluation["estimates"]
        for message, count in row["messages"].items()
    ]
    notes = details("What the estimators said", "<pre>" + "\n".join(trouble) + "</pre>") if trouble else ""
    return text + table(_ESTIMATES, rows) + notes + _gap()


def simulation_check(check: Mapping[str, Any] | None) -> str:
    """Whether the methods would have found the truth on data like these; empty where nobody asked."""
    if check is None:
        return ""
    columns = [("estimate", False), ("trusted", True), ("below, at least", True), ("below, at most", True)]
    columns += [("median", True), *((f"{level:.0%} quantile", True) for level in check["levels"][1:])]
    columns += [("seconds", True)]
    rows = [
        (
            _name(row["label"]) + (", its lower bound" if row["is_sandwich"] else ""),
            f"{row['num_trusted']} of {check['num_data']}",
            *(f"{number(mean, 3)} ± {number(error, 3)}" for mean, error in row["below"]),
            *(number(gap, 3) for gap in row["gap"]),
            number(row["seconds"], 1),
        )
        for row in check["rows"]
    ]
    told = (sentence(row, check["num_data"]) for row in check["rows"])
    text = (
        "<h3>Would they have found the truth on data like these?</h3>"
        f"<p>The methods on {check['num_data']} data that the model itself made, where bidirectional Monte Carlo has "
        "an upper bound too. <em>below</em>: how far an estimate lies below the truth on average, in nats, at least "
        "(the lower bound minus the estimate) and at most (the upper bound minus it), with the error over the choice "
        "of data. Then the quantiles of the latter over data, noise of the upper bound included. All over the data on "
        "which the method can be trusted.</p>"
    )
    return text + table(columns, rows) + details("In words", code("\n".join(told))) + _gap()


def _trusted(row: Mapping[str, Any]) -> str:
    told = f"{row['num_trusted']} of {row['num_data']}"
    if row["num_trusted"] == row["num_data"]:
        return told
    return f'<span class="warn" title="the others are left out of the mean">{told}</span>'


def _facts(found: Findings) -> list[tuple[str, str]]:
    run, info = found.run, found.run.info
    recipe, training = run.recipe, run.recipe.training
    options = ", ".join(f"{key} = {value}" for key, value in recipe.model.items() if key not in ("name", "sha256"))
    sizes = ", ".join(f"{name} {len(part):,}".replace(",", " ") for name, part in run.data.parts.items())
    versions = info.get("versions", {})
    estimator = ", ".join(f"{k} = {v}" for k, v in training.elbo.items() if k != "name")
    rows = [
        ("model", f"{escape(recipe.model_name)} <span>({escape(options)})</span>"),
        ("parameters", escape(f"{info.get('num_parameters', 0):,}".replace(",", " "))),
        ("data", f"{escape(recipe.data.source)}, binarisation {escape(recipe.data.binarize)}: {escape(sizes)}"),
        ("estimator", f"{escape(str(training.elbo['name']))} ({escape(estimator)})"),
        (
            "optimiser",
            escape(f"{training.optimizer}, learning rate {training.learning_rate:g}, batch size {training.batch_size}"),
        ),
        ("training", escape(f"{info.get('message', '')}; {info.get('steps', '?')} steps")),
        ("seed", str(recipe.seed)),
        ("started, took", escape(f"{info.get('started', '?')}, {info.get('seconds', 0.0):.1f} s")),
        (
            "machine",
            escape(f"{info.get('machine', '?')}, {info.get('threads', '?')} CPU thread(s), device {recipe.device}"),
        ),
        ("versions", escape(", ".join(f"{name} {version}" for name, version in versions.items()))),
    ]
    rows += [
        (f"SHA-256, {name}", f"<code>{escape(digest[:16])}…</code>") for name, digest in info.get("data", {}).items()
    ]
    return rows


def _again(found: Findings) -> str:
    run = found.run
    commands = [("the trained model", f"ppvae fit {run.folder.recipe} --out NEW_FOLDER")]
    commands[0] = ("the trained model", commands[0][1] + _threads(run) + _pair(run))
    if found.evaluation is not None:
        commands += [
            (f"{row['label']} = {number(row['mean_of_all'], 3)}, of all data", row["command"] + _pair(run))
            for row in found.evaluation["estimates"]
        ]
    commands.append(("this page", f"ppvae report {run.folder.path}" + _pair(run)))
    rows = [(_name(what), f"<code>{escape(command)}</code>") for what, command in commands]
    text = (
        "<p>The same seed, machine and number of threads give the same numbers, bit for bit. From Python: "
        f"<code>ppvae.runs.load_run({escape(repr(str(run.folder.path)))}).pair</code>.</p>"
    )
    return text + table((("number", False), ("command", False)), rows)


def _threads(run: Run) -> str:
    return f" --threads {run.info['threads']}" if "threads" in run.info else ""


def _pair(run: Run) -> str:
    return f" --pair {run.recipe.model['pair']}" if "pair" in run.recipe.model else ""


def _explorer(found: Findings) -> tuple[str, str]:
    """The interactive manifold, where there are two latent dimensions and pictures."""
    if found.fine is None or found.latents is None or found.fine_range is None:
        return "", ""
    images = as_images(found.fine.flatten(0, 1), found.data)
    if images is None:
        return "", ""
    ink = images.dim() == 3
    if not ink and bool((images[..., :1] == images).all()):
        images = images[..., 0]
    if images.numel() > 3_000_000:
        return "", ""
    labels = found.labels
    place = {} if labels is None else {value: i for i, value in enumerate(labels.unique().tolist())}
    points = [
        [round(float(a), 3), round(float(b), 3), 0 if labels is None else place[labels[i].item()]]
        for i, (a, b) in enumerate(found.latents[:1000].tolist())
    ]
    content: bytes = (images * 255).round().to(torch.uint8).contiguous().numpy().tobytes()
    return explorer(
        {
            "size": FINE,
            "height": images.shape[1],
            "width": images.shape[2],
            "channels": 1 if images.dim() == 3 else 3,
            "ink": ink,
            "range": found.fine_range,
            "images": base64.b64encode(content).decode("ascii"),
            "points": points,
            "colours": LABELS,
        },
        found.kind,
    )


def _grid(pictures: Mapping[str, Picture], names: Sequence[str], before: str = "") -> str:
    chosen = [pictures[name] for name in names if name in pictures]
    if not chosen and not before:
        return "<p>Nothing to show.</p>"
    return f'<div class="figures">{before}{"".join(figure(picture) for picture in chosen)}</div>'


def _gap() -> str:
    return '<div style="height:1.25rem"></div>'


def _name(label: str) -> str:
    head, _, tail = label.partition("_")
    digits, _, rest = tail.partition(" ")
    return f"{escape(head)}<sub>{digits}</sub> {escape(rest)}".strip() if digits.isdigit() else escape(label)


def _version() -> str:
    from ... import __version__

    return __version__
