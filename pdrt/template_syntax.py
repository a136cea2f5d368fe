"""What the sandbox changes in a template's syntax tree before it is compiled.

Steps and values that jinja2 lets no environment intercept pass through filters whose names no
template can write; pdrt.template_sandbox has them:

    loop bodies, comparisons     "(step)": one more step
    a ~ b                        "(concat)": of known length
    text[a:b], [a, b], {a: b}    "(made)", "(weighed)": account for what is made
"""

from __future__ import annotations

from typing import cast

from jinja2 import TemplateSyntaxError, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.visitor import NodeTransformer


class Rewriter(NodeTransformer):
    """Puts what jinja2 would do by itself on the budget, and refuses what reaches for files."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        node.body.insert(0, nodes.ExprStmt(_filtered(nodes.Const(None), "(step)")))
        if node.test is not None:
            node.test = _filtered(node.test, "(step)")
        return node

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        return _filtered(self.generic_visit(node), "(step)")

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _filtered(nodes.List(node.nodes, lineno=node.lineno), "(concat)")

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        return _filtered(node, "(made)") if isinstance(node.arg, nodes.Slice) else node

    def visit_literal(self, node: nodes.List | nodes.Tuple | nodes.Dict) -> nodes.Node:
        self.generic_visit(node)
        if getattr(node, "ctx", "load") != "load":  # names that are assigned to
            return node
        plain = all(isinstance(item, nodes.Const) for item in node.items)
        return node if plain else _filtered(node, "(weighed)")

    visit_List = visit_Tuple = visit_Dict = visit_literal

    def refuse(self, node: nodes.Node) -> nodes.Node:
        raise TemplateSyntaxError("templates may not load other files", node.lineno)

    visit_Include = visit_Import = visit_FromImport = visit_Extends = refuse


def _filtered(node: nodes.Node, name: str) -> nodes.Filter:
    return nodes.Filter(cast(nodes.Expr, node), name, [], [], None, None, lineno=node.lineno)


class Generation(Extension):
    """{% generation %}: marks what to train on; here its body is all that matters."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        lineno = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=lineno)
