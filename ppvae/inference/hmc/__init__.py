"""Hamiltonian Monte Carlo in pure torch, one lane for every chain and datum."""
