"""Strict schemas: of core objects, and of KubeRay's and Prometheus's from their definitions."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from k8s_reasons import Document, Reason, name_of
from kubernetes_validate.utils import schema_contents
from referencing import Registry, Resource
from samples import ROOT

VERSION = "1.35"
DEFINITIONS = ROOT.parent / "shared" / "kuberay_crds"
_DEFINED = {
    ("ray.io/v1", "RayJob"): "ray.io_rayjobs.yaml",
    ("ray.io/v1", "RayCluster"): "ray.io_rayclusters.yaml",
    ("monitoring.coreos.com/v1", "PodMonitor"): "monitoring.coreos.com_podmonitors.yaml",
}
_META = (
    "https://kubernetes.io/api/_definitions.json"
    "#/$defs/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
)


def need_definitions() -> None:
    """Skip where the custom resource definitions are not beside the checkout."""
    if not DEFINITIONS.is_dir():
        # they are no part of the project: never required
        pytest.skip(f"the custom resource definitions of KubeRay are not in {DEFINITIONS}")


def schema_reasons(document: Document) -> list[Reason]:
    """What a strict API server would refuse: unknown or missing fields, types, enumerations."""
    # most documents of a mutant are those of the mutant before
    return list(_reasons(json.dumps(document, sort_keys=True)))


@functools.lru_cache(maxsize=1024)
def _reasons(text: str) -> tuple[Reason, ...]:
    document = json.loads(text)
    kind = document.get("apiVersion"), document.get("kind")
    validator = _validator(*kind)
    if validator is None:
        return (Reason("schema", name_of(document), f"there is no kind {kind}"),)
    reasons = []
    for error in _leaves(validator.iter_errors(document)):
        place = ".".join(str(part) for part in error.absolute_path)
        reasons.append(Reason("schema", name_of(document), f"{place}: {error.message[:200]}"))
    return tuple(reasons)


def _leaves(errors: Any) -> list[jsonschema.ValidationError]:
    found = []
    for error in errors:
        inner = list(error.context or [])
        found += _leaves(inner) if inner else [error]
    return found


@functools.cache
def _definitions(version: str) -> Resource[Any]:
    return Resource.from_contents(
        schema_contents(
            f"kubernetes-json-schema/v{_full(version)}-local-strict/_definitions.json", version
        )
    )


@functools.cache
def _full(version: str) -> str:
    from kubernetes_validate.utils import all_versions

    return next(each for each in all_versions() if each.startswith(f"{version}."))


@functools.cache
def _validator(api_version: str | None, kind: str | None) -> Any:
    definitions = _definitions(VERSION)
    if (api_version, kind) in _DEFINED:
        schema = _of_definition(DEFINITIONS / _DEFINED[api_version, kind])  # type: ignore[index]
    else:
        group, _, version = str(api_version).rpartition("/")
        place = f"{group.split('.')[0]}-{version}" if group else version
        try:
            schema = schema_contents(
                f"kubernetes-json-schema/v{_full(VERSION)}-local-strict/{str(kind).lower()}-{place}.json",
                VERSION,
            )
        except FileNotFoundError:
            return None
    registry: Registry[Any] = definitions @ Registry()
    if "$id" in schema:
        registry = Resource.from_contents(schema) @ registry
    return jsonschema.Draft202012Validator(schema, registry=registry)


def _of_definition(path: Path) -> dict[str, Any]:
    definition = yaml.load(path.read_text(), yaml.CSafeLoader)
    version = next(each for each in definition["spec"]["versions"] if each["storage"])
    schema: dict[str, Any] = version["schema"]["openAPIV3Schema"]
    _make_strict(schema)
    schema.setdefault("$schema", "https://json-schema.org/draft/2020-12/schema")
    # a user writes no status
    schema["properties"].pop("status", None)
    return schema


def _make_strict(schema: Any) -> None:
    if isinstance(schema, list):
        for each in schema:
            _make_strict(each)
    if not isinstance(schema, dict):
        return
    if schema.pop("x-kubernetes-int-or-string", False):
        schema.pop("type", None)
        # a pattern is of the text alone
        schema.setdefault("anyOf", [{"type": "integer"}, {"type": "string"}])
    properties = schema.get("properties")
    if isinstance(properties, dict):
        for name, inner in properties.items():
            if name == "metadata" and isinstance(inner, dict) and not inner.get("properties"):
                properties[name] = {"$ref": _META}
            else:
                _make_strict(inner)
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            schema.setdefault("additionalProperties", False)
    for key in ("items", "additionalProperties", "allOf", "anyOf", "oneOf", "not"):
        _make_strict(schema.get(key))
