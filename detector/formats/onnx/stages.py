"""What an ONNX file does before and after the network, in ONNX's own text form (onnx.parser): letterbox, decoding, NMS.

They compute what `images.letterbox`, `nn.head.decode` and `models.postprocess` compute; the comparison that every
export goes through holds them to it.
"""

from collections.abc import Sequence

import onnx
from onnx import ModelProto, helper, parser

from detector.images.input_size import InputSize
from detector.images.letterbox import PAD_VALUE
from detector.nn.head import BINS

OPSET = 20
IR_VERSION = 10
FLOAT, DOUBLE, INT64, UINT8 = (getattr(onnx.TensorProto, name) for name in ("FLOAT", "DOUBLE", "INT64", "UINT8"))


def image_stage(input_size: InputSize) -> ModelProto:
    """An image (H, W, 3) uint8 RGB to the network's input, and how a box gets back.

    placing (3, 4): offset and scale of a box's sides in the network input, and the largest values that they may have in the image.
    """
    height, width = input_size.height, input_size.width
    return _stage(f"""
        image_stage (uint8[H, W, 3] image) => (float[1, 3, {height}, {width}] images, float[3, 4] placing)
        <
            int64[1] zero = {{0}}, int64[1] one = {{1}}, int64[1] two = {{2}}, int64[1] colors = {{3}},
            int64[1] input_height = {{{height}}}, int64[1] input_width = {{{width}}},
            int64[4] input_shape = {{1, {height}, {width}, 3}}, float max_level = {{255.0}},
            int64 none = {{0}}, int64 step = {{1}}, double middle = {{0.5}}, float none_of_it = {{0.0}}, float all = {{1.0}},
            float fine = {{2048.0}}, float half = {{0.5}}, float quarter = {{0.25}}, int64[1] as_column = {{1}},
            int64[2] as_rows = {{1, 2}}, uint8 gray = {{{PAD_VALUE}}}
        > {{
            h = Shape <start = 0, end = 1> (image)
            w = Shape <start = 1, end = 2> (image)
            # the side that limits the scale: scale = side / of
            height_by_width = Mul (input_height, w)
            width_by_height = Mul (input_width, h)
            is_wide = LessOrEqual (width_by_height, height_by_width)
            side = Where (is_wide, input_width, input_height)
            of = Where (is_wide, w, h)
            twice_of = Mul (two, of)
            twice_side = Mul (two, side)
            w_scaled = Mul (w, twice_side)
            w_raised = Add (w_scaled, of)
            w_rounded = Div (w_raised, twice_of)
            resized_width = Max (w_rounded, one)
            h_scaled = Mul (h, twice_side)
            h_raised = Add (h_scaled, of)
            h_rounded = Div (h_raised, twice_of)
            resized_height = Max (h_rounded, one)
            spare_width = Sub (input_width, resized_width)
            spare_height = Sub (input_height, resized_height)
            left = Div (spare_width, two)
            top = Div (spare_height, two)
            right = Sub (spare_width, left)
            bottom = Sub (spare_height, top)

            # cv2's resize to the bit: weights in 1/2048, columns first, rounded down to 1/128 of a level, then rows, to 1/4
            {_axis("x", source="w", target="resized_width")}
            {_axis("y", source="h", target="resized_height")}
            x_inside_low = GreaterOrEqual (x_first, none)
            x_inside_high = Less (x_first, x_last)
            x_inside = And (x_inside_low, x_inside_high)
            x_fraction = Where (x_inside, x_part, none_of_it)
            y_fraction = Identity (y_part)
            {_weights("x", unit=2048 / 16, shape="as_column")}
            {_weights("y", unit=2048 / 65536, shape="as_rows")}
            left_weight = Expand (x_near, colors)
            right_weight = Expand (x_far, colors)
            both_rows = Concat <axis = 0> (y_low, y_high)
            rows = Gather <axis = 0> (image, both_rows)
            left_pixels = Gather <axis = 1> (rows, x_low)
            right_pixels = Gather <axis = 1> (rows, x_high)
            left_levels = Cast <to = {FLOAT}> (left_pixels)
            right_levels = Cast <to = {FLOAT}> (right_pixels)
            left_term = Mul (left_levels, left_weight)
            right_term = Mul (right_levels, right_weight)
            across = Add (left_term, right_term)
            across_down = Floor (across)
            upper, lower = Split <axis = 0, num_outputs = 2> (across_down)
            upper_term = Mul (upper, y_near)
            lower_term = Mul (lower, y_far)
            upper_down = Floor (upper_term)
            lower_down = Floor (lower_term)
            quarters = Add (upper_down, lower_down)
            whole = Mul (quarters, quarter)
            raised = Add (whole, half)
            resized = Cast <to = {UINT8}> (raised)
            pads = Concat <axis = 0> (top, left, zero, bottom, right, zero)
            padded = Pad (resized, pads, gray)
            images_uint8 = Reshape (padded, input_shape)
            planes = Transpose <perm = [0, 3, 1, 2]> (images_uint8)
            levels = Cast <to = {FLOAT}> (planes)
            images = Div (levels, max_level)

            lengths = Concat <axis = 0> (w, h, w, h)
            resized_lengths = Concat <axis = 0> (resized_width, resized_height, resized_width, resized_height)
            offsets = Concat <axis = 0> (left, top, left, top)
            limit = Cast <to = {FLOAT}> (lengths)
            resized_limit = Cast <to = {FLOAT}> (resized_lengths)
            scale = Div (resized_limit, limit)
            offset = Cast <to = {FLOAT}> (offsets)
            offset_row = Unsqueeze (offset, zero)
            scale_row = Unsqueeze (scale, zero)
            limit_row = Unsqueeze (limit, zero)
            placing = Concat <axis = 0> (offset_row, scale_row, limit_row)
        }}""")


def _axis(axis: str, source: str, target: str) -> str:
    """The two of `source` pixels that make each of `target` pixels along an axis, and the weight of the second one."""
    return f"""
            {axis}_count = Squeeze ({target}, zero)
            {axis}_range = Range (none, {axis}_count, step)
            {axis}_index = Cast <to = {DOUBLE}> ({axis}_range)
            {axis}_source = Cast <to = {DOUBLE}> ({source})
            {axis}_target = Cast <to = {DOUBLE}> ({target})
            {axis}_ratio = Div ({axis}_source, {axis}_target)
            {axis}_center = Add ({axis}_index, middle)
            {axis}_center_there = Mul ({axis}_center, {axis}_ratio)
            {axis}_exact = Sub ({axis}_center_there, middle)
            {axis}_position = Cast <to = {FLOAT}> ({axis}_exact)
            {axis}_start = Floor ({axis}_position)
            {axis}_part = Sub ({axis}_position, {axis}_start)
            {axis}_first = Cast <to = {INT64}> ({axis}_start)
            {axis}_second = Add ({axis}_first, one)
            {axis}_last = Sub ({source}, one)
            {axis}_positive = Max ({axis}_first, zero)
            {axis}_low = Min ({axis}_positive, {axis}_last)
            {axis}_positive_second = Max ({axis}_second, zero)
            {axis}_high = Min ({axis}_positive_second, {axis}_last)"""


def _weights(axis: str, unit: float, shape: str) -> str:
    """The weights of the two pixels, rounded to 1/2048 and given in `unit`."""
    return f"""
            {axis}_unit = Constant <value_float = {unit / 2048:.12f}> ()
            {axis}_rest = Sub (all, {axis}_fraction)
            {axis}_rest_fine = Mul ({axis}_rest, fine)
            {axis}_rest_rounded = Round ({axis}_rest_fine)
            {axis}_rest_scaled = Mul ({axis}_rest_rounded, {axis}_unit)
            {axis}_near = Unsqueeze ({axis}_rest_scaled, {shape})
            {axis}_weight_fine = Mul ({axis}_fraction, fine)
            {axis}_weight_rounded = Round ({axis}_weight_fine)
            {axis}_weight_scaled = Mul ({axis}_weight_rounded, {axis}_unit)
            {axis}_far = Unsqueeze ({axis}_weight_scaled, {shape})"""


def uint8_stage(input_size: InputSize | None, batch: int | None = None) -> ModelProto:
    """Letterboxed images (batch, height, width, 3) uint8 RGB to the network's input; any size or number if None."""
    number = "batch" if batch is None else batch
    height, width = ("height", "width") if input_size is None else (input_size.height, input_size.width)
    return _stage(f"""
        uint8_stage (uint8[{number}, {height}, {width}, 3] images_uint8) => (float[{number}, 3, {height}, {width}] images)
        <float max_level = {{255.0}}> {{
            levels = Cast <to = {FLOAT}> (images_uint8)  # at once: TensorRT can do nothing else with bytes
            pixels = Div (levels, max_level)
            images = Transpose <perm = [0, 3, 1, 2]> (pixels)
        }}""")


def detections_stage(
    num_classes: int, conf: float, iou: float, max_detections: int, class_conf: Sequence[float] | None = None
) -> ModelProto:
    """Logits to the detections of each image, best first, in pixels of the network input; conf, iou and max_detections are
    inputs with defaults. class_conf: the lowest score of each class, which a `conf` below 0 asks for.

    batch_boxes (B, K, 4) xyxy, batch_scores (B, K), batch_labels (B, K) and counts (B): K is as many as any image may
    have here, at most max_detections; what lies behind an image's count is 0, its labels -1.
    An anchor speaks for its best class only. Boxes are decoded where any image of the batch has a score of `conf`.
    """
    bins = ", ".join(str(value) for value in range(BINS))
    classes = ", ".join(str(label) for label in range(num_classes))
    confs = "" if class_conf is None else ", ".join(str(float(score)) for score in class_conf)
    constants = confs and f"float[{num_classes}] confs = {{{confs}}}, "
    lowest = (
        confs
        and """lowest = ReduceMin <keepdims = 0> (confs)
            by_class = Less (conf, no_value)
            any_conf = Where (by_class, lowest, conf)"""
    )
    own = (
        confs
        and """class_conf = Gather (confs, labels)
            own_conf = Where (by_class, class_conf, conf)"""
    )
    any_conf, own_conf = ("any_conf", "own_conf") if confs else ("conf", "conf")
    return _stage(f"""
        detections_stage (
            float[B, {4 * BINS}, A] box_logits, float[B, {num_classes}, A] class_logits, float[A, 2] points, float[A] strides,
            float conf, float iou, int64 max_detections
        ) => (float[B, K, 4] batch_boxes, float[B, K] batch_scores, int64[B, K] batch_labels, int64[B] counts)
        <
            float conf = {{{conf}}}, float iou = {{{iou}}}, int64 max_detections = {{{max_detections}}},
            int64[1] over_images = {{0}}, int64[1] over_classes = {{1}}, int64[1] over_anchors = {{1}},
            int64[1] over_bins = {{2}}, int64[1] last = {{-1}}, int64[1] no_label = {{-1}}, int64[4] by_bin = {{0, 4, {BINS}, -1}},
            float[1, 1, {BINS}, 1] bins = {{{bins}}}, int64[1, {num_classes}, 1] classes = {{{classes}}},
            {constants}float no_score = {{-1.0}}, float least = {{-0.5}}, float no_value = {{0.0}}, int64[2] first_two = {{0, 2}}
        > {{
            best_logits = ReduceMax <keepdims = 0> (class_logits, over_classes)
            best_scores = Sigmoid (best_logits)
            highest = ReduceMax <keepdims = 0> (best_scores, over_images)
            {lowest}
            enough = GreaterOrEqual (highest, {any_conf})
            positions = NonZero (enough)
            candidates = Squeeze (positions, over_images)

            logits = Gather <axis = 2> (class_logits, candidates)
            labels = ArgMax <axis = 1, keepdims = 0> (logits)
            all_scores = Gather <axis = 1> (best_scores, candidates)
            {own}
            counts_here = GreaterOrEqual (all_scores, {own_conf})
            scores = Where (counts_here, all_scores, no_score)

            side_logits = Gather <axis = 2> (box_logits, candidates)
            by_side = Reshape <allowzero = 0> (side_logits, by_bin)
            distribution = Softmax <axis = 2> (by_side)
            weighted = Mul (distribution, bins)
            cells = ReduceSum <keepdims = 0> (weighted, over_bins)
            spacing = Gather <axis = 0> (strides, candidates)
            distances_by_side = Mul (cells, spacing)
            distances = Transpose <perm = [0, 2, 1]> (distances_by_side)
            low_distances, high_distances = Split <axis = 2, num_outputs = 2> (distances)
            centers = Gather <axis = 0> (points, candidates)
            low = Sub (centers, low_distances)
            high = Add (centers, high_distances)
            boxes = Concat <axis = 2> (low, high)

            label_row = Unsqueeze (labels, over_classes)
            is_label = Equal (label_row, classes)
            score_row = Unsqueeze (scores, over_classes)
            class_scores = Where (is_label, score_row, no_score)
            score_shape = Shape (scores)
            number_row = Gather <axis = 0> (score_shape, last)
            number = Squeeze (number_row, over_images)
            chosen = NonMaxSuppression (boxes, class_scores, number, iou, least)
            chosen_image = Gather <axis = 1> (chosen, over_images)
            image_and_candidate = Gather <axis = 1> (chosen, first_two)
            chosen_scores = GatherND (scores, image_and_candidate)
            nothing = Expand (no_score, score_shape)
            kept_scores = ScatterND (nothing, image_and_candidate, chosen_scores)

            limit = Min (number, max_detections)
            limit_row = Unsqueeze (limit, over_images)
            sorted_scores, ranks = TopK <axis = 1> (kept_scores, limit_row)
            is_detection = Greater (sorted_scores, least)
            batch_scores = Where (is_detection, sorted_scores, no_value)
            sorted_labels = GatherElements <axis = 1> (labels, ranks)
            batch_labels = Where (is_detection, sorted_labels, no_label)
            rank_column = Unsqueeze (ranks, last)
            four = Concat <axis = 2> (rank_column, rank_column, rank_column, rank_column)
            sorted_boxes = GatherElements <axis = 1> (boxes, four)
            detection_column = Unsqueeze (is_detection, last)
            batch_boxes = Where (detection_column, sorted_boxes, no_value)
            ones = Cast <to = {INT64}> (is_detection)
            counts = ReduceSum <keepdims = 0> (ones, over_anchors)
        }}""")


def placing_stage() -> ModelProto:
    """Detections in the network input to those in the one image that was placed there: boxes (count, 4), clipped to it."""
    return _stage("""
        placing_stage (
            float[1, K, 4] batch_boxes, float[1, K] batch_scores, int64[1, K] batch_labels, int64[1] counts, float[3, 4] placing
        ) => (float[N, 4] boxes, float[N] scores, int64[N] labels, int64 count)
        <int64[1] zero = {0}, int64[1] one = {1}, int64[1] two = {2}, int64[1] three = {3}, float origin = {0.0}> {
            count = Squeeze (counts, zero)
            all_boxes = Squeeze (batch_boxes, zero)
            all_scores = Squeeze (batch_scores, zero)
            all_labels = Squeeze (batch_labels, zero)
            in_frame = Slice (all_boxes, zero, counts, zero)
            scores = Slice (all_scores, zero, counts, zero)
            labels = Slice (all_labels, zero, counts, zero)
            offset = Slice (placing, zero, one, zero)
            scale = Slice (placing, one, two, zero)
            limit = Slice (placing, two, three, zero)
            moved = Sub (in_frame, offset)
            scaled = Div (moved, scale)
            positive = Max (scaled, origin)
            boxes = Min (positive, limit)
        }""")


def join(stages: Sequence[ModelProto]) -> ModelProto:
    """One graph of stages in their order: outputs feed the later inputs of the same name, those that feed none remain.

    Only these names may occur in several stages: see `prefixed`.
    """
    nodes = [node for stage in stages for node in stage.graph.node]
    constants = [constant for stage in stages for constant in stage.graph.initializer]
    made = {output.name for stage in stages for output in stage.graph.output}
    used = {entry.name for stage in stages for entry in stage.graph.input}
    inputs = [entry for stage in stages for entry in stage.graph.input if entry.name not in made]
    outputs = [output for stage in stages for output in stage.graph.output if output.name not in used]
    graph = helper.make_graph(nodes, "detector", inputs, outputs, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)


def prefixed(stage: ModelProto) -> ModelProto:
    """The stage with its own name before the names of what is inside it, inputs and outputs left as they are."""
    graph = stage.graph
    kept = {"", *(entry.name for entry in (*graph.input, *graph.output))}

    def rename(name: str) -> str:
        return name if name in kept else f"{graph.name}_{name}"

    for constant in graph.initializer:
        constant.name = rename(constant.name)
    for node in graph.node:
        node.name = f"{graph.name}_{node.output[0]}"
        node.input[:] = [rename(name) for name in node.input]
        node.output[:] = [rename(name) for name in node.output]
    return stage


def _stage(text: str) -> ModelProto:
    return prefixed(parser.parse_model(f'<ir_version: {IR_VERSION}, opset_import: ["": {OPSET}]>{text}'))
