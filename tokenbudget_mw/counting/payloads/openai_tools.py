"""
Declarations of tools, by the rules of OpenAI's cookbook; what it has no rule for counts as text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tokenbudget_mw.counting.payloads.parts import add_strings

if TYPE_CHECKING:
    from collections.abc import Container

    from tokenbudget_mw.counting.meter import Meter

__all__ = ["add_tools"]

FUNCTION = 7
PROPERTIES = 3
PROPERTY = 3
ENUM = -3
ENUM_ITEM = 3
TOOLS_END = 12

LITTLE = 64
"""Most characters of a text without a rule that may be a word or two of the declaration, such as a title or a format."""

_INNER = ("items", "additionalProperties")
_FUNCTION_FIELDS = frozenset({"type", "name", "description", "parameters"})
_SCHEMA_FIELDS = frozenset({"type", "properties", "required", *_INNER})
_LEAF_FIELDS = frozenset({"type", "description", "enum"})
_PROPERTY_FIELDS = _SCHEMA_FIELDS | _LEAF_FIELDS


def add_tools(functions: list[Any], meter: Meter, frame: int = FUNCTION) -> None:
    """
    Add the declarations of tools, with *frame* tokens around each.
    """
    for function in functions:
        meter.step()
        meter.guess(frame, frame + 3)
        if not isinstance(function, dict):
            add_strings(meter, function)
            continue
        meter.text(f"{_string(function, 'name')}:{_sentence(function)}")
        _add_rest(function, _FUNCTION_FIELDS, meter)
        _add_schema(function.get("parameters"), meter)
    meter.frame += TOOLS_END


def _add_schema(schema: Any, meter: Meter) -> None:
    """
    Add the properties of a JSON schema, those inside of them too.
    """
    stack: list[tuple[Any, frozenset[str]]] = [(schema, _SCHEMA_FIELDS)]
    while stack:
        item, known = stack.pop()
        if not isinstance(item, dict):
            continue
        _add_rest(item, known, meter)
        properties = item.get("properties")
        if isinstance(properties, dict) and properties:
            meter.step(len(properties))
            meter.frame += PROPERTIES + PROPERTY * len(properties)
            for name, value in properties.items():
                _add_property(name, value, meter)
            inner = [value for value in properties.values() if isinstance(value, dict)]
            stack.extend([(value, _PROPERTY_FIELDS) for value in inner if not value.keys() <= _LEAF_FIELDS])
        stack.extend([(item[name], _SCHEMA_FIELDS) for name in _INNER if name in item])
        if "required" in item:
            _add_required(item["required"], properties, meter)


def _add_property(name: str, value: Any, meter: Meter) -> None:
    value = value if isinstance(value, dict) else {}
    choices = value.get("enum")
    if isinstance(choices, list):
        meter.frame += ENUM
        for choice in choices:
            meter.step()
            meter.frame += ENUM_ITEM
            if isinstance(choice, str):
                meter.text(choice)
            else:
                add_strings(meter, choice)
    kind = value.get("type")
    if not isinstance(kind, str):
        kind = "|".join(each for each in kind if isinstance(each, str)) if isinstance(kind, list) else ""
    meter.text(f"{name}:{kind}:{_sentence(value)}")


def _add_required(required: Any, properties: Any, meter: Meter) -> None:
    """
    Add the names that are required and no properties; those of properties are counted there.
    """
    named: Container[object] = properties if isinstance(properties, dict) else ()
    for name in required if isinstance(required, list) else (required,):
        if not isinstance(name, str) or name not in named:
            _add_odd(name, meter)


def _add_rest(item: dict[str, Any], known: frozenset[str], meter: Meter) -> None:
    """
    Add what *item* has beside the fields that are *known*.
    """
    if item.keys() <= known:
        return
    for name, value in item.items():
        if name not in known:
            _add_odd(name, meter)
            _add_odd(value, meter)


def _add_odd(value: Any, meter: Meter) -> None:
    if isinstance(value, str) and len(value) <= LITTLE:
        meter.guess(0, -(-len(value) // 3))
    elif value is not None and not isinstance(value, bool | int | float):
        add_strings(meter, value)


def _sentence(value: dict[str, Any]) -> str:
    return _string(value, "description").removesuffix(".")


def _string(value: dict[str, Any], field: str) -> str:
    found = value.get(field)
    return found if isinstance(found, str) else ""
