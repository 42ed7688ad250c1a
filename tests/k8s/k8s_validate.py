"""All reasons to refuse the manifests of an environment."""

from __future__ import annotations

from collections.abc import Mapping

from k8s_network import network_reasons
from k8s_operator import operator_reasons
from k8s_reasons import Document, Reason
from k8s_references import reference_reasons
from k8s_schemas import schema_reasons
from k8s_security import security_reasons
from k8s_study import study_reasons


def validate(
    documents: list[Document], secrets: Mapping[str, Mapping[str, str]], pinned: bool
) -> list[Reason]:
    """What is wrong with the objects of an environment; nothing, where they may be applied.

    Args:
        documents: A platform, and what is applied beside it.
        secrets: Name -> keys of the Secrets that are made before.
        pinned: Whether images have to be named by digest.
    """
    reasons = [reason for document in documents for reason in schema_reasons(document)]
    if reasons:
        # the other rules read what the schemas promise
        return reasons
    return [
        *operator_reasons(documents),
        *security_reasons(documents),
        *reference_reasons(documents, secrets),
        *network_reasons(documents),
        *study_reasons(documents, pinned),
    ]
