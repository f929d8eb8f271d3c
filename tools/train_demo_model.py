"""Train, evaluate and describe the demo model in examples/demo-model.

    python -m tools.train_demo_model --steps 3000 --out first
    python -m tools.train_demo_model --start first/demo-model    # go on, write all of examples/
    python -m tools.train_demo_model --prompts-only   # write prompts.jsonl and expected.jsonl again
    python -m tools.train_demo_model --evaluate       # exact answers of the model in --out

The model is trained from scratch on chats that tools.demo_tasks draws; the loss counts the
answers' tokens only. The weights are rounded to bf16 before anything is measured. On 2 cores the
two calls for the committed weights took 13 and 7 minutes; examples/README.md has their accuracy
and what was different then. Until a model can copy a list in order it makes little headway, and
it learns that late and all at once: the first call knows lists, parity and fields, but no sums.
"""

from __future__ import annotations

import argparse
import logging
import math
import random
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from tools.demo_batches import IGNORED, PackedBatch, render, training_batches
from tools.demo_prompts import ANSWER_TOKENS, MODEL_NAME, prompt_chats, write_prompts
from tools.demo_tasks import TASKS, Chat, Split, draw_chat
from tools.demo_tokenizer import CONTEXT_TOKENS, END_OF_TEXT, END_OF_TURN, train_tokenizer

logger = logging.getLogger(__name__)

TOKENIZER_CHATS = 20_000
ROLE_HEADERS = "system\n\nuser\n\nassistant\n\n"  # what a chat template adds besides special tokens


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """How long and how fast to learn; the defaults are what made the committed model."""

    seed: int
    steps: int
    compiled: bool
    start: Path | None = None  # a model made before, to go on with
    rows: int = 8
    row_tokens: int = 192
    peak_rate: float = 1.2e-3
    final_rate: float = 2e-5
    warmup_steps: int = 100
    weight_decay: float = 0.05


def new_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Return an untrained Llama of about 2.1 M parameters with grouped-query attention.

    The widths are multiples of 128, so that int4 groups of 128 weights divide every row.
    """
    stop_ids = [tokenizer.convert_tokens_to_ids(t) for t in (END_OF_TURN, END_OF_TEXT)]
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=CONTEXT_TOKENS,
        rope_theta=10_000.0,
        tie_word_embeddings=True,
        # 1 / sqrt(hidden_size): with Llama's 0.02 so narrow a model is slow to learn to copy.
        initializer_range=0.0625,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=stop_ids,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=stop_ids,
        pad_token_id=tokenizer.pad_token_id,
        do_sample=False,
        max_new_tokens=ANSWER_TOKENS,
    )
    return model


def answer_losses(model: LlamaForCausalLM, batch: PackedBatch) -> tuple[Tensor, Tensor]:
    """Return the cross entropy of each answer token, and the task it belongs to."""
    with torch.autocast("cpu", torch.bfloat16):
        hidden = model.model(
            input_ids=batch.ids,
            attention_mask=batch.attention_mask(),
            position_ids=batch.positions,
            use_cache=False,
        ).last_hidden_state
        targets = batch.labels[:, 1:]  # (rows, tokens - 1)
        counted = targets != IGNORED
        logits = model.lm_head(hidden[:, :-1][counted])  # (counted, vocabulary)
    losses = functional.cross_entropy(logits.float(), targets[counted], reduction="none")
    return losses, batch.tasks[:, 1:][counted]


@dataclass
class Progress:
    """Mean loss of each task since the last report: shows which tasks are learnt."""

    sums: Tensor
    counts: Tensor

    @classmethod
    def empty(cls) -> Progress:
        """Return a progress without any loss yet."""
        return cls(sums=torch.zeros(len(TASKS)), counts=torch.zeros(len(TASKS)))

    def add(self, losses: Tensor, tasks: Tensor) -> None:
        """Count the losses of answer tokens under their tasks."""
        self.sums.index_add_(0, tasks, losses.detach())
        self.counts += torch.bincount(tasks, minlength=len(TASKS))

    def __str__(self) -> str:
        """Return the mean loss of all answer tokens, then that of each task."""
        means = (self.sums / self.counts).tolist()
        by_task = " ".join(f"{name} {mean:.3f}" for name, mean in zip(TASKS, means, strict=True))
        return f"loss {self.sums.sum() / self.counts.sum():.4f}; {by_task}"


def learning_rate(step: int, *, plan: TrainingPlan) -> float:
    """Return the rate of a step: a linear rise, then half a cosine down to the final rate."""
    if step < plan.warmup_steps:
        return plan.peak_rate * (step + 1) / plan.warmup_steps
    done = (step - plan.warmup_steps) / max(1, plan.steps - plan.warmup_steps)
    fall = 0.5 * (1 + math.cos(math.pi * done))
    return plan.final_rate + (plan.peak_rate - plan.final_rate) * fall


def train(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, *, plan: TrainingPlan
) -> None:
    """Train the model in place and round its weights to bf16."""
    optimizer = torch.optim.AdamW(
        model.parameters(), betas=(0.9, 0.98), weight_decay=plan.weight_decay, fused=True
    )
    batches = training_batches(
        tokenizer, seed=plan.seed, rows=plan.rows, row_tokens=plan.row_tokens
    )
    model.train()
    if plan.compiled:
        model.model.compile()  # more than twice as fast here: all batches have one shape
    progress = Progress.empty()
    started = time.monotonic()
    for step in range(plan.steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, plan=plan)
        losses, tasks = answer_losses(model, next(batches))
        losses.mean().backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        progress.add(losses, tasks)
        if (step + 1) % 250 == 0:
            logger.info("step %d, %.0f s, %s", step + 1, time.monotonic() - started, progress)
            progress = Progress.empty()
    model.to(torch.bfloat16)


@torch.inference_mode()
def answers(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, chats: list[Chat]
) -> list[str]:
    """Return the model's greedy answer to each chat."""
    model.eval()
    tokenizer.padding_side = "left"
    texts: list[str] = []
    for start in range(0, len(chats), 50):
        prompts = [render(tokenizer, chat) for chat in chats[start : start + 50]]
        inputs = tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=False)
        output = model.generate(
            input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]
        )
        continuations = output[:, inputs["input_ids"].shape[1] :]
        texts += tokenizer.batch_decode(continuations, skip_special_tokens=True)
    return texts


def evaluate(folder: Path, *, chats: list[Chat]) -> float:
    """Return the share of chats that the model in the folder answers exactly, in fp32."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    asked = Counter(chat.task for chat in chats)
    right: Counter[str] = Counter()
    for chat, answer in zip(chats, answers(model, tokenizer, chats), strict=True):
        right[chat.task] += answer == chat.answer
        if answer != chat.answer:
            logger.info("wrong: %r: %r, not %r", chat.messages[-1], answer, chat.answer)
    for task, count in asked.items():
        logger.info("%s: %d of %d", task, right[task], count)
    logger.info("all: %d of %d", right.total(), len(chats))
    return right.total() / len(chats)


def new_tokenizer(seed: int) -> PreTrainedTokenizerFast:
    """Return a tokenizer for the words of the exercises."""
    rng = random.Random(seed)
    chats = [draw_chat(rng, split=Split.TRAINING) for _ in range(TOKENIZER_CHATS)]
    return train_tokenizer(
        text
        for chat in chats
        for text in (*(m["content"] for m in chat.messages), chat.answer, ROLE_HEADERS)
    )


def make_model(folder: Path, *, plan: TrainingPlan) -> None:
    """Train tokenizer and model, or only go on with a model, and save both into the folder."""
    torch.manual_seed(plan.seed)
    if plan.start is None:
        tokenizer = new_tokenizer(plan.seed)
        model = new_model(tokenizer)
    else:
        tokenizer = AutoTokenizer.from_pretrained(plan.start)
        model = LlamaForCausalLM.from_pretrained(plan.start, dtype=torch.float32)
    logger.info("%d parameters, %d tokens", model.num_parameters(), len(tokenizer))
    train(model, tokenizer, plan=plan)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def parse_arguments() -> argparse.Namespace:
    """Return the command line's choices."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("examples"), help="folder to write into")
    parser.add_argument("--seed", type=int, default=7, help="of the weights and the exercises")
    parser.add_argument("--steps", type=int, default=3500, help="optimizer steps")
    parser.add_argument("--start", type=Path, help="folder of a model to go on with")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument(
        "--compile",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="torch.compile the model, which takes a C++ compiler (default: yes)",
    )
    parser.add_argument("--prompts-only", action="store_true", help="write the prompt files only")
    parser.add_argument("--evaluate", action="store_true", help="measure the model in --out only")
    return parser.parse_args()


def main() -> None:
    """Do what the command line asks for."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    folder: Path = arguments.out
    folder.mkdir(parents=True, exist_ok=True)
    if not arguments.evaluate:
        write_prompts(folder)
    if arguments.prompts_only:
        return
    if not arguments.evaluate:
        plan = TrainingPlan(
            seed=arguments.seed,
            steps=arguments.steps,
            compiled=arguments.compile,
            start=arguments.start,
        )
        make_model(folder / MODEL_NAME, plan=plan)
    evaluate(folder / MODEL_NAME, chats=prompt_chats())


if __name__ == "__main__":
    main()
