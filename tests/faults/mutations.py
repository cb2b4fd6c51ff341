"""Deliberate faults: what may go wrong in a line that computes a number, as replacements in its text.

Made from the syntax tree, kept as text, so that a mutant differs from its file in one place and has its line numbers.
"""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass

ARITHMETIC: dict[type[ast.operator], tuple[str, str]] = {
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "/"),
    ast.Div: ("/", "*"),
    ast.Pow: ("**", "*"),
    ast.BitAnd: ("&", "|"),
    ast.BitOr: ("|", "&"),
}
COMPARISONS: dict[type[ast.cmpop], tuple[str, str]] = {
    ast.Lt: ("<", ">="),
    ast.LtE: ("<=", ">"),
    ast.Gt: (">", "<="),
    ast.GtE: (">=", "<"),
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
    ast.Is: ("is", "is not"),
    ast.IsNot: ("is not", "is"),
}
RENAMED = {
    "logsumexp": "sum",
    "mean": "sum",
    "sum": "mean",
    "softmax": "log_softmax",
    "minimum": "maximum",
    "maximum": "minimum",
    "min": "max",
    "max": "min",
    "amax": "amin",
    "amin": "amax",
    "any": "all",
    "all": "any",
    "clamp_min": "clamp_max",
    "cumsum": "cumprod",
    "var": "std",
    "std": "var",
    "exp": "log",
    "log": "exp",
    "log1p": "log",
    "floor": "ceil",
}
# Methods without an argument that are left out: a cut gradient that flows, a number in the wrong unit.
DROPPED = ("detach", "exp", "log", "sqrt", "square", "abs", "neg", "reciprocal")
NEUTRAL = {"num_data": "None", "kl_weight": "1.0"}  # arguments that are replaced by what stands for "none"


@dataclass(frozen=True)
class Mutation:
    """One replacement in a file.

    Attributes:
        start: where the replaced text begins, in characters.
        stop: where it ends.
        text: what stands there instead.
        line: its line, from 1.
        before: that line as it is, stripped.
        after: the same line with the fault.
    """

    start: int
    stop: int
    text: str
    line: int
    before: str
    after: str

    def applied(self, source: str) -> str:
        """The file with the fault."""
        return source[: self.start] + self.text + source[self.stop :]

    def rank(self, seed: str) -> str:
        """A number that depends on the two lines alone: a sample stays as it is while other lines change."""
        return hashlib.sha256(f"{seed}|{self.before}|{self.after}".encode()).hexdigest()


def mutations(source: str) -> list[Mutation]:
    """Every fault that this file knows of, each different from the source and from the others."""
    finder = _Finder(source)
    finder.visit(ast.parse(source))
    found: dict[str, Mutation] = {}
    for start, stop, text in finder.found:
        mutant = source[:start] + text + source[stop:]
        if mutant == source or not _compiles(mutant):
            continue
        line = source.count("\n", 0, start)
        first, last = source.rfind("\n", 0, start) + 1, source.find("\n", stop)
        after = mutant[first : last + len(mutant) - len(source)]
        found.setdefault(mutant, Mutation(start, stop, text, line + 1, _one_line(source[first:last]), _one_line(after)))
    return list(found.values())


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _compiles(source: str) -> bool:
    try:
        compile(source, "mutant", "exec", dont_inherit=True)
    except (SyntaxError, ValueError):
        return False
    return True


class _Finder(ast.NodeVisitor):
    """Walks what computes; messages, annotations, docstrings, logging and names of things are left alone."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.found: list[tuple[int, int, str]] = []
        self.lines = [0]
        for line in source.splitlines(keepends=True):
            self.lines.append(self.lines[-1] + len(line))

    # --- text ---

    def at(self, line: int, column: int) -> int:
        start = self.lines[line - 1]
        return start + len(self.source[start : self.lines[line]].encode()[:column].decode())

    def span(self, node: ast.expr | ast.stmt) -> tuple[int, int]:
        assert node.end_lineno is not None and node.end_col_offset is not None
        return self.at(node.lineno, node.col_offset), self.at(node.end_lineno, node.end_col_offset)

    def text(self, node: ast.expr) -> str:
        start, stop = self.span(node)
        return self.source[start:stop]

    def replace(self, node: ast.expr | ast.stmt, text: str) -> None:
        self.found.append((*self.span(node), text))

    def between(self, left: ast.expr, right: ast.expr, old: str, new: str) -> None:
        start, stop = self.span(left)[1], self.span(right)[0]
        match = re.search(re.escape(old), self.source[start:stop])
        if match:
            self.found.append((start + match.start(), start + match.end(), new))

    # --- what is skipped ---

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        if node.name not in ("__repr__", "__str__", "summary"):
            for part in (*node.args.defaults, *(d for d in node.args.kw_defaults if d), *node.body):
                self.visit(part)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value:
            self.visit(node.value)

    def visit_Raise(self, node: ast.Raise) -> None:
        pass

    def visit_Assert(self, node: ast.Assert) -> None:
        pass

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        pass

    # --- what goes wrong ---

    def visit_BinOp(self, node: ast.BinOp) -> None:
        self.generic_visit(node)
        if isinstance(node.left, ast.Constant) and isinstance(node.left.value, str):
            return
        if type(node.op) in ARITHMETIC:
            self.between(node.left, node.right, *ARITHMETIC[type(node.op)])
        if isinstance(node.op, ast.Add | ast.Sub | ast.Mult | ast.Div | ast.Pow):
            self.replace(node, f"({self.text(node.left)})")
        if isinstance(node.op, ast.Add | ast.Mult):
            self.replace(node, f"({self.text(node.right)})")

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self.generic_visit(node)
        self.replace(node, "pass")

    def visit_Compare(self, node: ast.Compare) -> None:
        self.generic_visit(node)
        if len(node.ops) == 1 and type(node.ops[0]) in COMPARISONS:
            self.between(node.left, node.comparators[0], *COMPARISONS[type(node.ops[0])])

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        self.generic_visit(node)
        old, new = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
        self.between(node.values[0], node.values[1], old, new)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        self.generic_visit(node)
        if not isinstance(node.op, ast.UAdd):
            self.replace(node, f"({self.text(node.operand)})")

    def visit_If(self, node: ast.If) -> None:
        self.generic_visit(node)
        self.negate(node.test)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self.generic_visit(node)
        self.negate(node.test)

    def negate(self, test: ast.expr) -> None:
        if not isinstance(test, ast.Compare | ast.UnaryOp):
            self.replace(test, f"not ({self.text(test)})")

    def visit_Constant(self, node: ast.Constant) -> None:
        value = node.value
        if isinstance(value, bool):
            self.replace(node, str(not value))
        elif isinstance(value, int):
            self.replace(node, str(value + 1))
        elif isinstance(value, float):
            self.replace(node, repr(2 * value if value else 1.0))

    def visit_Expr(self, node: ast.Expr) -> None:
        if isinstance(node.value, ast.Constant):  # a docstring
            return
        if isinstance(node.value, ast.Call):
            if self.text(node.value.func).startswith(("_log.", "warnings.")):
                return
            self.replace(node, "pass")
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        self.generic_visit(node)
        for argument in (*node.args, *(k.value for k in node.keywords)):
            if isinstance(argument, ast.Name) and argument.id in NEUTRAL:
                self.replace(argument, NEUTRAL[argument.id])
        if not isinstance(node.func, ast.Attribute):
            return
        name, receiver = node.func.attr, node.func.value
        if name in RENAMED:
            stop = self.span(node.func)[1]
            self.found.append((stop - len(name), stop, RENAMED[name]))
        if name in DROPPED and not node.args and not node.keywords:
            self.replace(node, f"({self.text(receiver)})")
        if name == "where" and len(node.args) == 3:
            condition, first, second = map(self.text, node.args)
            self.replace(node, f"{self.text(node.func)}({condition}, {second}, {first})")

    def generic_visit(self, node: ast.AST) -> None:
        for field, value in ast.iter_fields(node):
            if field in ("annotation", "returns", "decorator_list"):
                continue
            for part in value if isinstance(value, list) else [value]:
                if isinstance(part, ast.AST):
                    self.visit(part)


def sample(source: str, count: int, seed: str) -> Iterator[Mutation]:
    """So many of a file's faults, drawn by a seed, at most two in one line."""
    per_line: dict[int, int] = {}
    taken = 0
    for mutation in sorted(mutations(source), key=lambda m: m.rank(seed)):
        if taken == count:
            return
        per_line[mutation.line] = per_line.get(mutation.line, 0) + 1
        if per_line[mutation.line] <= 2:
            taken += 1
            yield mutation
