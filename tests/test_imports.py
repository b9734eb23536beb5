"""What importing costs, what it must not load, and who may import whom."""

from __future__ import annotations

import ast
import graphlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import hybrid_calc

PACKAGE = Path(hybrid_calc.__file__).parent
HEAVY = ("torch", "pyscf", "mace", "torchani", "tblite", "matplotlib")

LAYERS = (
    ("errors", "signals"),
    ("geometry",),
    ("reference.level",),
    ("reference.label",),
    ("committee",),
    ("flags", "correction"),
    ("gate",),
    ("reference", "store"),
    ("answer",),
    ("engine", "farm", "intake"),
    ("calculator",),
    ("drivers",),
    ("training", "report"),
    ("config",),
    ("run", "label_job"),
    ("cli",),
)
"""DESIGN.md, "Layering is acyclic": a room imports itself and what stands above it here."""

WITHOUT_LAYER = {"__init__"}
"""The table of public names, which imports nothing before it is used."""


def modules():
    """Return every module by its name inside the package."""
    return {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
        for path in sorted(PACKAGE.rglob("*.py"))
    }


def imports_of(path, known):
    """Return the modules of the package that a file imports, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names] + [str(node.module)]
        else:
            continue
        inside = [name.removeprefix("hybrid_calc.") for name in names]
        found |= {name for name in inside if name in known}
    return found


def room_of(module):
    """Return height and name of a module's room; the longest name that fits counts."""
    fits = [
        (len(room), height, room)
        for height, rooms in enumerate(LAYERS)
        for room in rooms
        if module == room or module.startswith(room + ".")
    ]
    assert fits, f"{module} stands in no layer: add its room to LAYERS"
    _, height, room = max(fits)
    return height, room


GRAPH = {
    name: imports_of(path, modules())
    for name, path in modules().items()
    if name not in WITHOUT_LAYER
}


def test_every_module_imports_only_its_own_room_and_lower_ones():
    wrong = []
    for module, imported in GRAPH.items():
        height, room = room_of(module)
        for other in imported:
            other_height, other_room = room_of(other)
            if other_room != room and other_height >= height:
                wrong.append(f"{module} imports {other}")
    assert wrong == []


def test_no_modules_import_each_other_in_a_circle():
    list(graphlib.TopologicalSorter(GRAPH).static_order())


def test_the_import_reader_sees_imports_of_every_kind():
    assert {"config.load", "run"} <= GRAPH["cli.app"]  # inside functions
    assert {"config.level", "store.export"} <= GRAPH["cli.store"]
    assert {"errors", "geometry"} <= GRAPH["store.record"]


@pytest.mark.parametrize("name", hybrid_calc.__all__)
def test_every_public_name_can_be_imported_from_the_top(name):
    assert getattr(hybrid_calc, name) is not None
    assert name in dir(hybrid_calc)


def test_what_is_not_public_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'Wizard'"):
        hybrid_calc.Wizard  # noqa: B018 - the access is the test


def test_type_checkers_see_the_same_public_names():
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    guarded = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.name: node.module
        for node in guarded.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    homes = {name: f"hybrid_calc.{home}" for name, home in hybrid_calc._HOMES.items()}
    assert seen == homes


CODE = {
    "import hybrid_calc": "import hybrid_calc",
    "hybrid-calc --help": (
        "import sys; sys.argv = ['hybrid-calc', '--help']\n"
        "from hybrid_calc.cli.app import main\n"
        "try: main()\n"
        "except SystemExit as ended: assert ended.code == 0"
    ),
}


def python(code, **settings):
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, **settings)


@pytest.mark.parametrize("what", CODE)
def test_nothing_heavy_is_imported_before_it_is_used(what):
    code = f"{CODE[what]}\nimport json, sys; print(json.dumps(sorted(sys.modules)))"
    out, _ = python(code).communicate(timeout=60)
    loaded = {name.split(".")[0] for name in json.loads(out.splitlines()[-1])}
    assert loaded.isdisjoint(HEAVY)
    assert "hybrid_calc" in loaded


@pytest.mark.parametrize("what", CODE)
def test_the_answer_comes_in_under_half_a_second(what):
    seconds = []
    for _ in range(3):
        process = python(CODE[what])
        process.stdout.read()
        process.stdout.close()
        # processor time: the machine may be busy with other things
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        seconds.append(usage.ru_utime + usage.ru_stime)
    assert min(seconds) < 0.5


@pytest.mark.parametrize("command", ["run", "doctor", "store", "store info", "store export"])
def test_the_help_of_every_command_loads_nothing_heavy(command):
    arguments = ["hybrid-calc", *command.split(), "--help"]
    code = (
        f"import sys; sys.argv = {arguments!r}\n"
        "from hybrid_calc.cli.app import main\n"
        "try: main()\n"
        "except SystemExit as ended: assert ended.code == 0\n"
        "import json; print(json.dumps(sorted(sys.modules)))"
    )
    out, _ = python(code).communicate(timeout=60)
    assert {name.split(".")[0] for name in json.loads(out.splitlines()[-1])}.isdisjoint(HEAVY)
