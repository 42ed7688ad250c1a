"""Tensors in Arrow files of one value each, read by mapping them into memory."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import torch
from torch import Tensor


def write_tensor(path: Path, values: Tensor, facts: Mapping[str, str]) -> None:
    """Write a contiguous tensor of the CPU; readers get its type and shape back.

    Args:
        path: A new file.
        values: Of float32 or float16.
        facts: Kept with it, for whoever looks into the file.
    """
    flat = values.numpy().reshape(-1)
    column = pa.FixedSizeListArray.from_arrays(pa.array(flat), flat.size)
    schema = pa.schema([pa.field("embedding", column.type)]).with_metadata(
        {"shape": " ".join(str(side) for side in values.shape), **facts}
    )
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        writer.write_batch(pa.record_batch([column], schema=schema))


def map_tensor(path: Path) -> Tensor:
    """The tensor of a file, read-only: its memory is the file's, shared by all who map it.

    Raises:
        FileNotFoundError: There is no such file.
    """
    with pa.memory_map(str(path)) as source:
        batch = pa.ipc.open_file(source).get_batch(0)
    shape = [int(side) for side in batch.schema.metadata[b"shape"].split()]
    values = batch.column(0).values.to_numpy(zero_copy_only=True).reshape(shape)
    with warnings.catch_warnings():
        # torch has no read-only tensors and says so; nothing here writes into an embedding
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(values)
