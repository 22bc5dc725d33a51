"""Dense products."""

import triton
import triton.language as tl

from shards.kernels.gpu.code.tile import narrow, rows_times


@triton.jit(do_not_specialize=["num_rows"])
def linear(
    x,
    w,
    scales,
    out,
    num_rows,
    x_stride,
    x_batch,
    w_batch,
    out_stride,
    out_batch,
    N: tl.constexpr,
    K: tl.constexpr,
    PARTS: tl.constexpr,
    IS_JOINED: tl.constexpr,
    BN: tl.constexpr,
    BT: tl.constexpr,
    BK: tl.constexpr,
    FORMAT: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """Tile (0: outputs, 1: rows, 2: member of the batch, or part) of ``out = x @ w.T``.

    The inputs are cut into PARTS, each summed by itself. Either they are joined here in their
    order, or the members of the batch are the parts, for ``tile.joined``: the same bits.
    """
    n = tl.program_id(0) * BN + tl.arange(0, BN)
    rows = tl.program_id(1) * BT + tl.arange(0, BT)
    member = tl.program_id(2)
    is_row, is_out = rows < num_rows, n < N
    offsets = rows.to(tl.int64) * x_stride
    length: tl.constexpr = K // PARTS
    if PARTS > 1 and IS_JOINED:
        acc = tl.zeros((BN, BT), tl.float32)
        for part in range(PARTS):
            acc += rows_times(
                x,
                offsets,
                is_row,
                w,
                scales,
                n,
                is_out,
                part * length,
                length,
                K,
                BN,
                BT,
                BK,
                FORMAT,
                UPCAST,
            )
    else:
        acc = rows_times(
            x + member * x_batch,
            offsets,
            is_row,
            w + member * w_batch,
            scales,
            n,
            is_out,
            member * length if PARTS > 1 else 0,
            length,
            K,
            BN,
            BT,
            BK,
            FORMAT,
            UPCAST,
        )
    at = out + member * out_batch + rows.to(tl.int64)[None, :] * out_stride + n[:, None]
    result = narrow(acc, out.dtype.element_ty, UPCAST)
    tl.store(at, result, mask=is_out[:, None] & is_row[None, :])
