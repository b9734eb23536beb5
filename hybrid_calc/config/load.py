"""A YAML file in, validated settings out; what is wrong is said in one line."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from hybrid_calc.config.job import LabelSettings, RunSettings
from hybrid_calc.errors import SettingsError

Model = TypeVar("Model", bound=BaseModel)


def load_settings(path: Path, overrides: list[str] | None = None) -> RunSettings:
    """Return the validated settings of a file.

    Parameters
    ----------
    path
        YAML file.
    overrides
        ``key=value`` with dots between levels, ``gate.budget=20``; values are YAML.

    Raises
    ------
    SettingsError
        The file cannot be read, is not YAML, or a key or value is wrong; the
        message names the key and the nearest known one.
    """
    return _validated(RunSettings, _data_of(path, overrides), path)


def load_label_settings(path: Path, overrides: list[str] | None = None) -> LabelSettings:
    """Return the settings of a label farm; a job's file will do, its other keys do not matter.

    Raises
    ------
    SettingsError
        As `load_settings`.
    """
    data = _data_of(path, overrides)
    if "task" not in data:
        return _validated(LabelSettings, data, path)
    job = _validated(RunSettings, data, path)
    return LabelSettings(reference=job.reference, flags=job.flags)


def _data_of(path: Path, overrides: list[str] | None) -> dict[str, Any]:
    try:
        data = yaml.load(path.read_text(), Loader=_Loader)  # noqa: S506 - a safe loader
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a text file"
        raise SettingsError(f"settings file {path} cannot be read: {reason}.") from error
    except yaml.YAMLError as error:
        where = " ".join(str(error).split())
        raise SettingsError(f"settings file {path} is not valid YAML: {where}") from error
    if not isinstance(data, dict):
        raise SettingsError(f"settings file {path} must hold keys and values; see configs/.")
    for override in overrides or []:
        _override(data, override)
    return data


def _validated(model: type[Model], data: dict[str, Any], path: Path) -> Model:
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise SettingsError(f"{path}: {_explain(error, model)}") from error


def _override(data: dict[str, Any], text: str) -> None:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise SettingsError(f"--set takes key=value, such as gate.budget=20; got {text!r}.")
    *parents, last = key.split(".")
    for parent in parents:
        if data.get(parent) is None:
            data[parent] = {}
        data = data[parent]
        if not isinstance(data, dict):
            raise SettingsError(f"--set {text}: {parent} has no keys below it.")
    try:
        data[last] = yaml.load(value, Loader=_Loader)  # noqa: S506 - a safe loader
    except yaml.YAMLError as error:
        raise SettingsError(f"--set {text}: the value is not valid YAML.") from error


class _Loader(yaml.SafeLoader):
    """Plain YAML in which a key given twice is an error, not the last one's victory."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for number, key in enumerate(keys):
            if key in keys[:number]:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key!r} is there twice", node.value[number][0].start_mark
                )
        return super().construct_mapping(node, deep)


def _explain(error: ValidationError, model: type[BaseModel]) -> str:
    """Return the first thing that is wrong, in one line; a misspelt key before what it left out."""
    first = min(error.errors(), key=lambda each: each["type"] != "extra_forbidden")
    keys, models = _follow(first["loc"], model)
    key = ".".join(keys) or "settings"
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if first["type"] == "extra_forbidden":
        known = sorted({name for model in models for name in model.model_fields})
        longer = [name for name in known if name.startswith(keys[-1])]
        near = longer or difflib.get_close_matches(keys[-1], known, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}."
        if other := _other_driver(first["loc"], model):
            hint = f"it belongs to driver: {other}."
        return f"unknown key {key}; {hint}{more}"
    if first["type"].startswith("union_tag"):
        kinds = ", ".join(_kind(model) for model in models)
        name = "driver" if all("driver" in model.model_fields for model in models) else "kind"
        return f"{key}.{name} must be one of {kinds}; got {_short(first.get('input'))}.{more}"
    if first["type"] == "missing":
        return f"{key} is needed and not there.{more}"
    what = first["msg"].removeprefix("Value error, ")
    return f"{key}: {what}; got {_short(first.get('input'))}.{more}"


def _follow(
    location: Sequence[int | str], model: type[BaseModel]
) -> tuple[list[str], list[type[BaseModel]]]:
    """Return the keys of an error's place and the settings classes there.

    pydantic puts the name of a union's member between the keys; it is no key.
    """
    keys: list[str] = []
    inside: list[type[BaseModel]] = [model]
    models = inside
    for part in location:
        if isinstance(part, int):
            keys.append(str(part))
            continue
        chosen = [model for model in inside if _kind(model) == part]
        if chosen:
            inside = chosen
            continue
        keys.append(str(part))
        models = inside
        annotations = [m.model_fields[str(part)] for m in inside if str(part) in m.model_fields]
        inside = [found for field in annotations for found in _models_in(field.annotation)]
    return keys, inside or models


def _other_driver(location: Sequence[int | str], model: type[BaseModel]) -> str:
    """Return the other driver whose option an unknown key is; empty where there is none."""
    *section, driver, key = map(str, location) if len(location) > 2 else ("", "", "")
    _, siblings = _follow(section, model)
    for sibling in siblings:
        if key in sibling.model_fields and "driver" in sibling.model_fields:
            return "" if _kind(sibling) == driver else _kind(sibling)
    return ""


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    """Return the settings classes inside an annotation."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for part in get_args(annotation) for found in _models_in(part)]


def _kind(model: type[BaseModel]) -> str:
    """Return what a settings file calls a member of a union; empty for other classes."""
    kind = model.model_fields.get("kind") or model.model_fields.get("driver")
    return "" if kind is None else str(kind.default)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
