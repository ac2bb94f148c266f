"""scikit-learn's manners without scikit-learn: parameters by name, tags, names of columns, unfitted models."""

from __future__ import annotations

import inspect
from typing import Any, TypeVar

import numpy as np

from ...core.errors import SparselandError, nearest

Self = TypeVar("Self", bound="Manners")


class Manners:
    """`get_params`, `set_params`, `repr` and tags: enough for clone, pipelines and searches."""

    @classmethod
    def _names(cls) -> list[str]:
        return [name for name in inspect.signature(cls.__init__).parameters if name != "self"]

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The arguments of the constructor, as they are."""
        return {name: getattr(self, name) for name in self._names()}

    def set_params(self: Self, **params: Any) -> Self:
        """Change arguments of the constructor by name; returns the model.

        Raises:
            SparselandError: a name that the constructor does not have.
        """
        for name, value in params.items():
            if name not in self._names():
                raise SparselandError(
                    f"{type(self).__name__} has no parameter {name!r}; {nearest(name, self._names())}"
                )
            setattr(self, name, value)
        return self

    def __repr__(self, N_CHAR_MAX: int = 700) -> str:
        defaults = inspect.signature(type(self).__init__).parameters
        changed = [
            f"{name}={getattr(self, name)!r}"
            for name in self._names()
            if getattr(self, name) is not defaults[name].default
            and repr(getattr(self, name)) != repr(defaults[name].default)
        ]
        return f"{type(self).__name__}({', '.join(changed)})"

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import InputTags, Tags, TargetTags, TransformerTags

        return Tags(
            estimator_type=None,
            target_tags=TargetTags(required=False),
            transformer_tags=TransformerTags(preserves_dtype=["float64"]),
            input_tags=InputTags(positive_only=self._positive_only()),
        )

    def _positive_only(self) -> bool:
        return False

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "params_")

    def get_feature_names_out(self, input_features: Any = None) -> Any:
        """Names of the columns of `transform`: ``bsc0``, ``bsc1``, …"""
        self._need_fit()
        number = len(self.components_)  # type: ignore[attr-defined]
        return np.asarray([f"{type(self).__name__.lower()}{i}" for i in range(number)], dtype=object)

    def _need_fit(self) -> None:
        if not self.__sklearn_is_fitted__():
            raise _unfitted()(f"This {type(self).__name__} instance is not fitted yet; call fit(X) before this method")


def _unfitted() -> type[Exception]:
    """SparselandError that scikit-learn, where it is in use, knows as its own NotFittedError."""
    import sys

    bases: tuple[type[Exception], ...] = (SparselandError, AttributeError)
    if "sklearn" in sys.modules:
        from sklearn.exceptions import NotFittedError

        bases = (SparselandError, NotFittedError)
    return type("NotFitted", bases, {"__module__": __name__, "__doc__": "The model was asked before it was fitted."})


def column_names(X: Any) -> Any:
    """Names of the columns of a data frame whose names are all text; None for anything else."""
    columns = getattr(X, "columns", None)
    if columns is None:
        return None
    names = np.asarray(columns, dtype=object)
    return names if len(names) and all(isinstance(name, str) for name in names) else None
