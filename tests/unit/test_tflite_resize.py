"""Resize in every mode, against ONNX Runtime."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from tflite_models import Qdq, compare, feeds, invoke, lowered, reference, single, steps_apart

from edgekit.backends.tflite.lowering.sampling import Axis, interpolation
from edgekit.errors import Unsupported

F = np.float32
IMAGE = (1, 6, 9, 8)
GRIDS = ("half_pixel", "pytorch_half_pixel", "half_pixel_symmetric", "align_corners", "asymmetric")
ROUNDINGS = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")


def ints(*values):
    return np.asarray(values, np.int64)


def sized(*size, shape=IMAGE, roi=None, **options):
    return single("Resize", shape, roi, None, ints(*size), **options)


def scaled(*scales, **options):
    return single("Resize", IMAGE, None, F(scales), **options)


CASES = {
    "linear in scales beside the sizes": scaled(1, 1, 1.7, 1.7, mode="linear"),
    "nearest in scales beside the sizes": scaled(1, 1, 0.6, 0.6),
    "cubic": sized(1, 6, 13, 20, mode="cubic"),
    "cubic smaller": sized(1, 6, 5, 3, mode="cubic", cubic_coeff_a=-0.5),
    "cubic without what lies outside": sized(1, 6, 13, 20, mode="cubic", exclude_outside=1),
    "cubic corners": sized(1, 6, 13, 20, mode="cubic", coordinate_transformation_mode="align_corners"),
    "cubic to one row": sized(1, 6, 1, 20, mode="cubic", coordinate_transformation_mode="pytorch_half_pixel"),
    "linear antialiased": sized(1, 6, 4, 3, mode="linear", antialias=1),
    "cubic antialiased": sized(1, 6, 3, 20, mode="cubic", antialias=1),
    "linear of a line": sized(2, 3, 11, shape=(2, 3, 7), mode="linear"),
    "nearest of a line": sized(2, 3, 11, shape=(2, 3, 7)),
    "linear of a volume": sized(1, 2, 5, 6, 7, shape=(1, 2, 3, 4, 4), mode="linear"),
    "linear of channels last": sized(1, 12, 16, 3, shape=(1, 6, 8, 3), mode="linear"),
    "linear of listed axes": sized(20, 13, mode="linear", axes=[3, 2]),
    "nearest not larger": sized(20, 20, axes=[2, 3], keep_aspect_ratio_policy="not_larger"),
    "linear not smaller": sized(11, 20, axes=[2, 3], mode="linear", keep_aspect_ratio_policy="not_smaller"),
    "linear of a cropped region": sized(
        1,
        6,
        7,
        5,
        roi=F([0, 0, 0.2, 0.3, 1, 1, 0.9, 1.2]),
        mode="linear",
        coordinate_transformation_mode="tf_crop_and_resize",
        extrapolation_value=4.0,
    ),
}
NEAREST = {
    f"{grid} {rounding} {size}": sized(
        1, 6, *size, coordinate_transformation_mode=grid, nearest_mode=rounding
    )
    for grid, rounding, size in itertools.product(GRIDS, ROUNDINGS, ((13, 20), (4, 5)))
}
LINEAR = {
    f"{grid} {size}": sized(1, 6, *size, mode="linear", coordinate_transformation_mode=grid)
    for grid, size in itertools.product(GRIDS, ((13, 20), (4, 5), (1, 3)))
}


@pytest.mark.parametrize("layout", ["nhwc", "source"])
@pytest.mark.parametrize("case", CASES)
def test_a_resize_answers_like_onnx_runtime(case, layout, tmp_path, need):
    need("ai_edge_litert")
    compare(CASES[case], feeds(CASES[case]), tmp_path, layout)


@pytest.mark.parametrize("case", NEAREST)
def test_every_rounding_on_every_grid_picks_what_onnx_runtime_picks(case, tmp_path, need):
    need("ai_edge_litert")
    compare(NEAREST[case], feeds(NEAREST[case]), tmp_path, tolerance=0)


@pytest.mark.parametrize("case", LINEAR)
def test_every_grid_is_interpolated_like_onnx_runtime_does(case, tmp_path, need):
    need("ai_edge_litert")
    compare(LINEAR[case], feeds(LINEAR[case]), tmp_path)


def test_what_litert_has_a_kernel_for_uses_it(tmp_path, need):
    need("ai_edge_litert")
    model = sized(1, 6, 13, 20, mode="linear")
    assert invoke(lowered(model, tmp_path), feeds(model)).count("RESIZE_BILINEAR") == 1


def test_weights_of_every_kernel_sum_to_one():
    for mode, antialias in itertools.product(("linear", "cubic"), (False, True)):
        matrix = interpolation(
            Axis(size=9, out=4, scale=4 / 9),
            "half_pixel",
            mode=mode,
            cubic=-0.75,
            antialias=antialias,
            exclude_outside=False,
        )
        np.testing.assert_allclose(matrix.sum(1), 1, atol=1e-6)
        assert np.all((matrix != 0).sum(1) > 2) == (antialias or mode == "cubic")


def test_nearest_keeps_the_codes_at_any_ratio(tmp_path, need):
    need("ai_edge_litert")
    b = Qdq()
    b.constants["size"] = ints(1, 6, 13, 5)
    model = b.build(b.quantized(b.add("Resize", [b.input("x", IMAGE), "", "", "size"], "y")))
    values = feeds(model, scale=2.0)
    ran = invoke(lowered(model, tmp_path, "int8"), values)
    (wanted,) = reference(model, values).values()
    assert (ran.count("QUANTIZE"), ran.count("DEQUANTIZE")) == (1, 1)
    assert steps_apart(next(iter(ran.outputs.values())), wanted, 0.05).max() == 0


def test_a_quantized_cubic_is_computed_in_float(tmp_path, need):
    need("ai_edge_litert")
    b = Qdq()
    b.constants["size"] = ints(1, 6, 13, 5)
    node = b.add("Resize", [b.input("x", IMAGE), "", "", "size"], "y", mode="cubic")
    model = b.build(b.quantized(node))
    values = feeds(model, scale=2.0)
    ran = invoke(lowered(model, tmp_path, "int8"), values)
    (wanted,) = reference(model, values).values()
    assert steps_apart(next(iter(ran.outputs.values())), wanted, 0.05).max() <= 1


REFUSED = {
    "corners of a broken ratio": (
        scaled(1, 1, 0.6, 0.6, mode="linear", coordinate_transformation_mode="align_corners"),
        "not the ratio",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_resize_whose_meaning_is_disputed_is_refused(case, tmp_path):
    model, words = REFUSED[case]
    with pytest.raises(Unsupported, match=words):
        lowered(model, tmp_path)
