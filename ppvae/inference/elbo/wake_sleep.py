"""Wake-sleep, the first baseline of AEVB."""

from __future__ import annotations

from . import ReweightedWakeSleep


def wake_sleep() -> ReweightedWakeSleep:
    r"""The wake-sleep algorithm (Hinton et al. 1995) as an estimator: ``fit(pair, data, elbo=wake_sleep())``.

    $$g_\theta = \nabla_\theta \log p_\theta(x, z),\ z \sim q_\phi(z \mid x);\qquad
      g_\phi = \nabla_\phi \log q_\phi(z' \mid x'),\ (z', x') \sim p_\theta$$

    It is reweighted wake-sleep with one particle and the sleep update alone. The two gradients do not belong to one
    objective (Kingma & Welling 2013, arXiv 1312.6114, section 4); the bound is reported.
    """
    return ReweightedWakeSleep(1, sleep=1.0)
