"""Folders and files that survive: atomic writes, run folders, checkpoints."""
