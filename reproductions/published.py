"""The numbers of the paper, read off its vector figures to a tenth of a nat; no experiment sees them."""

BOUNDS: dict[tuple[str, int, str], dict[float, float]] = {
    ("mnist", 10, "AEVB"): {1e6: -128.3, 3e6: -115.8, 1e7: -108.5, 1e8: -103.7},
    ("mnist", 10, "wake-sleep"): {1e7: -113.5, 1e8: -107.6},
}
"""Figure 2: data, N_z and method to samples seen to the bound on test data, nats per datum."""

EVIDENCE: dict[tuple[int, str], dict[str, float]] = {
    (1000, "AEVB"): {"train": -114.4, "test": -142.9},
    (1000, "wake-sleep"): {"train": -128.3, "test": -146.6},
    (1000, "MCEM"): {"train": -118.3, "test": -142.4},
}
"""Figure 3: N_train and method to the marginal log-likelihood after 1e7 samples, nats per datum."""
