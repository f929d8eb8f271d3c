"""Small tokenizers in the two styles of the Llama family, in Hugging Face format."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

TEXTS = [
    "The quick brown fox jumps over the lazy dog. " * 3,
    "Zażółć gęślą jaźń, übergrößenträger, 日本語のテキスト, emoji 🙂🚀👩‍👩‍👧.",
]
LLAMA3_TEMPLATE = """\
{{- bos_token }}
{%- for message in messages %}
    {{- '<|start|>' + message['role'] + '<|end|>\\n\\n' + message['content'] | trim + '<|eot|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start|>assistant<|end|>\\n\\n' }}
{%- endif %}
"""


def make_byte_level(folder: Path, template: str | None = LLAMA3_TEMPLATE) -> Path:
    """A Llama 3 style tokenizer: byte-level BPE, BOS by the post-processor."""
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = ["<|bos|>", "<|eot|>", "<|start|>", "<|end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(TEXTS, trainer)
    backend.post_processor = processors.TemplateProcessing(
        single="<|bos|> $A", special_tokens=[("<|bos|>", backend.token_to_id("<|bos|>"))]
    )
    backend.enable_truncation(5)  # a tokenizer saved with it must not cut prompts
    return save(backend, folder, bos="<|bos|>", eos="<|eot|>", template=template)


def make_byte_fallback(folder: Path) -> Path:
    """A Llama 2 style tokenizer: spaces as a letter, unknown characters as bytes."""
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2}
    for byte in range(256):
        vocabulary[f"<0x{byte:02X}>"] = len(vocabulary)
    for letter in ["▁", *"abcdefghijklmnopqrstuvwxyz.,", "▁t", "he", "▁the"]:
        vocabulary[letter] = len(vocabulary)
    merges = [("▁", "t"), ("h", "e"), ("▁t", "he")]
    backend = Backend(models.BPE(vocab=vocabulary, merges=merges, byte_fallback=True))
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
         decoders.Strip(" ", 1, 0)]
    )  # fmt: skip
    backend.add_special_tokens(["<unk>", "<s>", "</s>"])
    return save(backend, folder, bos="<s>", eos="</s>", template=None)


def save(backend: Backend, folder: Path, *, bos: str, eos: str, template: str | None) -> Path:
    fast = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=bos, eos_token=eos)
    fast.chat_template = template
    fast.save_pretrained(folder)
    return folder
