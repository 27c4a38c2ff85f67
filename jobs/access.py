"""Who asks for explanations, as far as the store distinguishes callers."""

from __future__ import annotations

from dataclasses import dataclass

from jobs import names


@dataclass(frozen=True)
class Access:
    """What a caller may see.

    Attributes:
        tenant: whose explanations; "" is the tenant of all callers where nobody asks who they are, and its explanations
            have no owner.
        admin: whether also those of all others, and those without an owner.
    """

    tenant: str = ""
    admin: bool = False

    @property
    def owner(self) -> str:
        """The owner of what the caller creates."""
        return names.owner(self.tenant)

    @property
    def lists(self) -> tuple[str, ...]:
        """Whose lists the caller sees: owners as `jobs.names.index` takes them."""
        return ("", names.OWNED) if self.admin else (self.owner,)


UNNAMED = Access()
"""The access of the tenant without a name."""
