"""Every Celery setting that Nightshift relies on, with its reason, and the names of the queues.

Celery moves small messages and starts and stops the process. It does not get retries, results,
revocation, priorities or durability: those are the database's.
"""

from __future__ import annotations

import ssl
from typing import Any
from urllib.parse import urlsplit

from kombu.entity import Exchange, Queue

from models.errors import SettingsError
from models.model_key import ModelKey
from models.settings import Settings

CHUNK_TASK = "nightshift.chunk"


def model_queue(model: ModelKey) -> Queue:
    """The queue of one model; each has its own, so that no worker gets a model it lacks."""
    exchange = Exchange(model.queue, type="direct")  # type: ignore[no-untyped-call]
    return Queue(model.queue, exchange, routing_key=model.queue)  # type: ignore[no-untyped-call]


def celery_config(settings: Settings, model: ModelKey | None) -> dict[str, Any]:
    """Settings for a worker of `model`, or, without one, for a process that only rings.

    Raises SettingsError when no broker is set.
    """
    if settings.broker_url is None:
        raise SettingsError("NIGHTSHIFT_BROKER_URL is not set: give the redis:// URL of the queue")
    url = settings.broker_url
    config = {"broker_url": url, **_tls(url), **_messages(), **_connection(), **_process()}
    if model is not None:
        queue = model_queue(model)
        config |= {"task_queues": (queue,), "task_default_queue": queue.name}
    return config


def _tls(broker_url: str) -> dict[str, Any]:
    if urlsplit(broker_url).scheme != "rediss":
        return {}
    # What the URL says wins. For one that says nothing kombu would take any server's certificate.
    return {"broker_use_ssl": {"ssl_cert_reqs": ssl.CERT_REQUIRED}}


def _messages() -> dict[str, Any]:
    return {
        # A message lost or doubled costs nothing (the lease decides), so it is acknowledged
        # before the work; late acknowledgement would redeliver every chunk that runs long.
        "task_acks_late": False,
        # One message at a time and none in reserve: the others stay for idle workers.
        "worker_prefetch_multiplier": 1,
        "worker_disable_prefetch": True,
        # Results are rows of the job store; a result backend would be a second truth.
        "task_ignore_result": True,
        "result_backend": None,
        # JSON only: a pickled message would be code.
        "accept_content": ["json"],
        "task_serializer": "json",
        # A mistyped queue must fail, not come into being with nobody listening.
        "task_create_missing_queues": False,
        # Ringing may fail quickly: the dispatcher rings again, so a submitter never waits long.
        "task_publish_retry": True,
        "task_publish_retry_policy": {
            "max_retries": 3,
            "interval_start": 0,
            "interval_step": 0.2,
            "interval_max": 1,
        },
    }


def _connection() -> dict[str, Any]:
    return {
        # A worker outlives any outage of Redis; meanwhile it takes work from the database.
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "broker_connection_timeout": 5,
        # Chunks do not depend on the broker's connection, so they go on when it breaks.
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "broker_transport_options": {
            # Only matters between receipt and acknowledgement, which is moments.
            "visibility_timeout": 900,
            # A dead connection must be noticed: without these a read may wait for ever.
            "socket_timeout": 15,
            "socket_connect_timeout": 5,
            "socket_keepalive": True,
            "health_check_interval": 25,
            "client_name": "nightshift",  # seen in CLIENT LIST
        },
    }


def _process() -> dict[str, Any]:
    return {
        # One thread: the process only keeps books. Forking after threads have started, or a
        # model inside this process, are the two classic ways to hang a worker.
        "worker_pool": "threads",
        "worker_concurrency": 1,
        # Anybody who reaches Redis could use remote control; liveness is in the database.
        "worker_enable_remote_control": False,
        "worker_send_task_events": False,
        # Nightshift writes its own log; print() of libraries goes where it always went.
        "worker_hijack_root_logger": False,
        "worker_redirect_stdouts": False,
        # A worker drains at once on SIGTERM; a timed wait before that would only add to it.
        "worker_soft_shutdown_timeout": 0.0,
    }
