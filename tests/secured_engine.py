"""A real broker with three ways in, each secured otherwise, and certificates made for it.

Nobody may do anything but by its access control lists, except for the super users.
"""

import datetime as dt
import ipaddress
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from engines import QUICK, Engine, free_port
from infra.access import ACCESS
from infra.component import Component
from infra.kafka import BrokerUnreachable, reach
from infra.kafka_broker import kafka_broker
from infra.settings import Kafka, Settings

PASSWORD = "a password"
ADMITTED = re.compile(
    r"Principal = User:(?P<user>\S+) is (?P<how>Allowed|Denied) operation = (?P<operation>\w+) "
    r"from host = \S+ on resource = (?P<resource>\w+):LITERAL:(?P<name>\S+) for"
)


@dataclass(frozen=True)
class Admitted:
    """What the broker allowed a user or denied it, in the broker's own words."""

    user: str
    allowed: bool
    operation: str
    resource: str
    name: str


@dataclass(frozen=True)
class SecuredKafka:
    """The settings of each way in, by its security protocol: SASL_SSL, SSL and SASL_PLAINTEXT.

    SASL is SCRAM-SHA-512, and TLS wants a client certificate. The password is `PASSWORD`. These
    three are super users.
    """

    ways: dict[str, Kafka]
    log: Path

    def as_user(self, process: str, **changes: object) -> Kafka:
        """The way in over SASL_SSL for a process's own user, who may do nothing by itself."""
        own = {"username": f"kailin-{process}", **changes}
        return self.ways["SASL_SSL"].model_copy(update=own)

    def admitted(self) -> Iterator[Admitted]:
        """All that was asked for and is worth a line to the broker."""
        with self.log.open(errors="replace") as lines:
            for line in lines:
                if found := ADMITTED.search(line):
                    part = found.groupdict()
                    how = part.pop("how")
                    yield Admitted(allowed=how == "Allowed", **part)


@contextmanager
def running_secured_kafka(data: Path) -> Iterator[SecuredKafka]:
    """The broker, with a user for each process of `infra.access`."""
    trusted = authority(data)
    broker_cert, broker_key = trusted.issue("broker")
    client_cert, client_key = trusted.issue("client")
    plain = Kafka(
        port=free_port(),
        controller_port=free_port(),
        security_protocol="SASL_PLAINTEXT",
        username="reader",
        password=PASSWORD,
    )
    tls = {"ca_file": trusted.ca, "cert_file": client_cert, "key_file": client_key}
    sasl = {"username": plain.username, "password": plain.password}
    ways = {
        "SASL_SSL": Kafka(bootstrap=plain.servers, security_protocol="SASL_SSL", **sasl, **tls),
        "SSL": Kafka(bootstrap=f"127.0.0.1:{free_port()}", security_protocol="SSL", **tls),
        "SASL_PLAINTEXT": Kafka(
            bootstrap=f"127.0.0.1:{free_port()}", security_protocol="SASL_PLAINTEXT", **sasl
        ),
    }
    keystore = data / "keystore.pem"
    keystore.write_bytes(broker_key.read_bytes() + broker_cert.read_bytes())
    component = kafka_broker(plain, data, java=QUICK)
    # The embedded broker has one listener, CLIENT, without TLS. Of a setting that is there twice
    # the last holds.
    listeners = ",".join(
        f"{name}://{ways[protocol].bootstrap}"
        for name, protocol in (
            ("CLIENT", "SASL_SSL"),
            ("TLS", "SSL"),
            ("PASSWORDS", "SASL_PLAINTEXT"),
        )
    )
    with Path(component.command[-1]).open("a") as properties:
        properties.write(
            f"listeners={listeners},CONTROLLER://127.0.0.1:{plain.controller_port}\n"
            f"advertised.listeners={listeners}\n"
            "listener.security.protocol.map=CLIENT:SASL_SSL,TLS:SSL,PASSWORDS:SASL_PLAINTEXT,"
            "CONTROLLER:PLAINTEXT\n"
            "listener.name.passwords.scram-sha-512.sasl.jaas.config="
            "org.apache.kafka.common.security.scram.ScramLoginModule required;\n"
            "listener.name.client.ssl.client.auth=required\n"
            "listener.name.tls.ssl.client.auth=required\n"
            "ssl.keystore.type=PEM\nssl.truststore.type=PEM\n"
            f"ssl.keystore.location={keystore}\nssl.truststore.location={trusted.ca}\n"
            "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer\n"
            "allow.everyone.if.no.acl.found=false\n"
            # The controller's listener knows nobody by name, and is for the broker alone.
            f"super.users=User:{plain.username};User:CN=client;User:ANONYMOUS\n"
        )
    with (data / "kafka" / "log4j2.properties").open("a") as logging:
        logging.write("logger.acl.name=kafka.authorizer.logger\nlogger.acl.level=debug\n")
    _add_users(
        component, data / "kafka" / "log", [plain.username, *map("kailin-{}".format, ACCESS)]
    )

    async def ready() -> bool:
        try:
            for way in ways.values():
                await reach(Settings(kafka=way))
        except BrokerUnreachable:
            return False
        return True

    engine = Engine(replace(component, ready=ready))
    try:
        engine.start()
        yield SecuredKafka(ways, component.log)
    finally:
        engine.kill()


def _add_users(component: Component, storage: Path, users: list[str]) -> None:
    """Formats the storage anew, for that is when users can be made without a broker."""
    shutil.rmtree(storage)
    *program, _, config = component.command
    format = ("kafka.tools.StorageTool", "format", "--cluster-id=4L6g3nShT-eMCtK--X86sw")
    made = [f'--add-scram=SCRAM-SHA-512=[name={user},password="{PASSWORD}"]' for user in users]
    command = [*program, *format, "-c", config, *made]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@dataclass
class Authority:
    """A CA that the broker's and the client's certificates are of."""

    ca: Path
    issue: Callable[[str], tuple[Path, Path]]


def authority(folder: Path) -> Authority:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "A CA for tests")])
    now = dt.datetime.now(dt.UTC)

    def certificate(
        subject: x509.Name, public: ec.EllipticCurvePublicKey, *, ca: bool
    ) -> x509.Certificate:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(hours=1))
            .not_valid_after(now + dt.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(
                x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
                critical=False,
            )
            .sign(key, hashes.SHA256())
        )

    def issue(common_name: str) -> tuple[Path, Path]:
        own = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
        files = folder / f"{common_name}.crt", folder / f"{common_name}.key"
        files[0].write_bytes(_pem(certificate(subject, own.public_key(), ca=False)))
        files[1].write_bytes(
            own.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return files

    path = folder / "ca.crt"
    path.write_bytes(_pem(certificate(name, key.public_key(), ca=True)))
    return Authority(path, issue)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
