"""Random keys of the local S3 server, in files that only their owner can read."""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ssprompt_core.errors import UserError

REGION = "us-east-1"
ADMIN_FILE, READER_FILE, IDENTITIES_FILE = "credentials.env", "read-only.env", "s3.json"
_ACTIONS = {
    "admin": ["Admin", "Read", "Write", "List", "Tagging"],
    "read_only": ["Read", "List"],
}


@dataclass(frozen=True)
class Keys:
    """Name and secret of one identity; the secret is in no printed form of it."""

    access: str
    secret: str = field(repr=False)

    @staticmethod
    def random() -> Keys:
        """Fresh keys: 80 and 160 random bits as hexadecimal digits."""
        return Keys(secrets.token_hex(10), secrets.token_hex(20))

    def environment(self, endpoint: str) -> dict[str, str]:
        """The standard variables with which every S3 client finds the server."""
        return {
            "AWS_ACCESS_KEY_ID": self.access,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_REGION": REGION,
            # botocore reads this name, Arrow the other one
            "AWS_DEFAULT_REGION": REGION,
        }


@dataclass(frozen=True)
class Identities:
    """The two identities of a server: one may do everything, one may read and list."""

    admin: Keys
    read_only: Keys

    @staticmethod
    def of(folder: Path) -> Identities:
        """The identities whose files lie in a folder; fresh ones where a file is missing."""
        return Identities(_known(folder / ADMIN_FILE), _known(folder / READER_FILE))

    def write(self, folder: Path, endpoint: str) -> None:
        """Write the files: two of variables for clients, one that the server reads."""
        write_private(folder / ADMIN_FILE, _lines(self.admin.environment(endpoint)))
        write_private(folder / READER_FILE, _lines(self.read_only.environment(endpoint)))
        identities = [
            {
                "name": name,
                "credentials": [{"accessKey": keys.access, "secretKey": keys.secret}],
                "actions": _ACTIONS[name],
            }
            for name, keys in (("admin", self.admin), ("read_only", self.read_only))
        ]
        write_private(folder / IDENTITIES_FILE, json.dumps({"identities": identities}, indent=2))


def read_environment(path: Path) -> dict[str, str]:
    """Variables of a file of lines ``NAME=value``, as a shell would read it.

    Raises:
        UserError: A line is something else; names the line's number, never its text.
    """
    variables = {}
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        match = re.fullmatch(r"(?:export +)?([A-Z_]+)=([^\s'\"]+)\s*", line)
        if match is None:
            raise UserError(
                f"{path}: line {number} is not of the form NAME=value; remove the file, and the "
                "server makes fresh keys when it starts"
            )
        variables[match[1]] = match[2]
    return variables


def write_private(path: Path, text: str) -> None:
    """Replace a file by one that only its owner may read, from its first byte on."""
    new = path.with_name(f".{path.name}.{os.getpid()}")
    new.unlink(missing_ok=True)
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    new.replace(path)


def _known(path: Path) -> Keys:
    if not path.exists():
        return Keys.random()
    variables = read_environment(path)
    try:
        return Keys(variables["AWS_ACCESS_KEY_ID"], variables["AWS_SECRET_ACCESS_KEY"])
    except KeyError as error:
        raise UserError(
            f"{path} has no {error.args[0]}; remove the file, and the server makes fresh keys "
            "when it starts"
        ) from None


def _lines(variables: Mapping[str, str]) -> str:
    return "".join(f"{name}={value}\n" for name, value in variables.items())
