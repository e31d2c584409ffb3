"""Evaluation: benchmarks, samples, verdicts, scores, and the service that keeps them."""
