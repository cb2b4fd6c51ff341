"""Evaluation of a run, in files that go on where they were stopped."""
