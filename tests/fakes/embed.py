"""A deterministic Embed port without a model: texts that share words lie near each other."""

import hashlib
import re

import numpy as np

from consumers.ports import Vector

DIMENSIONS = 384


def hashed(text: str, dimensions: int = DIMENSIONS) -> Vector:
    """The normalised sum of one random direction for each word, drawn by the word's hash."""
    total = np.zeros(dimensions, dtype=np.float32)
    for word in re.findall(r"\w+", text.casefold()) or [""]:
        seed = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "big")
        total += np.random.default_rng(seed).standard_normal(dimensions, dtype=np.float32)
    unit: Vector = total / np.linalg.norm(total)
    return unit


class FakeEmbed:
    def __init__(self, dimensions: int = DIMENSIONS) -> None:
        self._dimensions = dimensions
        self.texts: list[str] = []

    async def __call__(self, text: str) -> Vector:
        self.texts.append(text)
        return hashed(text, self._dimensions)
