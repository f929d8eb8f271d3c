"""Who owns which block of the KV cache, and which blocks hold a known prefix. Torch-free.

A block is free (no references) or held by one or more sequences. A full block whose tokens are
computed is known by the hash of its tokens and all before it; it stays known while it is free,
until it is taken for something else, least recently used first. Only full blocks are shared, and
they never change, so nothing is ever copied.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Sequence as Ids
from hashlib import blake2b

from worker.engine.sequence import Sequence


class BlockManager:
    """Blocks 0 … num_blocks-1 of `block_tokens` tokens each."""

    def __init__(self, num_blocks: int, block_tokens: int, *, prefix_cache: bool = True) -> None:
        self.num_blocks = num_blocks
        self.block_tokens = block_tokens
        self._prefix_cache = prefix_cache
        self._references = [0] * num_blocks
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(num_blocks))  # oldest first
        self._hash_of: dict[int, bytes] = {}
        self._block_of: dict[bytes, int] = {}

    @property
    def num_free(self) -> int:
        """Blocks that can be taken now, known ones included."""
        return len(self._free)

    def blocks_for(self, num_tokens: int) -> int:
        """Blocks that so many tokens fill."""
        return -(-num_tokens // self.block_tokens)

    def admit(self, sequence: Sequence, *, headroom: int) -> bool:
        """Give the sequence blocks for all its tokens, known prefix blocks where there are any.

        Sets `blocks` and `num_computed`. False, and nothing changed, when fewer than `headroom`
        blocks would stay free. At least one token is left to compute, since its logits are needed.
        """
        known = self._known_prefix(sequence)
        waking = sum(self._references[block] == 0 for block in known)
        missing = self.blocks_for(sequence.num_tokens) - len(known)
        if self.num_free - waking - missing < headroom:
            return False
        for block in known:
            self._acquire(block)
        sequence.blocks = known + [self._take() for _ in range(missing)]
        sequence.num_computed = len(known) * self.block_tokens
        return True

    def append(self, sequence: Sequence) -> bool:
        """Make room for all tokens of a running sequence; False when no block is free."""
        while len(sequence.blocks) < self.blocks_for(sequence.num_tokens):
            if not self._free:
                return False
            sequence.blocks.append(self._take())
        return True

    def learn(self, sequence: Sequence, num_computed: int) -> None:
        """Make the sequence's full blocks known, up to `num_computed` tokens.

        May be called before the step that computes them, as that step runs for sure and writes
        every row's keys and values before any row reads them.
        """
        if not self._prefix_cache:
            return
        for index in range(self.known_from(sequence), num_computed // self.block_tokens):
            block, digest = sequence.blocks[index], self._hashes(sequence, index + 1)[index]
            if digest not in self._block_of and block not in self._hash_of:
                self._block_of[digest] = block
                self._hash_of[block] = digest

    def known_from(self, sequence: Sequence) -> int:
        """The first block of the sequence that no earlier step has completed."""
        return sequence.num_computed // self.block_tokens

    def free(self, sequence: Sequence) -> None:
        """Take all blocks back; the last ones are reused first, as longer prefixes match less."""
        for block in reversed(sequence.blocks):
            self._references[block] -= 1
            if self._references[block] == 0:
                self._free[block] = None
                if block not in self._hash_of:
                    self._free.move_to_end(block, last=False)  # nothing to find in it: use it first
        sequence.blocks = []
        sequence.num_computed = 0

    def check_integrity(self, running: Ids[Sequence]) -> None:
        """Raise RuntimeError unless references, free list and hashes agree with `running`."""
        counts = [0] * self.num_blocks
        for sequence in running:
            for block in sequence.blocks:
                counts[block] += 1
        _require(counts == self._references, "references differ from what sequences hold")
        free = {block for block in range(self.num_blocks) if counts[block] == 0}
        _require(free == set(self._free), "the free list is not the blocks without references")
        inverse = {block: digest for digest, block in self._block_of.items()}
        _require(inverse == self._hash_of, "the two prefix tables disagree")
        for sequence in running:
            self._check_sequence(sequence)

    def _check_sequence(self, sequence: Sequence) -> None:
        blocks = sequence.blocks
        _require(len(set(blocks)) == len(blocks), "a sequence holds a block twice")
        room = len(blocks) * self.block_tokens
        _require(sequence.num_computed <= room, "more tokens are computed than there are slots")
        for index, block in enumerate(blocks):
            digest = self._hash_of.get(block)
            if digest is not None:
                expected = _chain(sequence.token_ids, self.block_tokens, index + 1)[index]
                _require(digest == expected, "a known block does not hold its tokens")

    def _known_prefix(self, sequence: Sequence) -> list[int]:
        """Known blocks that the sequence starts with."""
        if not self._prefix_cache:
            return []
        known: list[int] = []
        usable = (sequence.num_tokens - 1) // self.block_tokens
        for digest in self._hashes(sequence, usable):
            block = self._block_of.get(digest)
            if block is None:
                break
            known.append(block)
        return known

    def _hashes(self, sequence: Sequence, count: int) -> list[bytes]:
        """The chain hashes of the first `count` blocks, computed once per sequence."""
        hashes = sequence.block_hashes
        _extend_chain(hashes, sequence.token_ids, self.block_tokens, count)
        return hashes[:count] if len(hashes) > count else hashes

    def _acquire(self, block: int) -> None:
        if self._references[block] == 0:
            del self._free[block]
        self._references[block] += 1

    def _take(self) -> int:
        """The least recently used free block; it is forgotten as a prefix."""
        block, _ = self._free.popitem(last=False)
        digest = self._hash_of.pop(block, None)
        if digest is not None:
            del self._block_of[digest]
        self._references[block] = 1
        return block


def _chain(token_ids: Ids[int], block_tokens: int, count: int) -> list[bytes]:
    hashes: list[bytes] = []
    _extend_chain(hashes, token_ids, block_tokens, count)
    return hashes


def _extend_chain(hashes: list[bytes], token_ids: Ids[int], block_tokens: int, count: int) -> None:
    """Append the hashes of blocks up to `count`: each covers its tokens and the hash before it."""
    for index in range(len(hashes), count):
        tokens = array("q", token_ids[index * block_tokens : (index + 1) * block_tokens])
        previous = hashes[-1] if hashes else b""
        hashes.append(blake2b(previous + tokens.tobytes(), digest_size=16).digest())


def _require(condition: bool, violation: str) -> None:
    if not condition:
        raise RuntimeError(f"the KV cache's bookkeeping is broken: {violation}")
