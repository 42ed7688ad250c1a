"""Whether a database can be used, told in one sentence that shows no password."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import create_engine, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError

from ssprompt_core.errors import UserError

_FORM = "postgresql://USER@HOST:5432/DATABASE"
_CONNECT_SECONDS = 5


def check_database(url: str, name: str = "MLFLOW_BACKEND") -> None:
    """Connect to a database once.

    Args:
        url: SQLAlchemy URL; the folder of a sqlite file is made.
        name: The setting that holds it, for the error's text.

    Raises:
        UserError: It is no such URL, its driver is missing, or the database refuses.
    """
    place = _parsed(url, name)
    if place.get_backend_name() == "sqlite" and place.database:
        Path(place.database).parent.mkdir(parents=True, exist_ok=True)
    postgres = place.get_backend_name() == "postgresql"
    try:
        engine = create_engine(
            place, connect_args={"connect_timeout": _CONNECT_SECONDS} if postgres else {}
        )
    except NoSuchModuleError:
        raise UserError(
            f"{name} names the database {place.drivername!r}, which SQLAlchemy does not know; "
            f"for Postgres it is {_FORM}"
        ) from None
    except ModuleNotFoundError as error:
        advice = "; python -m pip install --constraint constraints.txt '.[postgres]' installs it"
        raise UserError(
            f"{name} needs the database driver {error.name!r}, which is not installed"
            + (advice if postgres else "")
        ) from None
    try:
        with engine.connect() as connection:
            connection.execute(text("select 1"))
    except DBAPIError as error:
        raise UserError(f"{name}: {_sentence(error, place)}") from None
    finally:
        engine.dispose()


def absolute(url: str, name: str = "MLFLOW_BACKEND") -> str:
    """The URL that means the same in every folder: a sqlite file's path is relative to this one.

    Raises:
        UserError: It is no database URL.
    """
    place = _parsed(url, name)
    if place.get_backend_name() != "sqlite" or place.database in (None, "", ":memory:"):
        return url
    place = place.set(database=str(Path(str(place.database)).resolve()))
    return place.render_as_string(hide_password=False)


def shown(url: str, name: str = "MLFLOW_BACKEND") -> str:
    """The URL as it may be printed: with ``***`` in place of a password.

    Raises:
        UserError: It is no database URL.
    """
    place = _parsed(url, name)
    if "password" in place.query:
        place = place.update_query_dict({"password": "***"})
    return place.render_as_string(hide_password=True)


def _parsed(url: str, name: str) -> URL:
    try:
        place = make_url(url)
        if "://" in url:
            return place
    except (ArgumentError, ValueError):
        # a port that is no number; the URL is in the error's text
        pass
    raise UserError(f"{name} is no database URL; for Postgres it is {_FORM}")


def _sentence(error: DBAPIError, place: URL) -> str:
    words = str(error.orig)
    at = f"{place.host or 'localhost'}:{place.port or 5432}"
    if place.get_backend_name() == "sqlite":
        return f"the sqlite file {place.database} cannot be used ({words})"
    if "password authentication failed" in words or "no password supplied" in words:
        return f"the database at {at} refuses user {place.username!r} or the password given"
    if "does not exist" in words:
        return f"the database at {at} says: {words.split('FATAL:')[-1].strip()}"
    if "refused" in words:
        return f"no database answers at {at}; is it running, and is the port right?"
    if "resolve" in words or "not known" in words:
        return f"there is no machine named {place.host!r}"
    if "timeout" in words or "timed out" in words:
        return f"the database at {at} did not answer within {_CONNECT_SECONDS} seconds"
    return f"the database at {at} cannot be used ({' '.join(words.split())})"
