"""How many messages lie after the last finished one, in the partitions that a worker holds."""

import asyncio
from contextlib import suppress
from typing import Any

from aiokafka.errors import KafkaError

from consumers.acks import Acks
from streams.metrics import Metrics

# How long the broker is waited for, in seconds; the last answer of it stands for longer.
PATIENCE = 1.0


class Lag:
    """Shows the lag of one stage on its topic, as the broker calls it. `consumer` is faust's."""

    def __init__(self, stage: str, topic: str, metrics: Metrics) -> None:
        self._labels = stage, topic
        self._gauge = metrics.consumer_lag
        self._shown: set[int] = set()

    async def measure(self, consumer: Any, acks: Acks, *, standing: bool) -> None:
        """Show it as it is now; of a partition that is held no more, nothing.

        The ends of the partitions come with the messages. One that is `standing` fetches none, and
        has to ask for them.
        """
        client = consumer._thread._consumer
        assigned = list(client.assignment()) if client else []
        ends: dict[Any, int] = {}
        if standing and assigned:
            with suppress(KafkaError, TimeoutError):
                ends = await asyncio.wait_for(consumer._thread.highwaters(*assigned), PATIENCE)
        # A rebalance may take a partition away, in the consumer's own thread, at any moment.
        with suppress(AssertionError, AttributeError):
            self._show(consumer, client, ends, acks)

    def _show(self, consumer: Any, client: Any, ends: dict[Any, int], acks: Acks) -> None:
        assigned = {tp.partition: tp for tp in client.assignment()} if client else {}
        for gone in self._shown - assigned.keys():
            self._gauge.remove(*self._labels, str(gone))
        self._shown &= assigned.keys()
        for partition, tp in assigned.items():
            end, position = ends.get(tp, client.last_stable_offset(tp)), acks.next(partition)
            read = consumer._read_offset.get(tp) or 0
            if position is None:
                # Nothing was taken yet: the last commit is where reading began.
                position = consumer._committed_offset.get(tp) or 0
                done = read == position
            else:
                done = read < position
            if done:
                # The marker that ends a transaction has an offset too, and is passed over without
                # a message.
                state = client._subscription.subscription.assignment.state_value(tp)
                position = max(position, state.position if state.has_valid_position else 0)
            if end is not None and end >= 0:
                self._gauge.labels(*self._labels, str(partition)).set(max(0, end - position))
                self._shown.add(partition)
