"""A real broker with three ways in, each secured otherwise, and certificates made for it."""

import datetime as dt
import ipaddress
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from engines import QUICK, Engine, free_port
from infra.kafka import BrokerUnreachable, reach
from infra.kafka_broker import kafka_broker
from infra.settings import Kafka, Settings

PASSWORD = "a password"


@contextmanager
def running_secured_kafka(data: Path) -> Iterator[dict[str, Kafka]]:
    """The settings of each way in, by its security protocol: SASL_SSL, SSL and SASL_PLAINTEXT.

    SASL is SCRAM-SHA-512, and TLS wants a client certificate. The password is `PASSWORD`.
    """
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
        yield ways
    finally:
        engine.kill()


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
