"""Checkpoints of logical tensors, and model folders made from them."""
