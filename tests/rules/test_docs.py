"""Every public name explains itself, every example in a docstring runs, and the README's too."""

from __future__ import annotations

import doctest
import inspect
import re
import subprocess
import sys
import warnings
from pathlib import Path

import frameworks
import pytest
from frameworks import load

import stope

ROOT = Path(__file__).resolve().parents[2]
RECIPES = ROOT / "docs/recipes"  # with an index of their own
OPERATIONS = ("similarity", "topk", "mine_hard_negatives", "FlatIndex", "kmeans")


def module_names():
    return ["stope", *frameworks.module_names()]


@pytest.mark.parametrize("name", module_names())
def test_docstring_examples_run(name, tmp_path, monkeypatch):
    module = load(name)
    monkeypatch.chdir(tmp_path)
    failures = []
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    for test in doctest.DocTestFinder(exclude_empty=True).find(module):
        out: list[str] = []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if runner.run(test, out=out.append).failed:
                failures.append("".join(out))
    assert not failures, "\n".join(failures)


def public_things():
    for name in module_names():
        module = load(name)
        if name.rpartition(".")[2].startswith("_"):
            continue
        for attribute in getattr(module, "__all__", []):
            yield f"{name}.{attribute}", getattr(module, attribute)


def test_public_names_have_docstrings():
    missing = []
    for name, thing in public_things():
        if not (inspect.isroutine(thing) or inspect.isclass(thing) or inspect.ismodule(thing)):
            continue
        text = inspect.getdoc(thing) or ""
        if len(text) < 20 or text.startswith(f"{getattr(thing, '__name__', '')}("):
            missing.append(name)  # a dataclass without its own docstring repeats its signature
        if inspect.isclass(thing):
            for method, function in vars(thing).items():
                if (
                    not method.startswith("_")
                    and inspect.isroutine(function)
                    and not inspect.getdoc(function)
                ):
                    missing.append(f"{name}.{method}")
    assert not missing


def test_modules_have_docstrings():
    assert not [name for name in module_names() if name != "stope._core" and not load(name).__doc__]


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_document_their_contract(name):
    thing = getattr(stope, name)
    text = inspect.getdoc(thing)
    assert ">>>" in text, f"{name} has no example"
    for word in ("float32", "ValueError", "TypeError", "emory"):
        assert word in text, f"{name} does not speak of {word}"
    parameters = inspect.signature(thing).parameters
    for parameter in parameters:
        assert re.search(rf"\b{parameter}\b", text), f"{name} does not explain {parameter}"


def test_public_names_are_listed():
    assert set(OPERATIONS) | {
        "TopK",
        "HardNegatives",
        "isa",
        "set_num_threads",
        "get_num_threads",
        "build_info",
    } <= set(stope.__all__)
    assert all(hasattr(stope, name) for name in stope.__all__)


# --- pages -------------------------------------------------------------------------------------


def pages():
    above = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
    beside = [ROOT / folder / "README.md" for folder in ("cpp", "cuda", "benchmarks")]
    return [*above, *beside, *sorted((ROOT / "docs").rglob("*.md"))]


def relative(path):
    return str(path.relative_to(ROOT))


every_page = pytest.mark.parametrize("page", pages(), ids=relative)


def blocks(page, language):
    """(line number, text) of every block of the page in a language."""
    text = page.read_text()
    for match in re.finditer(rf"^```{language}\n(.*?)^```$", text, flags=re.M | re.S):
        yield text[: match.start(1)].count("\n"), match.group(1)


RUN_HERE = [
    page
    for page in pages()
    if page.parent != RECIPES and frameworks.is_here(frameworks.PAGES.get(page.stem))
]


@pytest.mark.parametrize("page", RUN_HERE, ids=relative)
def test_examples_of_pages_run(page, tmp_path, monkeypatch):
    """Blocks with >>> are doctests that share their names; others are scripts.

    Those of recipes run in tests/recipes, which imports torch once for all.
    """
    monkeypatch.chdir(tmp_path)
    parser, names, out = doctest.DocTestParser(), {"__name__": "page"}, []
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    for line, code in blocks(page, "python"):
        if ">>>" not in code:
            script(code, tmp_path)
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.filterwarnings("error", category=DeprecationWarning, module="page")
            test = parser.get_doctest(code, names, relative(page), str(page), line)
            runner.run(test, out=out.append, clear_globs=False)
        names = test.globs
    assert not runner.failures, "".join(out)


def script(code, folder):
    done = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning:__main__", "-c", code],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, f"{code}\n{done.stderr}"


@every_page
def test_configurations_of_pages_are_read(page, tmp_path):
    pytest.importorskip("pydantic")
    from stope.runs import Config

    for _, text in blocks(page, "yaml"):
        (tmp_path / "config.yaml").write_text(text)
        assert Config.from_yaml(tmp_path / "config.yaml").output.folder


@every_page
def test_commands_of_pages_have_their_options(page):
    typer = pytest.importorskip("typer")
    from stope.cli.app import app

    commands = typer.main.get_command(app).commands
    for _, text in blocks(page, "bash"):
        for line in text.replace("\\\n", " ").splitlines():
            for name, rest in re.findall(r"(?:^|/)stope (\w+)([^#&]*)", line):
                known = {
                    word for p in commands[name].params for word in [*p.opts, *p.secondary_opts]
                }
                used = {word for word in rest.split() if re.match(r"-{1,2}[a-z]", word)}
                assert used <= known, f"{relative(page)}: {line}"


@every_page
def test_links_of_pages_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
        assert "://" in target or (page.parent / target).exists(), f"{relative(page)}: {target}"


def test_every_page_and_room_is_on_the_map():
    index = (ROOT / "docs/index.md").read_text()
    for page in (ROOT / "docs").rglob("*.md"):
        recipe = page.parent == RECIPES and page.name != "README.md"
        name = str(page.relative_to(ROOT / "docs"))
        assert recipe or name == "index.md" or f"({name})" in index, page
    architecture = (ROOT / "docs/architecture.md").read_text()
    for path in (ROOT / "python/stope").iterdir():
        room = f"{path.name}/" if path.is_dir() else path.stem
        if path.suffix in ("", ".py") and not path.stem.startswith("__"):
            assert f"`{room}`" in architecture, f"docs/architecture.md has no room {room}"


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150
    assert any(True for _ in blocks(ROOT / "README.md", "python"))


# --- what is cited -----------------------------------------------------------------------------

FOLDERS = ("cpp", "cuda", "python", "tests", "benchmarks", "docs")
WRITTEN = {".py", ".pyi", ".h", ".cpp", ".cu", ".cuh", ".md", ".sh"}
PATH = re.compile(rf"(?<![\w./<>{{}}!-])((?:{'|'.join(FOLDERS)})/[\w./*{{}},-]*[\w/}}*])(?![\w<])")
SECTION = r"[A-J]\d{0,2}\b"
CITED = re.compile(rf"methods\.md\W+({SECTION}(?:(?:,| to| and)\W+{SECTION})*)")


def texts():
    """(path, text) of every file that people write."""
    paths = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*")]
    for path in [*ROOT.glob("*.md"), ROOT / "CMakeLists.txt", ROOT / ".ci/run", *sorted(paths)]:
        if path.suffix in WRITTEN or path.name in ("CMakeLists.txt", "run"):
            yield path, path.read_text()


def alternatives(path):
    """a{b,c} is ab and ac."""
    braces = re.search(r"\{([^{}]*)\}", path)
    if not braces:
        return [path]
    ends = path[: braces.start()], path[braces.end() :]
    return [
        name
        for word in braces.group(1).split(",")
        for name in alternatives(f"{ends[0]}{word}{ends[1]}")
    ]


# Words that are not ours, beside what we say (left out, at most, as in).
UNSAID = re.compile(r"\bleav\w+ away\b|\bleft away\b|\bat the most\b|\bas there(?=[.,;:)])")


def test_words_are_idiomatic():
    assert [UNSAID.sub("-", words) for words in ("as there.", "as there is", "Left out")] == [
        *("-.", "as there is", "Left out")
    ]
    wrong = [
        f"{relative(path)}: {match.group()}"
        for path, text in texts()
        if path.name != "test_docs.py"
        for match in UNSAID.finditer(text)
    ]
    assert not wrong, "\n".join(wrong)


def test_cited_paths_exist():
    missing = [
        f"{relative(path)} cites {name}"
        for path, text in texts()
        for match in PATH.finditer(text)
        for name in alternatives(match.group(1))
        # Only gpu_check.sh, on a GPU, writes results for it.
        if not name.startswith("benchmarks/results/gpu_")
        and not any(ROOT.glob(name))
        and not any(ROOT.glob(name.replace("/*", "/**/*")))
    ]
    assert not missing, "\n".join(missing)


def test_cited_sections_exist():
    headings = re.findall(r"^#+ ([A-J]\d*)\. ", (ROOT / "docs/methods.md").read_text(), flags=re.M)
    missing = []
    for path, text in texts():
        if path.parent.name != "rules":
            missing += [
                f"{relative(path)} cites {section}"
                for match in CITED.finditer(text)
                for section in re.findall(SECTION, match.group(1))
                if section not in headings
            ]
    assert not missing, "\n".join(missing)


PAGE = re.compile(r"(?<![\w./:-])\.{0,2}/?\w[\w./-]*\.md\b")


def astray(path, text):
    """What a file cites that its reader does not have: a page from here or the root, or a note."""
    notes = re.findall(r"\bhouse (?:\d|section)", text, flags=re.I)
    cited = [name for name in PAGE.findall(text) if not (ROOT / name).is_file()]
    if path.suffix == ".md":  # a page names its neighbours, and files of other repositories
        cited = [name for name in cited if not ("/" in name or (path.parent / name).is_file())]
    return notes + cited


def test_notes_that_are_not_in_the_tree_are_not_cited():
    """A reader finds the page from the citation alone: it is docs/methods.md."""
    assert astray(ROOT / "a.py", "peers.md 1.1, methods.md (C4), docs/methods.md, as house 3") == [
        *("house 3", "peers.md", "methods.md")
    ]
    wrong = [
        f"{relative(path)}: {name}"
        for path, text in texts()
        if path.name != "test_docs.py"
        for name in astray(path, text)
    ]
    assert not wrong, "\n".join(wrong)
