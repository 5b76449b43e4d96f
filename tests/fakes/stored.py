"""The `Stored` port in memory."""

from consumers.append import row
from consumers.stored import contexts
from streams.records import Contexts, Ideal, Preference


class FakeStored:
    """What was added, kept as a row keeps it."""

    def __init__(self, *added: Preference | Ideal) -> None:
        self._kept: list[Contexts] = []
        self.add(*added)

    def add(self, *added: Preference | Ideal) -> None:
        self._kept += [contexts(*row(preference)) for preference in added]

    async def __call__(self, pmid: int, text_hash: str) -> tuple[Contexts, ...]:
        newest_first = reversed(self._kept)
        wanted = (pmid, text_hash)
        return tuple(c for c in newest_first if (c.source.pmid, c.source.text_hash) == wanted)
