"""What README and documents name is there: files, headings, commands, flags, calls, counts."""

import io
import re
from contextlib import redirect_stdout
from importlib.util import find_spec

import pytest
from typer.main import get_command

from cluster.cli.app import app
from cluster.probe.command import main as probe
from galerne.v1 import cluster_pb2, inference_pb2
from helpers import documents
from helpers.api_servers import make_frontend
from helpers.documents import DEPLOY, DOCUMENTS, README, ROOT
from helpers.explained import FakeController
from helpers.fake_gateway import FakeGateway
from router.api.http_app import build_http_app
from sim import mutations
from sim.control import mutations as control_mutations
from tests.bench import faults
from tests.bench.marked import FAULTS, NUMBERS, marked
from tests.bench.report import short_table

TEXTS = {str(path.relative_to(ROOT)): path.read_text() for path in DOCUMENTS}
COMMANDS = ROOT / "deploy/commands.md"
MADE_BY_COMMANDS = {"deploy/gpu-results.json"}  # is not there before
# Flags of Ray, and of the training of the demo's model.
OF_OTHERS = {"--min-worker-port", "--max-worker-port", "--until", "--steps", "--max-loras"}
OUR_FOLDERS = ("cluster", "deploy", "proto", "router", "shards", "tests")
CLI = get_command(app)


@pytest.fixture(params=TEXTS)
def document(request):
    """Path and text of each."""
    return ROOT / request.param, TEXTS[request.param]


def test_every_link_leads_to_a_file_and_to_a_heading_in_it(document):
    path, text = document
    broken = []
    for target in documents.links(text):
        name, _, anchor = target.partition("#")
        file = path.parent / name if name else path
        if not file.exists() or (anchor and anchor not in documents.anchors(file.read_text())):
            broken.append(target)
    assert not broken


def test_every_path_in_code_is_there(document):
    _, text = document
    spans = documents.Text.of(text).spans
    paths = {s for s in spans if re.fullmatch(rf"({'|'.join(OUR_FOLDERS)})/[\w./*-]+", s)}
    assert not [p for p in paths - MADE_BY_COMMANDS if not any(ROOT.glob(p))]


def makefile_targets():
    """All that a rule of the Makefile makes; patterns end with ``%``."""
    rules = re.findall(r"^([\w./% -]+):(?!=)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    return {name for rule in rules for name in rule.split()}


def test_every_target_of_make_is_in_the_makefile(document):
    _, text = document
    named = {
        word
        for first, *words in documents.commands(text)
        if first == "make"
        for word in words
        if re.fullmatch(r"[a-z][\w-]*", word)
    }
    assert named <= makefile_targets()


def named_command(words):
    """The command that ``galerne WORDS`` runs (None: there is none), and what is left of them."""
    command = CLI
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        command, words = command.commands.get(words[0]), words[1:]
        if command is None:
            return None, words
    return command, words


def flags_of(command, rest=()):
    """All it takes; of ``galerne probe``, which has a parser of its own, by its help."""
    if command.name == "probe" and rest:
        with redirect_stdout(io.StringIO()) as told, pytest.raises(SystemExit):
            probe([rest[0], "--help"])
        return set(re.findall(r"--[a-z-]+", told.getvalue()))
    names = {name for option in command.params for name in (*option.opts, *option.secondary_opts)}
    return {name for name in names if name.startswith("-")} | {"--help"}


def test_every_command_of_galerne_and_each_of_its_flags_is_there(document):
    _, text = document
    wrong = []
    for first, *words in documents.commands(text):
        if first != "galerne":
            continue
        command, rest = named_command(words)
        flags = {word.partition("=")[0] for word in rest if word.startswith("--")}
        if command is None or flags - flags_of(command, rest):
            wrong.append(words)
    assert not wrong


def all_flags(command=CLI):
    """Of a command and of those below it."""
    below = getattr(command, "commands", {}).values()
    return flags_of(command).union(*map(all_flags, below))


def test_every_flag_by_itself_is_one_of_some_command(document):
    _, text = document
    known = all_flags() | OF_OTHERS
    named = {words[0] for words in documents.commands(text) if words[0].startswith("--")}
    wild = {flag for flag in named if flag.endswith("*")}
    assert named - wild <= known
    assert all(any(one.startswith(flag[:-1]) for one in known) for flag in wild)


def test_every_module_that_python_is_to_run_is_there(document):
    _, text = document
    modules = [w[2] for w in documents.commands(text) if w[:2] == ["python", "-m"] and len(w) > 2]
    ours = [module for module in modules if module.partition(".")[0] in OUR_FOLDERS]
    assert all(find_spec(module) for module in ours)


@pytest.mark.parametrize("path", DEPLOY, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_readme_leads_to_every_document(path):
    assert str(path.relative_to(ROOT)) in {
        t.partition("#")[0] for t in documents.links(TEXTS["README.md"])
    }


def test_all_calls_of_both_services_are_listed_and_no_others():
    rows = re.findall(r"^\| \[(\w+)\]\(\S+\) \| ([\w, ]+) \|$", COMMANDS.read_text(), re.MULTILINE)
    listed = {service: names.split(", ") for service, names in rows}
    services = (
        inference_pb2.DESCRIPTOR.services_by_name["InferenceService"],
        cluster_pb2.DESCRIPTOR.services_by_name["ClusterService"],
    )
    assert listed == {s.name: [method.name for method in s.methods] for s in services}


def test_all_http_paths_are_listed_and_no_others():
    section = COMMANDS.read_text().split("\n## HTTP\n")[1].split("\n## ")[0]
    first_cells = " ".join(re.findall(r"^\| (`.*?) \|", section, re.MULTILINE))
    listed = {path.partition("?")[0] for path in re.findall(r"(?<=[ `])(/[^`]*)", first_cells)}
    routes = build_http_app(make_frontend(FakeGateway()), FakeController()).routes
    served = {re.sub(r"\{(\w+).*?\}", "*", route.path) for route in routes}
    assert {re.sub(r"[A-Z]+", "*", path) for path in listed} == served - {"/static/*"}


def test_counts_in_the_documents_are_right():
    metrics = len(re.findall(r"^\| `galerne_", TEXTS["deploy/metrics.md"], re.MULTILINE))
    planted = len(mutations.MUTATIONS) + len(control_mutations.MUTATIONS)
    told = " ".join(TEXTS.values())
    assert {int(n) for n in re.findall(r"(\d+) metrics", told)} == {metrics}
    assert {int(n) for n in re.findall(r"(\d+) bugs planted", told)} == {planted}


def cells(table):
    """Rows below the head of the first table in the text."""
    rows = [line for line in table.splitlines() if line.startswith("| ")]
    return [tuple(cell.strip() for cell in row.strip("|").split("|")) for row in rows[1:]]


def test_the_readme_has_the_figures_of_the_document_of_numbers():
    table = marked(NUMBERS.read_text(), "bench").split("\n\n")[1]
    assert marked(README.read_text(), "bench") == short_table(cells(table)) + "\n"


def test_the_readme_has_the_rows_of_the_document_of_faults():
    of_document = {row[0]: row for row in cells(marked(FAULTS.read_text(), "faults"))}
    of_readme = cells(marked(README.read_text(), "faults"))
    assert of_readme == [of_document[name] for name in faults.SHORT]
    assert set(of_document) == set(faults.ROWS)


def test_an_anchor_is_lower_case_without_punctuation_and_numbered_when_met_again():
    text = "# A `b` & [C](d)!\n```\n# no\n```\n## One, two\n## One two\n"
    assert documents.anchors(text) == {"a-b--c", "one-two", "one-two-1"}


def test_commands_are_found_behind_an_environment_and_behind_others_and_without_comments():
    text = (
        "Say `make x`, it's `A=1 galerne y [--z]`.\n\n"
        "    cd q && galerne r \\\n        --s  # make t\n\n"
        "Not galerne u.\n\n```yaml\ngalerne: v\n```\n\n```\nray job -- galerne w\n```\n"
    )
    assert [" ".join(words) for words in documents.commands(text)] == [
        *("ray job", "galerne w", "cd q", "galerne r --s"),
        *("make x", "galerne y --z"),
    ]


def test_links_in_code_are_none_and_those_to_elsewhere_are_not_ours():
    text = "[a](b.md#c) `[d](e)` ![f](g.png) [h](https://i) [j](#k)\n```\n[l](m)\n```\n"
    assert documents.links(text) == ["b.md#c", "g.png", "#k"]
