"""Readers: what is behind a path, through the official libraries, memory-mapped.

==============================================  ==========================================================
path                                            read as
==============================================  ==========================================================
folder with adapter_config.json                 a PEFT LoRA adapter (never multiplied out)
folder with model.safetensors                   a checkpoint
folder with model.safetensors.index.json        a sharded checkpoint
file.safetensors.index.json                     the same, by its index
file.safetensors                                a checkpoint (or task vectors, see below)
file.npy, file.npz                              task vectors
==============================================  ==========================================================

A *checkpoint* has the base subtracted (on the fly); a *task vector* is a difference already.  .npy and .npz are task
vectors, unless the base is of that kind too; safetensors are checkpoints where a base is given, and task vectors where
none is, or where the metadata of the file says ``{"kind": "task_vector"}``.  Pickles (.bin, .pt, .pkl) are refused,
whatever they are called.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Union

from ._peft import Adapter, Factors, is_adapter, read_adapter
from ._tensors import (
    PathLike,
    Tensors,
    as_matrix,
    from_arrays,
    read_npy,
    read_npz,
    read_safetensors,
    read_sharded,
    refuse_foreign,
    some,
)
from .errors import bad_format, bad_type

Source = Union[Tensors, Adapter]

_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


def read(path: Union[PathLike, Mapping[str, Any]], name: str = "arrays") -> Source:
    """Whatever is at ``path``; a mapping of NumPy arrays is taken as it is (and called ``name`` in messages).

    Raises ``FileNotFoundError``, or ``ValueError`` with the reason why the content is refused.
    """
    if isinstance(path, Mapping):
        return from_arrays(path, name)
    try:
        place = Path(path)
    except TypeError:
        raise bad_type(f"{name} is a {type(path).__name__}, expected a path or a dict of arrays") from None
    if place.is_dir():
        return _read_folder(place)
    if not place.exists():
        raise FileNotFoundError(f"{place} does not exist")
    if place.suffix == ".npy":
        return read_npy(place)
    if place.suffix == ".npz":
        return read_npz(place)
    if place.suffix == ".safetensors":
        return read_safetensors(place)
    if place.name.endswith(".safetensors.index.json"):
        return read_sharded(place.parent, place)
    refuse_foreign(place)
    raise bad_format(f"{place} is not .safetensors, .npy, .npz or a folder of a model or an adapter")


def _read_folder(folder: Path) -> Source:
    if is_adapter(folder):
        return read_adapter(folder)
    if (folder / "model.safetensors").is_file():
        return read_safetensors(folder / "model.safetensors")
    if (folder / "model.safetensors.index.json").is_file():
        return read_sharded(folder, folder / "model.safetensors.index.json")
    found = sorted(folder.glob("*.safetensors"))
    if len(found) == 1 and found[0].name != "adapter_model.safetensors":
        return read_safetensors(found[0])
    if found:
        wanted = "adapter_config.json" if found[0].name.startswith("adapter") else "model.safetensors.index.json"
        raise bad_format(f"{folder} has {some([f.name for f in found])} but no {wanted}")
    for pattern in _PICKLES:
        for file in folder.glob(pattern):
            refuse_foreign(file)
            raise bad_format(f"{folder} has {file.name} but no safetensors; save the model with safe serialization")
    raise bad_format(f"{folder} has no adapter_config.json, model.safetensors or model.safetensors.index.json")


__all__ = ["Adapter", "Factors", "Source", "Tensors", "as_matrix", "read"]
