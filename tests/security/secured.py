"""Servers as docs/access.md wants them: TLS, no default user, few rights. The lines are its own."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

import psycopg
import redis
import trustme

from tests.documents import ROOT, code_blocks
from tests.servers import PostgresServer, RedisServer

DOCUMENT = ROOT / "docs" / "access.md"
PASSWORD = "p@ss:w/rd"  # has to be encoded in a URL
OWNER_PASSWORD = "0wner"
OPERATOR_PASSWORD = "0perator"  # of the tests alone: reads what was refused


class Authority:
    """A certificate authority, and one certificate of it for a server on loopback."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.ca_file, self.cert_file, self.key_file = (
            folder / name for name in ("ca.crt", "server.crt", "server.key")
        )
        authority = trustme.CA()
        certificate = authority.issue_cert("127.0.0.1", "localhost")
        authority.cert_pem.write_to_path(self.ca_file)
        self.cert_file.write_bytes(b"".join(one.bytes() for one in certificate.cert_chain_pems))
        certificate.private_key_pem.write_to_path(self.key_file)


def acl_lines() -> list[str]:
    """The users of the document."""
    (block,) = (one for one in code_blocks(DOCUMENT, "text") if one.startswith("user "))
    return block.replace("PASSWORD", PASSWORD).splitlines()


def sql_blocks() -> list[list[str]]:
    """The statements of the document: as superuser, and in the new database."""
    return [
        re.sub(r"'PASSWORD'", f"'{PASSWORD}'", block)
        .replace("OWNER_PASSWORD", OWNER_PASSWORD)
        .splitlines()
        for block in code_blocks(DOCUMENT, "sql")
    ]


class SecuredRedis(RedisServer):
    """No plain port and no default user."""

    def __init__(self, authority: Authority) -> None:
        super().__init__()
        self._authority = authority
        operator = f"user operator on >{OPERATOR_PASSWORD} ~* &* +@all"
        (self.folder / "users.acl").write_text("\n".join([*acl_lines(), operator]) + "\n")

    def url_with(self, *, password: str = PASSWORD, ca_file: Path | None = None) -> str:
        """The document's URL."""
        ca = ca_file or self._authority.ca_file
        user = f"nightshift:{quote(password, safe='')}"
        return f"rediss://{user}@{self.host}:{self.port}/0?ssl_cert_reqs=required&ssl_ca_certs={ca}"

    @property
    def url_without_options(self) -> str:
        """The document's URL, which says nothing of certificates."""
        return self.url_with().partition("?")[0]

    def refused(self) -> list[str]:
        """What users were refused since the server started."""
        login = f"operator:{OPERATOR_PASSWORD}@{self.host}:{self.port}"
        with redis.Redis.from_url(
            f"rediss://{login}?ssl_ca_certs={self._authority.ca_file}"
        ) as client:
            return [f"{entry['username']}: {entry['object']}" for entry in client.acl_log()]

    def command(self) -> Sequence[str]:
        tls = {
            "tls-port": str(self.port),
            "tls-cert-file": str(self._authority.cert_file),
            "tls-key-file": str(self._authority.key_file),
            "tls-auth-clients": "no",
            "aclfile": str(self.folder / "users.acl"),
        }
        plain = list(super().command())
        plain[plain.index("--port") + 1] = "0"
        return [*plain, *(part for name, value in tls.items() for part in (f"--{name}", value))]

    def client(self) -> redis.Redis:
        made: redis.Redis = redis.Redis.from_url(self.url_with())
        return made


class SecuredPostgres(PostgresServer):
    """TLS and a password for everybody but the superuser of the tests."""

    user = "postgres"

    def __init__(self, authority: Authority) -> None:
        super().__init__()
        self.ca_file = authority.ca_file
        for source, name in (
            (authority.cert_file, "server.crt"),
            (authority.key_file, "server.key"),
        ):
            copy = Path(shutil.copy(source, self._data / name))
            copy.chmod(0o600)
            if self._uid is not None:
                os.chown(copy, self._uid, self._gid if self._gid is not None else -1)
        (self._data / "pg_hba.conf").write_text(
            f"host all {self.user} 127.0.0.1/32 trust\n"
            "hostssl nightshift nightshift_owner,nightshift samenet scram-sha-256\n"
        )

    def set_up(self) -> None:
        """Roles, database and rights, by the statements of the document."""
        for database, statements in zip(("postgres", "nightshift"), sql_blocks(), strict=True):
            with psycopg.connect(self.url(database), autocommit=True) as session:
                for statement in statements:
                    session.execute(statement.encode())

    def url_with(
        self,
        *,
        owner: bool = False,
        password: str = PASSWORD,
        ca_file: Path | None = None,
        mode: str = "verify-full",
    ) -> str:
        """The document's URL, of the worker's role or the owner's."""
        role = (
            f"nightshift_owner:{OWNER_PASSWORD}"
            if owner
            else f"nightshift:{quote(password, safe='')}"
        )
        query = f"sslmode={mode}&sslrootcert={ca_file or self.ca_file}"
        return f"postgresql://{role}@{self.host}:{self.port}/nightshift?{query}"

    def command(self) -> Sequence[str]:
        tls = ("ssl=on", "ssl_cert_file=server.crt", "ssl_key_file=server.key")
        return [*super().command(), *(part for setting in tls for part in ("-c", setting))]
