"""The members of a batch from what data hold: labels with gaps, masks, covariates; and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ppvae.core import DataError
from ppvae.core.errors import RunError
from ppvae.data import Dataset, keep_labels, tells_labels
from ppvae.distributions import Bernoulli, DiagonalNormal, OneHotCategorical, ProductOfExperts, StandardNormal
from ppvae.inference import TrainingState, discrete_posterior
from ppvae.models import Covariate, Exposure, Latent, LatentModel, Mask, Observed, bernoulli_vae, semi_supervised_vae
from ppvae.networks import MLP, JoinedMLP
from ppvae.runs import Recipe, load_run, train
from ppvae.runs.recipe.catalogue import from_data
from ppvae.runs.training.roles import in_roles


def data(size: int = 12) -> Dataset:
    x, labels = torch.eye(4).repeat(size // 4, 1), torch.arange(size) % 3
    return Dataset(x, labels=labels, value_space="binary", test=Dataset(x[:6], labels=labels[:6]))


def test_training_knows_so_many_labels_and_held_out_data_none() -> None:
    found = in_roles(data(), semi_supervised_vae(4, 3, latent_dim=1, hidden=(2,)), num_labels=6)
    label = found.members["label"]
    assert [int((label == k).sum()) for k in range(3)] == [2, 2, 2] and int((label < 0).sum()) == 6
    known = label >= 0
    assert found.labels is not None and torch.equal(label[known], found.labels[known])
    assert found.test is not None and bool((found.test.members["label"] == -1).all())
    everything = in_roles(data(), semi_supervised_vae(4, 3, latent_dim=1, hidden=(2,)))
    assert torch.equal(everything.members["label"], torch.arange(12) % 3)
    other = in_roles(data(), semi_supervised_vae(4, 3, latent_dim=1, hidden=(2,)), num_labels=6, seed=1)
    assert not torch.equal(other.members["label"], label)


@pytest.mark.parametrize(
    ("count", "message"), [(4, "3 classes cannot have the same number each of 4"), (15, "class 0 has 4 labels")]
)
def test_labels_that_cannot_be_kept(count: int, message: str) -> None:
    with pytest.raises(DataError, match=message):
        keep_labels(torch.arange(12) % 3, count)


def test_whether_data_tell_their_labels() -> None:
    labels = torch.arange(12) % 3
    for told in (keep_labels(labels, 6), labels, torch.eye(3)[labels], torch.eye(4)[labels]):
        assert tells_labels({"x": torch.zeros(12, 4), "label": told}, labels)
    for other in (
        torch.full((12,), -1),
        labels.flip(0),
        torch.eye(3)[labels].flip(1),
        torch.ones(12, 3),
        labels[:, None],
    ):
        assert not tells_labels({"label": other}, labels)


def two_views(num_classes: int = 3) -> LatentModel:
    experts = [DiagonalNormal(MLP(4, [2]), 1), DiagonalNormal(MLP(num_classes, [2]), 1)]
    return LatentModel(
        has_x=Mask(per_datum=True),
        has_label=Mask(per_datum=True),
        z=Latent(StandardNormal(1), posterior=ProductOfExperts(experts).given("x", "label", "has_x", "has_label")),
        x=Observed(Bernoulli(MLP(1, [2]), 4).given("z"), mask="has_x"),
        label=Observed(OneHotCategorical(MLP(1, [2]), num_classes).given("z"), mask="has_label"),
    )


def conditional(variable: Covariate) -> LatentModel:
    return LatentModel(
        u=variable,
        z=Latent(StandardNormal(1), posterior=DiagonalNormal(JoinedMLP([4, 3], [2]), 1).given("x", "u")),
        x=Observed(Bernoulli(JoinedMLP([1, 3], [2]), 4).given("z", "u")),
    )


def test_labels_as_rows_and_masks_of_ones() -> None:
    found = in_roles(data(), two_views()).members
    assert torch.equal(found["label"], torch.eye(3)[torch.arange(12) % 3])
    assert found["has_x"].dtype == torch.bool and found["has_x"].shape == (12,) and bool(found["has_x"].all())
    assert torch.equal(in_roles(data(), conditional(Covariate(3))).members["u"], found["label"])
    with pytest.raises(DataError, match="'label' has 2 entries, but labels go up to 2"):
        in_roles(data(), two_views(2))


def test_a_member_called_label_says_how_many_classes_there_are() -> None:
    x, numbers = torch.eye(4).repeat(3, 1), torch.tensor([0, -1, 2, -1] * 3)
    for label, classes in ((numbers, 3), (torch.eye(5)[numbers.clamp_min(0)], 5)):
        assert from_data(Dataset({"x": x, "label": label}))["num_classes"] == classes
    assert from_data(data())["num_classes"] == 3 and from_data(Dataset(x))["num_classes"] is None


def test_what_data_lack_is_an_error() -> None:
    unlabelled = replace(data(), labels=None)
    for pair in (semi_supervised_vae(4, 3, latent_dim=1, hidden=(2,)), conditional(Covariate(3))):
        with pytest.raises(DataError, match="has no labels"):
            in_roles(unlabelled, pair)
    with pytest.raises(DataError, match=r"has no member 'u' \(Exposure\)"):
        in_roles(data(), conditional(Exposure(3)))
    with pytest.raises(DataError, match="the model has no label with gaps"):
        in_roles(data(), bernoulli_vae(4, latent_dim=1, hidden=(2,)), num_labels=3)


def test_labels_among_the_members_are_taken_as_they_are() -> None:
    pair, known = semi_supervised_vae(4, 3, latent_dim=1, hidden=(2,)), torch.arange(12) % 4 - 1
    named = Dataset({"x": torch.eye(4).repeat(3, 1), "label": known})
    assert torch.equal(in_roles(named, pair).members["label"], known)
    with pytest.raises(DataError, match="data itself says which labels are known"):
        in_roles(named, pair, num_labels=3)


def test_a_mask_of_two_variables_says_that_both_are_there() -> None:
    posterior = DiagonalNormal(JoinedMLP([4, 3], [2]), 1).given("x", "label")
    pair = LatentModel(
        there=Mask(per_datum=True),
        z=Latent(StandardNormal(1), posterior=posterior),
        x=Observed(Bernoulli(MLP(1, [2]), 4).given("z"), mask="there"),
        label=Observed(OneHotCategorical(MLP(1, [2]), 3).given("z"), mask="there"),
    )
    assert torch.equal(in_roles(data(), pair).members["there"], torch.ones(12, dtype=torch.bool))


def test_gaps_and_lengths_are_not_taken_for_values() -> None:
    x = torch.zeros(6, 4)
    for name, member in (("seen", torch.ones(6, 4, dtype=torch.bool)), ("lengths", torch.full((6,), 2))):
        gappy = Dataset({"x": x, name: member})
        with pytest.raises(DataError, match=f"member '{name}'"):
            in_roles(gappy, bernoulli_vae(4, latent_dim=1, hidden=(2,)))


def test_a_run_learns_from_few_labels(tmp_path: Path) -> None:
    recipe = Recipe.from_dict(
        {
            "model": {"name": "semi-supervised-vae", "latent_dim": 2, "hidden": [8]},
            "data": {"source": "digits", "num_labels": 50, "num_train": 600},
            "training": {"num_epochs": 1, "compile": "eager", "labels_apart": True, "batch_size": 50},
        }
    )
    sizes: list[int] = []

    def count(state: TrainingState) -> None:
        sizes.append(len(state.batches))

    train(recipe, tmp_path / "run", callbacks=[count])
    assert sizes == [1 + 11]  # 50 labels, 550 without
    run = load_run(tmp_path / "run")
    assert int((run.data.members["label"] >= 0).sum()) == 50
    assert run.data.test is not None
    found = discrete_posterior(run.pair, run.data.test, compile="eager")
    assert found.probabilities["label_unobserved"].shape == (300, 10)


def test_labels_apart_need_labels(tmp_path: Path) -> None:
    recipe = Recipe.from_dict({"model": {"name": "bernoulli-vae"}, "training": {"labels_apart": True}})
    with pytest.raises(DataError, match="labels_apart: the model has no label with gaps"):
        train(recipe, tmp_path / "run")


def test_a_model_of_classes_wants_labels(tmp_path: Path) -> None:
    rows = tmp_path / "rows.npy"
    import numpy as np

    np.save(rows, np.eye(4).repeat(5, 0))
    recipe = Recipe.from_dict({"model": {"name": "semi-supervised-vae"}, "data": {"source": str(rows)}})
    with pytest.raises(RunError, match="semi-supervised-vae: needs labels, one for each datum, which rows lacks"):
        train(recipe, tmp_path / "run")
