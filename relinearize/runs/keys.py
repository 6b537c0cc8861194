"""The keys of results: hashes of what can change them, and of nothing else.

A key outlives changes of the code that change no result. A value equal to the default of the class or function that
takes it is in no key, so that a new parameter with a default leaves stored results where they are. A class of this
package stands in a key by its name, not by its place (see targets.py).

Whoever changes a default of such a class raises RESULTS_VERSION: stored results were made with the former one.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from relinearize.records.store import canonical
from relinearize.targets import TARGET, lasting_name, plain, target

# Part of every key. Raise it when a change of the code changes what the same configuration leads to; where that holds
# for few configurations, give their keys a further entry (`norms` in plan.py) and raise NOTES_VERSION in recall.py.
RESULTS_VERSION = 3


def settings_content(node: Any) -> Any:
    """What of a config node belongs into a key: without defaults, classes by their lasting names."""
    node = plain(node)
    if isinstance(node, Mapping):
        content = {name: settings_content(value) for name, value in node.items()}
        return _target_content(content, target(node)) if TARGET in node else content
    return [settings_content(value) for value in node] if isinstance(node, list | tuple) else node


def without_defaults(settings: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of `settings` that say something else than `defaults`."""
    return {name: value for name, value in settings.items() if name not in defaults or not _same(value, defaults[name])}


def defaults_of(function: Callable[..., Any]) -> dict[str, Any]:
    """Parameter -> default of a function or class; also of the classes above that it hands further settings to."""
    functions = [function]
    if inspect.isclass(function):
        functions = [base.__init__ for base in function.__mro__ if "__init__" in vars(base)]
    found: dict[str, Any] = {}
    for one in functions:
        parameters = inspect.signature(one).parameters.values()
        for parameter in parameters:
            found.setdefault(parameter.name, parameter.default)
        if all(parameter.kind is not parameter.VAR_KEYWORD for parameter in parameters):
            break
    return {name: value for name, value in found.items() if value is not inspect.Parameter.empty}


def _target_content(settings: dict[str, Any], function: Callable[..., Any]) -> dict[str, Any]:
    # Of a class whose parameters take mappings with defaults of their own: parameter -> these defaults.
    for name, defaults in getattr(function, "setting_defaults", dict)().items():
        if isinstance(settings.get(name), Mapping):
            settings[name] = without_defaults(settings[name], defaults)
            if not settings[name]:
                del settings[name]
    return {TARGET: lasting_name(settings.pop(TARGET)), **without_defaults(settings, defaults_of(function))}


def _same(value: Any, default: Any) -> bool:
    try:
        return canonical(value) == canonical(default)
    except (TypeError, ValueError):  # a default that no config can say
        return False
