"""Reads a YAML file and `section.key=value` overrides into a `Config`, and writes it back.

A file may start from another one with a top-level `extends: other.yaml` (relative to itself). Every mistake of the user
becomes one `UserError` line that names the file and line, or the override, and the key.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ValidationError

from configs.errors import UserError, nearest
from configs.files import write_whole
from configs.format import shorten
from configs.schema import Config

Source = tuple[str, Path | None, dict[str, Any]]
"""Where settings come from: how to name it, its file if it is one, and what it sets (interpolations unresolved)."""

UNREADABLE_YAML = (yaml.YAMLError, OmegaConfBaseException, OSError, ValueError, AttributeError, RecursionError)
"""What yaml and OmegaConf raise: OSError also for a bare scalar, ValueError for bytes that are no UTF-8 and a number of
too many digits, AttributeError for `!!timestamp 3`."""

RENAMED: dict[str, tuple[str, ...]] = {
    "rl.epochs": ("rl.rest_em.epochs", "rl.dpo.epochs"),
    "rl.batch_size": ("rl.rest_em.batch_size", "rl.dpo.batch_size"),
    "rl.kl": ("rl.grpo.kl", "rl.dpo.beta"),
    "gates.plans": ("teacher.plan_bounds",),
}
"""Keys that have another name now, or one of several: old to new. An old key is refused with the new names, also where
it stands in the config.yaml of a run that was begun before."""


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """The experiment in `path`, with `section.key=value` overrides applied from left to right.

    Where a text or a path is wanted it is taken literally, and so are the entries of a list of them
    (`data.train=[a.jsonl, b.jsonl]`); around either, quotes are YAML's. Other values are YAML (`rl.rounds=3`,
    `teacher.lora=null`). Paths inside are relative to the working directory. Raises UserError.
    """
    sources = [*_files(Path(path), extended_by=()), *(_override(text) for text in overrides)]
    for old, new in RENAMED.items():
        if place := _where(old.split("."), sources):
            raise UserError(f"{old!r} in {place} is now called {' or '.join(map(repr, new))}: write the new name")
    try:
        merged = OmegaConf.to_container(OmegaConf.merge(*(settings for _, _, settings in sources)), resolve=True)
        return Config.model_validate(merged)
    except ValidationError as error:
        raise UserError(_explain(error, sources)) from None
    except (OmegaConfBaseException, ValueError, TypeError) as error:
        # A TypeError is a list in the place of a section, where another source has the section.
        names = ", ".join(name for name, *_ in sources)
        raise UserError(f"{names}: {_first_line(error)}") from None


def changed(config: Config, changes: Mapping[str, Any], key: str) -> Config:
    """The config with other settings in some of its sections, nested as in a file and checked like one: those of a
    section that is not named stay, and so do a section's settings that `changes` does not name. Raises UserError with
    the `key` of the config in which the changes stand."""
    try:
        return Config.model_validate(_merged(config.model_dump(exclude_unset=True), changes))
    except ValidationError as error:
        raise UserError(_explain(error, [(key, None, dict(changes))])) from None


def _merged(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(settings)
    for name, value in changes.items():
        inner = merged.get(name)
        merged[name] = _merged(inner, value) if isinstance(inner, Mapping) and isinstance(value, Mapping) else value
    return merged


def json_schema() -> dict[str, Any]:
    """The JSON schema of a config file, each field with its documentation: what editors complete and check with."""
    schema = Config.model_json_schema()
    schema["properties"]["extends"] = {
        "type": "string",
        "description": "Another config file, relative to this one. Its settings hold where this file has none.",
    }
    return schema


def save_config(config: Config, path: str | Path) -> None:
    """Writes the resolved config as YAML, whole or not at all. `load_config` reads it back equal."""
    text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120)
    write_whole(Path(path), text)


def config_difference(a: Config, b: Config) -> dict[str, str]:
    """The change of each key that differs: `{"rl.rounds": "2 -> 3"}`. Empty if the configs are equal."""
    changes = differences(a.model_dump(mode="json"), b.model_dump(mode="json"))
    return {key: f"{inline_yaml(old)} -> {inline_yaml(new)}" for key, old, new in changes}


def inline_yaml(value: Any) -> str:
    """A setting's value as YAML in one line."""
    text = yaml.safe_dump(value, default_flow_style=True, width=10**6, allow_unicode=True, sort_keys=False)
    return text.removesuffix("...\n").strip()


def differences(a: Any, b: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Where nested dicts differ: the dotted key, the value in `a` and that in `b`; None where one lacks the key."""
    if isinstance(a, dict) and isinstance(b, dict):
        for key in {**a, **b}:
            yield from differences(a.get(key), b.get(key), f"{name}.{key}" if name else key)
    elif a != b:
        yield name, a, b


def _files(path: Path, extended_by: tuple[str, ...]) -> list[Source]:
    """The file's settings, preceded by those of the files it extends."""
    if os.path.realpath(path) in extended_by:
        raise UserError(f"{path}: 'extends' goes round in a circle")
    settings = _read(path)
    parent = settings.pop("extends", None)
    if parent is None:
        return [(str(path), path, settings)]
    if not isinstance(parent, str):
        raise UserError(f"{path}: 'extends' is the name of one file (got {parent!r})")
    return [*_files(path.parent / parent, (*extended_by, os.path.realpath(path))), (str(path), path, settings)]


def _read(path: Path) -> dict[str, Any]:
    if not os.path.isfile(path):
        presets = sorted(str(p) for p in path.parent.glob("*.y*ml")) if os.path.isdir(path.parent) else []
        raise UserError(f"no config file {str(path)!r}" + (f": {nearest(str(path), presets)}" if presets else ""))
    try:
        settings = OmegaConf.load(path)
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UserError(f"{path}{line}: not valid YAML: {_first_line(error.problem or error)}") from None
    except UNREADABLE_YAML as error:
        raise UserError(f"{path}: not a YAML config: {_first_line(error)}") from None
    if not isinstance(settings, DictConfig):
        raise UserError(f"{path}: expected sections ({', '.join(Config.model_fields)}), not a list")
    return {str(key): value for key, value in OmegaConf.to_container(settings).items()}  # type: ignore[union-attr]


def _override(text: str) -> Source:
    name, equals, value = text.partition("=")
    shown = f"override {shorten(text, 200)!r}"
    if not equals or not re.fullmatch(r"\w+(\.\w+)*", name):
        raise UserError(f"{shown}: expected section.key=value, e.g. rl.rounds=3")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise UserError(f"{shown}: not UTF-8 (name the folder of a file with such a name)") from None
    if value == "???":
        raise UserError(f"{shown}: ??? is no value: in a config it stands for one that is missing")
    keys = name.split(".")
    parsed: Any = None
    types = _types(keys)
    if type(None) in types and value in ("null", "~", ""):
        pass
    # Read as YAML, `Question: {question}` would be a mapping, a folder named 2024 a number, and `my # dir` two words.
    elif {str, Path}.intersection(types):
        parsed = _literal(value)
    elif any(get_origin(kind) is tuple and str in map(_bare, get_args(kind)) for kind in types):
        entries = _entries(value)
        parsed = _literal(value) if entries is None else [_literal(entry) for entry in entries]
    else:
        try:
            parsed = OmegaConf.to_container(OmegaConf.create(f"value: {value}"))["value"]  # type: ignore[call-overload, index]
        except UNREADABLE_YAML as error:
            raise UserError(f"{shown}: not a YAML value: {_first_line(error)}") from None
    for key in reversed(keys):
        parsed = {key: parsed}
    return shown, None, parsed


def _literal(value: str) -> str:
    """The text as it stands, or what YAML's quotes around it hold; with no interpolation for OmegaConf in it."""
    text = value
    if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
        # It may begin and end with quotation marks of its own.
        with suppress(yaml.YAMLError):
            text = str(yaml.safe_load(value))
    return re.sub(r"(\\*)\$\{", lambda match: 2 * match[1] + r"\${", text)


def _entries(value: str) -> list[str] | None:
    """The entries of `[a, b]`, unread; None where the value is no list. Only commas outside quotes and inner brackets
    part them, so that a glob like `x[1,2].jsonl` stays whole."""
    entries, depth, quote = [""], 0, ""
    for place, character in enumerate(value):
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"" and not entries[-1].strip():
            quote = character
        elif character in "[{":
            depth += 1
        elif character in "]}":
            depth -= 1
        if depth == 0 and place < len(value) - 1:
            return None
        if character == "," and depth == 1 and not quote:
            entries.append("")
        elif 0 < place < len(value) - 1:
            entries[-1] += character
    if not value.startswith("[") or depth:
        return None
    stripped = [entry.strip() for entry in entries]
    # As in YAML, a comma may follow the last entry.
    return stripped if stripped[-1] else stripped[:-1]


def _types(keys: Sequence[str]) -> tuple[Any, ...]:
    """The types of which the schema takes one for the key, both of `Lora | None`; empty where it has no such key."""
    if not keys:
        return (Config,)
    section = _section(keys[:-1])
    if section is None or keys[-1] not in section.model_fields:
        return ()
    annotation = section.model_fields[keys[-1]].annotation
    kinds = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    return tuple(map(_bare, kinds))


def _bare(kind: Any) -> Any:
    """The type by itself, without what is checked beside it."""
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind


def _section(keys: Sequence[str]) -> type[BaseModel] | None:
    """The section that the key names; None for a key with a plain value, and for one that the schema lacks."""
    return next((t for t in _types(keys) if isinstance(t, type) and issubclass(t, BaseModel)), None)


def _explain(error: ValidationError, sources: Sequence[Source]) -> str:
    """One line: the first mistake, and how many more there are."""
    details = error.errors()
    # An unknown key is most often the cause of the others, so it is named first.
    first = min(details, key=lambda detail: detail["type"] != "extra_forbidden")
    keys: list[str] = []
    for part in first["loc"]:
        if _section(keys) is None:
            break
        keys.append(str(part))
    more = f" (and {len(details) - 1} more)" if len(details) > 1 else ""
    if not keys:
        return f"{sources[0][0]}: {first['msg'].removeprefix('Value error, ')}{more}"
    name, where = ".".join(keys), _where(keys, sources) or sources[0][0]
    if first["type"] == "extra_forbidden":
        parent = _section(keys[:-1])
        assert parent is not None, "pydantic forbids extra keys in sections only"
        # `extends` is no field of the schema; it is valid at the top alone.
        valid = [*parent.model_fields, *(["extends"] if len(keys) == 1 else [])]
        return f"unknown key {name!r} in {where}: {nearest(keys[-1], valid)}{more}"
    expected = first["msg"].removeprefix("Value error, ").replace("Input should be ", "expected ")
    if first["type"] == "model_type" and (section := _section(keys)):
        expected = f"expected a section with keys of its own ({', '.join(section.model_fields)})"
    elif first["type"] == "tuple_type":
        expected = "expected a list, e.g. [a, b]"
    return f"{name!r} in {where}: {expected} (got {shorten(repr(first['input']), 200)}){more}"


def _where(keys: Sequence[str], sources: Sequence[Source]) -> str | None:
    """The last source that sets the key: `FILE:LINE`, or `override '...'`; None where none does."""
    for name, file, settings in reversed(sources):
        value: Any = settings
        for key in keys:
            if not isinstance(value, dict) or key not in value:
                break
            value = value[key]
        else:
            return f"{name}:{_line(file, keys)}" if file else name
    return None


def _line(file: Path, keys: Sequence[str]) -> int:
    node = yaml.compose(file.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    line = 0
    for key in keys:
        if not isinstance(node, yaml.MappingNode):
            break
        for key_node, value_node in node.value:
            if key_node.value == key:
                line, node = key_node.start_mark.line, value_node
    return line + 1


def _first_line(error: Any) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
