"""Which way a record goes: to a comparison of θ1 with θ2, or to an ideal record by θ3."""

import hashlib

from streams.records import Role

# Of a PMID's hash, so that shares follow from it.
_RANGE = 1 << 64


def role(pmid: int, *, theta3_serves: bool, preference_share: float) -> Role:
    """The role of a record: a pure function of its PMID and the policy.

    All are compared until θ3 serves; from then on a share (0 to 1) of them, by a hash of the PMID,
    still is.
    """
    if not theta3_serves:
        return "preference"
    digest = hashlib.blake2b(b"role\x00%d" % pmid, digest_size=8).digest()
    share = int.from_bytes(digest, "big") / _RANGE
    return "preference" if share < preference_share else "ideal"
