"""Counts starts of work that got nowhere: what kills its worker is not run for ever."""

from __future__ import annotations

from ssprompt_platform.storage import Place, read_json, write_json

MOST = 3
"""Starts without progress after which work is given up."""


def count(place: Place, session: str) -> int:
    """Count this start; returns how many there were in the session since the last progress.

    The count lies in the folder of the work's checkpoint, and saving one removes it. Starts in
    other sessions do not count: there the driver was stopped or killed, and its workers with it.

    Args:
        place: Folder of the work's checkpoint.
        session: Identity of the driver's process.
    """
    path = place / "attempts.json"
    try:
        record = read_json(path)
    except (FileNotFoundError, ValueError):
        record = {}
    number = int(record["count"]) + 1 if record.get("session") == session else 1
    write_json(path, {"session": session, "count": number})
    return number
