"""The messages of a topic as a Parquet file, and such a file as messages of a topic again.

Keys, values, headers, timestamps, and which partition and offset each message had.
"""

import asyncio
import logging
from array import array
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from aiokafka import AIOKafkaProducer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError

from consumers.stage import Policy
from infra.kafka import BrokerUnreachable, end_producer, idempotent_producer, start, topic_name
from infra.settings import Settings
from infra.topic_reader import TopicReader
from streams.errors import Transient
from streams.topics import Topic

log = logging.getLogger(__name__)

SCHEMA = pa.schema(
    [
        pa.field("partition", pa.int32()),
        pa.field("offset", pa.int64()),
        pa.field("timestamp", pa.int64()),
        pa.field("key", pa.binary()),
        pa.field("value", pa.binary()),
        pa.field("headers", pa.list_(pa.struct([("name", pa.string()), ("value", pa.binary())]))),
    ]
)
# Messages in memory at a time.
AT_ONCE = 1000

# How many messages more are done, and how many offsets are left.
Told = Callable[[int, int], None]
# Key and value of a message as they are to be now.
Change = Callable[[bytes, bytes], tuple[bytes, bytes]]


async def dump(
    settings: Settings, topic: Topic, at: Mapping[TopicPartition, int], path: Path, told: Told
) -> int:
    """Write what was committed to a topic from these offsets on, until now; how many messages.

    None where there is no such topic. A broker that is away is waited for. Raises `OSError`.
    """
    count = 0
    ends: dict[TopicPartition, int] | None = None
    with pq.ParquetWriter(path, SCHEMA, compression="zstd") as writer:
        for pause in Policy(**settings.workers.model_dump()).pauses():
            try:
                async with TopicReader(settings, [topic], at) as reader:
                    ends = ends or await reader.ends()
                    while left := reader.left(ends):
                        messages = await reader.read(AT_ONCE)
                        if messages:
                            await asyncio.to_thread(writer.write_batch, _batch(messages))
                        at = dict(reader.positions)
                        count += len(messages)
                        told(len(messages), left)
                return count
            except (BrokerUnreachable, Transient) as error:
                if isinstance(error, Transient) and error.reason == "no topic":
                    return count
                log.warning("again in %.1f s: %s", pause, error)
                await asyncio.sleep(pause)
    return count


async def load(
    settings: Settings, topic: Topic, path: Path, told: Told, change: Change | None = None
) -> dict[int, "array[int]"]:
    """Publish the messages of a file, in their partitions and order, with their timestamps.

    Returns, by partition, the offset that each message had before: its place in the list is how
    many come before it now. Raises `BrokerUnreachable`, `Transient`.
    """
    name = topic_name(settings, topic)
    producer = idempotent_producer(settings)
    await start(producer, settings)
    before: dict[int, array[int]] = {}
    try:
        file = pq.ParquetFile(path)
        left = file.metadata.num_rows
        for batch in file.iter_batches(AT_ONCE):
            rows = batch.to_pylist()
            if change:
                for row in rows:
                    row["key"], row["value"] = change(row["key"], row["value"])
            sent = [await _send(producer, name, row) for row in rows]
            await asyncio.gather(*sent)
            for partition, offset in zip(
                batch["partition"].to_pylist(), batch["offset"].to_pylist(), strict=True
            ):
                before.setdefault(partition, array("q")).append(offset)
            left -= len(batch)
            told(len(batch), left)
    except KafkaError as error:
        raise Transient("broker away", f"topic {name}: {error!r}") from error
    finally:
        await end_producer(producer)
    return before


async def _send(producer: AIOKafkaProducer, topic: str, row: Mapping[str, Any]) -> Any:
    return await producer.send(
        topic,
        row["value"],
        key=row["key"],
        partition=row["partition"],
        timestamp_ms=row["timestamp"],
        headers=[(header["name"], header["value"]) for header in row["headers"]],
    )


def _batch(messages: list[ConsumerRecord]) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist(list(map(_row, messages)), schema=SCHEMA)


def _row(message: ConsumerRecord) -> dict[str, Any]:
    return {
        "partition": message.partition,
        "offset": message.offset,
        "timestamp": message.timestamp,
        "key": message.key,
        "value": message.value,
        "headers": [{"name": name, "value": value} for name, value in message.headers],
    }
