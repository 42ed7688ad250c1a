"""The best learned prompts of a study as a version of a registered model."""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssprompt_core.errors import UserError
from ssprompt_platform.tracking.faults import SourceGoneError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel

ALIAS = "best"
PROMPTS_TAG = "prompts.sha256"
_READY = "READY"


def model_name(configured: str, study_name: str) -> str:
    """Name in the registry: ``tracking.model``, or one for all studies of a name.

    The alias ``best`` is one for each name, so studies of other data must not share it.
    """
    return re.sub(r"[^\w\-. ]", "_", configured or f"ssprompt-{study_name}")[:200]


def register(client: MlflowClient, experiment: str, run_id: str, event: Mapping[str, Any]) -> None:
    """Register the prompts that an event names, unless that was done, and give them the alias.

    Raises:
        SourceGoneError: The prompts are not there any more.
        ValueError: No model can be made of them.
    """
    from ssprompt_platform.tracking.files import place_of

    place, name = place_of(event["prompts"]), event["name"]
    try:
        content = place.read_bytes()
    except FileNotFoundError:
        raise SourceGoneError(f"{place} is not there any more") from None
    digest = hashlib.sha256(content).hexdigest()
    tags = {**event["tags"], PROMPTS_TAG: digest}
    version = _version(client, name, run_id, digest)
    if version is None:
        model = _logged_model(client, experiment, run_id, content, event, tags)
        version = _make_version(client, name, run_id, model, event, tags)
    client.set_registered_model_alias(name, ALIAS, version)


def _version(client: MlflowClient, name: str, run_id: str, digest: str) -> str | None:
    """The version that has these prompts of this study."""
    found = client.search_model_versions(f"name = '{name}' and run_id = '{run_id}'")
    return next((str(v.version) for v in found if v.tags.get(PROMPTS_TAG) == digest), None)


def _logged_model(
    client: MlflowClient,
    experiment: str,
    run_id: str,
    content: bytes,
    event: Mapping[str, Any],
    tags: dict[str, str],
) -> LoggedModel:
    """Store the model's files in the study's run."""
    from mlflow.entities import LoggedModelOutput

    from ssprompt_platform.use.served import write_model

    found = client.search_logged_models([experiment], filter_string=f"source_run_id = '{run_id}'")
    models = [m for m in found if m.tags.get(PROMPTS_TAG) == tags[PROMPTS_TAG]]
    if models and str(models[0].status) == _READY:
        return models[0]
    model = models[0] if models else client.create_logged_model(
        experiment, name="prompts", source_run_id=run_id, tags=tags, model_type="segmenter"
    )  # fmt: skip
    checkpoint = Path(event["checkpoint"]) if event["checkpoint"] else None
    with tempfile.TemporaryDirectory(prefix="ssprompt-") as folder:
        prompts = Path(folder) / "prompts.safetensors"
        prompts.write_bytes(content)
        try:
            write_model(Path(folder) / "model", prompts, checkpoint, study_id=event["study"])
        except UserError as error:
            raise ValueError(f"no model can be made of them: {error}") from error
        client.log_model_artifacts(model.model_id, str(Path(folder) / "model"))
    # told twice, the database refuses it
    outputs = client.get_run(run_id).outputs
    known = [one.model_id for one in outputs.model_outputs] if outputs else []
    if model.model_id not in known:
        client.log_outputs(run_id, [LoggedModelOutput(model.model_id, 0)])
    return client.finalize_logged_model(model.model_id, _READY)


def _make_version(
    client: MlflowClient,
    name: str,
    run_id: str,
    model: LoggedModel,
    event: Mapping[str, Any],
    tags: dict[str, str],
) -> str:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name, description=event["about_name"])
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    served = str(client.tracking_uri).startswith("http")
    made = client.create_model_version(
        name,
        # a database that is written to directly would look that name up in another one: in what the
        # process has for its own
        source=f"models:/{model.model_id}" if served else model.artifact_location,
        run_id=run_id,
        tags=tags,
        description=event["about"],
        model_id=model.model_id,
    )
    return str(made.version)
