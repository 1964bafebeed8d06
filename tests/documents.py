"""The parts of the documents that are made from the sources: ``make docs`` writes them, `test_documents` compares them.

1. docs/ERRORS.md: every error of bad input that the sources can raise, by operation, with `…` for what changes.
2. docs/API.md: the public names, a line each.
3. In README.md, between comments: which architectures the tests hold against Hugging Face, and which are refused.
"""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import get_origin

ROOT = Path(__file__).parents[1]
PACKAGES = ("interp", "probes", "analyses")
CHANGING = "…"

# What a person imports from, and what for.
MODULES = {
    "peaklens": "all of it under one name",
    "interp": "load, decode, read, score; what an intervention is",
    "interp.interventions": "ways to touch a thinking step",
    "probes": "measures, from tensors alone",
    "analyses.trace": "a whole run: decode, score, tables",
    "analyses.problems": "questions with gold answers",
    "analyses.views": "figures",
    "analyses.studies": "questions asked of many responses",
    "analyses.stats": "intervals and tests",
    "analyses.grading": "which answer a response gives, and whether it is right",
    "analyses.report": "the page of a run",
}


# --- errors


class Words(ast.NodeVisitor):
    """The calls of InputError in one file, with the words of their parts as far as the source has them."""

    def __init__(self, tree: ast.Module) -> None:
        self.found: list[tuple[str, str, str, str]] = []
        self.scopes = [self.constants(tree)]
        self.visit(tree)

    def constants(self, scope: ast.AST) -> dict[str, ast.expr | None]:
        """What is assigned to a name once within a scope; a name that is assigned twice has no words."""
        known: dict[str, ast.expr | None] = {}
        for node in self.within(scope):
            pairs: list[tuple[ast.expr, ast.expr]] = []
            if isinstance(node, ast.Assign) and len(node.targets) == 1:
                target, value = node.targets[0], node.value
                if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
                    pairs = list(zip(target.elts, value.elts, strict=False))
                else:
                    pairs = [(target, value)]
            elif isinstance(node, ast.AnnAssign) and node.value is not None:
                pairs = [(node.target, node.value)]
            for target, value in pairs:
                if isinstance(target, ast.Name):
                    known[target.id] = None if target.id in known else value
        return known

    def within(self, scope: ast.AST) -> Iterator[ast.AST]:
        for child in ast.iter_child_nodes(scope):
            if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                yield child
                yield from self.within(child)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        self.scopes.append({argument.arg: None for argument in arguments} | self.constants(node))
        self.generic_visit(node)
        self.scopes.pop()

    def visit_Call(self, node: ast.Call) -> None:
        """An error, or a call that hands a remedy on to what raises one."""
        given = {part.arg: part.value for part in node.keywords if part.arg}
        if node.args and (getattr(node.func, "id", "") == "InputError" or "remedy" in given):
            parts = [node.args[0], *(given.get(name) for name in ("expected", "received", "remedy"))]
            operation, *rest = (self.words(part) for part in parts)
            self.found.append((operation, *rest))
        self.generic_visit(node)

    def words(self, node: ast.expr | None, depth: int = 0) -> str:
        """The text of an expression, `…` where only a run can tell."""
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            return node.value
        if isinstance(node, ast.JoinedStr):
            return "".join(self.words(part, depth) for part in node.values)
        if isinstance(node, ast.FormattedValue):
            return self.words(node.value, depth) if isinstance(node.value, ast.Name) else CHANGING
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            return self.words(node.left, depth) + self.words(node.right, depth)
        if isinstance(node, ast.IfExp):
            return " / ".join(dict.fromkeys([self.words(node.body, depth), self.words(node.orelse, depth)]))
        if isinstance(node, ast.Name) and depth < 3:
            for scope in reversed(self.scopes):
                if node.id in scope:
                    return self.words(scope[node.id], depth + 1)
        return CHANGING


@functools.cache
def errors_page() -> str:
    """docs/ERRORS.md."""
    found: dict[str, dict[tuple[str, str, str], set[str]]] = {}
    for package in PACKAGES:
        for file in sorted((ROOT / package).rglob("*.py")):
            for operation, *rest in Words(ast.parse(file.read_text(encoding="utf-8"))).found:
                expected, received, remedy = (re.sub(f"{CHANGING}(?: ?{CHANGING})+", CHANGING, text) for text in rest)
                if expected != CHANGING or remedy != CHANGING:
                    said = found.setdefault(operation, {}).setdefault((expected, received, remedy), set())
                    said.add(file.relative_to(ROOT).as_posix())
    parts = [
        "# Errors",
        "Bad input ends in one line, before any work is lost: `operation: expected ..., received .... What to do.` In "
        "Python it is an `InputError` (a `ValueError`) with `operation`, `expected`, `received` and `remedy`; a "
        f"command prints it and ends with exit code 2. Search this page for the words you got; `{CHANGING}` stands "
        "for what changes. Errors under *any operation* begin with the name of what was called. Written by `make docs` "
        "from the sources.",
    ]
    for operation in sorted(found, key=lambda name: (name.startswith(CHANGING), name.lower(), name)):
        lines = []
        for (expected, received, remedy), files in sorted(found[operation].items()):
            begun = operation.replace("\n", " ")
            lines += [
                f"{begun}: expected {expected}, received {received}",
                f"    {remedy}",
                f"    ({', '.join(sorted(files))})",
            ]
        title = operation.replace(CHANGING, "any operation", 1) if operation.startswith(CHANGING) else operation
        parts += [f"## {title}", "```\n" + "\n".join(line.replace("\n", " ") for line in lines) + "\n```"]
    return "\n\n".join(parts) + "\n"


# --- the public names


@functools.cache
def api() -> dict[str, list[tuple[str, str]]]:
    """Names and first lines by module."""
    return {
        module: [(name, first_line(getattr(importlib.import_module(module), name))) for name in public(module)]
        for module in MODULES
    }


def public(module: str) -> list[str]:
    """What a module says it holds; of its functions and classes first, by the alphabet."""
    return sorted(importlib.import_module(module).__all__, key=lambda name: (name.isupper(), name.lower()))


def first_line(value: object) -> str:
    """What the docstring says first; of a constant, what it is."""
    if not (inspect.isclass(value) or callable(value)):
        words = [str(word) for word in value] if isinstance(value, Mapping | tuple) else []
        plain = all(isinstance(word, str) and len(word) < 20 for word in value) if words else False
        return f"By name: {', '.join(words)}." if plain else f"{len(words)} entries."
    if get_origin(value) is not None:
        return f"What is handed in: {re.sub(r'[a-z_]+[.]', '', str(value))}."
    return " ".join((inspect.getdoc(value) or "").split("\n\n")[0].split())


def api_page() -> str:
    """docs/API.md."""
    parts = [
        "# Names",
        "What is public, by the module to import it from; `help(name)` says the rest, with an example, shapes, units "
        "and errors. Written by `make docs` from the docstrings.",
    ]
    for module, names in api().items():
        rows = [f"| `{name}` | {said.replace('|', chr(92) + '|')} |" for name, said in names]
        parts += [f"## {module}: {MODULES[module]}", "\n".join(["| name | what it is |", "| --- | --- |", *rows])]
    return "\n\n".join(parts) + "\n"


# --- architectures


def constant(file: str, name: str) -> object:
    """What a file assigns to a name, without running it."""
    for node in ast.parse((ROOT / file).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == name:
            return ast.literal_eval(node.value)
    raise ValueError(f"{file} has no {name}")


def architectures_table() -> str:
    """Which families the tests hold against plain Hugging Face, how far, and which are refused at load, and why."""
    file = "tests/interp/test_architectures.py"
    families, decoded, refused = (
        constant("tests/families.py", "FAMILIES"), constant(file, "DECODED"), constant(file, "REFUSED"),
    )  # fmt: skip
    assert isinstance(families, tuple)
    assert isinstance(decoded, tuple)
    assert isinstance(refused, dict)
    reasons: dict[str, list[str]] = {}
    for name, why in refused.items():
        reasons.setdefault(why, []).append(name)
    rows = [
        (
            families,
            "decoding in batches, recorded and edited streams, positions run again, scores, penalties, half precision",
        ),
        (decoded, "greedy decoding, in batches"),
        *((names, f"refused when loaded: {why}") for why, names in reasons.items()),
    ]
    return "\n".join(
        ["| `model_type` | held against plain Hugging Face |", "|---|---|"]
        + [f"| {', '.join(f'`{name}`' for name in names)} | {said} |" for names, said in rows]
    )


# --- the README


def readme(text: str) -> str:
    """The README with its made parts made anew."""
    for name, made in (("architectures", architectures_table()),):
        begins, ends = f"<!-- made: {name} -->", f"<!-- made: {name} ends -->"
        text, found = re.subn(
            f"{re.escape(begins)}.*?{re.escape(ends)}",
            lambda _, part=f"{begins}\n{made}\n{ends}": part,
            text,
            flags=re.DOTALL,
        )
        if found != 1:
            raise ValueError(f"README.md has {found} places for {name}")
    return text


def main() -> None:
    """Write them all."""
    for file, text in DOCUMENTS.items():
        (ROOT / file).write_text(text(), encoding="utf-8")


DOCUMENTS = {
    "docs/ERRORS.md": errors_page,
    "docs/API.md": api_page,
    "README.md": lambda: readme((ROOT / "README.md").read_text(encoding="utf-8")),
}


if __name__ == "__main__":
    sys.path[:0] = [str(ROOT)]
    main()
