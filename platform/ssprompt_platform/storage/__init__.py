"""Where a study keeps things, on a disk or in a bucket, and how it reads and writes them."""

from ssprompt_platform.storage.clients import arrow_filesystem, s3_client
from ssprompt_platform.storage.errors import StorageError
from ssprompt_platform.storage.folder import (
    StudyFolder,
    cache_folder,
    in_ray_job,
    local_root,
    storage_root,
    work_root,
)
from ssprompt_platform.storage.mirror import Mirror
from ssprompt_platform.storage.names import safe_name
from ssprompt_platform.storage.places import (
    Place,
    child_names,
    local_file,
    local_tree,
    ray_storage,
    read_json,
    remove,
    remove_tree,
    write_bytes,
    write_json,
    write_text,
    write_whole,
)
from ssprompt_platform.storage.s3 import S3Object, S3Path

__all__ = [
    "Mirror",
    "Place",
    "S3Object",
    "S3Path",
    "StorageError",
    "StudyFolder",
    "arrow_filesystem",
    "cache_folder",
    "child_names",
    "in_ray_job",
    "local_file",
    "local_root",
    "local_tree",
    "ray_storage",
    "read_json",
    "remove",
    "remove_tree",
    "s3_client",
    "safe_name",
    "storage_root",
    "work_root",
    "write_bytes",
    "write_json",
    "write_text",
    "write_whole",
]
