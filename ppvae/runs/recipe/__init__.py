"""Recipes, the text files that determine a run; the entries that they name; pairs from files of the user's."""
