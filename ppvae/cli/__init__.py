"""The command line: ``ppvae --help``."""
