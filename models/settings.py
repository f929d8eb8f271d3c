"""Every setting in one frozen object, read once at the edge and handed down.

Each field is also the environment variable `NIGHTSHIFT_<FIELD>`; command-line flags win.
docs/settings.md is generated from the descriptions here.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from platformdirs import user_data_path
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)

from models.backend_name import BackendName
from models.errors import SettingsError
from models.lowp import Lowp
from models.spelling import closest

ENV_PREFIX = "NIGHTSHIFT_"
GIB = 1024**3
MIB = 1024**2

Seconds = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


class Settings(BaseModel):
    """All settings; build it with `load_settings`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    home: Annotated[Path, AfterValidator(Path.expanduser)] = Field(
        default_factory=lambda: user_data_path("nightshift"),
        description="Folder of the SQLite database and of the registry; unset: the user's data "
        "folder of the platform.",
    )
    database_url: str | None = Field(
        default=None,
        description="SQLAlchemy URL; unset: SQLite in the home folder.",
    )
    min_free_disk_bytes: Annotated[int, Field(ge=0)] = Field(
        default=256 * MIB,
        description="With less free space beside an SQLite database workers claim nothing more, "
        "and the HTTP API refuses files and batches.",
    )
    broker_url: str | None = Field(
        default=None,
        description="redis:// or rediss:// URL of the queue; unset: in-process doorbell.",
    )
    url: str | None = Field(
        default=None,
        description="http:// or https:// URL of a server; set, `submit`, `status`, `wait`, "
        "`results`, `cancel` and `retry` ask it instead of the database, and all other commands "
        "work as without it.",
    )
    api_key: SecretStr | None = Field(
        default=None,
        description="Key to ask the server with; in the environment only, because everybody on "
        "the machine can read a command line.",
    )
    model: str | None = Field(
        default=None,
        description="NAME:WEIGHTS that a worker started with plain `celery worker` serves.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least severe level that is logged."
    )

    lease_ttl_s: Seconds = Field(
        default=90, description="A lease that is not renewed ends after this."
    )
    renew_period_s: Seconds = Field(default=15, description="How often a worker renews its leases.")
    sweep_period_s: Seconds = Field(
        default=15, description="How often expired leases are looked for."
    )
    dispatch_timeout_s: Seconds = Field(
        default=120,
        description="A dispatched chunk that nobody claims is dispatched again after this.",
    )
    window_per_worker: Count = Field(
        default=4, description="Dispatched chunks per live worker at most."
    )
    chunk_requests: Count = Field(
        default=128,
        description="Requests of one chunk at most; small batches and models that would take long "
        "for so many get smaller ones.",
    )
    micro_batch_requests: Count = Field(
        default=32, description="Finished requests that may be uncommitted at most."
    )
    micro_batch_s: Seconds = Field(
        default=1, description="A finished request is committed after this."
    )
    max_crashes: Count = Field(
        default=3, description="A chunk whose engine crashed so often is given up."
    )
    stall_timeout_s: Seconds = Field(
        default=60, description="An engine without progress for so long is restarted."
    )
    max_engine_rss_bytes: Count | None = Field(
        default=None,
        description="An engine that holds more memory is restarted between two chunks; unset: "
        "never.",
    )
    load_timeout_s: Seconds = Field(default=1800, description="Time that loading a model may take.")
    drain_timeout_s: Seconds = Field(
        default=25, description="Time that a stopping worker may take."
    )

    require_keys: bool | None = Field(
        default=None,
        description="Whether the HTTP API asks for keys; unset: unless it is on loopback over "
        "SQLite.",
    )
    max_file_requests: Count = Field(default=50_000, description="Requests of one file at most.")
    max_file_bytes: Count = Field(default=200 * MIB, description="Bytes of one file at most.")
    max_line_bytes: Count = Field(default=MIB, description="Bytes of one line at most.")

    webhooks: bool = Field(
        default=False,
        description="Let users register URLs that the server calls when a batch ends.",
    )
    webhook_private_addresses: bool = Field(
        default=False,
        description="Such URLs may lead into networks of your own, and without TLS to the server's "
        "own machine: only where every user may reach all of that anyway.",
    )
    public_metrics: bool = Field(
        default=False, description="Answer /metrics to everybody, not to this machine alone."
    )

    backend: BackendName = Field(
        default=BackendName.NATIVE,
        description="What computes the model: `native`, `transformers` for architectures that "
        "the native backend has not, or `ipex` in its own environment.",
    )
    ipex_lowp: Lowp | None = Field(
        default=None,
        description="Lowest precision of a product of the `ipex` backend; unset: what the artifact "
        "was made for.",
    )
    registry_url: str | None = Field(
        default=None,
        description="Where nodes share artifacts: a folder, s3://BUCKET/PREFIX, hf://OWNER/REPO or "
        "any other URL of fsspec. A model that is not on this machine is pulled from there.",
    )
    threads: Count | None = Field(
        default=None, description="Compute threads; unset: all cores, one for tiny models."
    )
    max_sequences: Count = Field(
        default=96, description="Sequences that the engine runs at once at most."
    )
    step_tokens: Count = Field(default=512, description="Tokens of one engine step at most.")
    context_tokens: Count | None = Field(
        default=None,
        description="Tokens of one prompt with its answer at most; unset: what the model can.",
    )
    kv_cache_bytes: Count | None = Field(
        default=None, description="Memory of the KV cache; unset: what is free, less a reserve."
    )
    compiled_kernels: bool = Field(
        default=True,
        description="Compile and use the kernels made for this CPU; off: PyTorch alone.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.renew_period_s >= self.lease_ttl_s:
            raise ValueError(
                f"a lease of {self.lease_ttl_s:g} s ends before it is renewed, every "
                f"{self.renew_period_s:g} s; set NIGHTSHIFT_RENEW_PERIOD_S to at most a third of "
                "NIGHTSHIFT_LEASE_TTL_S"
            )
        return self

    @model_validator(mode="after")
    def _broker_is_redis(self) -> Self:
        # Of the whole, not of the field: the message must not repeat a URL with a password.
        if self.broker_url is not None and not _is_redis_url(self.broker_url):
            raise ValueError(
                "NIGHTSHIFT_BROKER_URL cannot be used; give redis://HOST:PORT/NUMBER, or rediss:// "
                "for a server with TLS"
            )
        return self

    @model_validator(mode="after")
    def _server_is_http(self) -> Self:
        if self.url is not None and not _names_server(self.url, "http", "https"):
            raise ValueError(
                "NIGHTSHIFT_URL cannot be used; give http://HOST:PORT, or https:// for a server "
                "with TLS"
            )
        return self

    @property
    def resolved_database_url(self) -> str:
        """The database to use, the default filled in."""
        return self.database_url or f"sqlite:///{self.home / 'nightshift.db'}"

    @property
    def registry_path(self) -> Path:
        """Where artifacts are kept."""
        return self.home / "registry"

    @property
    def kernel_cache_path(self) -> Path | None:
        """Where compiled kernels are kept; None: they are switched off."""
        return self.home / "kernels" if self.compiled_kernels else None


def load_settings(environ: Mapping[str, str] | None = None, **overrides: object) -> Settings:
    """Read NIGHTSHIFT_ variables, then apply the overrides that are not None (the flags).

    Raises SettingsError that names the variable or flag whose name or value cannot be used.
    """
    values = _from_environment(os.environ if environ is None else environ)
    flags = {name: value for name, value in overrides.items() if value is not None}
    try:
        return Settings.model_validate({**values, **flags})
    except ValidationError as exc:
        raise SettingsError(_advice(exc, flags)) from exc


def variable_name(field: str) -> str:
    """The environment variable of a setting."""
    return ENV_PREFIX + field.upper()


def environment_of(settings: Settings) -> dict[str, str]:
    """The variables that give another process the same settings; the defaults are left out.

    Secrets are in it: it is for an environment, not for a command line or a log.
    """
    given = {name: getattr(settings, name) for name in sorted(settings.model_fields_set)}
    return {variable_name(name): _text(value) for name, value in given.items() if value is not None}


def _text(value: object) -> str:
    return value.get_secret_value() if isinstance(value, SecretStr) else str(value)


def _from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    known = {variable_name(name): name for name in Settings.model_fields}
    for variable, value in environ.items():
        if not variable.startswith(ENV_PREFIX):
            continue
        if variable not in known:
            near = closest(variable.removeprefix(ENV_PREFIX).lower(), Settings.model_fields)
            advice = f"did you mean {variable_name(near)}?" if near else "see docs/settings.md"
            raise SettingsError(f"{variable} is not a setting; {advice}")
        if value != "":
            values[known[variable]] = value
    return values


def _advice(exc: ValidationError, flags: Mapping[str, object]) -> str:
    """Pydantic's first complaint with the name under which the user gave the value."""
    first = exc.errors(include_url=False)[0]
    reason = first["msg"].removeprefix("Value error, ")
    if not first["loc"]:
        return reason
    field = str(first["loc"][0])
    name = f"--{field.replace('_', '-')}" if field in flags else variable_name(field)
    return f"{name} is {first['input']!r}; {reason.replace('Input should', 'it should')}"


def _is_redis_url(url: str) -> bool:
    if not _names_server(url, "redis", "rediss"):
        return False
    number = urlsplit(url).path.removeprefix("/")
    return not number or number.isdigit()


def _names_server(url: str, *schemes: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in schemes and parts.hostname is not None and parts.port != 0
    except ValueError:  # a bad port
        return False
