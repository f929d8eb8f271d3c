"""Every error that Nightshift raises on purpose; each message tells the reader what to do.

NightshiftError                  exit 1
├── InputError                   exit 2   what the user gave cannot be used
│   ├── SettingsError                     a setting or NIGHTSHIFT_ variable
│   ├── InputFileError                    an input file as a whole
│   ├── RequestRefused                    one request of a batch; the others run
│   └── IdempotencyConflict               same idempotency key, other content
├── NotFoundError                exit 3   no such batch, model or artifact
├── UnavailableError             exit 4   a server cannot be reached, or takes no more
│   ├── DatabaseUnavailable
│   ├── BrokerUnavailable
│   └── QueueFull                         a tenant has as much here as its key allows
├── ModelError                   exit 5   a model cannot be used
│   ├── UnsupportedModel                  architecture or configuration
│   ├── UnsafeModel                       pickled weights, remote code
│   ├── ArtifactError                     a damaged or foreign artifact
│   └── HubError                          the Hugging Face Hub refused or is away
├── BatchNotCompleted            exit 6   failed, expired or cancelled
├── StorageFull                  exit 7   no space for database, registry or output
├── StateError                            a forbidden state transition
├── LeaseLost                             another worker may hold the chunk now
├── KernelsUnavailable                    PyTorch does the same, more slowly
└── EngineError                           the engine process
    ├── EngineCrashed
    ├── EngineStalled
    └── EngineGivenUp
"""

from __future__ import annotations

from typing import ClassVar


class NightshiftError(Exception):
    """Something went wrong that Nightshift knows about; the message says what to do."""

    exit_code: ClassVar[int] = 1


class InputError(NightshiftError):
    """What was given cannot be used."""

    exit_code: ClassVar[int] = 2


class SettingsError(InputError):
    """A setting is unknown or has a value that cannot be used."""


class InputFileError(InputError):
    """The input file as a whole cannot be used.

    `code` is one of the batch error codes of the OpenAI Batch API (`empty_file`, …).
    """

    def __init__(self, message: str, *, code: str = "invalid_file", line: int | None = None):
        super().__init__(message)
        self.code = code
        self.line = line


class RequestRefused(InputError):
    """One request cannot run; the other requests of its batch do.

    `code` and `param` follow OpenAI's error object, `http_status` is what their API would answer.
    """

    def __init__(
        self, message: str, *, code: str, param: str | None = None, http_status: int = 400
    ) -> None:
        super().__init__(message)
        self.code = code
        self.param = param
        self.http_status = http_status


class IdempotencyConflict(InputError):
    """The idempotency key was used before with other content; choose a new key."""


class NotFoundError(NightshiftError):
    """There is no batch, model or artifact of that name."""

    exit_code: ClassVar[int] = 3


class UnavailableError(NightshiftError):
    """A server that is needed cannot be reached, or takes no more for now."""

    exit_code: ClassVar[int] = 4


class DatabaseUnavailable(UnavailableError):
    """The database cannot be reached or refuses work."""


class BrokerUnavailable(UnavailableError):
    """Redis cannot be reached or refuses work."""


class QueueFull(UnavailableError):
    """As much waits or is stored as the caller's key allows; wait, or remove something."""


class ModelError(NightshiftError):
    """The model cannot be used."""

    exit_code: ClassVar[int] = 5


class UnsupportedModel(ModelError):
    """The model's architecture or configuration is not supported."""


class UnsafeModel(ModelError):
    """The model would execute code when loaded; convert its weights to safetensors."""


class ArtifactError(ModelError):
    """The artifact is damaged or was not written by Nightshift; quantize the model again."""


class HubError(ModelError):
    """The Hugging Face Hub cannot be reached or refuses the model."""


class BatchNotCompleted(NightshiftError):
    """The batch ended as failed, expired or cancelled."""

    exit_code: ClassVar[int] = 6


class StorageFull(NightshiftError):
    """There is no space left; free some and run the same command again."""

    exit_code: ClassVar[int] = 7


class StateError(NightshiftError):
    """A state machine was asked for a transition that it does not have."""


class LeaseLost(NightshiftError):
    """The lease on a chunk ran out or was taken over; nothing may be written under it."""


class KernelsUnavailable(NightshiftError):
    """The compiled kernels cannot be used here; the message is the reason."""


class EngineError(NightshiftError):
    """The engine process cannot go on."""


class EngineCrashed(EngineError):
    """The engine process died."""


class EngineStalled(EngineError):
    """The engine process is alive and makes no progress."""


class EngineGivenUp(EngineError):
    """The engine process crashed too often; the worker leaves service."""
