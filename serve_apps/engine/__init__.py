"""Continuous batching over a block KV cache of the one K and V head."""
