"""Changes to a config, each recorded with its reason."""

from typing import Any

from mmnat.config_tree import Key, split

from .report import Report


class ConfigEditor:
    """Changes a config and records every change in one step.

    Paths are those of :mod:`mmnat.config_tree`.

    Attributes:
        config: The config, in plain dicts, lists and tuples; changed in place.
        report: The changes so far.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        self.report = Report()

    def get(self, path: str, default: Any = None) -> Any:
        """The value of a field.

        Args:
            path: The field.
            default: What to return if the config has no such field.
        """
        value: Any = self.config
        for key in split(path):
            try:
                value = value[key]
            except (KeyError, IndexError, TypeError):
                return default
        return value

    def set(self, path: str, value: Any, why: str, shown: tuple[Any, Any] | None = None) -> None:
        """Set a field, and record the change unless the value was the same before.

        Args:
            path: The field. Dicts on the way to it that are missing or None are made.
            value: The new value.
            why: The reason.
            shown: What the report shows as the old and the new value. Default: the values.
        """
        old, new = shown or (self.get(path), value)
        container, key = self._container(path)
        container[key] = value
        self.report.add(path, old, new, why)

    def remove(self, path: str, why: str) -> None:
        """Remove a field that the config has, and record the change.

        Args:
            path: The field.
            why: The reason.
        """
        container, key = self._container(path)
        self.report.add(path, container.pop(key), None, why)

    def _container(self, path: str) -> tuple[Any, Key]:
        """What holds a field, and its key there."""
        *parents, last = split(path)
        container: Any = self.config
        for key in parents:
            if isinstance(container, dict) and container.get(key) is None:
                container[key] = {}
            container = container[key]
        return container, last
