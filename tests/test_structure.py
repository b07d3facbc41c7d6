"""The structure of the package, drawn from its imports: they run one way, whenever they happen; and nothing grows out of hand."""

import ast
import graphlib
import importlib.util
import re
import tomllib
from collections import defaultdict
from functools import cache
from pathlib import Path

import pytest

import flashdiff_cli

PACKAGE = Path(flashdiff_cli.__file__).parent
NAME = PACKAGE.name
REPOSITORY = Path(__file__).resolve().parent.parent

LAYERS = """
errors version broadcast cosines timer seeds stats lean
bounded
registry schema storage
parameters plugins pictures schedule first_stage
pages hub
operators prompt
grey data_consistency
deviation classifier last_step priors kernel spectrum
severity denoiser
calibration flash blur_estimator
solvers diagnosis
plan finish trial shake
second_look
restoration start models arguments
images with_deepinv
pipeline
runs
bench training
serve
commands
__init__ __main__
"""
"""Rooms from the bottom to the top: one imports only what stands on a line above its own. A new module of the top level gets its place here."""

RANK = {room: rank for rank, line in enumerate(LAYERS.split("\n")) for room in line.split()}

NETWORK = {"huggingface_hub", "fsspec", "requests", "httpx", "aiohttp", "socket", "http", "ftplib", "s3fs", "urllib.request", "urllib3"}


def module_of(path: Path) -> str:
    return ".".join((NAME, *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")


def room_of(module: str) -> str:
    """The first part below the package."""
    return [*module.split("."), "__init__"][1]


FILES = {module_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def imports(path: Path, types: bool = True) -> set[str]:
    """All that a module imports, at its top or later: modules of the package as such, others by their full name."""
    found, left = set(), [tree_of(path)]
    while left:
        node = left.pop()
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            for alias in node.names:
                deeper = f"{node.module}.{alias.name}"
                found.add(deeper if deeper in FILES else str(node.module))
        left += [] if is_for_types(node) and not types else list(ast.iter_child_nodes(node))
    return found


GRAPH = {module: {one for one in imports(path) if one in FILES and one != module} for module, path in FILES.items()}


def test_all_imports_are_of_modules_that_there_are():
    for module, path in FILES.items():
        assert not {one for one in imports(path) if one.split(".")[0] == NAME} - FILES.keys(), module


def test_no_import_runs_in_a_circle():
    """Between modules, lazy imports and those for types included; and between rooms."""
    below = {module: {one for one in found if one != NAME} for module, found in GRAPH.items()}
    graphlib.TopologicalSorter(below).prepare()
    rooms = defaultdict(set)
    for module, found in GRAPH.items():
        rooms[room_of(module)] |= {room_of(one) for one in found} - {room_of(module)}
    graphlib.TopologicalSorter(rooms).prepare()


@pytest.mark.parametrize("room", sorted({room_of(module) for module in FILES}))
def test_imports_run_downwards(room):
    for module, found in GRAPH.items():
        if room_of(module) != room:
            continue
        for one in found:
            assert room_of(one) == room or RANK[room_of(one)] < RANK[room], f"{module} imports {one}, which stands no lower"


def test_pictures_and_the_hub_know_nothing_of_the_core():
    below = {"hub": {"bounded", "errors", "pictures", "version"}, "pictures": {"bounded", "errors", "storage"}}
    for room, allowed in below.items():
        assert {room_of(one) for module in GRAPH if room_of(module) == room for one in GRAPH[module]} <= allowed | {room}


def test_solvers_and_operators_stand_side_by_side():
    """No solver imports another, no operator a solver; what several share is in modules of its own."""
    shared = {"base", "guidance", "__init__"}
    solvers = [m for m in FILES if m.startswith(f"{NAME}.solvers.") and m.rsplit(".", 1)[1] not in shared]
    assert len(solvers) > 4
    for module in solvers:
        assert not GRAPH[module] & (set(solvers) - {module}), module
    assert not any(room_of(one) == "solvers" for module in GRAPH if room_of(module) == "operators" for one in GRAPH[module])


def test_operators_reach_the_network_through_the_hub_alone():
    seen, left = set(), [module for module in FILES if room_of(module) == "operators"]
    while left:
        module = left.pop()
        if module in seen or room_of(module) == "hub":
            continue
        seen.add(module)
        found = imports(FILES[module], types=False)
        assert not {one for one in found if one in NETWORK or one.split(".")[0] in NETWORK}, module
        left += [one for one in found if one in FILES]
    assert f"{NAME}.operators.nonlinear_blur" in seen


def test_nothing_below_the_commands_prints():
    for module, path in FILES.items():
        if room_of(module) in ("commands", "__main__"):
            continue
        for node in ast.walk(tree_of(path)):
            assert not (isinstance(node, ast.Call) and ast.unparse(node.func) in ("print", "sys.stdout.write", "rich.print")), module


NOUNS = {
    *("what", "of", "how", "whether", "where", "which", "why", "who", "when", "as", "in", "for", "from", "with", "raises"),
    *("the", "a", "an", "all", "each", "every", "one", "two", "its", "everything"),
}


def test_docstrings_of_functions_open_with_a_verb():
    """As far as one can tell by the words that are none; properties say what they are."""
    for module, path in FILES.items():
        for node in ast.walk(tree_of(path)):
            said = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and ast.get_docstring(node)
            if said and not any("property" in ast.unparse(decorator) for decorator in node.decorator_list):
                assert re.split(r"\W", said, maxsplit=1)[0].lower() not in NOUNS, f"{module} {node.name}: {said.splitlines()[0]}"


@pytest.fixture(scope="module")
def measured():
    """`benchmarks/structure.py`, which is no module of the package."""
    pytest.importorskip("radon")
    spec = importlib.util.spec_from_file_location("structure", REPOSITORY / "benchmarks" / "structure.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_module_is_short():
    assert {module: n for module, path in FILES.items() if (n := len(path.read_text(encoding="utf-8").splitlines())) >= 400} == {}


def test_every_function_is_short_and_straight(measured):
    found = measured.functions(PACKAGE)
    assert len(found) > 1000 and [f for f in found if f.body > 80 or f.complexity >= 20] == []
    (call,) = [f for f in found if f.place.endswith("FlashDiffusionPipeline.__call__")]
    assert call.body <= 60 and call.branches <= 12


def test_what_measures_the_code_sees_long_and_branched_functions(measured, tmp_path):
    lines = "".join(f"    if x == {i}:\n        return {i}\n" for i in range(25))
    (tmp_path / "long.py").write_text(f'@cache\ndef g(\n    x,\n):\n    """Return it."""\n{lines}')
    (found,) = measured.functions(tmp_path)
    assert (found.place, found.body, found.branches, found.complexity) == ("long.py g", 50, 25, 26)


def test_the_version_is_said_alike():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["version"] == flashdiff_cli.__version__
