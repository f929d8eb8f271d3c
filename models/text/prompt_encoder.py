"""Prompts to token ids by a model's tokenizer and chat template; nothing else reads prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from models.errors import RequestRefused
from models.generation import ChatMessage, ChatPrompt, Prompt, TextPrompt, TokenPrompt
from models.text.chat_template import ChatTemplate
from models.text.resolved import ResolvedTokenizer

Encoded = Sequence[int] | RequestRefused


class PromptEncoder:
    """One model's way from prompts to token ids. May be used by several threads at once."""

    def __init__(self, backend: Any, template: ChatTemplate | None) -> None:
        """Wrap a `tokenizers.Tokenizer`."""
        self._backend = backend
        self._template = template

    @classmethod
    def of(cls, resolved: ResolvedTokenizer) -> PromptEncoder:
        """The encoder of a tokenizer; raises jinja2.TemplateError for a template that is none."""
        return PromptEncoder(resolved.backend, compiled_template(resolved))

    @property
    def has_chat_template(self) -> bool:
        """Whether conversations can be encoded."""
        return self._template is not None

    def encode(self, prompt: Prompt) -> Sequence[int]:
        """The token ids of a prompt; raises RequestRefused."""
        if isinstance(prompt, ChatPrompt):
            return self.encode_chat(prompt.messages)
        return self.encode_text(prompt.text) if isinstance(prompt, TextPrompt) else prompt.token_ids

    def encode_chat(self, messages: Sequence[ChatMessage]) -> list[int]:
        """The conversation up to where the model's answer begins.

        The template writes the special tokens, so none are added. Raises RequestRefused.
        """
        return self._encode(self._render(messages), special_tokens=False)

    def encode_text(self, text: str) -> list[int]:
        """Plain text, with the special tokens that the model puts around it (its BOS)."""
        return self._encode(text, special_tokens=True)

    def encode_continuation(self, text: str) -> list[int]:
        """Text that goes on after a prompt, without special tokens."""
        return self._encode(text, special_tokens=False)

    def encode_all(self, prompts: Sequence[Prompt]) -> list[Encoded]:
        """What `encode` gives or raises for each of them, on all cores and beside other threads."""
        encoded: list[Encoded | None] = [None] * len(prompts)
        texts: dict[bool, dict[int, str]] = {False: {}, True: {}}  # by special tokens and number
        for number, prompt in enumerate(prompts):
            if isinstance(prompt, TokenPrompt):
                encoded[number] = prompt.token_ids
            elif isinstance(prompt, TextPrompt):
                texts[True][number] = prompt.text
            else:
                try:
                    texts[False][number] = self._render(prompt.messages)
                except RequestRefused as exc:
                    encoded[number] = exc
        for special_tokens, numbered in texts.items():
            found = self._backend.encode_batch_fast(
                list(numbered.values()), add_special_tokens=special_tokens
            )
            for number, encoding in zip(numbered, found, strict=True):
                encoded[number] = encoding.ids
        return [ids for ids in encoded if ids is not None]

    def _render(self, messages: Sequence[ChatMessage]) -> str:
        if self._template is None:
            raise RequestRefused(
                "the model has no chat template: send a text prompt (/v1/completions) instead",
                code="invalid_messages",
                param="messages",
            )
        return self._template.render(messages)

    def _encode(self, text: str, special_tokens: bool) -> list[int]:
        ids: list[int] = self._backend.encode(text, add_special_tokens=special_tokens).ids
        return ids


def compiled_template(resolved: ResolvedTokenizer) -> ChatTemplate | None:
    """The tokenizer's chat template, if it has one; raises jinja2.TemplateError."""
    if resolved.chat_template is None:
        return None
    return ChatTemplate(resolved.chat_template, resolved.special_tokens)


def prompt_param(prompt: Prompt) -> str:
    """What errors call the prompt."""
    return "messages" if isinstance(prompt, ChatPrompt) else "prompt"


def check_length(num_tokens: int, context_tokens: int, param: str) -> None:
    """Raise RequestRefused for a prompt that is empty or leaves the context no room for output."""
    if num_tokens == 0:
        raise RequestRefused(
            f"{param} has no tokens: give at least one", code="invalid_value", param=param
        )
    if num_tokens >= context_tokens:
        raise RequestRefused(
            f"the model's context holds {context_tokens} tokens for prompt and output "
            f"together, and {param} has {num_tokens}: shorten it",
            code="context_length_exceeded",
            param=param,
        )
