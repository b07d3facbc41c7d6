"""What the README and the documentation promise: every command is one that the program takes, the main ones run, and so do the snippets."""

import json
import re
import shlex
import shutil
from pathlib import Path

import click
import pytest
import torch
import typer
from PIL import Image
from tiny import save_tiny_model

from flashdiff_cli.bench import protocol as protocols
from flashdiff_cli.commands.program import app
from flashdiff_cli.operators import OPERATORS
from flashdiff_cli.plan import ModelDefaults
from flashdiff_cli.solvers import SOLVERS
from flashdiff_cli.training.degradation import Degradations
from flashdiff_cli.training.recipe import Recipe

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "docs" / "own").glob("*.md"))]
MACHINERY = re.compile(r"\b(session|helper|agent|CEO|chatbot|LLM|/root/|/work/)\b")
RUN = ("restore", "severity", "encode", "compare", "watch", "report")
"""Commands that are run for real, on a tiny model; of the others, which train, fetch, publish or wait, the words are parsed."""


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)


def commands(page):
    """The words of each flashdiff command of a page, with what a shell would take away; whether through a pipe."""
    found = []
    for block in blocks(page, "sh") + blocks(page, "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            for part in re.split(r"&&|;", line):
                words = shlex.split(part, comments=True)
                if words and Path(words[0]).name == "flashdiff":
                    piped = next((i for i, word in enumerate(words) if word in ("<", ">", "|")), None)
                    found.append((tuple(words[1:piped]), piped is not None))
    return found


EVERY = [(page, words, piped) for page in PAGES for words, piped in commands(page)]


def parse(words):
    """Parse as the program would, without doing anything."""
    command, context = typer.main.get_command(app), None
    while isinstance(command, click.Group) or hasattr(command, "commands"):
        command, words = command.commands[words[0]], words[1:]
    context = command.make_context(command.name, list(words), resilient_parsing=False)
    assert context.params is not None


def test_there_are_commands_to_look_at():
    assert len(EVERY) > 50 and {words[0] for _, words, _ in EVERY} >= {*RUN, "serve", "bench", "train", "models", "convert", "calibrate"}


@pytest.mark.parametrize(
    "words", sorted({words for _, words, _ in EVERY if "..." not in words and "$SLURM_ARRAY_TASK_ID/16" not in words}), ids=" ".join
)
def test_every_command_is_one_that_the_program_takes(words):
    parse(words)


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """A folder with all that the commands name, and a tiny model."""
    folder = tmp_path_factory.mktemp("docs")
    model = save_tiny_model(folder / "my-model", defaults={"solver": "ldps", "steps": 8, "eta": 0.0})
    small = Image.open(ROOT / "examples" / "light.png").convert("RGB").resize((32, 24))
    for name in ("photo.png", "damaged.png", "shaken.png", "small.png", "photo-restored.png", "holiday/a.png", "holiday/sub/b.jpg", "scans/c.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        small.save(folder / name)
    for name in ("validation/d.png", "examples/blurry.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        small.save(folder / name)
    shutil.make_archive(str(folder / "holiday"), "zip", folder / "holiday")
    mask = Image.new("L", small.size, 255)
    mask.paste(0, (5, 5, 9, 20))
    mask.save(folder / "mask.png")
    cut = small.convert("RGBA")
    cut.putalpha(mask)
    cut.save(folder / "cutout.png")
    Image.linear_gradient("L").resize((7, 7)).save(folder / "kernel.png")
    return folder, model


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_commands_of_a_page_run_one_after_the_other(page, desk, cli, tmp_path, monkeypatch):
    """In their order, in one folder, with a tiny model for the shipped one; those that need a GPU, a pipe or a server are left to the parser."""
    folder, model = desk
    shutil.copytree(folder, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    for words, piped in commands(page):
        if words[0] not in RUN or piped or any(word.startswith(("cuda", "$")) or "://" in word for word in words) or "celebahq-256" in words:
            continue
        more = [] if words[0] in ("compare", "report") else ["--model", str(model)]
        more += ["--overwrite"] if words[0] in ("restore", "encode", "compare") else []
        more += ["--idle", "0", "--every", "0.05", "--settle", "0"] if words[0] == "watch" else []
        more += ["-o", "compared.png"] if words[0] == "compare" else []
        if words[0] == "report" and not Path("restored").exists():  # what the page's other machines would have made
            assert cli("restore", "scans/", "-o", "restored/", "--fast", "--model", str(model))[0] == 0
        code, _, err = cli(*words, *more)
        assert code == 0, f"{' '.join(words)}: {err}"


SNIPPETS = [(page, number, code) for page in PAGES for number, code in enumerate(blocks(page, "python"))]


@pytest.mark.parametrize(("page", "number", "code"), SNIPPETS, ids=lambda value: value.name if isinstance(value, Path) else None)
def test_snippets_run(page, number, code, desk, tmp_path, monkeypatch):
    """On the tiny model; what a page defines, its later snippets know."""
    import flashdiff
    import flashdiff_cli
    from flashdiff_cli.runs import library

    if "deepinv" in code:
        pytest.importorskip("deepinv", reason="needs the extra [deepinv], which brings torchvision", exc_type=ImportError)
    folder, model = desk
    monkeypatch.chdir(folder)
    for package in (flashdiff, flashdiff_cli):
        monkeypatch.setattr(package, "restore", lambda source, **given: library.restore(source, model=model, **given), raising=False)
        monkeypatch.setattr(package, "restore_many", lambda source, **given: library.restore_many(source, model=model, **given), raising=False)
    before = {name: set(registry._classes) for name, registry in (("operators", OPERATORS), ("solvers", SOLVERS))}
    known: dict = {}
    try:
        for earlier, text in enumerate(code for other, _, code in SNIPPETS if other == page):
            if earlier <= number and ("deepinv" not in text or earlier == number):
                exec(compile(text, f"{page.name}, snippet {earlier + 1}", "exec"), known)
        if "Fade" in known:
            faded = known["Fade"](0.5)
            assert torch.allclose(faded.forward(torch.ones(1, 3, 8, 8)), torch.tensor(0.75)) and faded.describe() == {"kept_contrast": 0.5}
        if "Plain" in known:
            restored, record = library.restore(
                folder / "photo.png", model=model, operator="gaussian-blur", operator_options={"blur_std": 1.0}, solver="plain"
            )
            assert record.solver["name"] == "plain" and restored.size == (32, 24)
    finally:
        for name, registry in (("operators", OPERATORS), ("solvers", SOLVERS)):
            for added in set(registry._classes) - before[name]:
                del registry._classes[added]


OTHERS = [ROOT / "CHANGELOG.md", ROOT / "SECURITY.md", ROOT / "weights" / "photos" / "README.md"]
RECOGNISED = {"sh", "bash", "python", "toml", "json", "text"}
"""Languages of snippets: the first two are parsed and run as commands, `text` draws folders, the others have a test each."""


@pytest.mark.parametrize("page", [*PAGES, *OTHERS], ids=lambda page: page.name)
def test_no_snippet_is_passed_over(page):
    """Every fence is one that `blocks` finds, in a language that a test of this file reads."""
    fences = re.findall(r"^[ \t>]*(?:```|~~~)(.*)$", page.read_text(), re.MULTILINE)
    assert len(fences) == 2 * sum(len(blocks(page, language)) for language in RECOGNISED)
    if page not in PAGES:
        assert not fences, "this page is not among those whose snippets are run"


def test_the_protocol_and_the_recipe_of_the_documents_are_read(tmp_path):
    read = {}
    for page in PAGES:
        for number, text in enumerate(blocks(page, "toml")):
            path = tmp_path / f"{page.stem}-{number}.toml"
            is_protocol = "[[condition]]" in text
            path.write_text(text if is_protocol else f'stage = "severity"\nsteps = 1\n{text}')
            read[page.name] = protocols.load(path) if is_protocol else Recipe.load(path)
    assert set(read) == {"bench.md", "severity-encoder.md"}
    assert [arm.name for arm in read["bench.md"].arm] == ["flash-ldps"] and read["bench.md"].condition[0].most_noise == 0.05
    degradations = Degradations(read["severity-encoder.md"].degradation)
    assert degradations(torch.zeros(2, 3, 32, 32), torch.Generator().manual_seed(0)).std().item() == pytest.approx(0.1, rel=0.9)


def test_the_settings_of_the_documents_are_read():
    (text,) = [text for page in PAGES for text in blocks(page, "json")]
    (name, defaults), *_ = json.loads("{" + text + "}").items()
    assert name == "defaults" and ModelDefaults.read(defaults).tuned["ldps"]["gaussian-blur"]["steps"] == 250


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_programs_that_a_page_names_are_there_and_have_those_options(page):
    for path, options in re.findall(r"\bpython (benchmarks/\w+\.py|examples/\w+\.py)([^`\n]*)", page.read_text()):
        source = (ROOT / path).read_text()
        for shared in re.findall(r"^from (\w+) import", source, re.MULTILINE):  # programs that share arguments
            beside = (ROOT / path).with_name(f"{shared}.py")
            source += beside.read_text() if beside.exists() else ""
        own = options.split(" -- ")[0]  # what follows goes on to the program that it runs
        for option in re.findall(r"(?<!\S)--?[a-z][\w-]*", own):
            assert f'"{option}"' in source, f"{path} has no {option}"


def test_the_readme_is_short_and_keeps_its_two_commands():
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 110
    assert "python -m venv .venv && .venv/bin/pip install -c constraints.txt . && .venv/bin/flashdiff restore examples/blurry.png" in lines
    assert 'python -m venv .venv && .venv/bin/pip install -c constraints.txt -e ".[test]" && .venv/bin/python -m pytest -n auto' in lines


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere_and_no_page_speaks_of_how_it_was_made(page):
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
        if not target.startswith(("http", "mailto")):
            assert (page.parent / target).exists(), target
    assert not MACHINERY.search(text)


def test_every_page_is_in_the_sites_menu():
    listed = set(re.findall(r": (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE))
    assert listed == {str(page.relative_to(ROOT / "docs")) for page in PAGES if ROOT / "docs" in page.parents}


def test_the_notebook_runs(monkeypatch, capsys):
    """With the shipped model; its figures are what the page says of them."""
    cells = json.loads((ROOT / "examples" / "flashdiff.ipynb").read_text())["cells"]
    assert all(not cell.get("outputs") for cell in cells)
    monkeypatch.chdir(ROOT / "examples")
    known: dict = {}
    for number, cell in enumerate(cell for cell in cells if cell["cell_type"] == "code"):
        exec(compile("".join(cell["source"]), f"cell {number + 1}", "exec"), known)
    out = capsys.readouterr().out
    assert "found: gaussian-blur" in out
    assert known["gain"] > 3 and known["ahead"] > 0.3
