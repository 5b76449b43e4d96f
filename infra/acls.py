"""Access control lists for Kafka, as `infra.access` has them: shown, compared and applied."""

import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import GroupAuthorizationFailedError, KafkaError, for_code
from aiokafka.protocol.admin import CreateAclsRequest, DescribeAclsRequest

from consumers.delivery import broker_away
from infra.access import ACCESS, Operation, Resource, Right, rights
from infra.kafka import client_arguments, start
from infra.settings import Settings
from streams.errors import Transient

PROCESS = "{process}"

# The numbers of Kafka's protocol (KIP-140).
_RESOURCES: dict[Resource, int] = {"topic": 2, "group": 3, "transactional-id": 5}
OPERATIONS: dict[Operation, int] = {
    "read": 3,
    "write": 4,
    "create": 5,
    "describe": 8,
    "describe-configs": 10,
}
_ANY, _LITERAL, _ALLOW = 1, 3, 3
_RESOURCE_NAMES = {number: name for name, number in _RESOURCES.items()}
_OPERATION_NAMES = {number: name for name, number in OPERATIONS.items()}


class AclError(Exception):
    """The broker does not take or tell its lists; the message is one line."""


class NotAllowed(Exception):
    """A process's user cannot see what the process works on; the message is one line."""


@dataclass(frozen=True, slots=True, order=True)
class Binding:
    """A right of a principal, from any host."""

    principal: str
    right: Right


def bindings(
    settings: Settings, principal: str, processes: Iterable[str] = ACCESS
) -> list[Binding]:
    """The lists for some processes. `principal` says who they are, as "User:kailin-{process}".

    Without {process} in it, one principal has the rights of all.
    """
    return sorted(
        {
            Binding(principal.replace(PROCESS, process), right)
            for process in processes
            for right in rights(settings, process)
        }
    )


def commands(settings: Settings, wanted: Iterable[Binding], *, remove: bool = False) -> list[str]:
    """A line of `kafka-acls.sh` for each principal and resource."""
    tool = ["kafka-acls.sh", "--bootstrap-server", settings.kafka.servers]
    tool += ["--command-config", "admin.properties"]
    tool += ["--remove", "--force"] if remove else ["--add"]
    lines = []
    for (principal, resource, name), some in groupby(
        sorted(wanted), lambda b: (b.principal, b.right.resource, b.right.name)
    ):
        names = (b.right.operation.title().replace("-", "") for b in some)
        operations = [word for operation in names for word in ("--operation", operation)]
        lines.append(
            shlex.join([*tool, "--allow-principal", principal, f"--{resource}", name, *operations])
        )
    return lines


def as_json(binding: Binding) -> dict[str, str]:
    """One list entry, in the words of Kafka's own tools."""
    right = binding.right
    return {
        "principal": binding.principal,
        "host": "*",
        "resource": right.resource,
        "name": right.name,
        "pattern": "literal",
        "operation": right.operation,
        "permission": "allow",
    }


async def apply(settings: Settings, wanted: list[Binding]) -> tuple[list[Binding], list[Binding]]:
    """Make the lists that the broker lacks; those, and what the same principals hold beside.

    Nothing is taken away. Raises `BrokerUnreachable` and `AclError`.
    """
    admin = AIOKafkaAdminClient(**client_arguments(settings))
    await start(admin, settings)
    try:
        held = set(await _held(admin))
        made = [binding for binding in wanted if binding not in held]
        for binding in made:
            await _create(admin, binding)
    except KafkaError as error:
        raise AclError(f"{settings.kafka.servers}: {error!r}") from error
    finally:
        await admin.close()
    principals = {binding.principal for binding in wanted}
    return made, sorted(b for b in held.difference(wanted) if b.principal in principals)


async def check_allowed(settings: Settings, process: str) -> None:
    """See that a process's user can see the topics and join the groups that it needs.

    A consumer that may not read its topic waits for ever and says little. On a broker that knows
    no users there is nothing to see. Raises `NotAllowed`, `BrokerUnreachable`, `Transient`.
    """
    if settings.kafka.security_protocol == "PLAINTEXT":
        return
    needed = rights(settings, process)
    topics = {right.name for right in needed if right.resource == "topic"}
    lacking = []
    admin = AIOKafkaAdminClient(**client_arguments(settings))
    await start(admin, settings)
    try:
        there = {topic["topic"] for topic in await admin.describe_topics()}
        lacking += [f"topic {name}" for name in sorted(topics - there)]
        for group in (right.name for right in needed if right.resource == "group"):
            try:
                await admin.find_coordinator(group)
            except GroupAuthorizationFailedError:
                lacking.append(f"group {group}")
            except KafkaError as error:
                # A new broker keeps no groups yet. It looks at the right before it says so.
                if not broker_away(error):
                    raise
    except KafkaError as error:
        if not broker_away(error):
            raise AclError(f"{settings.kafka.servers}: {error!r}") from error
        raise Transient("broker away", repr(error)) from error
    finally:
        await admin.close()
    if lacking:
        user = settings.kafka.username or "the certificate's user"
        raise NotAllowed(
            f"Kafka shows {user} no {', no '.join(lacking)}: `kailin acls {process}` says what it "
            "needs, and `kailin up` makes topics that are missing"
        )


async def _held(admin: AIOKafkaAdminClient) -> Iterator[Binding]:
    """What the broker allows on single resources, of what `infra.access` knows."""
    every = DescribeAclsRequest(
        resource_type=_ANY,
        resource_name=None,
        resource_pattern_type_filter=_LITERAL,
        principal=None,
        host="*",
        operation=_ANY,
        permission_type=_ALLOW,
    )
    answer: Any = await admin._send_request(every)
    _check(answer.error_code, answer.error_message, "the lists cannot be read")
    return (
        Binding(principal, Right(_RESOURCE_NAMES[kind], name, _OPERATION_NAMES[operation]))
        for kind, name, _, acls in answer.resources
        for principal, _, operation, _ in acls
        if kind in _RESOURCE_NAMES and operation in _OPERATION_NAMES
    )


async def _create(admin: AIOKafkaAdminClient, binding: Binding) -> None:
    right = binding.right
    request = CreateAclsRequest(
        resource_type=_RESOURCES[right.resource],
        resource_name=right.name,
        resource_pattern_type_filter=_LITERAL,
        principal=binding.principal,
        host="*",
        operation=OPERATIONS[right.operation],
        permission_type=_ALLOW,
    )
    answer: Any = await admin._send_to_controller(request)
    for code, message in answer.creation_responses:
        of = f"{binding.principal}, {right.operation} on {right.resource} {right.name}"
        _check(code, message, of)


def _check(code: int, message: str | None, what: str) -> None:
    if code:
        raise AclError(f"{what}: {message or for_code(code).__name__}")
