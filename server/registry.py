"""The models that a server holds, by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ml.models.protocol import ExplainableModel
from server.errors import ModelNotFoundError


class Registry(Mapping[str, ExplainableModel]):
    """Models by name, the default one first. There is at least one."""

    def __init__(self, models: list[ExplainableModel]) -> None:
        """Hold `models`.

        Raises:
            ValueError: two of them have one name, or there is none.
        """
        self._models = {model.info.name: model for model in models}
        if not models or len(self._models) < len(models):
            raise ValueError("every model needs a name of its own, and there must be one")

    @property
    def default(self) -> ExplainableModel:
        """What an empty name means."""
        return next(iter(self._models.values()))

    def resolve(self, name: str) -> ExplainableModel:
        """The model that a request names.

        Raises:
            ModelNotFoundError: there is none of that name.
        """
        if not name:
            return self.default
        try:
            return self._models[name]
        except KeyError:
            raise ModelNotFoundError(name, tuple(self._models)) from None

    def __getitem__(self, name: str) -> ExplainableModel:
        return self._models[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._models)

    def __len__(self) -> int:
        return len(self._models)
