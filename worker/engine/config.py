"""How much an engine runs at once. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass

from models.errors import SettingsError


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Limits of one engine; raises SettingsError for limits under which nothing could run."""

    max_sequences: int
    step_tokens: int
    num_blocks: int
    context_tokens: int  # prompt and output of one sequence together
    block_tokens: int = 16
    prefix_cache: bool = True
    remembered_tokens: int = 2**18  # of finished answers for duplicates: up to 30 MB

    def __post_init__(self) -> None:
        for name in (
            "max_sequences", "step_tokens", "num_blocks", "context_tokens", "block_tokens",
        ):  # fmt: skip
            if getattr(self, name) < 1:
                raise SettingsError(f"{name} is {getattr(self, name)}: give at least 1")
        if self.step_tokens < self.max_sequences:
            raise SettingsError(
                f"step_tokens ({self.step_tokens}) is less than max_sequences "
                f"({self.max_sequences}): every running sequence needs one token of each step"
            )

    @property
    def cache_tokens(self) -> int:
        """Tokens that the KV cache holds."""
        return self.num_blocks * self.block_tokens

    @property
    def sequence_tokens(self) -> int:
        """The longest sequence that can run: the last sampled token is never cached."""
        return min(self.context_tokens, self.cache_tokens + 1)
