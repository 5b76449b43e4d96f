"""What a broker says that a user may do: Metadata version 8 and DescribeGroups version 3 (KIP-430).

aiokafka has neither.
"""

from collections.abc import Sequence
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import Array, Boolean, Bytes, Int16, Int32, Schema, String

from infra.access import Right
from infra.acls import OPERATIONS
from infra.kafka import client_arguments, start
from infra.settings import Settings

TEXT = String("utf-8")


class MetadataAnswer(Response):
    API_KEY = 3
    API_VERSION = 8
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        ("brokers", Array(("node_id", Int32), ("host", TEXT), ("port", Int32), ("rack", TEXT))),
        ("cluster_id", TEXT),
        ("controller_id", Int32),
        (
            "topics",
            Array(
                ("error_code", Int16),
                ("name", TEXT),
                ("is_internal", Boolean),
                (
                    "partitions",
                    Array(
                        ("error_code", Int16),
                        ("partition", Int32),
                        ("leader", Int32),
                        ("leader_epoch", Int32),
                        ("replicas", Array(Int32)),
                        ("isr", Array(Int32)),
                        ("offline", Array(Int32)),
                    ),
                ),
                ("operations", Int32),
            ),
        ),
        ("cluster_operations", Int32),
    )


class MetadataStruct(RequestStruct):
    API_KEY = 3
    API_VERSION = 8
    RESPONSE_TYPE = MetadataAnswer
    SCHEMA = Schema(
        ("topics", Array(TEXT)),
        ("make", Boolean),
        ("with_cluster_operations", Boolean),
        ("with_topic_operations", Boolean),
    )


class Metadata(Request[MetadataStruct]):
    API_KEY = 3

    def __init__(self, topics: Sequence[str]) -> None:
        self._topics = list(topics)

    def build(self, request_struct_class: type[MetadataStruct]) -> MetadataStruct:
        return request_struct_class(self._topics, False, False, True)


class GroupsAnswer(Response):
    API_KEY = 15
    API_VERSION = 3
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "groups",
            Array(
                ("error_code", Int16),
                ("group", TEXT),
                ("state", TEXT),
                ("protocol_type", TEXT),
                ("protocol", TEXT),
                (
                    "members",
                    Array(
                        ("member_id", TEXT),
                        ("client_id", TEXT),
                        ("client_host", TEXT),
                        ("metadata", Bytes),
                        ("assignment", Bytes),
                    ),
                ),
                ("operations", Int32),
            ),
        ),
    )


class GroupsStruct(RequestStruct):
    API_KEY = 15
    API_VERSION = 3
    RESPONSE_TYPE = GroupsAnswer
    SCHEMA = Schema(("groups", Array(TEXT)), ("with_operations", Boolean))


class Groups(Request[GroupsStruct]):
    API_KEY = 15

    def __init__(self, groups: Sequence[str]) -> None:
        self._groups = list(groups)

    def build(self, request_struct_class: type[GroupsStruct]) -> GroupsStruct:
        return request_struct_class(self._groups, True)


async def granted(settings: Settings, topics: Sequence[str], groups: Sequence[str]) -> set[Right]:
    """What the settings' user may do on these topics and groups, as the broker says itself."""
    admin = AIOKafkaAdminClient(**client_arguments(settings))
    await start(admin, settings)
    try:
        node = admin._client.get_random_node()
        described: Any = await admin._client.send(node, Metadata(topics))
        answered: Any = await admin._client.send(node, Groups(groups))
    finally:
        await admin.close()
    found = set()
    for code, name, _, _, bits in described.topics:
        found |= {Right("topic", name, operation) for operation in _named(0 if code else bits)}
    for code, name, *_, bits in answered.groups:
        found |= {Right("group", name, operation) for operation in _named(0 if code else bits)}
    return found


def _named(bits: int) -> list[Any]:
    """The operations, of those that the table of access knows, whose bits are set."""
    return [name for name, number in OPERATIONS.items() if bits >> number & 1]
