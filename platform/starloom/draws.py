"""Random draws that depend on what they are for and on nothing else."""

import hashlib


def draw(seed: int, key: str, purpose: str) -> float:
    """A number in [0, 1) that depends on its three arguments alone."""
    digest = hashlib.blake2b(f"{seed}\0{purpose}\0{key}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
