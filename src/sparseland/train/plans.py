"""From the ``method`` of a configuration to the words, and to the procedure that runs them where there is one."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sparseland.core.errors import RecipeError, nearest
from sparseland.weights import Method, methods


@dataclass(frozen=True)
class Plan:
    """A method, and the procedure of several fits it belongs to (None: one fit with the method attached)."""

    method: Method
    procedure: Callable[..., dict[str, Any]] | None = None
    options: dict[str, Any] = field(default_factory=dict)


def compose(description: Mapping[str, Any]) -> Plan:
    """Read ``{"name": "rigl", "sparsity": 0.9}`` or the words of `Method.to_dict`.

    Hyperparameters of a procedure (``rounds``, ``rewind``, ``rewind_to`` of "imp") stand beside those of its method.

    Raises:
        RecipeError: an unknown method, hyperparameter or word.

    >>> compose({"name": "rigl", "sparsity": 0.8}).method.target_sparsity
    0.8
    >>> plan = compose({"name": "imp", "sparsity": 0.9, "rounds": 3})
    >>> plan.procedure.__name__, plan.options
    ('imp', {'rounds': 3})
    """
    if "kind" in description:
        method = Method.from_dict(dict(description))
        return Plan(method, _procedure(method.name))
    given = dict(description)
    name = given.pop("name", None)
    if name not in methods.registry:
        raise RecipeError(f"unknown method {name!r}: {nearest(name, methods.registry)}")
    procedure = _procedure(name)
    factory = inspect.signature(methods.registry[name]).parameters
    own = [k for k in inspect.signature(procedure).parameters if k not in ("trainer", "method")] if procedure else []
    for key in given:
        if key not in factory and key not in own:
            raise RecipeError(f"method {name!r} has no hyperparameter {key!r}: {nearest(key, [*factory, *own])}")
    options = {key: value for key, value in given.items() if key in own and key not in factory}
    return Plan(methods.build(name, **{k: v for k, v in given.items() if k not in options}), procedure, options)


def with_rules(plan: Plan, targets: Any, ignore: Any) -> Plan:
    """The plan with the rules that say what becomes sparse; a procedure must know them too, since it prunes itself.

    Raises:
        RecipeError: there are rules, and the procedure takes none.
    """
    given = {name: rule for name, rule in (("targets", targets), ("ignore", ignore)) if rule is not None}
    if plan.procedure is None or not given:
        return plan
    known = inspect.signature(plan.procedure).parameters
    for name, rule in given.items():
        if name not in known:
            raise RecipeError(
                f"{name}={rule!r}: the procedure {plan.procedure.__name__!r} prunes every eligible layer and takes no "
                f"{name}; possible: {name}=None, or a method that trains once"
            )
    return Plan(plan.method, plan.procedure, {**plan.options, **given})


def _procedure(name: str) -> Callable[..., dict[str, Any]] | None:
    """The function of a `Trainer` with the method's name (`methods.imp` for "imp", "-" read as "_")."""
    found = getattr(methods, name.replace("-", "_"), None)
    if inspect.isfunction(found) and next(iter(inspect.signature(found).parameters), "") == "trainer":
        return found
    return None
