"""Benchmarks that stay out of the corpus: their tasks, and how files are held against them."""
