"""The consumer groups of this deployment, as the broker knows them."""

from collections.abc import Collection
from dataclasses import dataclass

from aiokafka import AIOKafkaConsumer, OffsetAndMetadata, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError, for_code

from infra.kafka import client_arguments, group_name, start
from infra.settings import Settings
from streams.errors import Transient


@dataclass(frozen=True, slots=True)
class Group:
    """`members` are workers that are in it now; `offsets` are those of the messages to come."""

    members: int
    offsets: dict[TopicPartition, int]


async def groups(settings: Settings) -> dict[str, Group]:
    """Every group of this deployment, by its name on the broker.

    Raises `BrokerUnreachable`, and `Transient` where the broker goes away meanwhile.
    """
    admin = AIOKafkaAdminClient(**client_arguments(settings))
    await start(admin, settings)
    try:
        ours = group_name(settings, "")
        names = [name for name, *_ in await admin.list_consumer_groups() if name.startswith(ours)]
        members: dict[str, int] = {}
        for name in names:
            # One at a time: aiokafka 0.14 reads version 3 of the answer as version 2, which lacks
            # the field at the end of each group, and so cannot read what follows the first one.
            (answer,) = await admin.describe_consumer_groups([name])
            ((code, _, _, _, _, present, *_),) = answer.groups
            if code:
                raise for_code(code)(f"group {name} cannot be described")
            members[name] = len(present)
        return {
            name: Group(
                members[name],
                {
                    partition: held.offset
                    for partition, held in (await admin.list_consumer_group_offsets(name)).items()
                    if held.offset >= 0
                },
            )
            for name in names
        }
    except KafkaError as error:
        raise Transient("broker away", f"consumer groups: {error!r}") from error
    finally:
        await admin.close()


async def commit(settings: Settings, group: str, offsets: dict[TopicPartition, int]) -> None:
    """Put a group without members where it is to go on.

    Raises `BrokerUnreachable`, and `Transient` where the broker refuses or goes away.
    """
    consumer = AIOKafkaConsumer(
        **client_arguments(settings), group_id=group, enable_auto_commit=False
    )
    await start(consumer, settings)
    try:
        consumer.assign(list(offsets))
        await consumer.commit({at: OffsetAndMetadata(next, "") for at, next in offsets.items()})
    except KafkaError as error:
        raise Transient("broker away", f"group {group}: {error!r}") from error
    finally:
        await consumer.stop()


def at_work(found: dict[str, Group], names: Collection[str]) -> list[str]:
    """Those of the groups that have members."""
    return [name for name in names if name in found and found[name].members]
