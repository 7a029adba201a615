"""Weights from files: safetensors, or a state dict read with ``weights_only=True`` and never otherwise.

There is no fallback and no flag to a full unpickling: pickle runs what the file says, scanners for bad pickles have been evaded
again and again, and an automatic second try has itself been a vulnerability elsewhere.
"""

from __future__ import annotations

import json
import math
import pickle
import pickletools
import re
import struct
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from accel.errors import ModelFault, SafetyRefusal, UsageError
from accel.onnx_file import looks_like

if TYPE_CHECKING:
    from torch import Tensor, nn

_HEADER_LIMIT_BYTES = 100_000_000  # the limit of the safetensors format itself
_WRAPPERS = ("state_dict", "model_state_dict", "model")
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "backbone.")
_LISTED = 5
_SAFETENSORS_BYTES = {
    "F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2, "I8": 1, "U8": 1,
    "BOOL": 1,
}  # fmt: skip


def read(path: Path) -> dict[str, Tensor]:
    """Name to tensor, on the CPU, in the file's order; a ``state_dict`` inside a training checkpoint is found.

    SafetyRefusal for a file that holds anything but tensors and plain containers. ModelFault for one that is damaged, is
    compressed (a way to fill memory from a small file), or is something else.
    """
    if not path.is_file():
        raise UsageError(f"{path}: no such file")
    size = path.stat().st_size
    if size == 0:
        raise ModelFault(f"{path.name}: the file is empty")
    with path.open("rb") as stream:
        start = stream.read(4096)
    if path.suffix == ".safetensors" or start[8:9] == b"{":
        return _read_safetensors(path, size, start)
    if start.startswith(b"PK\x03\x04"):
        _require_plain_zip(path, size)
    else:
        looks = looks_like(start) if not start.startswith(b"\x80") else None
        if looks is not None:
            raise ModelFault(f"{path.name}: not weights; it looks like {looks}")
    return _tensors_in(_unpickled(path), path)


def load_(module: nn.Module, state: Mapping[str, Tensor], name: str) -> None:
    """Copy ``state`` into ``module``, strictly: the same keys and shapes. ``name`` of the file is for messages.

    A key may be absent if its tensor is tied to one that is there (safetensors stores tied weights once), or if it is a
    BatchNorm's counter, which old files lack and inference does not read.
    """
    own = module.state_dict(keep_vars=True)
    present = {_place(own[key]) for key in state if key in own}
    missing = [
        key for key in own if key not in state and _place(own[key]) not in present and not key.endswith("num_batches_tracked")
    ]
    surplus = [key for key in state if key not in own]
    if missing or surplus:
        parts = [_listed("missing", missing), _listed("not in the model", surplus)]
        raise ModelFault(f"{name}: its keys are not the model's; {'; '.join(filter(None, parts))}{_prefix_hint(own, state)}")
    wrong = [f"{key} {list(value.shape)}, the model has {list(own[key].shape)}" for key, value in state.items()
             if value.shape != own[key].shape]  # fmt: skip
    if wrong:
        raise ModelFault(
            f"{name}: shapes are not the model's; {_listed('file and model differ', wrong)}; is it a pruned model?"
        )
    kinds = [f"{key} {value.dtype}, the model has {own[key].dtype}" for key, value in state.items()
             if value.is_floating_point() != own[key].is_floating_point()]  # fmt: skip
    if kinds:
        raise ModelFault(f"{name}: element types are not the model's; {_listed('file and model differ', kinds)}")
    module.load_state_dict(dict(state), strict=False)  # compared above, ties allowed


def require_values(module: nn.Module) -> None:
    """ModelFault for a parameter or buffer without values or shape: of a lazy layer, or on the meta device."""
    import torch

    for key, value in (*module.named_parameters(), *module.named_buffers()):
        if torch.nn.parameter.is_lazy(value):
            raise ModelFault(f"{key!r} has no shape yet (a lazy layer): run the module once in its factory")
        if value.is_meta:
            raise ModelFault(f"{key!r} is on the meta device and has no values; build the module on the CPU")


def require_finite(module: nn.Module) -> list[str]:
    """ModelFault naming the first parameter or buffer with NaN or Inf; notes on weights that are all zero or denormal.

    A buffer of 0 and -Inf is an attention mask and passes.
    """
    import torch

    notes = []
    for kind, named in (("parameter", module.named_parameters()), ("buffer", module.named_buffers())):
        for key, value in named:
            if not (value.is_floating_point() or value.is_complex()) or value.numel() == 0:
                continue
            finite = torch.isfinite(value.detach())
            if not finite.all():
                if kind == "buffer" and not value.isnan().any() and not (value > 0).any() and not value[finite].any():
                    continue
                what = "NaN" if value.isnan().any() else "Inf"
                raise ModelFault(f"{kind} {key!r} holds {what}; the training that made it diverged, or the file is damaged")
            if kind == "parameter" and value.dim() > 1 and not value.any():
                notes.append(f"{key}: all {value.numel()} weights are zero")
            if kind == "parameter" and value.is_floating_point():
                magnitude = value.detach().abs()
                denormals = int(((magnitude > 0) & (magnitude < torch.finfo(value.dtype).tiny)).sum())
                if denormals:
                    notes.append(f"{key}: {denormals} denormal values, slow on some CPUs; round them to zero")
    return notes


def _read_safetensors(path: Path, size: int, start: bytes) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if start[8:9] != b"{":
        looks = looks_like(start)
        raise ModelFault(f"{path.name}: not a safetensors file{f'; it looks like {looks}' if looks else ', or cut short'}")
    header = struct.unpack("<Q", start[:8])[0]
    if header > min(_HEADER_LIMIT_BYTES, size - 8):
        raise ModelFault(f"{path.name}: its header should have {header} bytes and the file has {size}; damaged or cut short")
    try:
        found: dict[str, Tensor] = load_file(path)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise ModelFault(f"{path.name}: not a whole safetensors file: {error}") from None
    return found


def _require_plain_zip(path: Path, size: int) -> None:
    """torch.save stores without compression, so what is inside is never larger than the file."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError) as error:
        raise ModelFault(f"{path.name}: a damaged or truncated checkpoint: {error}") from None
    names = [entry.filename for entry in entries]
    if any("/code/" in name or name.endswith("/constants.pkl") for name in names):
        raise ModelFault(f"{path.name}: a TorchScript program, not weights; save model.state_dict() instead")
    if not any(name.endswith("/data.pkl") or name == "data.pkl" for name in names):
        raise ModelFault(f"{path.name}: a zip archive, but not one that torch.save wrote")
    packed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
    if packed or sum(entry.file_size for entry in entries) > size:
        raise ModelFault(f"{path.name}: it unpacks to more than its own size, which torch.save never writes; not read")


def _unpickled(path: Path) -> Any:
    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols: what matters is whether it can be read
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        name = _refused_name(path, str(error))
        if name is None:
            raise ModelFault(f"{path.name}: not a state dict, or damaged") from None
        raise SafetyRefusal(_refusal(path, name)) from None
    except MemoryError:
        raise ModelFault(f"{path.name}: asks for more memory than there is") from None
    except Exception as error:  # noqa: BLE001 - damaged bytes make the unpickler raise nearly anything; all of it means this
        text = str(error).strip().splitlines()
        raise ModelFault(
            f"{path.name}: a damaged or truncated checkpoint: {text[0] if text else type(error).__name__}"
        ) from None


def _refused_name(path: Path, message: str) -> str | None:
    """The first thing that torch would not load; None where the bytes are no pickle at all.

    torch does not know every pickle protocol and then names nothing; the stream is looked through without running it.
    """
    found = re.search(r"GLOBAL ([\w.]+)", message)
    if found is not None:
        return found.group(1)
    if "Can only " in message:
        return "other objects"
    strings: list[str] = []
    try:
        with path.open("rb") as stream:
            for operation, argument, _ in pickletools.genops(stream):
                if operation.name in ("GLOBAL", "INST"):
                    return str(argument).replace(" ", ".")
                if operation.name == "STACK_GLOBAL":
                    return ".".join(strings[-2:])
                if isinstance(argument, str):
                    strings = [*strings[-1:], argument]
    except (ValueError, IndexError, EOFError, OverflowError):
        return None
    return None


def _refusal(path: Path, name: str) -> str:
    return (
        f"{path.name}: besides tensors it holds {name}, and reading that could run code from the file; it was not read.\n"
        "If you trust who made it, convert it yourself, once:\n"
        "    import torch\n"
        "    from safetensors.torch import save_file\n"
        f"    state = torch.load({path.name!r}, map_location='cpu', weights_only=False)  # runs what the file says\n"
        "    state = state.state_dict() if isinstance(state, torch.nn.Module) else state.get('state_dict', state)\n"
        "    tensors = {name: value.clone() for name, value in state.items() if isinstance(value, torch.Tensor)}\n"
        f"    save_file(tensors, {path.with_suffix('.safetensors').name!r})"
    )


def _tensors_in(found: Any, path: Path) -> dict[str, Tensor]:
    import torch

    if isinstance(found, Mapping) and not _all_tensors(found):
        inner = [found[key] for key in _WRAPPERS if isinstance(found.get(key), Mapping) and _all_tensors(found[key])]
        found = inner[0] if inner else found
    if isinstance(found, Mapping) and found and _all_tensors(found):
        return {str(key): value for key, value in found.items()}
    if isinstance(found, Mapping):
        other = [str(key) for key, value in found.items() if not isinstance(value, torch.Tensor)]
        raise ModelFault(f"{path.name}: not a state dict; {_listed('not tensors', other) or 'it is empty'}")
    raise ModelFault(f"{path.name}: a {type(found).__name__}, not a state dict; save model.state_dict()")


def _all_tensors(found: Mapping[Any, Any]) -> bool:
    import torch

    return all(isinstance(value, torch.Tensor) for value in found.values())


def _place(value: Tensor) -> tuple[int, tuple[int, ...]]:
    return (value.data_ptr() if value.numel() else id(value), tuple(value.shape))


def _listed(what: str, names: list[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"{what}: {', '.join(names[:_LISTED])}{more}"


def _prefix_hint(own: Iterable[str], state: Iterable[str]) -> str:
    model, file = set(own), set(state)
    for prefix in _PREFIXES:
        if {key.removeprefix(prefix) for key in file} == model:
            return f". Every key of the file starts with {prefix!r}: save it without that prefix"
        if {prefix + key for key in file} == model:
            return f". Every key of the model starts with {prefix!r}, the file's do not: save it with that prefix"
    return ""


def safetensors_header(path: Path) -> dict[str, Any]:
    """The header of a safetensors file: name to ``{"dtype", "shape", "data_offsets"}``. ModelFault if it is damaged."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        start = stream.read(4096)
        length = struct.unpack("<Q", start[:8])[0] if size >= 8 else 0
        if length == 0 or length > min(_HEADER_LIMIT_BYTES, size - 8):
            looks = looks_like(start)
            raise ModelFault(f"{path.name}: not a safetensors file{f'; it looks like {looks}' if looks else ', or cut short'}")
        stream.seek(8)
        try:
            header = json.loads(stream.read(length))
        except (ValueError, RecursionError) as error:
            raise ModelFault(f"{path.name}: not a safetensors file: {error}") from None
    if not isinstance(header, dict):
        raise ModelFault(f"{path.name}: not a safetensors file")
    for name, entry in header.items():
        if name != "__metadata__":
            _require_entry(entry, f"{path.name}: tensor {name[:80]!r}", size - 8 - length)
    return header


def _require_entry(entry: Any, what: str, room: int) -> None:
    """ModelFault unless ``entry`` describes a tensor whose bytes are among the ``room`` bytes after the header."""
    found = entry if isinstance(entry, dict) else {}
    shape, offsets = found.get("shape"), found.get("data_offsets")
    if not (isinstance(found.get("dtype"), str) and _sizes(shape) and _sizes(offsets) and len(offsets) == 2):
        raise ModelFault(f"{what} has no type, shape and place in the file; damaged, or not a safetensors file")
    begin, end = offsets
    width = _SAFETENSORS_BYTES.get(found["dtype"])
    if begin > end or end > room or (width is not None and math.prod(shape) * width != end - begin):
        raise ModelFault(f"{what} has shape {shape} and bytes {begin} to {end} of {room}; damaged or cut short")


def _sizes(found: Any) -> TypeGuard[list[int]]:
    return isinstance(found, list) and all(isinstance(each, int) and 0 <= each < 2**63 for each in found)
