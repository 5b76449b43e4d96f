"""The faust app that a worker runs on: its settings, and one thing that faust 0.15.3 has none for.

faust reads uncommitted messages unless it runs transactions of its own, which are not used here:
its consumer is told otherwise when it is made.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import faust
from aiokafka import AIOKafkaConsumer
from faust.transport.drivers import aiokafka as driver

from consumers.stage import METADATA_MS, Kafka
from streams.topics import TOPICS


def faust_app(kafka: Kafka, scratch: Path) -> faust.App:
    """An app of one consumer group, which reads committed messages only.

    faust makes its empty directories in `scratch`.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    largest = max(topic.max_message for topic in TOPICS)
    app = faust.App(
        kafka.group,
        version=1,
        id_format="{id}",
        broker=[f"kafka://{server}" for server in kafka.client["bootstrap_servers"].split(",")],
        broker_credentials=_credentials(kafka.client),
        # A worker that dies is replaced after this long; heartbeats have a thread of their own.
        broker_session_timeout=10.0,
        broker_heartbeat_interval=2.0,
        # A worker that waits for its model holds its partitions, for days if need be.
        broker_max_poll_interval=7 * 24 * 3600.0,
        broker_max_poll_records=500,
        consumer_auto_offset_reset="earliest",
        consumer_max_fetch_size=largest,
        # A broker that has just started may not know a topic yet when the group shares out its
        # partitions: the members then have none until the topics are looked at again, by default
        # after five minutes.
        consumer_metadata_max_age_ms=METADATA_MS,
        producer_acks=-1,
        # Records gather into batches while the one before is on its way.
        producer_linger=0.0,
        producer_max_batch_size=256 << 10,
        producer_max_request_size=2 * largest,
        producer_request_timeout=30.0,
        key_serializer="raw",
        value_serializer="raw",
        # Messages fetched and not begun. When it is full faust stops fetching, and looks again
        # after a second: so it has to last for longer than that.
        stream_buffer_maxsize=4096,
        stream_wait_empty=False,
        topic_allow_declare=False,
        topic_disable_leader=True,
        web_enabled=False,
        autodiscover=False,
        datadir=str(scratch),
        store="memory://",
    )
    app.transport = _Transport(app.conf.broker_consumer, app)
    return app


def _credentials(client: Mapping[str, Any]) -> faust.types.auth.CredentialsT | None:
    protocol, context = client["security_protocol"], client.get("ssl_context")
    if protocol.startswith("SASL"):
        return faust.SASLCredentials(
            username=client["sasl_plain_username"],
            password=client["sasl_plain_password"],
            mechanism=client["sasl_mechanism"],
            ssl_context=context,
        )
    return faust.SSLCredentials(context) if protocol == "SSL" else None


class _ConsumerThread(driver.AIOKafkaConsumerThread):
    logger = driver.logger

    def _create_worker_consumer(self, transport: driver.Transport) -> AIOKafkaConsumer:
        consumer = super()._create_worker_consumer(transport)
        consumer._isolation_level = "read_committed"
        return consumer


class _Consumer(driver.Consumer):
    logger = driver.logger

    def _new_consumer_thread(self) -> driver.AIOKafkaConsumerThread:
        return _ConsumerThread(self, loop=self.loop, beacon=self.beacon)


class _Transport(driver.Transport):
    Consumer = _Consumer
