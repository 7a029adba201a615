from __future__ import annotations

import pytest

from accel.compress.masks.sparse_layers import Shape, Verdict, advice, verdict


@pytest.mark.parametrize(
    ("shape", "wanted"),
    [
        (Shape("conv", 256, 256, 9), "may profit"),
        (Shape("narrow inputs, 3x3", 256, 32, 9), "may profit"),  # 288 products: the kernel counts (NVIDIA/TensorRT#3849)
        (Shape("1x1", 256, 128), "too small"),
        (Shape("few outputs", 128, 512, 9), "too small"),
        (Shape("linear", 512, 768), "may profit"),
        (Shape("image", 64, 3, 49), "cannot"),
        (Shape("inputs in 8s", 512, 520), "cannot"),
        (Shape("classes", 1001, 2048), "cannot"),
        (Shape("grouped", 512, 128, 9, groups=4), "cannot"),  # NVIDIA/TensorRT#4054
    ],
)
def test_the_rule_of_shapes(shape: Shape, wanted: Verdict) -> None:
    assert verdict(shape) == wanted


def test_each_layer_is_named_once_under_its_verdict() -> None:
    notes = advice("2:4", (2, 4), [Shape("stage4", 512, 512, 9), Shape("stage1", 64, 64), Shape("fc", 10, 64)])
    assert [sum(name in note for note in notes) for name in ("stage4", "stage1", "fc")] == [1, 1, 1]
    assert "may run sparse: stage4" in notes[1] and "measure" in notes[1]
    assert "most likely run dense" in notes[2] and "stage1" in notes[2]
    assert "cannot run sparse" in notes[3] and "fc" in notes[3] and "ignored_layers" in notes[3]


def test_no_speed_is_promised_on_a_cpu_or_where_no_layer_is_large() -> None:
    notes = advice("2:4", (2, 4), [Shape("small", 64, 64)])
    assert "gzip" in notes[0] and "faster" not in notes[0]
    assert "no speed-up" in notes[1]


@pytest.mark.parametrize(
    ("pattern", "kept", "as_2_4"),
    [
        ("unstructured", None, False),
        ("2:4", (2, 4), True),
        ("1:4", (1, 4), True),
        ("1:2", (1, 2), True),
        ("3:4", (3, 4), False),
        ("4:8", (4, 8), False),
        ("2:8", (2, 8), False),
    ],
)
def test_only_what_is_2_4_too_can_run_on_sparse_tensor_cores(pattern: str, kept: tuple[int, int] | None, as_2_4: bool) -> None:
    notes = advice(pattern, kept, [Shape("large", 512, 512, 9)])
    assert any("may run sparse" in note for note in notes) == as_2_4
    assert any("at dense speed" in note for note in notes) != as_2_4
