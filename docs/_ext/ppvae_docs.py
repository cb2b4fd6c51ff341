"""What the site needs of Sphinx: docstrings with dollar mathematics, and tables generated from the code."""

from __future__ import annotations

import html
import re
from typing import Any, ClassVar

import estimator_facts
import facts
import measured
import model_index
from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.domains.python import PyObject
from sphinx.util.docutils import SphinxDirective
from sphinx.util.logging import getLogger

from ppvae import models

_log = getLogger(__name__)

# Literals, roles and code in a docstring, which stay as they are.
_KEPT = re.compile(r"``.+?``|:[a-z:]+:`[^`]+`|^ *>>>.*?(?=^ *$|\Z)|^ *(?:>>>|\.\.\.) .*?$", re.MULTILINE | re.DOTALL)
_DISPLAY = re.compile(r"^( *)\$\$(.*?)\$\$\s*?$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"\$([^$]+?)\$")


def to_rst(text: str) -> str:
    """A docstring as reStructuredText: ``$...$`` in the default role, ``$$...$$`` as a display, stars escaped."""
    kept: list[str] = []

    def keep(piece: str) -> str:
        kept.append(piece)
        return f"\0{len(kept) - 1}\0"

    def display(match: re.Match[str]) -> str:
        indent, body = match[1], " ".join(match[2].split())
        return keep(f"\n{indent}.. math:: {body}\n")

    text = _KEPT.sub(lambda match: keep(match[0]), text)
    text = _DISPLAY.sub(display, text)
    # As long as it was, so that the columns of a table stay where they are: the default role is "math".
    text = _INLINE.sub(lambda match: keep(f"`{match[1]}`"), text)
    text = re.sub(r"(\*\w(?:[^*\n]*\w)?\*)(?!\w)", lambda match: keep(match[0]), text)  # real emphasis
    text = re.sub(r"\*", r"\\*", text)
    text = re.sub(r"\|", r"\\|", text)
    text = re.sub(r"(?<=\w)_(?!\w)", r"\\_", text)
    text = re.sub(r"(?<=: )([A-Z])\.(?=\s|$)", r"\1\\.", text)  # "D." alone would begin a list
    while "\0" in text:
        text = re.sub("\0(\\d+)\0", lambda match: kept[int(match[1])], text)
    return text


def process_docstring(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Before napoleon reads it."""
    lines[:] = to_rst("\n".join(lines)).split("\n")


def skip_member(app: Any, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    """The fields of a named tuple, of which Python says "Alias for field number 0": the class's text says more."""
    return True if type(obj).__name__ == "_tuplegetter" else None


def visit_math(translator: Any, node: nodes.math) -> None:
    """Inline mathematics as MathML, which browsers show by themselves: the site needs no network."""
    translator.body.append(_mathml(node, as_block=False))
    raise nodes.SkipNode


def visit_math_block(translator: Any, node: nodes.math_block) -> None:
    """A display likewise."""
    translator.body.append(f'<div class="math">{_mathml(node, as_block=True)}</div>\n')
    raise nodes.SkipNode


def _mathml(node: nodes.Element, *, as_block: bool) -> str:
    # docutils wants a declaration to stand first in a group.
    tex = node.astext().replace(r"\textstyle\sum", r"{\textstyle\sum}")
    if as_block and r"\\" in tex and r"\begin" not in tex:
        tex = rf"\begin{{aligned}}{tex}\end{{aligned}}"
    # Otherwise a display sets the index of an accented letter below it, as a limit.
    tex = re.sub(r"\\(hat|tilde|widetilde|bar)\s*(\{[^{}]*\}|\w)(?=[_^'])", r"\\\1{\2}{}", tex)
    # The space that TeX puts between the name of a function and its argument.
    tex = re.sub(r"\\(log|exp|operatorname\{\w+\})\s+(?=[A-Za-z]|\\(?!left|big|Big))", r"\\\1\\,", tex)
    try:
        return str(tex2mathml(tex, as_block=as_block))
    except MathError as error:
        _log.warning("cannot be shown as MathML: %s: %s", tex, error, location=node)
        return f"<code>{html.escape(tex)}</code>"


class Generated(SphinxDirective):
    """A table made of rows of reStructuredText."""

    has_content = False

    def table(self, header: list[str], rows: list[list[str]], widths: list[int] | None = None) -> list[nodes.Node]:
        """A list-table."""
        lines = [".. list-table::", "   :header-rows: 1"]
        lines += [f"   :widths: {' '.join(map(str, widths))}"] if widths else []
        lines.append("")
        for row in [header, *rows]:
            lines += [f"   {'* -' if i == 0 else '  -'} {cell}" for i, cell in enumerate(row)]
        return self.parse_text_to_nodes("\n".join(lines))


class ModelGraph(SphinxDirective):
    """The graph of a model of ``ppvae.models``, whose call is the argument."""

    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        pair = eval(self.arguments[0], {"priors": models.priors, **vars(models)})
        return [nodes.raw("", f'<div class="model-graph">{pair.graph().to_svg()}</div>', format="html")]


class ModelPicture(SphinxDirective):
    """Which model for which data, as a picture whose names are links."""

    def run(self) -> list[nodes.Node]:
        return [nodes.raw("", model_index.picture(), format="html")]


class ModelTable(Generated):
    """The same as a table."""

    def run(self) -> list[nodes.Node]:
        header, rows = model_index.table()
        return self.table(header, rows, [32, 26, 42])


class Estimators(Generated):
    """The estimators with the facts that they declare."""

    def run(self) -> list[nodes.Node]:
        header, rows = estimator_facts.estimator_table()
        return self.table(header, rows)


class Methods(Generated):
    """The evidence methods with their side."""

    def run(self) -> list[nodes.Node]:
        header, rows = facts.method_table()
        return self.table(header, rows, [24, 20, 12, 44])


class Idioms(Generated):
    """What every verb makes of a Pyro idiom."""

    def run(self) -> list[nodes.Node]:
        header, rows = facts.idiom_table()
        return self.table(header, rows, [34, *([9] * (len(header) - 2)), 20])


class StockPrograms(Generated):
    """What runs of Pyro's published examples."""

    def run(self) -> list[nodes.Node]:
        header, rows = facts.stock_table()
        return [*self.parse_text_to_nodes(facts.stock_counts()), *self.table(header, rows, [28, 14, 24, 34])]


class Measured(Generated):
    """A table of what was measured: the name of a function of ``measured.py``."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        header, rows = getattr(measured, self.arguments[0])()
        return self.table(header, rows, [40, *([60 // (len(header) - 1)] * (len(header) - 1))])


def _with_options(text: str) -> str:
    """Help text as reStructuredText, with options as literals: ``--resume``."""
    return to_rst(re.sub(r"(?<![\w-])(--?[a-z][a-z-]*)", r"``\1``", text))


class Commands(Generated):
    """Every verb with its options."""

    option_spec: ClassVar[dict[str, Any]] = {}

    def run(self) -> list[nodes.Node]:
        found: list[nodes.Node] = []
        for path, usage, help_, rows in facts.commands():
            section = nodes.section(ids=[nodes.make_id(path)])
            section += nodes.title(text=path)
            section += nodes.literal_block(usage, usage, language="text")
            for paragraph in help_.split("\n\n"):
                section += self.parse_text_to_nodes(_with_options(" ".join(paragraph.split())))
            section += self.table(["option", "meaning"], [[name, _with_options(text)] for name, text in rows], [30, 70])
            found.append(section)
        return found


def setup(app: Any) -> dict[str, Any]:
    """Register it all."""
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_math_block, None))
    for field in PyObject.doc_field_types:
        if field.name == "variable":  # what napoleon makes of "Attributes"
            field.label = "Attributes"
    app.connect("autodoc-process-docstring", process_docstring, priority=100)
    app.connect("autodoc-skip-member", skip_member)
    app.add_directive("ppvae-estimators", Estimators)
    app.add_directive("ppvae-evidence-methods", Methods)
    app.add_directive("ppvae-commands", Commands)
    app.add_directive("ppvae-idioms", Idioms)
    app.add_directive("ppvae-stock-programs", StockPrograms)
    app.add_directive("ppvae-measured", Measured)
    app.add_directive("ppvae-model-graph", ModelGraph)
    app.add_directive("ppvae-model-picture", ModelPicture)
    app.add_directive("ppvae-model-table", ModelTable)
    return {"version": "1", "parallel_read_safe": True}
