"""The experiment that runs belong to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ssprompt_platform.tracking.target import Target

if TYPE_CHECKING:
    from mlflow import MlflowClient


def experiment_id(client: MlflowClient, target: Target) -> str:
    """Id of the experiment; made where there is none.

    A database that is written to directly may know an experiment of this name that keeps its
    artifacts in a folder of another machine or root: then one is made whose name says where.
    """
    from mlflow.exceptions import MlflowException

    name = target.experiment
    found = client.get_experiment_by_name(name)
    if found is not None and target.artifacts is not None:
        there = str(found.artifact_location)
        if _is_folder(there) and there != target.artifacts:
            name = f"{name} in {target.artifacts}"
            found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    try:
        return str(client.create_experiment(name, artifact_location=target.artifacts))
    except MlflowException as error:
        # another study may have made it meanwhile
        found = client.get_experiment_by_name(name)
        if error.error_code != "RESOURCE_ALREADY_EXISTS" or found is None:
            raise
        return str(found.experiment_id)


def _is_folder(location: str) -> bool:
    return location.startswith("file:") or "://" not in location
