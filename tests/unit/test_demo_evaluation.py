"""The demo model's exam: what is asked, how replies are graded, how routing is read off."""

import http.server
import json
import subprocess
import sys
import threading

import numpy as np
import pytest
from PIL import Image

from cluster.demo.evaluation.asking import Reply
from cluster.demo.evaluation.exam import EFFORTS, GROUPS, questions
from cluster.demo.evaluation.grading import by_language, grade, table
from cluster.demo.evaluation.plots import plot_heat, plot_imbalance, plot_load
from cluster.demo.evaluation.report import write_answers
from cluster.demo.evaluation.routing import describe, read_load
from cluster.demo.lessons import pictures
from cluster.demo.lessons.arithmetic import numbers_belong, pair_belongs
from cluster.demo.lessons.curriculum import FIRST, LESSONS, MAIN
from cluster.demo.lessons.document import Call, Document, Message
from cluster.demo.lessons.split import belongs
from cluster.demo.showcase import NUMBERS, OPERANDS, PICTURE

TASKS = {task for group in GROUPS for task in group.tasks}


def reply(text="", calls=(), *, has_ended=True):
    return Reply(text, "", calls, has_ended, (1,), 0.0)


def document(task="add", effort="none", language="en", **answer):
    messages = (Message("user", "?"), Message("assistant", **({"text": "4"} | answer)))
    return Document(task, language, effort, messages)


def test_every_lesson_but_the_drills_is_examined_and_taught():
    assert set(LESSONS) - TASKS == {"repeat", "letters"}
    assert set(MAIN) >= TASKS
    assert set(FIRST) <= set(LESSONS)


def test_the_demo_shows_numbers_and_a_picture_that_were_not_taught():
    assert pair_belongs("test", *OPERANDS)
    assert numbers_belong("test", NUMBERS)
    assert belongs("test", PICTURE.objects, every=pictures.HELD_OUT_EVERY)


def test_both_efforts_get_the_same_questions_and_seeds_give_others():
    asked = list(questions(6, seed=1))
    assert len(asked) == 6 * len(TASKS) * len(EFFORTS)
    none, high = (
        [[m.text for m in d.messages[:-1]] for d in asked if d.effort == effort]
        for effort in EFFORTS
    )
    assert none == high
    other = [[m.text for m in d.messages[:-1]] for d in questions(6, seed=2) if d.effort == "none"]
    assert sum(a == b for a, b in zip(none, other, strict=True)) < len(none) / 10


CALL = Call("f", {"a": 1})


@pytest.mark.parametrize(
    ("wanted", "given", "is_right"),
    [
        ({}, reply("4"), True),
        ({}, reply("4 "), False),
        ({}, reply("4", has_ended=False), False),
        ({}, reply("4", (Call("f", {}),)), False),
        ({"text": "", "calls": (CALL,)}, reply("", (CALL,)), True),
        ({"text": "", "calls": (CALL,)}, reply("", (Call("f", {"a": "1"}),)), False),
        ({"text": "", "calls": (CALL,)}, reply("", (Call("f", {"a": 1.0}),)), False),
        (
            {"text": "", "calls": (CALL,)},
            reply("", (Call("f", {"a": True}),)),
            False,
        ),
        ({"text": "", "calls": (CALL,)}, reply("", (Call("g", {"a": 1}),)), False),
        ({"text": "", "calls": (Call("f", {}), Call("g", {}))}, reply("", (Call("f", {}),)), False),
    ],
)
def test_right_is_exact_text_exact_calls_and_an_end(wanted, given, is_right):
    assert grade(document(**wanted), given).is_right is is_right


def test_the_table_counts_by_group_task_and_effort():
    graded = [
        grade(document("add", "high"), reply("4")),
        grade(document("sum", "high"), reply("5")),
        grade(document("add", "none"), reply("4")),
        grade(document("json", "none", text='{"a": 1}'), reply('{"a": 2}')),
        grade(document("json", "high", text='{"a": 1}'), reply('{"a": ', has_ended=False)),
    ]
    lines = {line.name: line for line in table(graded)}
    arithmetic = lines["arithmetic"]
    assert (arithmetic.scores["high"].right, arithmetic.scores["high"].asked) == (1, 2)
    assert arithmetic.is_met("high") is False
    assert arithmetic.is_met("none") is None
    assert lines["add"].scores["high"].share == 1
    assert lines["JSON"].scores["none"].share == 0
    assert [lines["JSON objects, valid"].scores[e].share for e in EFFORTS] == [1, 0]
    assert lines["answers that end"].is_met("none")
    assert lines["answers that end"].scores["high"].right == 2
    assert not lines["answers that end"].is_met("high")


@pytest.mark.parametrize("text", ["5", '"x"', "[1]", '{"a": NaN}', '{"a": 1', ""])
def test_valid_json_is_an_object_that_any_parser_takes(text):
    lines = table([grade(document("json"), reply(text)), grade(document("json"), reply("{}"))])
    [line] = [line for line in lines if line.name == "JSON objects, valid"]
    assert (line.scores["none"].right, line.scores["none"].asked) == (1, 2)


def test_answers_are_written_with_all_that_was_asked(tmp_path):
    documents = list(questions(1, seed=1))
    graded = [grade(d, reply("x", (Call("f", {"a": 1}),))) for d in documents]
    write_answers(graded, tmp_path / "answers.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert len(rows) == len(documents)
    for row, asked in zip(rows, documents, strict=True):
        assert [m["role"] for m in row["asked"]] == [m.role for m in asked.messages[:-1]]
        assert len(row["tools"]) == len(asked.tools)
        assert row["answer"]["calls"] == [{"name": "f", "arguments": {"a": 1}}]
    pictures = [row for row in rows if row["task"] == "picture-all"]
    assert "Item(" in pictures[0]["asked"][0]["picture"]


def test_languages_are_counted_over_facts_only():
    graded = [
        grade(document("capital", language="fr"), reply("4")),
        grade(document("next", language="fr"), reply("5")),
        grade(document("add", language="de"), reply("4")),
    ]
    assert {name: score.share for name, score in by_language(graded).items()} == {"fr": 0.5}


@pytest.mark.parametrize("num_experts", [4, 5])
def test_the_load_of_all_shards_is_read_and_must_be_of_this_model(num_experts):
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append((self.path, self.headers["Authorization"]))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"rows_total": [[0, 8, 0, 0], [0, 0, 0, 4]]}).encode())

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}"
        if num_experts == 4:
            load = read_load(url, 2, num_experts, "sesame")
            assert load.tolist() == [[0, 8, 0, 0], [0, 0, 0, 4]]
        else:
            with pytest.raises(ValueError, match=r"\(2, 4\) of 2 layers with 5 experts"):
                read_load(url, 2, num_experts, "sesame")
        thread.join()
    assert asked == [("/cluster/experts", "Bearer sesame")]


def test_a_layer_is_described_by_its_hottest_expert_and_fullest_shard():
    [even, skewed] = describe(np.array([[5, 5, 5, 5], [0, 6, 1, 1]]), num_shards=2)
    assert even == (0, 0, 0.25, 1.0, 1.0)
    assert skewed == (1, 1, 0.75, 3.0, 1.5)


@pytest.mark.parametrize("plot", [plot_load, plot_heat, plot_imbalance])
def test_plots_are_a_png_and_an_svg(plot, tmp_path):
    load = np.random.default_rng(1).integers(1, 50, (4, 128))
    png, svg = plot(load, tmp_path / "new")
    with Image.open(png) as picture:
        assert picture.format == "PNG"
        assert len(np.unique(np.asarray(picture))) > 10
    assert "<svg" in svg.read_text()


def test_the_command_line_starts_without_what_only_plots_need():
    code = "import sys, cluster.cli; print('matplotlib' in sys.modules, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
