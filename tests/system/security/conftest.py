"""A broker that encrypts, asks for a login and grants nothing by itself, and a TLS proxy in front of a real server."""

import base64
import json
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import trustme
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)
from cryptography.hazmat.primitives import serialization

from metrics_pipeline.lab.local.fetch import cache_folder, kafka_program
from metrics_pipeline.lab.local.kafka import start_kafka
from metrics_pipeline.lab.local.process import choose_port
from metrics_pipeline.settings import LocalSettings

USER, PASSWORD = "pipeline", "correct horse; battery=staple"
CLIENT_ID, CLIENT_SECRET = "pipeline-oauth", "a client's secret"


@dataclass(frozen=True)
class Pems:
    """Files of one authority, and of certificates that it signed."""

    authority: Path
    server: Path
    server_key: Path
    client: Path
    client_key: Path
    expired: Path
    expired_key: Path


@dataclass(frozen=True)
class SecuredKafka:
    """`admin` is an account that may do everything, without encryption."""

    admin: AdminClient
    plain: str
    scram: str
    oauth: str
    expired: str
    token_url: str


@pytest.fixture(scope="package")
def pems(tmp_path_factory: pytest.TempPathFactory) -> Pems:
    folder = tmp_path_factory.mktemp("certificates")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    past = datetime.now(UTC) - timedelta(days=1)
    issued = {
        "server": authority.issue_cert("127.0.0.1", "localhost"),
        "client": authority.issue_cert("client@example.com"),
        "expired": authority.issue_cert("127.0.0.1", "localhost", not_before=past - timedelta(days=1), not_after=past),
    }
    for name, certificate in issued.items():
        (folder / f"{name}.pem").write_bytes(b"".join(p.bytes() for p in certificate.cert_chain_pems))
        (folder / f"{name}.key").write_bytes(_pkcs8(certificate.private_key_pem.bytes()))
    return Pems(folder / "ca.pem", *(folder / f"{n}.{e}" for n in issued for e in ("pem", "key")))


@pytest.fixture(scope="package")
def token_url() -> Iterator[str]:
    """An OIDC token endpoint: client credentials in, an unsigned token out (the broker's default validator)."""

    class Endpoint(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            wanted = base64.b64encode(f"{CLIENT_ID}:{CLIENT_SECRET}".encode()).decode()
            is_known = self.headers["Authorization"] == f"Basic {wanted}"
            answer = {"access_token": _unsigned_token(USER)} if is_known else {"error": "invalid_client"}
            body = json.dumps(answer).encode()
            self.send_response(200 if is_known else 401)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Endpoint) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/token"
        server.shutdown()


@pytest.fixture(scope="package")
def secured(pems: Pems, token_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredKafka]:
    plain, scram, oauth, expired, controller = (choose_port(None) for _ in range(5))
    listeners = {"PLAINTEXT": plain, "SCRAM": scram, "OAUTH": oauth, "EXPIRED": expired}
    addresses = ",".join(f"{name}://127.0.0.1:{port}" for name, port in listeners.items())
    oauth_module = "org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule"
    scram_module = "org.apache.kafka.common.security.scram.ScramLoginModule"
    properties = {
        "listeners": f"{addresses},CONTROLLER://127.0.0.1:{controller}",
        "advertised.listeners": addresses,
        "controller.quorum.voters": f"1@127.0.0.1:{controller}",
        "inter.broker.listener.name": "PLAINTEXT",
        "listener.security.protocol.map": (
            "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SCRAM:SASL_SSL,OAUTH:SASL_SSL,EXPIRED:SASL_SSL"
        ),
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS",
        **_tls("scram", pems.server, pems.server_key, pems.authority, client_auth="required"),
        **_tls("oauth", pems.server, pems.server_key, pems.authority),
        **_tls("expired", pems.expired, pems.expired_key, pems.authority),
        "listener.name.scram.sasl.enabled.mechanisms": "SCRAM-SHA-512",
        "listener.name.scram.scram-sha-512.sasl.jaas.config": f"{scram_module} required;",
        "listener.name.expired.sasl.enabled.mechanisms": "SCRAM-SHA-512",
        "listener.name.expired.scram-sha-512.sasl.jaas.config": f"{scram_module} required;",
        "listener.name.oauth.sasl.enabled.mechanisms": "OAUTHBEARER",
        "listener.name.oauth.oauthbearer.sasl.jaas.config": (
            f'{oauth_module} required unsecuredLoginStringClaim_sub="broker";'
        ),
    }
    folder = tmp_path_factory.mktemp("secured-kafka")
    server = start_kafka(
        kafka_program(cache_folder(LocalSettings())), folder, preferred_port=plain, properties=properties
    )
    admin = AdminClient({"bootstrap.servers": server.address})
    credential = UserScramCredentialUpsertion(
        USER, ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096), PASSWORD.encode()
    )
    for done in admin.alter_user_scram_credentials([credential]).values():
        done.result(30)
    yield SecuredKafka(admin, server.address, *(f"127.0.0.1:{port}" for port in (scram, oauth, expired)), token_url)
    server.process.stop(20)


def grant(admin: AdminClient, kind: ResourceType, name: str, *operations: AclOperation, prefixed: bool = False) -> None:
    """Let the user do these things."""
    pattern = ResourcePatternType.PREFIXED if prefixed else ResourcePatternType.LITERAL
    rules = [
        AclBinding(kind, name, pattern, f"User:{USER}", "*", operation, AclPermissionType.ALLOW)
        for operation in operations
    ]
    for done in admin.create_acls(rules).values():
        done.result(30)


def _tls(listener: str, certificate: Path, key: Path, authority: Path, client_auth: str = "none") -> dict[str, str]:
    prefix = f"listener.name.{listener}.ssl"
    store = certificate.with_suffix(".store")
    store.write_bytes(key.read_bytes() + certificate.read_bytes())
    return {
        f"{prefix}.keystore.type": "PEM",
        f"{prefix}.keystore.location": str(store),
        f"{prefix}.truststore.type": "PEM",
        f"{prefix}.truststore.location": str(authority),
        f"{prefix}.client.auth": client_auth,
    }


def _pkcs8(key: bytes) -> bytes:
    """Java reads private keys in no other form."""
    form = serialization.PrivateFormat.PKCS8
    loaded = serialization.load_pem_private_key(key, password=None)
    return loaded.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())


def _unsigned_token(subject: str) -> str:
    now = int(time.time())
    parts: list[dict[str, Any]] = [
        {"alg": "none", "typ": "JWT"},
        {"sub": subject, "iat": now, "exp": now + 3_600, "jti": uuid.uuid4().hex},
    ]
    encoded = [base64.urlsafe_b64encode(json.dumps(p).encode()).rstrip(b"=").decode() for p in parts]
    return ".".join([*encoded, ""])
