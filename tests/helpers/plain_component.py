"""A component of a test: it is never saved, so nothing rebuilds or describes it."""

from typing import Any

from medcap.models.component import Component


class PlainComponent(Component):
    """A component without settings."""

    def config(self) -> dict[str, Any]:
        return {}

    @classmethod
    def summary(cls, config: Any) -> str:
        return cls.__name__
