import hashlib


def stable_seed(*parts: object) -> int:
    """A 31-bit seed that is the same in every process."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:4], "big") >> 1


def item_hash(*parts: str) -> str:
    """A short stable name of a benchmark item, independent of the process (Python's own hash is salted)."""
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()[:16]
