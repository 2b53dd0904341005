"""The types of kernels' arguments, and how the functions that kernels call are compiled.

Imported only to be compiled, like the kernels themselves; `native` has the addresses of their code.
"""

# mypy: disallow-untyped-calls=False

from __future__ import annotations

from numba import njit, types

U8 = types.CPointer(types.uint8)
U16 = types.CPointer(types.uint16)
U32 = types.CPointer(types.uint32)
I64 = types.CPointer(types.int64)
INT = types.int64
VOID = types.void
inline = njit(nogil=True, error_model="numpy")
"""Of a function that becomes a part of the kernels that call it."""
