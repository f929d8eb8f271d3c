"""The shapes of the models that are measured, and the work that they make. Knows no torch."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.workloads import VOCABULARY, Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A Llama without biases, with an output layer of its own (not tied to the embedding)."""

    name: str
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int = 64
    vocabulary: int = VOCABULARY
    positions: int = 2048

    @property
    def layer_weights(self) -> int:
        """Numbers in the linear layers of all decoder layers."""
        attention = self.hidden * self.head_dim * (2 * self.heads + 2 * self.kv_heads)
        return self.layers * (attention + 3 * self.hidden * self.intermediate)

    @property
    def output_weights(self) -> int:
        """Numbers in the output layer."""
        return self.hidden * self.vocabulary

    def linear_operations(self, workload: Workload) -> int:
        """Multiplications and additions that the linear layers cannot avoid.

        The output layer counts for generated tokens only; attention is left out.
        """
        layers = workload.least_forward_tokens * self.layer_weights
        return 2 * (layers + workload.output_tokens * self.output_weights)

    def streamed_weights(self, workload: Workload) -> int:
        """Numbers read from memory when one request runs alone: all linear layers a token."""
        return workload.output_tokens * (self.layer_weights + self.output_weights)


SHAPES = {
    shape.name: shape
    for shape in (
        Shape(name="1.1b", hidden=2048, intermediate=5632, layers=22, heads=32, kv_heads=4),
        # For engines that would take minutes for a step of the larger one.
        Shape(name="0.1b", hidden=768, intermediate=2048, layers=10, heads=12, kv_heads=4),
        # For looking whether every runner still works, in seconds; its speed means nothing.
        Shape(name="smoke", hidden=256, intermediate=512, layers=2, heads=4, kv_heads=2),
    )
}
