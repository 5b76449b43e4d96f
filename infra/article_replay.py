"""`pubmed.articles` replayed into an index, from where its notes say to the end of the topic."""

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence

from aiokafka import ConsumerRecord, TopicPartition
from elasticsearch import AsyncElasticsearch
from rich.console import Console

from consumers.delivery import check_key
from consumers.index import index
from consumers.ports import Embed
from consumers.stage import Message, Policy
from consumers.together import together
from infra.elastic import ElasticIndex
from infra.index_versions import IndexVersions, State, Version
from infra.kafka import BrokerUnreachable, topic_name
from infra.progress_bar import Moving, moving
from infra.settings import Settings
from infra.stages import deleted_pmid
from infra.topic_reader import TopicReader
from streams.citation import Article
from streams.codec import decode
from streams.errors import Invalid, Transient
from streams.topics import ARTICLES

log = logging.getLogger(__name__)

# Messages that are in hand at once: some batches of the encoder.
AT_ONCE = 256
# Seconds between two notes of how far it has come: so much is done again after a kill.
NOTE_EVERY = 2.0


class ArticleReplay:
    """Fills an index by the index stage's own handler. What is away is waited for.

    `filled`, by partition, is the offset that comes next. `refused` counts messages that cannot be
    used: the index stage has set them aside.
    """

    def __init__(
        self,
        settings: Settings,
        client: AsyncElasticsearch,
        into: Version,
        embed: Embed,
        console: Console,
    ) -> None:
        self._settings = settings
        self._versions = IndexVersions(client, settings)
        self._client = client
        self._into = into
        self._embed = embed
        self._console = console
        self._policy = Policy(**settings.workers.model_dump())
        self.filled: Mapping[int, int] = into.filled
        self.refused = 0

    async def run(
        self, alias: str, *, during: State, after: State, close: int | None = None
    ) -> None:
        """Write to the index behind `alias`, up to the end that the topic has at the call.

        With `close`, what has come in meanwhile follows, all but so many messages. The index notes
        `during` as it goes, and `after` once it is done.
        """
        library = ElasticIndex(self._client, alias)
        for pause in self._policy.pauses():
            try:
                await self._read(library, during, close)
                await self.note(after)
                return
            except (BrokerUnreachable, Transient) as error:
                log.warning("again in %.1f s: %s", pause, error)
                await asyncio.sleep(pause)

    async def note(self, state: State) -> None:
        """Keep in the index how far it has come. Raises `Transient`."""
        await self._versions.note(self._into, state, self.filled)

    async def _read(self, library: ElasticIndex, during: State, close: int | None) -> None:
        name = topic_name(self._settings, ARTICLES)
        at = {TopicPartition(name, number): offset for number, offset in self.filled.items()}
        async with TopicReader(self._settings, [ARTICLES], at) as reader:
            ends = await reader.ends()
            noted = time.monotonic()
            with moving(self._console, f"into {self._into.name}", reader.left(ends)) as shown:
                while left := reader.left(ends):
                    await self._take(await reader.read(AT_ONCE), library, shown, left)
                    self._note_positions(reader)
                    if time.monotonic() - noted >= NOTE_EVERY:
                        await self.note(during)
                        noted = time.monotonic()
                    if close is not None and not reader.left(ends):
                        now = await reader.ends()
                        ends = now if reader.left(now) > close else ends
            self._note_positions(reader)

    def _note_positions(self, reader: TopicReader) -> None:
        self.filled = {at.partition: next for at, next in reader.positions.items()}

    async def _take(
        self, messages: Sequence[ConsumerRecord], library: ElasticIndex, shown: Moving, left: int
    ) -> None:
        async def one(message: ConsumerRecord) -> None:
            await self._index(message, library)
            shown(1, left)

        await together(map(one, messages))

    async def _index(self, message: ConsumerRecord, library: ElasticIndex) -> None:
        for pause in self._policy.pauses():
            try:
                record = None if message.value is None else decode(Article, message.value)
                check_key(ARTICLES, record, message.key)
                where = message.key, message.topic, message.partition, message.offset
                pmid = record.pmid if record else deleted_pmid(Message(record, *where))
                await index(
                    record, pmid=pmid, version=message.offset, embed=self._embed, index=library
                )
                return
            except Invalid as error:
                self.refused += 1
                log.info("partition %d, offset %d: %s", message.partition, message.offset, error)
                return
            except Transient as error:
                log.warning("again in %.1f s: %s", pause, error)
                await asyncio.sleep(pause)
