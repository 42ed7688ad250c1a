"""What ``jobs/tracking.py`` does: tell what waits, and say what waits."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from ssprompt_core.errors import UserError, nearest
from ssprompt_platform.storage import Place, storage_root
from ssprompt_platform.tracking.dead import FOLDER, Kept, held, journals, mark_dead
from ssprompt_platform.tracking.delivery import REFUSED, Delivery
from ssprompt_platform.tracking.faults import why
from ssprompt_platform.tracking.journal import NAME, count
from ssprompt_platform.tracking.state import positions
from ssprompt_platform.tracking.target import check_target


@dataclass(frozen=True)
class Options:
    """What is to be told to whom.

    Attributes:
        study: Id of a study, or its folder; empty: all of the root.
        root: Storage root.
        uri: Address of the MLflow; empty: as each study named it.
        patience: Seconds to wait for one that does not answer.
        again: Whether what was refused before is to be told once more.
    """

    study: str = ""
    root: str = "runs"
    uri: str = ""
    patience: float = 10.0
    again: bool = False


def sync(options: Options, console: Console) -> bool:
    """Tell MLflow what waits, and mark runs of dead studies as killed.

    Returns:
        Whether nothing waits any more.

    Raises:
        UserError: There is no such study, or the address is wrong.
    """
    root, chosen = _chosen(options)
    if options.uri:
        for kept in chosen[:1]:
            check_target(kept.target, must_answer=True)
    whole = True
    for kept in chosen:
        if held(kept.study):
            _say(console, f"{kept.study.study_id}: a process runs it, which tells MLflow itself")
            continue
        whole &= _sync_one(kept, options, console)
    for target in {kept.target for kept in chosen}:
        try:
            target.reachable()
            client = target.connect()
            found = client.get_experiment_by_name(target.experiment)
            if found is not None:
                for study_id in mark_dead(client, found.experiment_id, root):
                    _say(console, f"{study_id}: its runs are marked as killed")
        except Exception as error:  # noqa: BLE001  (told, and the rest goes on)
            _say(console, f"MLflow ({target.shown}): {why(error, target)}")
            whole = False
    if not chosen:
        _say(console, f"no study of {root} has anything to tell on this machine")
    return whole


def status(options: Options, console: Console) -> None:
    """Say what waits, study by study.

    Raises:
        UserError: There is no such study.
    """
    root, chosen = _chosen(options)
    if not chosen:
        _say(console, f"no study of {root} has a journal on this machine")
    for kept in chosen:
        refused = count(kept.folder / REFUSED, 0)
        notes = [f"{kept.waiting} of {count(kept.folder / NAME, 0)} events wait"]
        notes += [f"{refused} were refused ({kept.folder / REFUSED})"] if refused else []
        notes += ["a process runs it"] if held(kept.study) else []
        notes += ["runs are open that no process writes"] if _left_open(kept) else []
        _say(console, f"{_name(kept)}: {', '.join(notes)}; MLflow is {kept.target.shown}")


def _left_open(kept: Kept) -> bool:
    return kept.open_runs and not held(kept.study)


def _chosen(options: Options) -> tuple[Place, list[Kept]]:
    root, name = storage_root(options.root), options.study
    if name and ("/" in name or name in (".", "..")):
        folder = Path(name).expanduser().absolute()
        root, name = folder.parent, folder.name
    every = journals(root, options.uri)
    if not name:
        return root, every
    chosen = [kept for kept in every if kept.study.study_id == name]
    if not chosen:
        known = sorted({kept.study.study_id for kept in every})
        raise UserError(
            f"no journal of a study '{name}' of {root} is on this machine{nearest(name, known)}; "
            "a study's journal lies on the machine that ran it"
        )
    return root, chosen


def _sync_one(kept: Kept, options: Options, console: Console) -> bool:
    """Tell what one study left; returns whether everything was told."""
    if options.again:
        _tell_again(kept)
    total = kept.waiting
    delivery, refusals = kept.delivery(), list[str]()
    delivery.on_refused(lambda what, reason: refusals.append(f"{what}: {reason}"))
    delivery.hasten()
    try:
        with _bar(console) as bar:
            task = bar.add_task(_name(kept), total=total)
            whole = _deliver(kept, delivery, options.patience, bar, task)
        if whole and delivery.close_left_open():
            _say(console, f"{_name(kept)}: runs that were left open are marked as killed")
    except Exception as error:  # noqa: BLE001  (told, and the next study is tried)
        _say(console, f"{_name(kept)}: {why(error, kept.target)}")
        return False
    finally:
        delivery.close()
    for refusal in refusals:
        _say(console, f"{_name(kept)}: MLflow refused {refusal}")
    if refusals:
        _say(console, f"{_name(kept)}: what was refused is kept in {kept.folder / REFUSED}")
    if whole:
        _say(console, f"{_name(kept)}: everything is told ({total} events waited)")
    else:
        _say(console, f"{_name(kept)}: {kept.waiting} events still wait: {delivery.fault}")
    return whole


def _deliver(kept: Kept, delivery: Delivery, patience: float, bar: Progress, task: TaskID) -> bool:
    size = (kept.folder / NAME).stat().st_size
    begin = min(positions(kept.memory).values())
    since = time.monotonic()
    while not delivery.done:
        if delivery.work():
            since = time.monotonic()
            share = (min(delivery.told) - begin) / max(1, size - begin)
            bar.update(task, completed=round(share * (bar.tasks[task].total or 0)))
        elif time.monotonic() - since >= patience:
            return False
        else:
            time.sleep(min(delivery.pause, 0.2))
    bar.update(task, completed=bar.tasks[task].total)
    return True


def _tell_again(kept: Kept) -> None:
    """Append what was refused to the journal once more, with its own time."""
    refused = kept.folder / REFUSED
    if not refused.is_file():
        return
    lines = [json.loads(line)["event"] for line in refused.read_text().splitlines() if line]
    events = [event for event in lines if isinstance(event, dict)]
    with (kept.folder / NAME).open("a") as journal:
        journal.writelines(json.dumps(event, separators=(",", ":")) + "\n" for event in events)
    refused.unlink()


def _name(kept: Kept) -> str:
    former = "" if kept.folder.name == FOLDER else f" (begun before, {kept.uid[:8]})"
    return f"{kept.study.study_id}{former}"


def _bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        console=console,
        transient=True,
    )


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
