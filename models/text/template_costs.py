"""Puts into a parsed template what makes it pay for its work: a pass over Jinja's syntax tree.

Each body of a loop, macro or block pays when it begins for what stands in it, and values pay where
an operator that Jinja does not let an environment intercept reads all of them. Does not know the
prices of values.
"""

from __future__ import annotations

from typing import Any

from jinja2 import nodes
from jinja2.visitor import NodeTransformer

# Filters of the environment. Their names are none that a template can spell.
PAY = "pay for a body"
READ = "pay for all of a value"
COPY = "pay for a copy"
SEARCH = "pay for a search"
_NODES_PER_UNIT = 8
CHARACTERS_PER_UNIT = 16

_Bodied = nodes.For | nodes.Macro | nodes.CallBlock | nodes.Block


class CostPass(NodeTransformer):
    """`visit` the tree once; it is changed in place."""

    def generic_visit(self, node: nodes.Node, *args: Any, **kwargs: Any) -> nodes.Node:
        """Visit what is inside, then charge the node itself."""
        price = _price(node) if isinstance(node, _Bodied) else 0
        super().generic_visit(node, *args, **kwargs)
        match node:
            case nodes.For(test=nodes.Expr()):
                # Also what the test leaves out was looked at.
                node.test = nodes.And(_paid(price), node.test)
            case nodes.For() | nodes.Macro() | nodes.CallBlock() | nodes.Block():
                node.body.insert(0, nodes.ExprStmt(_paid(price)))
            case nodes.Compare():
                node.expr = _charged(READ, node.expr)
            case nodes.Operand():
                node.expr = _charged(SEARCH if node.op in {"in", "notin"} else READ, node.expr)
            case nodes.Concat():
                node.nodes = [_charged(READ, each) for each in node.nodes]
            case nodes.Pair():
                node.key = _charged(READ, node.key)
            case nodes.Getitem(ctx="load", arg=nodes.Slice()):
                return _charged(COPY, node)
            case nodes.Getitem():
                node.arg = _charged(READ, node.arg)
        return node


def _price(node: nodes.Node) -> int:
    """What one run through a body costs at most, loops in it counted once."""
    inside = list(node.find_all(nodes.Node))
    written = sum(len(each.data) for each in inside if isinstance(each, nodes.TemplateData))
    return 1 + len(inside) // _NODES_PER_UNIT + written // CHARACTERS_PER_UNIT


def _paid(price: int) -> nodes.Expr:
    return nodes.Filter(nodes.Const(True), PAY, [nodes.Const(price)], [], None, None)


def _charged(how: str, node: nodes.Expr) -> nodes.Expr:
    """The same value, paid for when it is computed; a constant's price is that of its body."""
    if isinstance(node, nodes.Const):
        return node
    return nodes.Filter(node, how, [], [], None, None)
