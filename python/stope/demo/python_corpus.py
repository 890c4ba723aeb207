"""A retrieval collection made from the Python installation itself.

A query is the first sentence of a docstring, its document the source of that function without the
docstring. Read are the standard library and the packages installed beside it; nothing is imported
or run, only parsed. Files, never functions, are divided between training, development and test, so
that no test document shares a file with a training one. The same installation always gives the
same collection.
"""

from __future__ import annotations

import ast
import hashlib
import heapq
import inspect
import re
import sysconfig
import textwrap
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from stope.progress import Progress

STANDARD_LIBRARY = "standard library"
_SKIPPED_FOLDERS = frozenset(
    [
        *("__pycache__", "site-packages", "dist-packages", "lib2to3", "turtledemo"),
        *("test", "tests", "testing", "idle_test", "_test_utils"),
        *("_vendor", "vendor", "vendored", "_vendored", "third_party", "_distutils"),
    ]
)
_SKIPPED_PACKAGES = frozenset({"stope"})
_LARGEST_FILE_BYTES = 400_000
_LONGEST_SOURCE = 4_000
_MOST_DOCUMENTS_PER_QUERY = 3
_SENTENCE_END = re.compile(r"(?<!\be\.g)(?<!\bi\.e)(?<!\betc)(?<!\bvs)[.!?](?=\s|$)")
_SIGNATURE = re.compile(r"^[\w.]+\s*\(.*\)(\s*->.*)?$|>>>|^[-=*#]{3}|^\.\. ")


@dataclass
class PythonCorpus:
    """Documents and queries; ``qrels[split][query_id]`` holds the ids of the right documents."""

    corpus: dict[str, str] = field(default_factory=dict)
    queries: dict[str, str] = field(default_factory=dict)
    qrels: dict[str, dict[str, dict[str, int]]] = field(default_factory=dict)
    packages: Counter[str] = field(default_factory=Counter)
    num_files: int = 0


@dataclass(frozen=True)
class _Function:
    document_id: str
    source: str
    sentence: str | None


def first_sentence(docstring: str) -> str | None:
    r"""Return the first sentence of a docstring on one line, or None where it is none.

    A signature, a heading, two words or code are no sentence.

    Example:
        >>> first_sentence("Return the absolute path.\n\n    Symbolic links are kept.")
        'Return the absolute path.'
        >>> first_sentence("get(key) -> value") is None
        True
    """
    paragraph = inspect.cleandoc(docstring).split("\n\n", 1)[0]
    text = " ".join(paragraph.split())
    if _SIGNATURE.search(text):
        return None
    end = _SENTENCE_END.search(text)
    text = text[: end.end()] if end else text
    words = text.split()
    letters = sum(character.isascii() and character.isalpha() for character in text)
    if not 4 <= len(words) <= 40 or letters < 0.6 * len(text):
        return None
    return text


def read_functions(path: Path, name: str) -> list[_Function]:
    """Return the functions of one file that have a docstring; none when it is not Python."""
    try:
        text = path.read_text(encoding="utf-8")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in foreign files are not our business
            tree = ast.parse(text)
    except (SyntaxError, UnicodeDecodeError, ValueError, OSError, RecursionError):
        return []  # templates, Python 2 fixtures, unreadable files: expected in an installation
    lines = text.splitlines()
    return list(_functions(tree, lines, name, ""))


def _functions(node: ast.AST, lines: list[str], name: str, scope: str) -> Iterator[_Function]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef):
            yield from _functions(child, lines, name, f"{scope}{child.name}.")
        elif isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
            docstring = ast.get_docstring(child, clean=False)
            start = child.body[0].lineno - 1
            # A docstring on the line of `def` cannot be cut out by lines.
            if docstring is not None and len(child.body) > 1 and start > child.lineno - 1:
                end = child.body[0].end_lineno or child.body[0].lineno
                kept = lines[child.lineno - 1 : start] + lines[end : child.end_lineno]
                source = textwrap.dedent("\n".join(kept)).strip()[:_LONGEST_SOURCE]
                document_id = f"{name}:{child.lineno}:{scope}{child.name}"
                yield _Function(document_id, source, first_sentence(docstring))
        elif isinstance(child, (ast.If, ast.Try, ast.With)):
            yield from _functions(child, lines, name, scope)


def _python_files(root: Path) -> Iterator[Path]:
    """Python files below `root` in a fixed order, without tests, vendored copies and links."""
    for entry in sorted(root.iterdir()):
        if entry.is_symlink() or entry.name.startswith("."):
            continue
        if entry.is_dir():
            if entry.name not in _SKIPPED_FOLDERS and not entry.name.endswith(("-info", ".libs")):
                yield from _python_files(entry)
        elif entry.suffix == ".py" and not entry.name.startswith(("test_", "conftest")):
            yield entry


def installed_files() -> dict[str, list[tuple[Path, str]]]:
    """Package name -> (path, short name) of its files, ordered by a hash of the short name."""
    paths = sysconfig.get_paths()
    packages: dict[str, list[tuple[Path, str]]] = {}
    library = Path(paths["stdlib"]).resolve()
    roots = [library, *(Path(paths[name]).resolve() for name in ("purelib", "platlib"))]
    for root in dict.fromkeys(roots):
        if not root.is_dir():
            continue
        for path in _python_files(root):
            short = path.relative_to(root).as_posix()
            package = (
                STANDARD_LIBRARY if root == library else short.split("/")[0].removesuffix(".py")
            )
            if package not in _SKIPPED_PACKAGES and 0 < path.stat().st_size <= _LARGEST_FILE_BYTES:
                packages.setdefault(package, []).append((path, short))
    for files in packages.values():
        files.sort(key=lambda item: _hash(item[1]))
    return packages


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def _split_of(file_name: str, seed: int) -> str:
    share = _hash(f"{seed}:{file_name}") / 2**64
    return "test" if share < 0.12 else "dev" if share < 0.20 else "train"


def read_python(
    max_documents: int = 12_000, *, seed: int = 0, progress: Progress | None = None
) -> PythonCorpus:
    """Read functions of the Python installation until there are `max_documents` of them.

    The next file is always taken from the package that has given the fewest documents so far, so
    that small packages are read whole, large ones share the rest equally, and the size is the same
    whatever else is installed.

    Args:
        max_documents: where to stop; at least 100.
        seed: decides which files are for training (80 %), development (8 %) and test (12 %).
        progress: called with (documents so far, max_documents).

    Returns:
        The corpus. A sentence that stands in front of several functions is one query with several
        right documents; one that fits more than three is no query, and one that occurs in two
        splits counts in training only.

    Raises:
        ValueError: `max_documents` is below 100, or the installation has no Python sources.
    """
    if max_documents < 100:
        raise ValueError(
            f"max_documents is {max_documents}; give at least 100, so that every split gets some"
        )
    packages = {name: iter(files) for name, files in installed_files().items()}
    result = PythonCorpus()
    documents_of: dict[str, list[str]] = {}  # sentence -> document ids
    file_of: dict[str, str] = {}
    seen: set[str] = set()
    # The standard library lies on every machine: it may give as much as four other packages.
    turns = [(0.0, name) for name in packages]
    heapq.heapify(turns)
    while turns and len(result.corpus) < max_documents:
        turn, package = heapq.heappop(turns)
        item = next(packages[package], None)
        if item is None:
            continue
        path, short = item
        functions = [entry for entry in read_functions(path, short) if entry.sentence is not None]
        added = 0
        for function in functions[: max_documents - len(result.corpus)]:
            key = " ".join(function.source.split())
            if key in seen:
                continue
            seen.add(key)
            result.corpus[function.document_id] = function.source
            file_of[function.document_id] = short
            documents_of.setdefault(str(function.sentence), []).append(function.document_id)
            added += 1
        if added:
            result.num_files += 1
            result.packages[package] += added
            if progress is not None:
                progress(len(result.corpus), max_documents)
        heapq.heappush(
            turns, (turn + (added + 0.1) / (4 if package == STANDARD_LIBRARY else 1), package)
        )
    if not result.corpus:
        raise ValueError(
            "the Python installation holds no source files to read (only compiled ones?); give "
            "data, a BEIR folder"
        )
    _add_queries(result, documents_of, file_of, seed)
    return result


def _add_queries(
    result: PythonCorpus, documents_of: dict[str, list[str]], file_of: dict[str, str], seed: int
) -> None:
    result.qrels = {"train": {}, "dev": {}, "test": {}}
    for number, (sentence, documents) in enumerate(documents_of.items()):
        if len(documents) > _MOST_DOCUMENTS_PER_QUERY:
            continue
        splits = {_split_of(file_of[document], seed) for document in documents}
        split = splits.pop() if len(splits) == 1 else "train"
        query_id = f"q{number}"
        right = [name for name in documents if _split_of(file_of[name], seed) == split]
        if right:
            result.queries[query_id] = sentence
            result.qrels[split][query_id] = dict.fromkeys(right, 1)
