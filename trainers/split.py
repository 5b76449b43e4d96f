"""Which records are never trained on, the same in every job and in the gate."""

import hashlib
from typing import Final

# Of a PMID's hash, so that shares follow from it.
_RANGE: Final = 1 << 64


def held_out(pmid: int, share: float) -> bool:
    """Whether a record is kept for measuring: a pure function of its PMID and the share (0 to 1).

    The first 8 bytes, big-endian, of the BLAKE2b hash of "held out", a zero byte and the PMID in
    decimal, as a fraction of 2^64, are below the share. So a record never crosses from one side to
    the other while the share stays, and a larger share only adds to what is held out.
    """
    digest = hashlib.blake2b(b"held out\x00%d" % pmid, digest_size=8).digest()
    return int.from_bytes(digest, "big") < share * _RANGE
