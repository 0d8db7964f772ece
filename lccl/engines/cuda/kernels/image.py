"""One Triton program runs a whole plan for one image: the steps are rows of a table that it reads as it goes.

Maps lie in a scratch per image, NHWC with a border of zeros one cell wide, which no step writes. All of a step's
reads of what the step before it wrote come after ``tl.debug_barrier``, a ``bar.sync`` of the whole program: it orders
global writes before it and reads after it among the program's threads, and the compiler moves no memory access over
it. All of them share one multiprocessor's L1 cache, whose lines its own writes update, and no load here is of the
non-coherent kind; so ordinary loads see what was written. No other program touches an image's scratch.
"""

from __future__ import annotations

import triton
import triton.language as tl

# The fields of a table's row, int32. Offsets of maps and weights are in units of 16 elements, so that the compiler
# knows how they are aligned.
(
    KIND,
    LAYER,  # column of the thresholds; −1: no gate
    GROUPS,  # maps of the gate; 0: no gate
    POSITIONS,  # of the output
    WIDTH,  # of the output
    STRIDE,
    INPUT,
    INPUT_WIDTH,
    INPUT_POSITIONS,
    CORNER,  # cells from a window's upper left corner of the padded map to the first one that is read
    RUNS,  # of neighbouring taps that one product takes
    WEIGHT,
    AFFINE,
    RELU,
    GATE_INPUT,
    GATE_CORNER,
    GATE_RUNS,
    GATE_TAPS,
    GATE_WEIGHT,
    GATE_AFFINE,
    RESIDUAL,
    RESIDUAL_WIDTH,
    RESIDUAL_CHANNELS,  # 0: no residual
    RESIDUAL_STRIDE,
    RAW,  # −1: not kept
    ACTIVATED,  # −1: not kept
    ACTIVATION,
    FILL,  # whether skipped cells are to be written
    CHANNELS,  # of a pooled map
    GRID,
    FEATURES,  # what pooling writes and a classifier reads, in the room
    FEATURE_COUNT,
    HIDDEN,  # what a hidden layer writes, in the room
    HIDDEN_COUNT,
    HIDDEN_WEIGHT,
    HIDDEN_BIAS,
    BIAS,
    EXIT,
) = (tl.constexpr(number) for number in range(38))
FIELDS = tl.constexpr(38)

# Kinds of steps. Convolutions are told by their channels, as each pair is compiled by itself: kind i takes
# 16 · 2^(i // 2) channels to 16 · 2^((i + 1) // 2).
PAIRS = tuple((16 << kind // 2, 16 << (kind + 1) // 2) for kind in range(5))
POOL, LEAVE, CLASSIFY = tl.constexpr(5), tl.constexpr(6), tl.constexpr(7)

TAP_COLUMNS = tl.constexpr(16)  # the 9 taps of a shared gate, as columns of a product
POOLED = tl.constexpr(64)  # positions, and channels, that pooling takes at a time
OUTPUTS = tl.constexpr(16)  # a linear layer's outputs, and
INPUTS = tl.constexpr(64)  # inputs, taken at a time


def rows_of(channels: int) -> int:
    """How many positions a product takes at a time where its outputs have so many channels."""
    return 128 if channels < 64 else 64


def window_of(channels: int) -> int:
    """How many inputs, K, one product takes: a row of three taps, padded to four, of 16 channels, else one tap."""
    return 64 if channels == 16 else channels


@triton.jit
def _field(row, number: tl.constexpr):
    return tl.load(row + number)


@triton.jit
def _block(row, number: tl.constexpr):
    """An offset of 64 bits that is known to be a multiple of 16."""
    return tl.load(row + number).to(tl.int64) * 16


@triton.jit
def _affine(values, offset, sets, norm_set, channels: tl.constexpr):
    """Scale and shift of an image's normalisation set, [channels] each; in ``values`` as [2, sets, channels]."""
    channel = tl.arange(0, channels)
    scale = tl.load(values + offset + norm_set * channels + channel)
    shift = tl.load(values + offset + (sets + norm_set) * channels + channel)
    return scale, shift


@triton.jit
def _normalise(row, images, maps, values, ROWS: tl.constexpr):
    """Pixels, or values that are normalised already, to a map of 16 channels, 3 of them not zero."""
    width, positions = _field(row, WIDTH), _field(row, POSITIONS)
    channel = tl.arange(0, 16)
    colour = channel < 3
    mean = tl.load(values + channel, mask=colour, other=0.0)
    deviation = tl.load(values + 3 + channel, mask=colour, other=1.0)
    for start in range(0, positions, ROWS):
        cell = start + tl.arange(0, ROWS)
        inside = (cell < positions)[:, None]
        pixel = tl.load(images + cell[:, None] * 3 + channel[None, :], mask=inside & colour[None, :], other=0)
        x = pixel.to(tl.float32)
        if images.dtype.element_ty == tl.uint8:
            x = (x / 255 - mean[None, :]) / deviation[None, :]
        x = tl.where(colour[None, :], x, 0.0)
        at = ((cell // width + 1) * (width + 2) + cell % width + 1) * 16
        out = maps + _block(row, INPUT) + at[:, None] + channel[None, :]
        tl.store(out, x.to(maps.dtype.element_ty), mask=inside)


@triton.jit
def _finish(row, maps, values, sets, norm_set, value, cell, write, CHANNELS_OUT: tl.constexpr):
    """Add the residual to ``value`` [rows, channels] of output positions ``cell`` and write what the step keeps."""
    width = _field(row, WIDTH)
    channel = tl.arange(0, CHANNELS_OUT)
    y, x = cell // width, cell % width
    groups, stride = _field(row, RESIDUAL_CHANNELS) // 16, _field(row, RESIDUAL_STRIDE)
    at = (y * stride + 1) * (_field(row, RESIDUAL_WIDTH) + 2) + x * stride + 1
    # by groups of 16 channels, so that the compiler sees neighbours that are there together
    there = write[:, None] & (channel // 16 < groups)[None, :]
    residual = maps + _block(row, RESIDUAL) + (at * groups * 16)[:, None] + channel[None, :]
    value += tl.load(residual, mask=there, other=0.0).to(tl.float32)
    at = ((y + 1) * (width + 2) + x + 1) * CHANNELS_OUT
    target = maps + at[:, None] + channel[None, :]
    if _field(row, RAW) >= 0:
        tl.store(target + _block(row, RAW), value.to(maps.dtype.element_ty), mask=write[:, None])
    if _field(row, ACTIVATED) >= 0:
        scale, shift = _affine(values, _field(row, ACTIVATION), sets, norm_set, CHANNELS_OUT)
        value = tl.maximum(value * scale[None, :] + shift[None, :], 0.0)
        tl.store(target + _block(row, ACTIVATED), value.to(maps.dtype.element_ty), mask=write[:, None])


@triton.jit
def _tap_products(row, maps, weights, room, CELLS: tl.constexpr, CHANNELS_IN: tl.constexpr, ROWS: tl.constexpr):
    """What each tap of a shared gate makes of each input cell, [taps, CELLS] in the room; taps shifted, they add up.

    So each cell is read once, not 9 times. A weight is the sum of two 16-bit parts, whose products with 16-bit inputs
    are exact in float32.
    """
    width, positions, taps = _field(row, INPUT_WIDTH), _field(row, INPUT_POSITIONS), _field(row, GATE_TAPS)
    channel, tap = tl.arange(0, CHANNELS_IN), tl.arange(0, TAP_COLUMNS)
    weight = weights + _block(row, GATE_WEIGHT) + channel[:, None] * TAP_COLUMNS + tap[None, :]
    high, low = tl.load(weight), tl.load(weight + CHANNELS_IN * TAP_COLUMNS)
    source = maps + _block(row, GATE_INPUT)
    for start in range(0, positions, ROWS):
        index = start + tl.arange(0, ROWS)
        cell = tl.where(index < positions, index, 0)
        at = ((cell // width + 1) * (width + 2) + cell % width + 1) * CHANNELS_IN
        x = tl.load(source + at[:, None] + channel[None, :])
        products = tl.dot(x, high, tl.dot(x, low))
        wanted = (index < positions)[:, None] & (tap < taps)[None, :]
        tl.store(room + tap[None, :] * CELLS + index[:, None], products, mask=wanted)


@triton.jit
def _shared_gate(row, room, values, sets, norm_set, cell, inside, CELLS: tl.constexpr, ROWS: tl.constexpr):
    """A shared gate's values, float32 [ROWS], at output positions ``cell`` from its taps' products."""
    width, in_width, stride = _field(row, WIDTH), _field(row, INPUT_WIDTH), _field(row, STRIDE)
    in_height, taps = _field(row, INPUT_POSITIONS) // in_width, _field(row, GATE_TAPS)
    reach = taps // 9  # 1 of a 3×3 gate, 0 of a 1×1 one
    y, x = cell // width * stride, cell % width * stride
    total = tl.zeros([ROWS], tl.float32)
    for tap in tl.static_range(9):  # unrolled, so that all loads are under way together
        under_y, under_x = y + tap // 3 - reach, x + tap % 3 - reach
        bottom = tl.where(tap < taps, in_height, 0)
        there = inside & (under_y >= 0) & (under_y < bottom) & (under_x >= 0) & (under_x < in_width)
        total += tl.load(room + tap * CELLS + under_y * in_width + under_x, mask=there, other=0.0)
    offset = _field(row, GATE_AFFINE)
    return tl.maximum(total * tl.load(values + offset + norm_set) + tl.load(values + offset + sets + norm_set), 0.0)


@triton.jit
def _compact(
    row, maps, room, listed, values, sets, norm_set, threshold, mask, forced,
    CHANNELS_OUT: tl.constexpr, CELLS: tl.constexpr, ROWS: tl.constexpr, FORCED: tl.constexpr,
):  # fmt: skip
    """List the kept positions in their order with their gates, write the mask and the skipped cells; give the count."""
    positions, fill = _field(row, POSITIONS), _field(row, FILL)
    gates = room + 9 * CELLS
    count = 0
    for start in range(0, positions, ROWS):
        cell = start + tl.arange(0, ROWS)
        inside = cell < positions
        gate = _shared_gate(row, room, values, sets, norm_set, cell, inside, CELLS, ROWS)
        keep = inside & (gate > threshold)
        if FORCED:
            keep = inside & (tl.load(forced + cell, mask=inside, other=0) != 0)
        tl.store(mask + cell, keep.to(tl.uint8), mask=inside)
        kept = keep.to(tl.int32)
        place = count + tl.cumsum(kept, 0) - kept
        tl.store(listed + place, cell, mask=keep)
        tl.store(gates + place, gate, mask=keep)
        count += tl.sum(kept, 0)
        if fill != 0:
            nothing = tl.zeros([ROWS, CHANNELS_OUT], tl.float32)
            _finish(row, maps, values, sets, norm_set, nothing, cell, inside & (kept == 0), CHANNELS_OUT)
    return count


@triton.jit
def _accumulate(
    total, source, at, pitch, weight, runs,
    CHANNELS_IN: tl.constexpr, CHANNELS_OUT: tl.constexpr, WINDOW: tl.constexpr,
):  # fmt: skip
    """``total`` + the windows at cells ``at`` [rows] of a padded map times ``weight`` [runs, WINDOW, channels].

    A run is one tap; of narrow inputs it is a row of three taps, neighbours in memory.
    """
    taps_wide: tl.constexpr = 3 if WINDOW == CHANNELS_IN else 1
    part, channel = tl.arange(0, WINDOW), tl.arange(0, CHANNELS_OUT)
    for run in range(runs):
        shift = run // taps_wide * pitch + run % taps_wide
        under = source + ((at + shift) * CHANNELS_IN)[:, None] + part[None, :]
        if WINDOW == CHANNELS_IN:
            x = tl.load(under)
        else:
            # a single run is that of a 1×1 window
            x = tl.load(under, mask=(part // CHANNELS_IN < tl.where(runs == 1, 1, 3))[None, :], other=0.0)
        w = tl.load(weight + ((run * WINDOW + part) * CHANNELS_OUT)[:, None] + channel[None, :])
        total = tl.dot(x, w, total)
    return total


@triton.jit
def _grouped_gate(
    row, maps, weights, values, sets, norm_set, at, pitch,
    CHANNELS_IN: tl.constexpr, CHANNELS_OUT: tl.constexpr, WINDOW: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Values of a gate with several maps, each repeated for its channels, float32 [ROWS, channels]."""
    runs = _field(row, GATE_RUNS)
    source, at = maps + _block(row, GATE_INPUT), at + _field(row, GATE_CORNER)
    high = weights + _block(row, GATE_WEIGHT)
    low = high + runs * WINDOW * CHANNELS_OUT
    total = tl.zeros([ROWS, CHANNELS_OUT], tl.float32)
    total = _accumulate(total, source, at, pitch, low, runs, CHANNELS_IN, CHANNELS_OUT, WINDOW)
    total = _accumulate(total, source, at, pitch, high, runs, CHANNELS_IN, CHANNELS_OUT, WINDOW)
    scale, shift = _affine(values, _field(row, GATE_AFFINE), sets, norm_set, CHANNELS_OUT)
    return tl.maximum(total * scale[None, :] + shift[None, :], 0.0)


@triton.jit
def _convolve(
    row, maps, room, listed, weights, values, sets, norm_set, threshold, mask, forced,
    CHANNELS_IN: tl.constexpr, CHANNELS_OUT: tl.constexpr, CELLS: tl.constexpr,
    SHARED: tl.constexpr, GROUPED: tl.constexpr, FORCED: tl.constexpr,
):  # fmt: skip
    """A convolution with its gate: of a shared one only the kept positions. Gives how many cells were kept."""
    ROWS: tl.constexpr = 128 if CHANNELS_OUT < 64 else 64
    WINDOW: tl.constexpr = 64 if CHANNELS_IN == 16 else CHANNELS_IN
    groups, positions = _field(row, GROUPS), _field(row, POSITIONS)
    width, stride, pitch = _field(row, WIDTH), _field(row, STRIDE), _field(row, INPUT_WIDTH) + 2
    count, kept = positions, 0
    if SHARED:
        if groups == 1:
            _tap_products(row, maps, weights, room, CELLS, CHANNELS_IN, ROWS)
            tl.debug_barrier()
            count = _compact(
                row, maps, room, listed, values, sets, norm_set, threshold, mask, forced,
                CHANNELS_OUT, CELLS, ROWS, FORCED,
            )  # fmt: skip
            kept = count * CHANNELS_OUT
            tl.debug_barrier()
    scale, shift = _affine(values, _field(row, AFFINE), sets, norm_set, CHANNELS_OUT)
    source, weight = maps + _block(row, INPUT), weights + _block(row, WEIGHT)
    corner, runs, relu = _field(row, CORNER), _field(row, RUNS), _field(row, RELU)
    channel = tl.arange(0, CHANNELS_OUT)
    for start in range(0, count, ROWS):
        index = start + tl.arange(0, ROWS)
        inside = index < count
        cell = tl.where(inside, index, 0)
        gate = tl.full([ROWS], 1.0, tl.float32)
        if SHARED:
            is_listed = index < tl.where(groups == 1, count, 0)
            cell = tl.load(listed + index, mask=is_listed, other=cell)
            gate = tl.load(room + 9 * CELLS + index, mask=is_listed, other=1.0)
        at = (cell // width * pitch + cell % width) * stride
        total = tl.zeros([ROWS, CHANNELS_OUT], tl.float32)
        total = _accumulate(total, source, at + corner, pitch, weight, runs, CHANNELS_IN, CHANNELS_OUT, WINDOW)
        value = total * scale[None, :] + shift[None, :]
        value = tl.where(relu != 0, tl.maximum(value, 0.0), value) * gate[:, None]
        if GROUPED:
            if groups > 1:
                gates = _grouped_gate(
                    row, maps, weights, values, sets, norm_set, at, pitch, CHANNELS_IN, CHANNELS_OUT, WINDOW, ROWS
                )
                share = CHANNELS_OUT // groups
                place = (channel // share * positions)[None, :] + cell[:, None]
                keep = gates > threshold
                if FORCED:
                    keep = tl.load(forced + place) != 0
                tl.store(mask + place, keep.to(tl.uint8), mask=inside[:, None] & (channel % share == 0)[None, :])
                kept += tl.sum((keep & inside[:, None]).to(tl.int32))
                value = tl.where(keep, value * gates, 0.0)
        _finish(row, maps, values, sets, norm_set, value, cell, inside, CHANNELS_OUT)
    return kept


@triton.jit
def _average(row, maps, room):
    """Means over the parts of a map, float32 [channels, grid, grid] in the room."""
    width, positions, channels, grid = (
        _field(row, WIDTH), _field(row, POSITIONS), _field(row, CHANNELS), _field(row, GRID),
    )  # fmt: skip
    height = positions // width
    channel = tl.arange(0, POOLED)
    for part in range(grid * grid):
        across, down = part % grid, part // grid
        top, bottom = down * height // grid, ((down + 1) * height + grid - 1) // grid
        left, right = across * width // grid, ((across + 1) * width + grid - 1) // grid
        count, wide = (bottom - top) * (right - left), right - left
        total = tl.zeros([POOLED, POOLED], tl.float32)
        for start in range(0, count, POOLED):
            index = start + tl.arange(0, POOLED)
            at = ((top + index // wide + 1) * (width + 2) + left + index % wide + 1) * channels
            there = (index < count)[:, None] & (channel < channels)[None, :]
            source = maps + _block(row, INPUT) + at[:, None] + channel[None, :]
            total += tl.load(source, mask=there, other=0.0).to(tl.float32)
        mean = tl.sum(total, 0) / count
        tl.store(room + _field(row, FEATURES) + channel * (grid * grid) + part, mean, mask=channel < channels)


@triton.jit
def _linear(inputs, count, weight, bias, outputs, wanted, relu: tl.constexpr):
    """``outputs`` [wanted] = ``weight`` [wanted, count] · ``inputs`` [count] + ``bias``, all float32."""
    for first in range(0, wanted, OUTPUTS):
        out = first + tl.arange(0, OUTPUTS)
        total = tl.zeros([OUTPUTS, INPUTS], tl.float32)
        for start in range(0, count, INPUTS):
            index = start + tl.arange(0, INPUTS)
            there = (out < wanted)[:, None] & (index < count)[None, :]
            w = tl.load(weight + out[:, None] * count + index[None, :], mask=there, other=0.0)
            total += w * tl.load(inputs + index, mask=index < count, other=0.0)[None, :]
        value = tl.sum(total, 1) + tl.load(bias + out, mask=out < wanted, other=0.0)
        if relu:
            value = tl.maximum(value, 0.0)
        tl.store(outputs + out, value, mask=out < wanted)


@triton.jit
def _confidence(logits, classes):
    """The largest value of softmax."""
    largest = tl.full([INPUTS], float("-inf"), tl.float32)
    for start in range(0, classes, INPUTS):
        index = start + tl.arange(0, INPUTS)
        largest = tl.maximum(largest, tl.load(logits + index, mask=index < classes, other=float("-inf")))
    top = tl.max(largest, 0)
    total = tl.zeros([INPUTS], tl.float32)
    for start in range(0, classes, INPUTS):
        index = start + tl.arange(0, INPUTS)
        total += tl.exp(tl.load(logits + index, mask=index < classes, other=float("-inf")) - top)
    return 1.0 / tl.sum(total, 0)


@triton.jit
def _leave(row, room, values, logits, classes, confidence):
    """An early exit's logits, which stay where the image leaves and are overwritten where it does not."""
    hidden, hidden_count = room + _field(row, HIDDEN), _field(row, HIDDEN_COUNT)
    weight, bias = values + _field(row, HIDDEN_WEIGHT), values + _field(row, HIDDEN_BIAS)
    _linear(room + _field(row, FEATURES), _field(row, FEATURE_COUNT), weight, bias, hidden, hidden_count, True)
    tl.debug_barrier()
    weight, bias = values + _field(row, WEIGHT), values + _field(row, BIAS)
    _linear(hidden, hidden_count, weight, bias, logits, classes, False)
    tl.debug_barrier()
    return _confidence(logits, classes) > tl.load(confidence + _field(row, EXIT))


@triton.jit
def _nothing_kept(row, mask):
    """A gated layer's mask for an image that does not come to it."""
    cells = _field(row, POSITIONS) * _field(row, GROUPS)
    for start in range(0, cells, 1024):
        index = start + tl.arange(0, 1024)
        tl.store(mask + index, tl.zeros([1024], tl.uint8), mask=index < cells)


@triton.jit
def run_image(
    images, thresholds, norm_sets, confidence, valid, logits, kept, left, masks,
    table, weights, values, maps, room, listed,
    steps, layers, exits, classes, sets, pixels, map_elements, room_elements,
    WIDTHS: tl.constexpr, CELLS: tl.constexpr,
    SHARED: tl.constexpr, GROUPED: tl.constexpr, FORCED: tl.constexpr,
):  # fmt: skip
    """Run the plan for the image of this program's number.

    Args:
        images: as :class:`~lccl.engines.cuda.batch.Batch` says, and so all up to ``left``.
        masks: int64 [2, layers], the addresses of each layer's mask and forced mask.
        table: int32 [1 + steps, FIELDS], the normalisation first.
        weights: 16-bit, all convolutions' and gates'.
        values: float32, mean and deviation of the pixels, then all scales, shifts, linear weights and biases.
        maps, room, listed: the scratch; maps 16-bit, room float32 with 9 · CELLS products of taps and CELLS gates
            first, listed int32 [CELLS].
        WIDTHS: bit i says that the plan has a convolution of the channels PAIRS[i].

    """
    image = tl.program_id(0).to(tl.int64)
    maps += image * map_elements
    room += image * room_elements
    listed += image * CELLS
    logits += image * classes
    norm_set = tl.load(norm_sets + image)
    active = tl.load(valid + image)
    if active != 0:
        _normalise(table, images + image * pixels, maps, values, 128)
    step = 0
    while step < steps:
        step += 1
        tl.debug_barrier()
        row = table + step * FIELDS
        kind, layer = _field(row, KIND), _field(row, LAYER)
        threshold, mask, forced = 0.0, masks.to(tl.pointer_type(tl.uint8)), masks.to(tl.pointer_type(tl.uint8))
        if layer >= 0:
            one = image * _field(row, POSITIONS) * _field(row, GROUPS)
            threshold = tl.load(thresholds + image * layers + layer)
            mask = tl.load(masks + layer).to(tl.pointer_type(tl.uint8)) + one
            forced = tl.load(masks + layers + layer).to(tl.pointer_type(tl.uint8)) + one
        cells = 0
        if active != 0:
            for pair in tl.static_range(5):
                if (WIDTHS >> pair) & 1:
                    if kind == pair:
                        cells = _convolve(
                            row, maps, room, listed, weights, values, sets, norm_set, threshold, mask, forced,
                            16 << (pair // 2), 16 << ((pair + 1) // 2), CELLS, SHARED, GROUPED, FORCED,
                        )  # fmt: skip
            if kind == POOL:
                _average(row, maps, room)
            if kind == LEAVE:
                if _leave(row, room, values, logits, classes, confidence + image * exits):
                    tl.store(left + image, _field(row, EXIT))
                    active = 0
            if kind == CLASSIFY:
                weight, bias = values + _field(row, WEIGHT), values + _field(row, BIAS)
                _linear(room + _field(row, FEATURES), _field(row, FEATURE_COUNT), weight, bias, logits, classes, False)
                tl.store(left + image, exits)
        elif layer >= 0:
            _nothing_kept(row, mask)
        if layer >= 0:
            tl.store(kept + image * layers + layer, cells)
