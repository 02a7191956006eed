"""Loads, stores and bit casts for compiled code that works on addresses.

Addresses (int64) instead of arrays give one compiled signature for every dtype and shape, and loops that
LLVM vectorises without
reference counting, index wraparound or a dispatch on argument types. Nothing here checks bounds: the plan does.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic


def _loader(element: types.Type, align: int | None = None) -> Any:
    @intrinsic
    def load(typingctx: Any, address: Any, index: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            pointer = builder.inttoptr(arguments[0], context.get_data_type(element).as_pointer())
            return builder.load(builder.gep(pointer, [arguments[1]], inbounds=True), align=align)

        return element(types.int64, types.int64), codegen

    return load


def _storer(element: types.Type, align: int | None = None) -> Any:
    @intrinsic
    def store(typingctx: Any, address: Any, index: Any, value: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            pointer = builder.inttoptr(arguments[0], context.get_data_type(element).as_pointer())
            builder.store(arguments[2], builder.gep(pointer, [arguments[1]], inbounds=True), align=align)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64, element), codegen

    return store


def _caster(source: types.Type, target: types.Type, llvm: Any) -> Any:
    @intrinsic
    def cast(typingctx: Any, value: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.bitcast(arguments[0], llvm)

        return target(source), codegen

    return cast


def _shifter(name: str) -> Any:
    @intrinsic
    def shift(typingctx: Any, word: Any, count: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return getattr(builder, name)(*arguments)

        return types.uint32(types.uint32, types.uint32), codegen

    return shift


def _rotator() -> Any:
    @intrinsic
    def rotate(typingctx: Any, word: Any, count: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            number = ir.IntType(32)
            kind = ir.FunctionType(number, [number, number, number])
            function = cgutils.get_or_insert_function(builder.module, kind, "llvm.fshr.i32")
            return builder.call(function, [arguments[0], *arguments])

        return types.uint32(types.uint32, types.uint32), codegen

    return rotate


def _prefetcher() -> Any:
    @intrinsic
    def prefetch(typingctx: Any, address: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            pointer, number = cgutils.voidptr_t, ir.IntType(32)
            kind = ir.FunctionType(ir.VoidType(), [pointer, number, number, number])
            function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
            wanted = [number(0), number(3), number(1)]  # for reading, into all caches, data
            builder.call(function, [builder.inttoptr(arguments[0], pointer), *wanted])
            return context.get_dummy_value()

        return types.void(types.int64), codegen

    return prefetch


def _fetch_adder() -> Any:
    @intrinsic
    def fetch_add(typingctx: Any, address: Any, amount: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            at = builder.inttoptr(arguments[0], ir.IntType(64).as_pointer())
            return builder.atomic_rmw("add", at, context.cast(builder, arguments[1], amount, types.int64), "monotonic")

        return types.int64(types.int64, amount), codegen

    return fetch_add


def _pointer() -> Any:
    @intrinsic
    def pointer(typingctx: Any, address: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.inttoptr(arguments[0], cgutils.voidptr_t)

        return types.voidptr(types.int64), codegen

    return pointer


# adds to the int64 at an address, and returns what was there: no two threads are given the same
fetch_add = _fetch_adder()
pointer = _pointer()  # an address as numba's `carray` wants it
prefetch = _prefetcher()  # asks for the cache line at an address; any address will do
load_f32, store_f32 = _loader(types.float32), _storer(types.float32)
load_f64, store_f64 = _loader(types.float64), _storer(types.float64)
load_u32, store_u32 = _loader(types.uint32), _storer(types.uint32)
load_pair, store_pair = _loader(types.uint32, align=2), _storer(types.uint32, align=2)  # two neighbours of 16 bits
load_u16, store_u16 = _loader(types.uint16), _storer(types.uint16)
load_i16 = _loader(types.int16)
load_i8, store_i8 = _loader(types.int8), _storer(types.int8)
load_i64 = _loader(types.int64)
# shifts by a variable count, [0, 32): numba's own operators widen to 64 bits and LLVM cannot undo it, which halves the lanes
shift_left, shift_right = _shifter("shl"), _shifter("lshr")
rotate_right = _rotator()
bits_of = _caster(types.float32, types.uint32, ir.IntType(32))  # float32 -> uint32, the same bits
float_of = _caster(types.uint32, types.float32, ir.FloatType())  # and back
