"""Full variational Bayes on few data: a posterior over the decoder's weights, and what it is good for.

python examples/full_variational_bayes.py
"""

from __future__ import annotations

import torch

from ppvae.data import load
from ppvae.distributions.weight_priors import NormalPrior
from ppvae.inference import elbo, evidence, fit, log_evidence, predictive_moments, prune, signal_to_noise
from ppvae.models import bayesianise, bernoulli_vae

NUM_EPOCHS = 300


def main(num_epochs: int = NUM_EPOCHS) -> None:
    """Train with and without a posterior over the weights, and compare on held-out digits."""
    data = load("digits", binarize="static")
    assert data.test is not None
    train, test = data.tensor()[:200].float(), data.test.tensor()[:100].float()  # type: ignore[index]

    torch.manual_seed(0)
    plain = bernoulli_vae(64, latent_dim=3, hidden=(100,))

    # One line: every weight of the decoder gets a prior, its scale learned by the bound, and a posterior.
    # N is stated once, by fit.
    bayesian = bayesianise(plain, prior=NormalPrior(0.3, learn=True), weight_noise="local-reparameterization")

    for pair in (plain, bayesian):
        fit(pair, train, elbo=elbo.TraceMeanFieldELBO(), learning_rate=5e-3, num_epochs=num_epochs, batch_size=50)

    method = evidence.ImportanceSampling(500)
    ml = log_evidence(plain, test, method=method)
    vb = log_evidence(bayesian, test, method=method, global_sites=10)
    print(f"held-out log p(x): one set of weights {ml.mean:.2f}, averaged over their posterior {vb.mean:.2f} nats")

    moments = predictive_moments(bayesian, test, num_weights=20, num_latents=20)
    share = float((moments.epistemic / moments.total.clamp_min(1e-6)).mean())
    print(f"variance of a predicted pixel: {float(moments.total.mean()):.3f}, of it {share:.1%} unknown weights")

    ratios = torch.cat([value.flatten() for value in signal_to_noise(bayesian, test).values()])
    print(
        f"signal-to-noise of the weights: median {float(ratios.median()):.2f}, 90 % {float(ratios.quantile(0.9)):.2f}"
    )
    for fraction in (0.0, 0.5, 0.75, 0.9):
        pruned = prune(bayesian, test, fraction=fraction)
        found = log_evidence(bayesian, test, method=method, global_sites=pruned.values)
        print(f"  {fraction:.0%} of the weights at zero, the others at their mean: {found.mean:.2f} nats")


if __name__ == "__main__":
    main()
