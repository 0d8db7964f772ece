"""The classifier and early exits, in float32."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def linear(
    x, weight, image, there, column, FEATURES: tl.constexpr, COLUMNS: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    BK: tl.constexpr,
):  # fmt: skip
    """Features [batch, FEATURES] of some images times a block of columns of weight [FEATURES, COLUMNS]."""
    k = tl.arange(0, BK)
    sums = tl.zeros((BM, BN), dtype=tl.float32)
    for start in range(0, FEATURES, BK):
        is_feature = start + k < FEATURES
        read = there[:, None] & is_feature[None, :]
        values = tl.load(x + image[:, None] * FEATURES + (start + k)[None, :], mask=read, other=0.0)
        read = is_feature[:, None] & (column < COLUMNS)[None, :]
        weights = tl.load(weight + (start + k)[:, None] * COLUMNS + column[None, :], mask=read, other=0.0)
        sums = tl.dot(values, weights, sums, input_precision="ieee")
    return sums


@triton.jit(do_not_specialize=["batch"])
def classify(
    x, weight, bias, active, logits, batch,
    FEATURES: tl.constexpr, CLASSES: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """One program: ``BM`` images × ``BN`` classes; images that have left keep the logits of their exit."""
    image = tl.program_id(0) * BM + tl.arange(0, BM)
    there = image < batch
    there = there & (tl.load(active + image, mask=there, other=0) != 0)
    column = tl.program_id(1) * BN + tl.arange(0, BN)
    is_class = column < CLASSES
    sums = linear(x, weight, image, there, column, FEATURES, CLASSES, BM, BN, BK)
    sums += tl.load(bias + column, mask=is_class, other=0.0)[None, :]
    tl.store(logits + image[:, None] * CLASSES + column[None, :], sums, mask=there[:, None] & is_class[None, :])


@triton.jit(do_not_specialize=["batch", "number", "exits"])
def early_exit(
    x, hidden_weight, hidden_bias, hidden, weight, bias, confidence, active, exit_index, logits, batch, number, exits,
    FEATURES: tl.constexpr, HIDDEN: tl.constexpr, CLASSES: tl.constexpr, BM: tl.constexpr, BH: tl.constexpr,
    BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """One program: an early exit for ``BM`` images; those above their confidence leave. BN holds all classes."""
    image = tl.program_id(0) * BM + tl.arange(0, BM)
    there = image < batch
    there = there & (tl.load(active + image, mask=there, other=0) != 0)
    for start in range(0, HIDDEN, BH):
        column = start + tl.arange(0, BH)
        is_hidden = column < HIDDEN
        sums = linear(x, hidden_weight, image, there, column, FEATURES, HIDDEN, BM, BH, BK)
        sums = tl.maximum(sums + tl.load(hidden_bias + column, mask=is_hidden, other=0.0)[None, :], 0.0)
        tl.store(hidden + image[:, None] * HIDDEN + column[None, :], sums, mask=there[:, None] & is_hidden[None, :])
    tl.debug_barrier()  # the next loads are of what other threads of this program stored
    column = tl.arange(0, BN)
    is_class = column < CLASSES
    answer = linear(hidden, weight, image, there, column, HIDDEN, CLASSES, BM, BN, BK)
    answer += tl.load(bias + column, mask=is_class, other=0.0)[None, :]
    answer = tl.where(is_class[None, :], answer, float("-inf"))
    confident = 1.0 / tl.sum(tl.exp(answer - tl.max(answer, axis=1)[:, None]), axis=1)
    goes = there & (confident > tl.load(confidence + image * exits + number, mask=there, other=1.0))
    tl.store(logits + image[:, None] * CLASSES + column[None, :], answer, mask=goes[:, None] & is_class[None, :])
    tl.store(exit_index + image, number, mask=goes)
    tl.store(active + image, 0, mask=goes)
