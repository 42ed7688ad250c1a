"""The database of a search: one Optuna study in it, a transaction for a trial that begins or ends.

Optuna's own interface takes a transaction for every value that a trial has, and reads the trial
before most of them. Here its tables are written directly, in its own form, so that whatever reads
Optuna studies reads these.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from optuna.distributions import distribution_to_json
from optuna.storages._rdb import models
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial
from sqlalchemy.orm import Session

_SHARED = ("nfs", "cifs", "smb", "9p", "fuse.sshfs", "lustre", "gpfs", "beegfs", "ceph")
"""File systems that several machines see: sqlite's write-ahead log needs memory of one machine."""


def writing_storage(database: Path) -> optuna.storages.RDBStorage:
    """The Optuna storage of a study, for the one process that runs its search.

    A commit waits for no disk: it is in the kernel's hands, as the results of trials are. So a
    killed process loses none, and a power cut leaves a whole, perhaps somewhat older, history.

    Args:
        database: Its file.
    """
    url = f"sqlite:///{database}"
    if _is_shared(database):
        return optuna.storages.RDBStorage(url)
    return optuna.storages.RDBStorage(url, {"creator": lambda: _relaxed(database)})


def settle(storage: optuna.storages.RDBStorage) -> None:
    """Leave the database as one file, which can be read where nothing can be written.

    Where another process just reads it, it stays as it is: that is as good, but for such places.
    """
    storage.scoped_session.remove()
    # the format is changed by the only connection there is, or not at all
    storage.engine.dispose()
    try:
        with storage.engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA journal_mode=DELETE")
    except sqlalchemy.exc.OperationalError as error:
        if "locked" not in str(error):
            raise
    storage.engine.dispose()


class Record:
    """One Optuna study in the database, written by one process at a time.

    Args:
        storage: Of the search.
        name: Whole name of the Optuna study; it is made where it is not there.
        directions: Of its objectives.
        facts: Its user attributes.
    """

    def __init__(
        self,
        storage: optuna.storages.RDBStorage,
        name: str,
        directions: Sequence[StudyDirection],
        facts: Mapping[str, Any],
    ) -> None:
        self._storage = storage
        study = optuna.create_study(
            storage=storage,
            study_name=name,
            directions=directions,
            # proposes nothing: the copy in memory does
            sampler=optuna.samplers.RandomSampler(),
            load_if_exists=True,
        )
        self._study_id = study._study_id
        known = study.user_attrs
        for key, value in facts.items():
            if key not in known or known[key] != value:
                study.set_user_attr(key, value)

    def trials(self) -> list[FrozenTrial]:
        """All trials, by number."""
        trials = self._storage.get_all_trials(self._study_id, deepcopy=False)
        return sorted(trials, key=lambda trial: trial.number)

    def add(self, trial: FrozenTrial) -> None:
        """Write a trial that was proposed; it gets its id in the database.

        Args:
            trial: With its number, parameters, attributes and the time of its proposal.
        """
        with self._transaction() as session:
            row = models.TrialModel(
                study_id=self._study_id,
                number=trial.number,
                state=trial.state,
                datetime_start=trial.datetime_start,
            )
            session.add(row)
            session.flush()
            identity = int(row.trial_id)
            _insert(
                session,
                models.TrialParamModel,
                identity,
                (
                    {
                        "param_name": name,
                        "param_value": trial.distributions[name].to_internal_repr(value),
                        "distribution_json": distribution_to_json(trial.distributions[name]),
                    }
                    for name, value in trial.params.items()
                ),
            )
            _insert(
                session, models.TrialUserAttributeModel, identity, _attributes(trial.user_attrs)
            )
            _insert(
                session, models.TrialSystemAttributeModel, identity, _attributes(trial.system_attrs)
            )
        trial._trial_id = identity

    def end(
        self,
        trial: FrozenTrial,
        attributes: Mapping[str, Any],
        rungs: Mapping[int, float],
    ) -> None:
        """Write how a trial ended: all of it, or, if the process is killed, nothing.

        Args:
            trial: With its state, values and the time of its end.
            attributes: User attributes that it got since it was added.
            rungs: Its intermediate values.
        """
        identity = trial._trial_id
        value_of, rung_of = models.TrialValueModel, models.TrialIntermediateValueModel
        with self._transaction() as session:
            # an earlier version wrote these before the state: a kill may have left some
            _insert(session, models.TrialUserAttributeModel, identity, _attributes(attributes))
            _insert(
                session,
                rung_of,
                identity,
                (
                    {"step": step, "intermediate_value": stored, "intermediate_value_type": kind}
                    for step, value in rungs.items()
                    for stored, kind in [rung_of.intermediate_value_to_stored_repr(value)]
                ),
            )
            _insert(
                session,
                value_of,
                identity,
                (
                    {"objective": number, "value": stored, "value_type": kind}
                    for number, value in enumerate(trial.values or ())
                    for stored, kind in [value_of.value_to_stored_repr(value)]
                ),
            )
            row = session.get_one(models.TrialModel, identity)
            row.state, row.datetime_complete = trial.state, trial.datetime_complete

    @contextmanager
    def _transaction(self) -> Iterator[Session]:
        session = self._storage.scoped_session()
        try:
            yield session
            session.commit()
        except BaseException:
            session.rollback()
            raise
        finally:
            session.close()


def _insert(session: Session, table: Any, trial_id: int, rows: Iterable[Mapping[str, Any]]) -> None:
    whole = [{"trial_id": trial_id, **row} for row in rows]
    if whole:
        session.execute(sqlalchemy.insert(table).prefix_with("OR REPLACE"), whole)


def _attributes(values: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    return ({"key": key, "value_json": json.dumps(value)} for key, value in values.items())


def _relaxed(database: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(database, check_same_thread=False)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
    return connection


def _is_shared(database: Path) -> bool:
    """Whether the file lies on a file system of several machines, as far as Linux tells."""
    try:
        mounts = Path("/proc/self/mounts").read_text().splitlines()
    except OSError:
        return False
    place, kind, longest = str(database.parent.resolve()), "", -1
    for line in mounts:
        mounted, found = line.split(" ")[1:3]
        point = mounted.encode().decode("unicode_escape")
        inside = place == point or place.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= longest:
            kind, longest = found, len(point)
    return kind.startswith(_SHARED)
