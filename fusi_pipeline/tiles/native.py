"""Machine code of the kernels: compiled once for a machine, then loaded in milliseconds.

numba compiles `kernels` and those of the WebP encoder when no code for this version, processor and Python is
in the cache; importing numba costs most of a second in every process, so after
that only llvmlite is needed. Calls release the GIL.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy.typing as npt

_FOLDER = Path(__file__).parent
_FILE = "fusi-kernels"
_MODULES = (
    "kernels",
    "vp8l_color_indexing",
    "vp8l_predictor",
    "vp8l_predictor_choice",
    "vp8l_backward_references",
    "vp8l_color_cache",
    "vp8l_meta_prefix",
    "vp8l_prefix_codes",
    "vp8l_bits",
    "vp8l_image_data",
)
"""Where the kernels are written."""
_SHARED = ("kernel_types", "vp8l_alphabets", "vp8l_entropy")
"""What they are made of besides."""
COMPILING = "compiling the inner loops for this processor, which is done once and takes half a minute"
"""What to say before the first call where `is_compiled` says no."""
_ARGUMENTS: dict[str, Any] = {"i": ctypes.c_int64, "d": ctypes.c_double, "p": ctypes.c_void_p}
_KERNELS = {
    "sample": (None, "piippiiiidpiiiipppp"),
    "halve": (None, "piip"),
    "encode": ("i", "piiiiip"),
    "decode": ("i", "piip"),
    "distance": (None, "piiiiiippppp"),
    "colors": ("i", "piip"),
    "palette": ("i", "pipp"),
    "indexed": (None, "piipip"),
    "residuals": (None, "piiippp"),
    "predictors": (None, "piiiiipppp"),
    "copies": (None, "piiipp"),
    "repeats": (None, "piiipp"),
    "cached": (None, "piiipipp"),
    "cluster": ("i", "ppiiipiiippppp"),
    "codes": ("i", "pppiipppppp"),
    "data": (None, "ppppiiippp"),
    "put": (None, "ppii"),
    "finish": ("i", "pp"),
}
"""Result and arguments of each kernel: p pointer, i int64, d float64."""
_ABSENT = (
    "NRT_Free",
    "numba_do_raise",
    "numba_gil_ensure",
    "numba_gil_release",
    "numba_runtime_build_excinfo_struct",
    "numba_unpickle",
)
"""Named by numba's wrapper for errors, which these kernels cannot have; never called.

A name that LLVM cannot resolve would leave all others unresolved too.
"""
_FROM_C = ("memcpy", "memmove", "memset")
"""What the compiler may put in place of a loop, from the C library."""


@cache
def kernel(name: str) -> Callable[..., Any]:
    """Return a kernel as a function of pointers and numbers."""
    result, arguments = _KERNELS[name]
    prototype = ctypes.CFUNCTYPE(
        None if result is None else _ARGUMENTS[result], *(_ARGUMENTS[letter] for letter in arguments)
    )
    symbols, engine = _loaded()
    return prototype(engine.get_function_address(symbols[name]))


def pointer(array: npt.NDArray[Any]) -> int:
    """Return the address of an array's first element."""
    return int(array.ctypes.data)


def warm_up() -> None:
    """Load every kernel, compiling them first where that was not done yet."""
    for name in _KERNELS:
        kernel(name)


def is_compiled() -> bool:
    """Tell whether there is code of these sources by this compiler; without it the first call takes long.

    Whether it is that of this processor is not asked: LLVM takes longer to say so than loading does.
    """
    with suppress(OSError):
        return any(
            True for folder in _cache_folders() for _ in folder.glob(f"{_FILE}-{_source_digest()}-*.bin")
        )
    return False


@cache
def _loaded() -> tuple[dict[str, str], Any]:
    """Return the symbol of each kernel and the engine that holds their code."""
    llvm = _llvm()
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = _machine()
    for name in _ABSENT:
        llvm.add_symbol(name, ctypes.cast(ctypes.pythonapi.Py_DecRef, ctypes.c_void_p).value)
    for name in _FROM_C:
        llvm.add_symbol(name, ctypes.cast(getattr(ctypes.CDLL(None), name), ctypes.c_void_p).value)
    symbols, code = _cached(machine)
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
    for part in code:
        engine.add_object_file(llvm.ObjectFileRef.from_data(part))
    engine.finalize_object()
    return symbols, engine


def _machine() -> Any:
    llvm = _llvm()
    features = llvm.get_host_cpu_features().flatten()
    return llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=features, opt=3, jit=True, codemodel="jitdefault"
    )


def _cached(machine: Any) -> tuple[dict[str, str], list[bytes]]:
    """Return symbols and object code, from the cache or compiled now and put there."""
    name, folders = _file_name(), _cache_folders()
    for folder in folders:
        with suppress(OSError, ValueError, KeyError):
            return _unpacked((folder / name).read_bytes())
    symbols, code = _compiled(machine)
    packed = _packed(symbols, code)
    for folder in folders:
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            descriptor, scratch = tempfile.mkstemp(dir=folder)
            with os.fdopen(descriptor, "wb") as file:
                file.write(packed)
            os.replace(scratch, folder / name)
            break
    return symbols, code


def _compiled(machine: Any) -> tuple[dict[str, str], list[bytes]]:
    from numba import cfunc

    symbols: dict[str, str] = {}
    code: list[bytes] = []
    for written in _MODULES:
        module = import_module(f"fusi_pipeline.tiles.{written}")
        for name, signature in module.SIGNATURES.items():
            compiled: Any = cfunc(signature, error_model="numpy")(getattr(module, name))
            symbols[name] = compiled.native_name
            assembly = _llvm().parse_assembly(compiled._library.get_llvm_str())
            code.append(machine.emit_object(assembly))
    return symbols, code


def _file_name() -> str:
    return f"{_FILE}-{_source_digest()}-{_machine_digest()}.bin"


@cache
def _source_digest() -> str:
    """Return a hash of what the machine code is made of and by, the processor left out."""
    return _digest(
        *((_FOLDER / f"{name}.py").read_bytes() for name in (*_MODULES, *_SHARED)),
        version("numba").encode(),
        version("llvmlite").encode(),
        sys.version.encode(),
    )


def _machine_digest() -> str:
    """Return a hash of what the machine code is made for."""
    llvm = _llvm()
    return _digest(
        llvm.get_process_triple().encode(),
        llvm.get_host_cpu_name().encode(),
        llvm.get_host_cpu_features().flatten().encode(),
    )


def _digest(*parts: bytes) -> str:
    return hashlib.blake2b(b"\0".join(parts), digest_size=12).hexdigest()


def _llvm() -> Any:
    """Return llvmlite's binding, imported only where kernels are called."""
    from llvmlite import binding

    return binding


def _cache_folders() -> list[Path]:
    """Return where code may be kept: beside the source, else in the user's cache folder."""
    folders = [_FOLDER / "__pycache__"]
    with suppress(RuntimeError):  # there may be no home
        folders.append(Path.home() / ".cache" / "fusi")
    return folders


def _packed(symbols: dict[str, str], code: list[bytes]) -> bytes:
    """Return a checksum, a JSON line of symbols and lengths, and the object code."""
    head = json.dumps({"symbols": symbols, "lengths": [len(part) for part in code]}).encode()
    body = head + b"\n" + b"".join(code)
    return hashlib.blake2b(body, digest_size=16).digest() + body


def _unpacked(data: bytes) -> tuple[dict[str, str], list[bytes]]:
    """Return what `_packed` was given. Raises ValueError for anything else."""
    body = data[16:]
    if hashlib.blake2b(body, digest_size=16).digest() != data[:16]:
        raise ValueError("damaged")
    head, _, rest = body.partition(b"\n")
    facts = json.loads(head)
    code, start = [], 0
    for length in facts["lengths"]:
        code.append(rest[start : start + length])
        start += length
    return facts["symbols"], code
