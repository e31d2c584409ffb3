"""Tensor-parallel layers and the pipeline that is built of them."""
