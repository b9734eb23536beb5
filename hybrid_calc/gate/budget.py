"""How many reference calls are left, and for whom."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(slots=True, kw_only=True)
class Budget:
    """Reference calls granted and spent.

    Attributes
    ----------
    total
        Calls granted, None for no limit.
    audit_reserve
        Share of them that only audits may spend; rounded up to whole calls.
    spent, audits
        Calls made, and those of them that were audits.
    """

    total: int | None
    audit_reserve: float = 0.0
    spent: int = 0
    audits: int = 0

    @property
    def left(self) -> int | None:
        """Calls left in all, None for no limit."""
        return None if self.total is None else max(0, self.total - self.spent)

    def allows(self, *, audit: bool) -> bool:
        """Tell whether one more call may be made."""
        if self.total is None:
            return True
        if self.spent >= self.total:
            return False
        if audit:
            return True
        reserved = math.ceil(self.audit_reserve * self.total)
        return self.spent < self.total - max(0, reserved - self.audits)

    def spend(self, *, audit: bool) -> None:
        """Count one call."""
        self.spent += 1
        self.audits += int(audit)
