"""What determines a run, as a text file: the recipe, what it can name, and pairs from files of the user's."""
