"""How large the code is: lines, the longest modules and functions, the most branched functions (radon's cyclomatic complexity).

Run: python benchmarks/structure.py
"""

from __future__ import annotations

import argparse
import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from radon.complexity import cc_visit

PACKAGE = Path(__file__).resolve().parent.parent / "flashdiff_cli"


BRANCHES = (ast.If, ast.For, ast.While, ast.ExceptHandler, ast.match_case)


class Function(NamedTuple):
    """One function of the package."""

    place: str
    """Module and name."""
    body: int
    """Lines, without signature and docstring."""
    branches: int
    """Statements that branch: if, elif, for, while, except, case."""
    complexity: int
    """Independent paths through it, as radon counts them: `and`, `or`, conditional expressions and comprehensions as well; 1 for a straight one."""


def modules(package: Path = PACKAGE) -> dict[str, int]:
    """Return the lines of each module by its path."""
    return {str(path.relative_to(package)): len(path.read_text(encoding="utf-8").splitlines()) for path in sorted(package.rglob("*.py"))}


def _blocks(found: list) -> Iterator:
    """Functions and methods, and those that are defined in them."""
    for block in found:
        if hasattr(block, "methods"):
            # A class's own methods are in the list beside it; those of classes in it are not.
            for inner in block.inner_classes:
                yield from _blocks([*inner.methods, inner])
        else:
            yield block
            yield from _blocks(block.closures)


def functions(package: Path = PACKAGE) -> list[Function]:
    """Return all functions and methods of a package, closures included."""
    found = []
    for path in sorted(package.rglob("*.py")):
        source = path.read_text(encoding="utf-8")
        tree, bodies, branches = ast.parse(source), {}, {}
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                first = node.body[1:] if ast.get_docstring(node) is not None else node.body
                bodies[node.lineno] = node.end_lineno - first[0].lineno + 1 if first else 0
                branches[node.lineno] = sum(isinstance(inner, BRANCHES) for inner in ast.walk(node))
        for block in _blocks(cc_visit(source)):
            line = block.lineno if block.lineno in bodies else next(line for line in sorted(bodies) if line > block.lineno)
            found.append(Function(f"{path.relative_to(package)} {block.fullname}", bodies[line], branches[line], block.complexity))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--most", type=int, default=8, help="rows of each list")
    most = parser.parse_args().most
    lengths, known = modules(), functions()
    rooms: Counter[str] = Counter()
    for path, lines in lengths.items():
        rooms[path.split("/")[0] if "/" in path else "."] += lines
    print(f"{sum(lengths.values()):,} lines of Python in {len(lengths)} modules, {len(known):,} functions")
    print("rooms       " + ", ".join(f"{room} {lines:,}" for room, lines in rooms.most_common()))
    for title, rows in (
        ("modules", sorted(((lines, path) for path, lines in lengths.items()), reverse=True)),
        ("bodies", sorted(((f.body, f.place) for f in known), reverse=True)),
        ("complexity", sorted(((f.complexity, f.place) for f in known), reverse=True)),
    ):
        for number, place in rows[:most]:
            print(f"{title:11} {number:4} {place}")
    call = next(f for f in known if f.place == "pipeline.py FlashDiffusionPipeline.__call__")
    print(f"the call    {call.body} lines, {call.branches} branches, complexity {call.complexity}")


if __name__ == "__main__":
    main()
