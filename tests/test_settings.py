"""Settings: read once from variables and flags, refused with the name the user gave."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from models.errors import SettingsError
from models.settings import Settings, environment_of, load_settings, variable_name


def test_without_variables_the_defaults_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings({}) == Settings()
    monkeypatch.setenv("NIGHTSHIFT_THREADS", "3")
    assert load_settings().threads == 3


def test_variables_are_read_as_their_type() -> None:
    settings = load_settings(
        {
            "NIGHTSHIFT_LEASE_TTL_S": "45.5",
            "NIGHTSHIFT_MAX_SEQUENCES": "8",
            "NIGHTSHIFT_LOG_LEVEL": "debug",
            "NIGHTSHIFT_HOME": "~/data",
            "NIGHTSHIFT_BROKER_URL": "",
            "PATH": "/bin",
            "nightshift_threads": "no variable of ours",
        }
    )
    assert (settings.lease_ttl_s, settings.max_sequences) == (45.5, 8)
    assert settings.log_level == "debug"
    assert settings.home == Path.home() / "data"
    assert settings.broker_url is None


@pytest.mark.parametrize("url", ["redis://h", "redis://:pw@h:6379/2", "rediss://u:pw@h/0"])
def test_redis_is_a_broker(url: str) -> None:
    assert load_settings({"NIGHTSHIFT_BROKER_URL": url}).broker_url == url


@pytest.mark.parametrize(
    "url",
    [
        "host",
        "amqp://u:secret@h",
        "redis://u:secret@h:port/0",
        "redis://u:secret@h/name",
        "redis://:secret@[h",
        "redis://",
    ],
)
def test_another_broker_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(SettingsError, match="redis://HOST:PORT") as refusal:
        load_settings({}, broker_url=url)
    assert "secret" not in str(refusal.value)


@pytest.mark.parametrize("url", ["http://h", "https://u:pw@h:8443/prefix", "http://[::1]:8000"])
def test_a_server_is_named_by_its_url(url: str) -> None:
    assert load_settings({"NIGHTSHIFT_URL": url}).url == url


@pytest.mark.parametrize("url", ["h:8000", "ftp://u:secret@h", "http://u:secret@h:port", "http://"])
def test_another_url_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(SettingsError, match="http://HOST:PORT") as refusal:
        load_settings({}, url=url)
    assert "secret" not in str(refusal.value)


def test_a_key_is_not_shown_with_the_settings() -> None:
    settings = load_settings({"NIGHTSHIFT_API_KEY": "secret"})
    assert "secret" not in repr(settings)
    assert "secret" not in str(settings.api_key)


def test_flags_win_and_flags_not_given_do_not() -> None:
    environ = {"NIGHTSHIFT_THREADS": "2", "NIGHTSHIFT_STEP_TOKENS": "64"}
    settings = load_settings(environ, threads=5, step_tokens=None)
    assert (settings.threads, settings.step_tokens) == (5, 64)


def test_a_bad_variable_does_not_matter_when_its_flag_is_given() -> None:
    assert load_settings({"NIGHTSHIFT_THREADS": "many"}, threads=5).threads == 5


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        (
            {"NIGHTSHIFT_THREDS": "2"},
            "NIGHTSHIFT_THREDS is not a setting; did you mean NIGHTSHIFT_THREADS?",
        ),
        ({"NIGHTSHIFT_": "2"}, "NIGHTSHIFT_ is not a setting; see docs/settings.md"),
        ({"NIGHTSHIFT_ZZZ": ""}, "NIGHTSHIFT_ZZZ is not a setting; see docs/settings.md"),
        (
            {"NIGHTSHIFT_threads": "2"},
            "NIGHTSHIFT_threads is not a setting; did you mean NIGHTSHIFT_THREADS?",
        ),
        (
            {"NIGHTSHIFT_THREADS": "many"},
            "NIGHTSHIFT_THREADS is 'many'; it should be a valid integer, unable to parse string as "
            "an integer",
        ),
        (
            {"NIGHTSHIFT_MAX_CRASHES": "0"},
            "NIGHTSHIFT_MAX_CRASHES is '0'; it should be greater than or equal to 1",
        ),
        (
            {"NIGHTSHIFT_SWEEP_PERIOD_S": "inf"},
            "NIGHTSHIFT_SWEEP_PERIOD_S is 'inf'; it should be a finite number",
        ),
        (
            {"NIGHTSHIFT_LOG_LEVEL": "loud"},
            "NIGHTSHIFT_LOG_LEVEL is 'loud'; it should be 'debug', 'info', 'warning' or 'error'",
        ),
        (
            {"NIGHTSHIFT_LEASE_TTL_S": "10"},
            "a lease of 10 s ends before it is renewed, every 15 s; set NIGHTSHIFT_RENEW_PERIOD_S "
            "to at most a third of NIGHTSHIFT_LEASE_TTL_S",
        ),
    ],
)
def test_what_cannot_be_used_is_named_with_advice(environ: dict[str, str], message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(environ)
    assert str(caught.value) == message
    assert caught.value.exit_code == 2


def test_a_bad_flag_is_named_as_a_flag() -> None:
    with pytest.raises(SettingsError, match=r"^--step-tokens is 0; it should be greater than"):
        load_settings({"NIGHTSHIFT_STEP_TOKENS": "7"}, step_tokens=0)


def test_database_and_registry_are_in_the_home_folder_by_default() -> None:
    settings = load_settings({"NIGHTSHIFT_HOME": "/data"})
    assert settings.resolved_database_url == "sqlite:////data/nightshift.db"
    assert settings.registry_path == Path("/data/registry")
    given = load_settings({"NIGHTSHIFT_DATABASE_URL": "postgresql+psycopg://h/d"})
    assert given.resolved_database_url == "postgresql+psycopg://h/d"


def test_settings_cannot_be_changed_and_have_no_other_fields() -> None:
    with pytest.raises(ValidationError):
        Settings().threads = 4
    with pytest.raises(SettingsError, match=r"--nonsense is 1; "):
        load_settings({}, nonsense=1)


def test_every_field_has_a_variable_of_its_name() -> None:
    assert variable_name("lease_ttl_s") == "NIGHTSHIFT_LEASE_TTL_S"
    for name in Settings.model_fields:
        assert variable_name(name).removeprefix("NIGHTSHIFT_").lower() == name


def test_another_process_gets_the_same_settings_by_its_environment() -> None:
    settings = load_settings(
        {"NIGHTSHIFT_API_KEY": "secret", "NIGHTSHIFT_WEBHOOKS": "1"},
        home="/x",
        compiled_kernels=False,
        lease_ttl_s=80.5,
    )
    environ = environment_of(settings)
    assert load_settings(environ) == settings
    assert "NIGHTSHIFT_THREADS" not in environ
