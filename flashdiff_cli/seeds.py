"""Seeds of random draws, from what the draws belong to."""

from __future__ import annotations

import hashlib


def seed_of(content: bytes) -> int:
    """Return a seed of 63 bits that depends on these bytes and nothing else."""
    return int.from_bytes(hashlib.sha256(content).digest()[:8], "big") >> 1
