"""Benchmarks, run as the commands are: with large pages for large tensors."""

from canon.cli.large_pages import use_large_pages

use_large_pages()
