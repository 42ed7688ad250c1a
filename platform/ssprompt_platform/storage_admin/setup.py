"""How a bucket is set up: what a user may choose."""

from __future__ import annotations

from dataclasses import dataclass

from ssprompt_core.errors import UserError

ABORT_DAYS, NONCURRENT_DAYS = 7, 30


@dataclass(frozen=True)
class Setup:
    """How a bucket is set up.

    Attributes:
        abort_days: Days after which an interrupted upload is dropped.
        noncurrent_days: Days for which an overwritten or deleted version is kept.
        dry_run: Change nothing.
    """

    abort_days: int = ABORT_DAYS
    noncurrent_days: int = NONCURRENT_DAYS
    dry_run: bool = False

    def check(self) -> None:
        """Refuse what no server takes.

        Raises:
            UserError: A number of days is not positive.
        """
        for option, days in (
            ("--abort-days", self.abort_days),
            ("--noncurrent-days", self.noncurrent_days),
        ):
            if days < 1:
                raise UserError(f"{option} is {days}, but must be at least 1")
