"""``python -m ppvae``."""

from .cli.main import main

main()
