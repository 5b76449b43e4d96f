"""The indices of one deployment: the one behind the alias, the next in the making, and old ones.

They are called `<alias>-000001` and so on. The next is filled behind an alias of its own,
`<alias>-next`, and takes the place of the other in one step. What an index knows of itself it keeps
in its mapping's `_meta`: the encoder it was filled with, and how far a replay has come.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from elasticsearch import AsyncElasticsearch

from infra.elastic import call, check
from infra.elastic_mapping import NOTES, index_body, with_notes
from infra.settings import Settings, SettingsError

# filling: not behind the alias; swapped: behind it, lacking what came in around that moment.
State = Literal["filling", "swapped", "whole"]


class ReindexError(Exception):
    """What is asked for cannot be done; the message is one line."""


@dataclass(frozen=True, slots=True)
class Version:
    """One index. `serves` where it stands behind the alias.

    `filled`, by partition, is up to which offset a replay has brought it. `size` is in bytes.
    """

    name: str
    serves: bool
    next: bool
    records: int
    size: int
    encoder: str = ""
    state: State = "whole"
    filled: dict[int, int] = field(default_factory=dict)


class IndexVersions:
    """What can be done with them. Every method raises `Transient` while Elasticsearch is away."""

    def __init__(self, client: AsyncElasticsearch, settings: Settings) -> None:
        self._client = client
        self._settings = settings
        self.alias = settings.elasticsearch.alias
        self.next_alias = f"{self.alias}-next"

    async def all(self) -> list[Version]:
        """Every one, the oldest first."""
        pattern = f"{self.alias}-*"
        held = await call(
            self._client.indices.get(
                index=pattern, ignore_unavailable=True, expand_wildcards="open"
            )
        )
        # Others may have an alias that begins in the same way.
        ours = [name for name in held if re.fullmatch(r"\d{6}", name[len(self.alias) + 1 :])]
        figures = {}
        if ours:
            await call(self._client.indices.refresh(index=ours))
            figures = (await call(self._client.indices.stats(index=ours)))["indices"]
        return [self._version(name, held[name], figures.get(name)) for name in sorted(ours)]

    def _version(
        self, name: str, index: Mapping[str, Any], figures: Mapping[str, Any] | None
    ) -> Version:
        notes = index["mappings"].get("_meta", {}).get(NOTES, {})
        primaries = (figures or {}).get("primaries", {})
        return Version(
            name=name,
            serves=self.alias in index["aliases"],
            next=self.next_alias in index["aliases"],
            records=primaries.get("docs", {}).get("count", 0),
            size=primaries.get("store", {}).get("size_in_bytes", 0),
            encoder=notes.get("encoder", ""),
            state=notes.get("state", "whole"),
            filled={int(number): offset for number, offset in notes.get("filled", {}).items()},
        )

    async def make_next(self, after: str) -> Version:
        """An empty index as the settings have it, behind the alias of the next."""
        embedder = self._settings.embedder
        name = f"{self.alias}-{int(after[-6:]) + 1:06}"
        body = with_notes(
            index_body(embedder.dimensions, self._settings.elasticsearch.shards),
            {"encoder": embedder.name, "state": "filling"},
        )
        await call(
            self._client.indices.create(
                index=name, aliases={self.next_alias: {"is_write_index": True}}, **body
            )
        )
        return Version(name, False, True, 0, 0, embedder.name, "filling")

    async def check_next(self, version: Version) -> None:
        """See that an index begun earlier is as the settings have it. Raises `ReindexError`."""
        embedder = self._settings.embedder
        remedy = f"`kailin reindex --remove {version.name}`, and then begin anew"
        if version.encoder != embedder.name:
            raise ReindexError(
                f"index {version.name} was begun with the encoder {version.encoder}, and `embedder`"
                f" in the settings names {embedder.name}: {remedy}"
            )
        try:
            await check(self._client, self.next_alias, embedder.dimensions)
        except SettingsError as error:
            raise ReindexError(f"{error}: {remedy}") from None

    async def note(self, version: Version, state: State, filled: Mapping[int, int]) -> None:
        """Keep in an index how far it has come."""
        notes = {
            "encoder": version.encoder,
            "state": state,
            "filled": {str(number): offset for number, offset in filled.items()},
        }
        await call(self._client.indices.put_mapping(index=version.name, meta={NOTES: notes}))

    async def swap(self, old: Version, new: Version) -> None:
        """Put the new one behind the alias in place of the old, in one step."""
        actions: list[dict[str, Any]] = [
            {"add": {"index": new.name, "alias": self.alias, "is_write_index": True}},
            {"remove": {"index": old.name, "alias": self.alias}},
            {"remove": {"index": new.name, "alias": self.next_alias}},
        ]
        await call(self._client.indices.update_aliases(actions=actions))

    async def remove(self, name: str) -> Version:
        """Delete one that does not serve. Raises `ReindexError`."""
        found = {version.name: version for version in await self.all()}
        if name not in found:
            raise ReindexError(
                f"{name}: there is no such index of alias {self.alias}; there are "
                f"{', '.join(found) or 'none'}"
            )
        if found[name].serves:
            raise ReindexError(f"{name}: serves behind alias {self.alias} and stays")
        await call(self._client.indices.delete(index=name))
        return found[name]
