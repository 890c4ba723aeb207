"""Prefixes by task: found again after JSON, and never left out by mistake."""

from __future__ import annotations

import json

import numpy as np
import pytest

from stope.encoders.prompts import TaskPrompts, instruction

PROMPTS = TaskPrompts(
    {"qa": ("question: ", ""), "chat": ("said: ", "answer: "), 3: ("three: ", "drei: ")}
)


def test_a_task_has_its_own_prefixes():
    assert PROMPTS.query("chat") + "hello" == "said: hello"
    assert PROMPTS.document("qa") == ""
    assert PROMPTS.document(3) == "drei: "


def test_the_default_is_for_all_others():
    prompts = TaskPrompts({"qa": ("question: ", "")}, default=("query: ", "passage: "))
    assert prompts.query("qa") == "question: "
    assert [prompts.document(source) for source in ("qa", "chat", None, 7)] == [
        "", "passage: ", "passage: ", "passage: ",
    ]  # fmt: skip


@pytest.mark.parametrize("source", ["web", "3", None, 4])
def test_an_unknown_task_is_an_error_without_a_default(source):
    with pytest.raises(ValueError, match=rf"source is {source!r}, but there are prompts for 'qa',"):
        PROMPTS.query(source)
    with pytest.raises(ValueError, match="add it to tasks or give a default"):
        PROMPTS.document(source)


def test_a_task_is_a_word_or_an_integer():
    for wrong in ([1], {}, np.array(["qa"])):
        with pytest.raises(TypeError, match=r"source is .*; give a word, an integer or None"):
            PROMPTS.query(wrong)


def test_prompts_survive_json():
    for prompts in (
        PROMPTS,
        TaskPrompts(default=("a ", "b ")),
        TaskPrompts({1: ("", "")}, ("", "")),
    ):
        assert TaskPrompts.from_dict(json.loads(json.dumps(prompts.to_dict()))) == prompts


def test_configurations_may_be_short():
    short = {"default": ["query: ", "passage: "], "tasks": {"qa": {"document": "answer: "}}}
    prompts = TaskPrompts.from_dict(short)
    assert (prompts.query("qa"), prompts.document("qa")) == ("", "answer: ")
    assert TaskPrompts.from_dict(prompts) is prompts


def test_given_tasks_may_change_afterwards():
    tasks = {"qa": ["q: ", "d: "]}
    prompts = TaskPrompts(tasks)
    tasks["qa"][0] = "other"
    assert prompts.query("qa") == "q: "


def test_instructions():
    assert instruction("Find it", style="e5") == "Instruct: Find it\nQuery: "
    assert instruction("Find it", style="qwen3") == "Instruct: Find it\nQuery:"


@pytest.mark.parametrize(
    ("make", "kind", "sentence"),
    [
        (lambda: TaskPrompts(), ValueError, "tasks is empty and there is no default"),
        (lambda: TaskPrompts({"": ("", "")}), ValueError, "a task is a word or an integer"),
        (lambda: TaskPrompts({True: ("", "")}), ValueError, "tasks has True"),
        (lambda: TaskPrompts(["qa"]), TypeError, r"tasks is \['qa'\]; give"),
        (lambda: TaskPrompts({"qa": "q: "}), TypeError, r"tasks\['qa'\] is 'q: '; give \(query"),
        (lambda: TaskPrompts({"qa": ("q", 1)}), TypeError, "has the document prefix 1"),
        (lambda: TaskPrompts(default=("q",)), TypeError, r"default is \('q',\)"),
        (lambda: TaskPrompts.from_dict("query: "), TypeError, "prompts is 'query: '; give a"),
        (lambda: TaskPrompts.from_dict({"task": {}}), ValueError, "has no field 'task'; it has"),
        (lambda: TaskPrompts.from_dict({"default": {"passage": ""}}), ValueError,
         "default has no field 'passage'; it has query and document"),
        (lambda: TaskPrompts.from_dict({"tasks": [{"query": ""}]}), ValueError,
         r"tasks\[0\] is {'query': ''}; give a mapping with its task"),
        (lambda: TaskPrompts.from_dict({"tasks": [{"task": 1}, {"task": 1}]}), ValueError,
         "tasks has 1 twice"),
        (lambda: instruction(" "), ValueError, "task is ' '; describe it"),
        (lambda: instruction("x", style="bge"), ValueError, "style is 'bge'; give one of 'e5'"),
    ],
)  # fmt: skip
def test_bad_input_gets_a_sentence(make, kind, sentence):
    with pytest.raises(kind, match=sentence):
        make()
