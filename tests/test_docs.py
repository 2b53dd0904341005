"""The documents and the code say the same: commands, options, settings, recipes, keys, links."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import fields
from itertools import takewhile
from pathlib import Path
from urllib.parse import urlsplit

import click
import pytest

from fusi_pipeline import cli, console, cost
from fusi_pipeline.aggregate import AggregateReport
from fusi_pipeline.at import PlaceReport
from fusi_pipeline.build import BuildReport
from fusi_pipeline.coverage import CoverageReport
from fusi_pipeline.doctor import DoctorReport
from fusi_pipeline.inspect_fill import FillReport
from fusi_pipeline.merge import MODES
from fusi_pipeline.monitor_report import MonitorReport
from fusi_pipeline.pack import PackReport
from fusi_pipeline.plan import Estimate
from fusi_pipeline.publish import MergeReport
from fusi_pipeline.scan import BOUNDS_COLUMNS, ScanReport
from fusi_pipeline.settings import settings_from
from fusi_pipeline.source_folder import RESAMPLINGS, SourceConfig
from fusi_pipeline.verify import VerifyReport
from layer_generation.cli import layer
from layer_generation.commands.app import app
from layer_generation.commands.pictures import image
from layer_generation.commands.servers import image_api
from layer_generation.debug_map import DebugMapReport
from layer_generation.export import ExportReport
from layer_generation.importing import ImportReport
from layer_generation.map_facts import MapFacts
from layer_generation.map_making import MapReport
from layer_generation.map_rendering import RenderReport
from layer_generation.picture_making import ImageReport

REPOSITORY = Path(__file__).parent.parent
DOCUMENTS = (
    "README.md",
    "ARCHITECTURE.md",
    "DESIGN.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "docs/REFERENCE.md",
)
REFERENCE = "docs/REFERENCE.md"
JUST = "uvx --from rust-just just"
SHELLS = {"sh", "bash", "zsh", "console", "shell"}


def leaves(group: click.Group, before: str = "") -> Iterator[tuple[str, click.Command]]:
    """Yield the commands of a group and of the groups in it, by their words after `fusi`."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from leaves(command, f"{before}{name} ")
        else:
            yield f"{before}{name}", command


COMMANDS = (
    dict(leaves(cli.cli))
    | dict(leaves(layer, "layer "))
    | {"image": image, "image-api": image_api}
    | {"app": app.commands["serve"], "app enqueue": app.commands["enqueue"]}
)
REPORTS = {
    "scan": ScanReport,
    "plan": Estimate,
    "build": BuildReport,
    "merge": MergeReport,
    "aggregate": AggregateReport,
    "convert": AggregateReport,
    "pack": PackReport,
    "verify": VerifyReport,
    "monitor": MonitorReport,
    "doctor": DoctorReport,
    "at": PlaceReport,
    "coverage": CoverageReport,
    "inspect-fill": FillReport,
    "layer map init": MapReport,
    "layer map render": RenderReport,
    "layer map import": ImportReport,
    "layer map import-images": ImportReport,
    "layer map show": MapFacts,
    "layer debug-map": DebugMapReport,
    "layer export": ExportReport,
    "image": ImageReport,
}


def text_of(name: str) -> str:
    return (REPOSITORY / name).read_text(encoding="utf-8")


def fenced(name: str) -> list[tuple[str, str]]:
    """Return (language, body) of every fenced block of a document."""
    found = re.findall(r"^( *)```(\w*)\n(.*?)^\1```", text_of(name), re.M | re.S)
    return [(language, body) for _, language, body in found]


def without_fences(name: str) -> str:
    return re.sub(r"^( *)```.*?^\1```", "", text_of(name), flags=re.M | re.S)


def sections(name: str) -> dict[str, str]:
    """Return the body of every section of a document, by the anchor of its heading."""
    parts = re.split(r"^#+ (.+)$", without_fences(name), flags=re.M)
    return {anchor(heading): body for heading, body in zip(parts[1::2], parts[2::2], strict=True)}


def anchor(heading: str) -> str:
    """Return the anchor that a heading is given when a document is shown."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def first_cells(body: str) -> list[str]:
    """Return what stands in backquotes in the first column of the tables of a section."""
    rows = [line.split("|")[1] for line in body.splitlines() if line.startswith("|")]
    return [word for cell in rows for word in re.findall(r"`([^`]+)`", cell)]


def command_words(heading: str) -> str:
    """Return the words of a command in its heading, without its arguments and options."""
    return " ".join(takewhile(re.compile(r"[a-z][a-z-]*").fullmatch, heading.split()))


def command_section(name: str) -> str:
    headings = re.findall(r"^### `fusi ([^`]+)`", without_fences(REFERENCE), re.M)
    (heading,) = (heading for heading in headings if command_words(heading) == name)
    return sections(REFERENCE)[anchor(f"fusi {heading}")]


def command_of(words: list[str]) -> tuple[str, list[str]]:
    """Return the command that words begin with, empty where they begin with none, and the other words."""
    for count in (3, 2, 1):
        if (name := " ".join(words[:count])) in COMMANDS:
            return name, words[count:]
    return "", words


def with_linked(body: str) -> str:
    """Return a section with those of the same document that it links to, and that these link to."""
    known, taken, pending = sections(REFERENCE), [body], re.findall(r"\(#([\w-]+)\)", body)
    for link in pending:
        if known[link] not in taken:
            taken.append(known[link])
            pending.extend(re.findall(r"\(#([\w-]+)\)", known[link]))
    return "\n".join(taken)


def options_of(command: click.Command) -> set[str]:
    own = [param for param in command.params if isinstance(param, click.Option)]
    return {name for param in own for name in (*param.opts, *param.secondary_opts)}


def recipes() -> dict[str, list[str]]:
    """Return the recipes of the justfile with the names of their parameters."""
    found = {}
    for line in text_of("justfile").splitlines():
        if (match := re.match(r"@?([a-z][\w-]*)((?: +[*+]?[\w$-]+(?:=\S+)?)*) *:(?!=)", line)) is not None:
            found[match[1]] = match[2].split()
    return found


def tracked() -> list[Path]:
    """Return the files of the repository that are, or would be, under version control."""
    try:
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=REPOSITORY, capture_output=True, check=True,
        ).stdout.decode()  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a checkout of git: what is tracked is not known")
    return [REPOSITORY / name for name in listed.split("\0") if name and (REPOSITORY / name).is_file()]


# Commands and options


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_section_and_a_place_in_the_readme(name: str) -> None:
    assert command_section(name).strip()
    assert re.search(rf"\bfusi {name}\b", text_of("README.md"))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_of_a_command_is_documented(name: str) -> None:
    documented = set(first_cells(with_linked(command_section(name))))
    assert options_of(COMMANDS[name]) - {"--help"} <= documented


@pytest.mark.parametrize("name", COMMANDS)
def test_every_documented_option_of_a_command_exists(name: str) -> None:
    told = {word for word in first_cells(with_linked(command_section(name))) if word.startswith("-")}
    assert told <= options_of(COMMANDS[name])


def test_no_section_is_about_a_command_that_is_not() -> None:
    told = re.findall(r"^### `fusi ([^`]+)`", without_fences(REFERENCE), re.M)
    assert {command_words(heading) for heading in told} == set(COMMANDS)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_named_in_a_sentence_exist(document: str) -> None:
    named = re.findall(
        r"`(?:uvx --from rust-just )?(fusi|just) ([a-z][\w-]*(?: [a-z][\w-]*)*)", without_fences(document)
    )
    groups = {" ".join(name.split()[:count]) for name in COMMANDS for count in (1, 2)}
    for tool, words in named:
        if tool == "just":
            assert words.split()[0] in recipes()
        else:
            assert command_of(words.split())[0] or words in groups, words


@pytest.mark.parametrize("choices", [MODES, RESAMPLINGS], ids=["modes", "resamplings"])
def test_every_choice_is_documented(choices: tuple[str, ...]) -> None:
    assert all(f"`{choice}`" in text_of(REFERENCE) for choice in choices)


@pytest.mark.parametrize("name", REPORTS)
def test_the_keys_of_reports_are_documented(name: str) -> None:
    lines = sections(REFERENCE)["json-reports"].splitlines()
    (row,) = (line for line in lines if line.startswith(f"| `fusi {name}` "))
    keys = {field.name for field in fields(REPORTS[name])} | (
        {"sound"} if name in ("verify", "doctor") else set()
    )
    assert set(re.findall(r"`(\w+)`", row.split("|")[2])) == keys


# Commands shown


def shown() -> Iterator[tuple[str, list[str]]]:
    """Yield (document, words) of every command line in the fenced blocks of the documents."""
    for document in DOCUMENTS:
        for language, body in fenced(document):
            if language in SHELLS:
                for line in body.replace("\\\n", " ").splitlines():
                    for words in simple_commands(line):
                        yield document, words


def simple_commands(line: str) -> Iterator[list[str]]:
    """Yield the words of each command of a line, without settings before it and redirections after it."""
    lexer = shlex.shlex(line.strip().removeprefix("$ "), posix=True, punctuation_chars="|&;<>")
    lexer.whitespace_split = True
    words: list[str] = []
    skip = False
    for word in [*lexer, ";"]:
        if set(word) <= set("|&;"):
            while words and re.match(r"\w+=", words[0]):
                del words[0]
            if words:
                yield words
            words, skip = [], False
        elif set(word) <= set("<>"):
            if words and words[-1].isdigit():
                words.pop()
            skip = True
        elif skip:
            skip = False
        else:
            words.append(word)


SHOWN_FUSI = [(document, words[1:]) for document, words in shown() if words[0] == "fusi"]
SHOWN_JUST = [
    (document, words[words.index("just") + 1 :])
    for document, words in shown()
    if words[0] == "just" or words[:4] == JUST.split()
]


@pytest.mark.parametrize(("document", "words"), SHOWN_FUSI, ids=[" ".join(words) for _, words in SHOWN_FUSI])
def test_a_fusi_command_that_is_shown_parses(document: str, words: list[str]) -> None:
    try:
        if words[0].startswith("-"):
            cli.cli.make_context("fusi", list(words)).close()
        else:
            name, rest = command_of(words)
            assert name, f"{document}: there is no fusi {' '.join(words)}"
            COMMANDS[name].make_context(name, rest).close()
    except click.exceptions.Exit:
        pass  # --help and --version
    except click.ClickException as error:
        pytest.fail(f"{document}: fusi {' '.join(words)}: {error.format_message()}")


@pytest.mark.parametrize(("document", "words"), SHOWN_JUST, ids=[" ".join(words) for _, words in SHOWN_JUST])
def test_a_recipe_that_is_shown_exists(document: str, words: list[str]) -> None:
    names = [word for word in words if not word.startswith("-")]
    assert not names or names[0] in recipes(), f"{document}: just {' '.join(words)}"


def test_some_commands_are_shown() -> None:
    assert len(SHOWN_FUSI) >= 5
    assert len(SHOWN_JUST) >= 2


def test_the_splitting_of_lines() -> None:
    line = "A=1 fusi scan a b | tee 'x y' && just demo 2>> log # fusi none"
    assert list(simple_commands(line)) == [["fusi", "scan", "a", "b"], ["tee", "x y"], ["just", "demo"]]


# Recipes and the two commands


def test_every_recipe_is_documented() -> None:
    assert set(first_cells(sections(REFERENCE)["recipes"])) == {f"just {name}" for name in recipes()}


def test_the_readme_begins_with_the_two_commands() -> None:
    language, body = fenced("README.md")[0]
    assert language in SHELLS
    assert body.splitlines() == [f"{JUST} demo", f"{JUST} test"]


def test_ci_runs_the_second_command() -> None:
    lines = [line.strip() for line in text_of(".ci/run").splitlines()]
    assert f"{JUST} test" in lines
    assert os.access(REPOSITORY / ".ci/run", os.X_OK)


# Settings


class Asked(Mapping[str, str]):
    """An environment without variables that remembers which were asked for."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def __getitem__(self, name: str) -> str:
        self.names.add(name)
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


def test_every_setting_is_documented_and_every_documented_one_is_read() -> None:
    asked = Asked()
    settings_from(asked)
    assert asked.names == set(first_cells(sections(REFERENCE)["settings"]))


def test_every_variable_named_anywhere_is_documented() -> None:
    told = "".join(text_of(name) for name in DOCUMENTS)
    named = {
        name
        for path in tracked()
        if path.suffix in (".py", ".yaml", ".toml", "") and path.name not in ("test_docs.py", "LICENSE")
        for name in re.findall(r"\bFUSI_[A-Z_]+[A-Z]\b", path.read_text(encoding="utf-8", errors="replace"))
    }
    assert {name for name in named if not re.search(rf"\b{name}\b", told)} == set()


def test_documented_variables_exist() -> None:
    asked = Asked()
    settings_from(asked)
    layers = REPOSITORY / "layer_generation" / "settings.py"
    others = "".join(
        path.read_text() for path in tracked() if path.name in ("justfile", "conftest.py") or path == layers
    )
    told = {
        name for document in DOCUMENTS for name in re.findall(r"\bFUSI_[A-Z_]+[A-Z]\b", text_of(document))
    }
    assert {name for name in told - asked.names if name not in others} == set()


# Sources


def test_the_keys_of_source_toml_are_the_fields() -> None:
    keys = [field.name for field in fields(SourceConfig)]
    assert first_cells(sections(REFERENCE)["sourcetoml"]) == keys


@pytest.mark.parametrize("document", DOCUMENTS)
def test_a_source_toml_that_is_shown_is_accepted(document: str, tmp_path: Path) -> None:
    from fusi_pipeline.source_folder import read_config

    for number, (language, body) in enumerate(fenced(document)):
        if language == "toml" and not body.lstrip().startswith("["):
            folder = tmp_path / str(number)
            folder.mkdir()
            (folder / "source.toml").write_text(body, encoding="utf-8")
            read_config(folder)


def test_the_columns_of_bounds_csv_are_those_written() -> None:
    assert first_cells(sections(REFERENCE)["boundscsv"]) == list(BOUNDS_COLUMNS)


def test_the_exit_codes_are_documented() -> None:
    codes = re.findall(r"^\| (\d+) \|", sections(REFERENCE)["exit-codes"], re.M)
    assert codes == ["0", "1", "2", str(console.EXIT_INTERRUPTED)]


# Links and references


@pytest.mark.parametrize("document", DOCUMENTS)
def test_relative_links_lead_somewhere(document: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", without_fences(document)):
        if urlsplit(target).scheme:
            continue
        place, _, fragment = target.partition("#")
        path = (REPOSITORY / document).parent / place if place else REPOSITORY / document
        assert path.exists(), f"{document}: {target}"
        if fragment:
            assert fragment in sections(str(path.resolve().relative_to(REPOSITORY))), f"{document}: {target}"


def test_headings_that_the_code_refers_to_exist() -> None:
    headings = {"DESIGN": sections("DESIGN.md"), "ARCHITECTURE": sections("ARCHITECTURE.md")}
    for path in (REPOSITORY / "fusi_pipeline").rglob("*.py"):
        for name, heading in re.findall(r'see (DESIGN|ARCHITECTURE),? "([^"]+)"', path.read_text()):
            assert anchor(heading) in headings[name], f"{path.name} refers to {heading!r} in {name}"


def test_the_tree_names_every_module_and_no_other() -> None:
    tree = fenced("ARCHITECTURE.md")[0][1]
    drawn: set[str] = set()
    folders: list[tuple[int, str]] = []
    for indent, word in re.findall(r"^( *)(\S+)", tree, re.M):
        while folders and folders[-1][0] >= len(indent):
            folders.pop()
        if word.endswith("/"):
            folders.append((len(indent), word))
        elif word.endswith(".py"):
            drawn.add("".join(name for _, name in folders) + word)
    there = {
        path.relative_to(REPOSITORY).as_posix()
        for package in ("fusi_pipeline", "layer_generation")
        for path in (REPOSITORY / package).rglob("*.py")
        if path.name != "__init__.py"
    }
    assert {name for name in drawn if not name.startswith("examples/")} == there


# Addresses


def test_locks_hold_versions_and_hashes_and_no_address() -> None:
    locks = [path for path in tracked() if re.search(r"lock", path.name)]
    assert REPOSITORY / "requirements.lock" in locks
    for path in locks:
        assert "://" not in path.read_text(encoding="utf-8"), path
    pins = [line for line in text_of("requirements.lock").splitlines() if re.match(r"\S", line)]
    assert all(re.match(r"#|[\w.\[\]-]+==\S+( ; .+)? \\$", line) for line in pins)


def test_no_file_says_where_packages_come_from() -> None:
    told = re.compile(r"--(?:(?:extra-)?index-url|default-index|find-links|registry)\b|index[_-]url *=")
    host = re.compile(r"registry|artifact|mirror|nexus|proxy|py[p]i|npm[j]s|pythonhost")
    for path in tracked():
        if path == Path(__file__) or path.suffix in (".png", ".npz", ".tif"):
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        assert not told.search(text), path
        hosts = {urlsplit(url).hostname or "" for url in re.findall(r"https?://[^\s\"'<>)\[\]]+", text)}
        assert not [name for name in hosts if host.search(name)], path


def test_memory_figures_are_those_of_the_plan() -> None:
    process, arrays = cost._PROCESS_MIB, cost._ARRAYS_MIB[cost.BLOCK_LEVELS]
    assert re.findall(r"\| (\d+) \|$", sections("ARCHITECTURE.md")["memory"], re.M) == [
        *(str(process),) * 3,
        str(arrays),
    ]
    told = sections(REFERENCE)["long-runs-on-small-machines"]
    assert f"{2 * process} MiB are for" in told
    assert f"each worker takes {process + arrays} MiB" in told
    assert f"need {process} MiB, a worker {arrays} more" in " ".join(sections("DESIGN.md")["memory"].split())
