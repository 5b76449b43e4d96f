"""The jobs there were, as the topic `training.jobs` keeps them, and the right to write them."""

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Self

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, ProducerFenced

from consumers.delivery import broker_away, key_and_value
from infra.kafka import client_arguments, end_producer, start, topic_name
from infra.settings import Settings
from infra.topic_view import TopicView
from infra.turn import Turn, TurnLost
from streams.errors import Transient
from streams.learning import Job
from streams.topics import JOBS

# Seconds for the broker to end a transaction whose process is gone.
TRANSACTION_TIMEOUT = 60.0


class Ledger:
    """What is known of the jobs; written by the one process whose turn it is, while entered.

    Entering shuts out whoever wrote before, and returns when all that was written is known. It
    raises `BrokerUnreachable` and `Transient`.
    """

    def __init__(self, settings: Settings, turn: Turn) -> None:
        self._settings = settings
        self._turn = turn
        self._view = TopicView(settings, JOBS, Job)
        # A producer has one transaction at a time.
        self._writing = asyncio.Lock()

    @property
    def jobs(self) -> Mapping[str, Job]:
        """By id; also what `kailin train retry` has written meanwhile."""
        return self._view.records

    async def __aenter__(self) -> Self:
        self._producer = AIOKafkaProducer(
            **client_arguments(self._settings),
            transactional_id=f"{self._settings.kafka.prefix}kailin.trainer",
            transaction_timeout_ms=int(TRANSACTION_TIMEOUT * 1000),
            request_timeout_ms=40_000,
        )
        async with AsyncExitStack() as stack:
            # Starting it ends any transaction that was left open, one way or the other.
            await start(self._producer, self._settings)
            stack.push_async_callback(end_producer, self._producer)
            await stack.enter_async_context(self._view)
            self._entered = stack.pop_all()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._entered.aclose()

    async def keep(self, job: Job) -> None:
        """Write a job's state; done when the broker has it. Raises `TurnLost`, `Transient`."""
        await self._turn.check()
        name = topic_name(self._settings, JOBS)
        key, value = key_and_value(JOBS, job, name)
        try:
            async with self._writing, self._producer.transaction():
                sent = await self._producer.send_and_wait(name, value, key=key)
        except ProducerFenced:
            raise TurnLost from None
        except KafkaError as error:
            if broker_away(error):
                raise Transient("broker away", f"topic {name}: {error}") from error
            raise
        # The broker may tell of a commit a moment after it has confirmed it.
        await self._view.until(sent.offset)
