"""prefer: `alignments` → `preferences`, the better question of a record and the worse one."""

from streams.preference import choose
from streams.records import Alignments, Preference


def prefer(alignments: Alignments, margin: float) -> Preference | None:
    """The preference, tie or unscorable record that these alignments make; None for ideal ones.

    `margin`, in [0, 1], is the least difference of two scores that counts. A record that was not
    asked about is unscorable for the reason that its source gives.
    """
    if alignments.role != "preference":
        return None
    choice = choose(alignments.alignments, margin)
    return Preference(
        id=alignments.id,
        source=alignments.source,
        edition=alignments.edition,
        frequency=alignments.frequency,
        margin=margin,
        outcome=choice.outcome,
        reason=alignments.source.withheld or choice.reason,
        alignments=choice.alignments,
    )
