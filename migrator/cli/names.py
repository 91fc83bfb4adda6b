"""What may be the name of a VE on the command line: no option, no path, nothing that a tool could take for either."""

import re
from typing import Any

import click

NAME = re.compile(r"(?!.*\.\.)[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""The agents keep the same rule by themselves; here it is told before any host is asked."""


class VeName(click.ParamType):  # type: ignore[type-arg]  # older clicks have it without an argument
    """A VE's name, checked; with `or_none` an option's empty default too."""

    name = "VE"

    def __init__(self, *, or_none: bool = False) -> None:
        self._or_none = or_none

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The name as it is, or a usage error that says what a name is."""
        if not NAME.fullmatch(value) and not (self._or_none and value == ""):
            self.fail(
                f"{value!r} cannot be the name of a VE: letters, digits, '.', '_', '-', a letter or digit first, "
                "at most 64; no host was asked",
                param,
                ctx,
            )
        return str(value)


VE, VE_OR_NONE = VeName(), VeName(or_none=True)
