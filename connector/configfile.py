"""YAML files to a `Config`: every fault at once, each with its place in the file, never with a value that may be a secret."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml
from dotenv import dotenv_values
from pydantic import ValidationError

from connector.config import AnyConfig, config_type
from connector.errors import ConfigError, nearest

VARIABLE: Final = re.compile(r"\$\$\{|\$\{(file:)?([^}:]+)(?::-([^}]*))?\}")
BOOLEAN: Final = "tag:yaml.org,2002:bool"
TEXT: Final = "tag:yaml.org,2002:str"
Path_ = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong: where in which file, and what would be right."""

    file: Path
    line: int
    where: str
    what: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else str(self.file)
        return f"{place}: {self.where}: {self.what}" if self.where else f"{place}: {self.what}"


@dataclass
class Document:
    """A YAML file as plain values, and the line each of them stands on."""

    file: Path
    tree: Any = None
    lines: dict[Path_, int] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)

    def fault(self, path: Path_, what: str) -> None:
        line = next((self.lines[path[:end]] for end in range(len(path), -1, -1) if path[:end] in self.lines), 0)
        fault = Fault(self.file, line, ".".join(map(str, path)), what)
        if fault not in self.faults:
            self.faults.append(fault)


def load(path: Path, env: Mapping[str, str]) -> AnyConfig:
    """The configuration in a file, or in the `*.yaml` files of a folder, merged by flow.

    Variables come from `env`, else from a `.env` beside the files. Raises ConfigError listing every fault.
    """
    files = sorted(path.glob("*.yaml")) if path.is_dir() else [path]
    if not files or not (path.is_dir() or path.is_file()):
        what = "no *.yaml in this folder" if path.is_dir() else "no such file"
        raise ConfigError(f"{path}: {what}", remedy="name the configuration with --config, or write one with `connector init`")
    model = config_type()
    flows: dict[str, Any] = {}
    faults: list[Fault] = []
    for file in files:
        document = _read(file)
        known = {**_dotenv(file.parent / ".env"), **env}
        document.tree = _expand(document, document.tree, known)
        config = _validate(model, document)
        faults += document.faults
        for name, flow in config.flows.items() if config else ():
            if name in flows:
                faults.append(Fault(file, document.lines.get(("flows", name), 0), f"flows.{name}", "another file has a flow of this name"))
            flows[name] = flow
    if faults:
        count = f"{len(faults)} faults in the configuration" if len(faults) > 1 else "a fault in the configuration"
        raise ConfigError("\n".join([f"{count}:", *(f"  {fault}" for fault in faults)]))
    return model.model_construct(flows=flows)


def schema() -> dict[str, Any]:
    """The JSON Schema of the configuration, for editors: every installed plugin's keys; `${…}` allowed wherever a value is."""
    document = config_type().model_json_schema(by_alias=True)
    _admit_variables(document)
    document |= {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "connector.yaml", "patternProperties": {"^x-": {}}}
    return document


# ── reading ───────────────────────────────────────────────────────────────────────────────────────


def _read(file: Path) -> Document:
    document = Document(file)
    loader, text = yaml.SafeLoader(""), ""
    try:
        text = file.read_text("utf-8-sig")
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            document.fault((), "the file is empty")
            return document
        _duplicates(document, node, ())
        document.tree = loader.construct_document(node)
        _lines(document, node, ())
    except UnicodeDecodeError as error:
        document.fault((), f"not UTF-8 (byte {error.start}); save the file as UTF-8")
    except OSError as error:
        document.fault((), f"cannot be read: {error.strerror}")
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = f"not YAML: {error.problem or error.context}"
        if "${" in (text.splitlines() or [""])[min(mark.line, len(text.splitlines()) - 1) if mark else 0]:
            what += '; inside {…} write "${NAME}" in quotes'
        document.faults.append(Fault(file, mark.line + 1 if mark else 0, "", what))
    except yaml.YAMLError as error:
        document.fault((), f"not YAML: {error}")
    finally:
        loader.dispose()
    return document


def _duplicates(document: Document, node: yaml.Node, path: Path_) -> None:
    if isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key, value in node.value:
            if key.tag == BOOLEAN:  # `on:` is a key of ours, and `no:` a country; neither is a truth value
                key.tag = TEXT
            name = str(key.value)
            if name in seen and name != "<<":
                what = f"this key already stands on line {seen[name]}"
                document.faults.append(Fault(document.file, key.start_mark.line + 1, ".".join(map(str, (*path, name))), what))
            seen[name] = key.start_mark.line + 1
            _duplicates(document, value, (*path, name))
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            _duplicates(document, value, (*path, index))


def _lines(document: Document, node: yaml.Node, path: Path_) -> None:
    document.lines.setdefault(path, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            document.lines[(*path, str(key.value))] = key.start_mark.line + 1
            _lines(document, value, (*path, str(key.value)))
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            _lines(document, value, (*path, index))


def _dotenv(file: Path) -> dict[str, str]:
    if not file.is_file():
        return {}
    return {key: value for key, value in dotenv_values(file, interpolate=False).items() if value is not None}


def _expand(document: Document, node: Any, env: Mapping[str, str], path: Path_ = ()) -> Any:
    """Replace ${NAME}, ${NAME:-default} and ${file:PATH} in every string; `$${` is a literal `${`."""

    def value(match: re.Match[str]) -> str:
        if match[0] == "$${":
            return "${"
        kind, name, default = match[1], match[2], match[3]
        if kind:
            try:
                return Path(document.file.parent, name).read_text("utf-8").rstrip("\r\n")
            except (OSError, UnicodeDecodeError):
                document.fault(path, f"the file {name} cannot be read")
                return ""
        found = env.get(name, default)
        if found is None:
            document.fault(path, f"the variable {name} is not set; export it, put it into .env, or give a default: ${{{name}:-…}}")
        return found or ""

    match node:
        case str():
            return VARIABLE.sub(value, node)
        case Mapping():
            free = {key for key in node if not path and str(key).startswith("x-")}
            return {key: _expand(document, child, env, (*path, str(key))) for key, child in node.items() if key not in free}
        case list():
            return [_expand(document, child, env, (*path, index)) for index, child in enumerate(node)]
        case _:
            return node


# ── validating ────────────────────────────────────────────────────────────────────────────────────


def _validate(model: type[AnyConfig], document: Document) -> AnyConfig | None:
    if document.tree is None:
        return None
    if not isinstance(document.tree, dict):
        document.fault((), "expected a mapping that begins with `flows:`")
        return None
    try:
        return model.model_validate(document.tree, context={"folder": str(document.file.parent.resolve())})
    except ValidationError as error:
        faults: dict[Path_, list[str]] = {}
        unset = {fault.where for fault in document.faults}
        for one in error.errors(include_input=False, include_url=False):
            path = _path_of(document.tree, one["loc"])
            message = _message(model, document.tree, path, dict(one))
            if ".".join(map(str, path)) not in unset and message not in faults.setdefault(path, []):
                faults[path].append(message)
        for path, messages in faults.items():
            if messages:
                document.fault(path, " or ".join(messages))
        return None


def _path_of(tree: Any, loc: Sequence[str | int]) -> Path_:
    """A location of pydantic without the parts that are not in the file (tags of unions, names of alternatives)."""
    path: list[str | int] = []
    node = tree
    for index, part in enumerate(loc):
        if isinstance(node, Mapping) and part in node:
            path.append(part)
            node = node[part]
        elif isinstance(node, list) and isinstance(part, int) and part < len(node):
            path.append(part)
            node = node[int(part)]
        elif index == len(loc) - 1 and isinstance(node, Mapping):
            path.append(part)  # a missing key
    return tuple(path)


def _message(model: type[AnyConfig], tree: Any, path: Path_, error: dict[str, Any]) -> str:
    context = error.get("ctx") or {}
    match error["type"]:
        case "extra_forbidden":
            return f"unknown key; {nearest(str(path[-1]), _keys_at(model, tree, path[:-1]))}"
        case "missing":
            return "this key is needed"
        case "union_tag_invalid":
            tags = [tag.strip().strip("'") for tag in str(context["expected_tags"]).split(",")]
            return f"unknown type {context['tag']!r}; {nearest(str(context['tag']), tags)}"
        case "union_tag_not_found":
            return "`type` is needed; it names the plugin"
        case "value_error":
            return str(context["error"])
        case "literal_error" | "enum":
            return f"expected {context['expected']}"
        case _:
            text = str(error["msg"])
            return text[0].lower() + text[1:]


def _keys_at(model: type[AnyConfig], tree: Any, path: Path_) -> list[str]:
    """The keys that may stand at a place of the file, from the schema."""
    document = model.model_json_schema(by_alias=True)
    nodes = [document]
    value = tree
    for part in path:
        nodes = [child for node in nodes for child in _children(document, node, value, part)]
        value = value[part]
    found = [key for node in nodes for plain in _alternatives(document, node, value) for key in plain.get("properties", {})]
    return list(dict.fromkeys(found))


def _children(document: dict[str, Any], node: dict[str, Any], value: Any, part: str | int) -> Iterator[dict[str, Any]]:
    for plain in _alternatives(document, node, value):
        if isinstance(part, int):
            if "items" in plain:
                yield plain["items"]
        elif part in plain.get("properties", {}):
            yield plain["properties"][part]
        elif isinstance(plain.get("additionalProperties"), dict):
            yield plain["additionalProperties"]
        else:
            yield from plain.get("patternProperties", {}).values()


def _alternatives(document: dict[str, Any], node: dict[str, Any], value: Any) -> Iterator[dict[str, Any]]:
    if "$ref" in node:
        yield from _alternatives(document, document["$defs"][node["$ref"].rpartition("/")[2]], value)
    elif "discriminator" in node and isinstance(value, Mapping):
        name = value.get(node["discriminator"]["propertyName"])
        target = node["discriminator"]["mapping"].get(name)
        if target:
            yield from _alternatives(document, {"$ref": target}, value)
    elif "anyOf" in node or "oneOf" in node or "allOf" in node:
        for child in (*node.get("anyOf", ()), *node.get("oneOf", ()), *node.get("allOf", ())):
            yield from _alternatives(document, child, value)
    else:
        yield node


def _admit_variables(node: Any) -> None:
    """Where a number, a boolean or one of a few words is expected, `${NAME}` is right too."""
    if isinstance(node, list):
        for child in node:
            _admit_variables(child)
    elif isinstance(node, dict):
        for child in list(node.values()):
            _admit_variables(child)
        if node.get("type") in ("integer", "number", "boolean") or ("enum" in node and "type" in node):
            rule = {key: node.pop(key) for key in list(node) if key not in ("title", "description", "default")}
            node["anyOf"] = [rule, {"type": "string", "pattern": r"\$\{[^}]+\}"}]
