"""Imports go one way, `curation -> teacher -> student -> configs`, and `student` runs on a bare GPU box."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYERS = ["configs", "student", "teacher", "curation"]
CONFIGS = {"omegaconf", "pydantic", "yaml"}
STUDENT = CONFIGS | {"torch", "transformers", "safetensors", "numpy", "psutil"}
TEACHER = STUDENT | {"trl", "peft", "datasets", "httpx"}
ALLOWED_AT_IMPORT = {"configs": CONFIGS, "student": STUDENT, "teacher": TEACHER}
# Inside a function: what the one feature needs, so that the rest runs without it.
ALLOWED_INSIDE = {
    "configs": set(),
    "student": {"peft", "ray", "lm_eval", "olmo_eval"},
    "teacher": {"wandb", "vllm", "accelerate"},
}


def imports(source: str) -> list[tuple[int, str, bool]]:
    """(line, top-level package, at module level?) of each absolute import."""
    tree = ast.parse(source)
    inside = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
    }
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module or ""]
        else:
            continue
        found += [(node.lineno, name.partition(".")[0], id(node) not in inside) for name in names]
    return found


def breaches(package: str, source: str) -> list[str]:
    below = LAYERS[: LAYERS.index(package) + 1]
    wrong = []
    for line, name, at_import in imports(source):
        if name in LAYERS:
            if name not in below:
                wrong.append(f"{line}: {package} imports {name}, which is above it")
        elif name not in sys.stdlib_module_names and package in ALLOWED_AT_IMPORT:
            allowed = ALLOWED_AT_IMPORT[package] | (set() if at_import else ALLOWED_INSIDE[package])
            if name not in allowed:
                wrong.append(f"{line}: {package} imports {name}")
    return wrong


@pytest.mark.parametrize("package", LAYERS)
def test_imports_go_one_way(package):
    files = sorted((ROOT / package).rglob("*.py"))
    assert files, f"no sources in {package}"
    wrong = [f"{file.relative_to(ROOT)}:{breach}" for file in files for breach in breaches(package, file.read_text())]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("package", "source"),
    [
        ("configs", "import student.records"),
        ("student", "from teacher.records import Rewrite"),
        ("student", "import trl"),
        ("student", "import peft"),
        ("student", "def f():\n    from curation import cli"),
        ("teacher", "from curation.documents import read_documents"),
        ("teacher", "import wandb"),
        ("configs", "import torch"),
    ],
)
def test_the_rule_catches_a_breach(package, source):
    assert breaches(package, source)


@pytest.mark.parametrize(
    ("package", "source"),
    [
        ("student", "import torch\nfrom configs.schema import Student\nfrom student.records import Lesson"),
        ("student", "def f():\n    import peft"),
        ("teacher", "import trl\nfrom student.records import Lesson"),
        ("curation", "import datatrove\nfrom teacher.records import Rewrite"),
    ],
)
def test_the_rule_allows_what_the_design_names(package, source):
    assert not breaches(package, source)
