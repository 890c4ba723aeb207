"""What is put before queries and documents, by the task (source) of a row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from stope._checks import choice, shown, text

Pair = tuple[str, str]
_ROLES = ("query", "document")


@dataclass(frozen=True)
class TaskPrompts:
    """Prefixes of queries and documents, per task; a text is prefix + text, nothing between.

    A row's task is its source. A row without one, and a task that is not named, have the default;
    without a default they are an error, so that no task is trained without its prompt by mistake.

    Attributes:
        tasks: ``{task: (query prefix, document prefix)}``; a task is a word or an integer.
        default: ``(query prefix, document prefix)`` of all others, or None.

    Thread safety: prompts are never changed, so threads may share them.

    Raises:
        ValueError: no task and no default, or a task that is empty.
        TypeError: a prefix that is no string, or not two of them.

    Source: E5 ("query: ", "passage: "), LLM-Embedder (an instruction per task).

    >>> prompts = TaskPrompts({"qa": ("question: ", "answer: ")}, default=("", ""))
    >>> prompts.query("qa"), prompts.document("qa"), prompts.query("chat"), prompts.query()
    ('question: ', 'answer: ', '', '')
    """

    tasks: Mapping[str | int, Pair] = field(default_factory=dict)
    default: Pair | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.tasks, Mapping):
            raise TypeError(
                f"tasks is {shown(self.tasks)}; give {{task: (query prefix, document prefix)}}"
            )
        for task in self.tasks:
            if isinstance(task, bool) or not isinstance(task, str | int) or task == "":
                raise ValueError(f"tasks has {shown(task)}; a task is a word or an integer")
        checked = {
            task: _pair(given, f"tasks[{shown(task)}]") for task, given in self.tasks.items()
        }
        object.__setattr__(self, "tasks", checked)
        if self.default is not None:
            object.__setattr__(self, "default", _pair(self.default, "default"))
        if not checked and self.default is None:
            raise ValueError("tasks is empty and there is no default; give one of the two")

    def query(self, source: str | int | None = None) -> str:
        """The prefix of this task's queries.

        Raises:
            ValueError: a task that is not named, and no default.
        """
        return self._of(source)[0]

    def document(self, source: str | int | None = None) -> str:
        """The prefix of this task's documents.

        Raises:
            ValueError: a task that is not named, and no default.
        """
        return self._of(source)[1]

    def to_dict(self) -> dict[str, Any]:
        """What JSON and YAML can write.

        >>> TaskPrompts(default=("query: ", "passage: ")).to_dict()
        {'default': {'query': 'query: ', 'document': 'passage: '}}
        """
        config: dict[str, Any] = {}
        if self.default is not None:
            config["default"] = dict(zip(_ROLES, self.default, strict=True))
        if self.tasks:
            # A list, since JSON would turn the key 3 into "3".
            config["tasks"] = [
                {"task": task, **dict(zip(_ROLES, pair, strict=True))}
                for task, pair in self.tasks.items()
            ]
        return config

    @classmethod
    def from_dict(cls, config: Any) -> TaskPrompts:
        """The prompts that a dictionary from :meth:`to_dict` describes.

        Args:
            config: a mapping with ``default`` and ``tasks``; prefixes are a mapping with ``query``
                and ``document`` (a missing one is empty) or a list of the two; ``tasks`` may be a
                mapping of tasks as well. Or prompts, returned as they are.

        Raises:
            ValueError: an unknown field, a task given twice or without its name.
            TypeError: a value of the wrong kind.

        >>> TaskPrompts.from_dict({"tasks": {"qa": {"query": "ask: "}}}).query("qa")
        'ask: '
        """
        if isinstance(config, TaskPrompts):
            return config
        if not isinstance(config, Mapping):
            raise TypeError(f"prompts is {shown(config)}; give a mapping with default or tasks")
        if unknown := [name for name in config if name not in ("default", "tasks")]:
            raise ValueError(f"prompts has no field {shown(unknown[0])}; it has default and tasks")
        entries = config.get("tasks") or {}
        tasks: dict[Any, Pair] = {}
        if isinstance(entries, Mapping):
            tasks = {task: _read(value, f"tasks[{shown(task)}]") for task, value in entries.items()}
        else:
            for place, entry in enumerate(entries):
                if not isinstance(entry, Mapping) or "task" not in entry:
                    raise ValueError(
                        f"tasks[{place}] is {shown(entry)}; give a mapping with its task"
                    )
                task = entry["task"]
                if task in tasks:
                    raise ValueError(f"tasks has {shown(task)} twice; give each task once")
                rest = {name: value for name, value in entry.items() if name != "task"}
                tasks[task] = _read(rest, f"tasks[{place}]")
        default = config.get("default")
        return cls(tasks, None if default is None else _read(default, "default"))

    def _of(self, source: str | int | None) -> Pair:
        if source is not None and not isinstance(source, str | int):
            raise TypeError(f"source is {shown(source)}; give a word, an integer or None")
        if source is not None and source in self.tasks:
            return self.tasks[source]
        if self.default is not None:
            return self.default
        known = ", ".join(map(repr, self.tasks))
        raise ValueError(
            f"source is {shown(source)}, but there are prompts for {known} alone; add it to tasks "
            "or give a default"
        )


def instruction(task: str, *, style: str = "e5") -> str:
    r"""The query prefix of models that are trained with an instruction; documents have none.

    Args:
        task: one sentence, such as "Given a question, retrieve passages that answer it".
        style: "e5", of multilingual-e5-large-instruct and e5-mistral-7b-instruct:
            ``Instruct: {task}\nQuery: ``; or "qwen3", of Qwen3-Embedding: the same without the
            space at the end.

    Raises:
        ValueError: an empty task or an unknown style.

    Source: the models' cards.

    >>> instruction("Find the answer")
    'Instruct: Find the answer\nQuery: '
    """
    text(task, "task", "describe it in a sentence")
    endings = {"e5": "Query: ", "qwen3": "Query:"}
    choice(style, "style", endings)
    return f"Instruct: {task}\n{endings[style]}"


def _pair(given: Any, where: str) -> Pair:
    if isinstance(given, str) or not isinstance(given, tuple | list) or len(given) != 2:
        raise TypeError(f"{where} is {shown(given)}; give (query prefix, document prefix)")
    for role, prefix in zip(_ROLES, given, strict=True):
        if not isinstance(prefix, str):
            raise TypeError(f"{where} has the {role} prefix {shown(prefix)}; give a string")
    return given[0], given[1]


def _read(given: Any, where: str) -> Pair:
    if not isinstance(given, Mapping):
        return _pair(given, where)
    if unknown := [name for name in given if name not in _ROLES]:
        raise ValueError(f"{where} has no field {shown(unknown[0])}; it has query and document")
    return _pair(tuple(given.get(role) or "" for role in _ROLES), where)
