from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from accel.benchmarks.html.placing import CHARACTER, HEIGHT, Box, Label, place

AREA = Box(60, 14, 560, 350)


def box(label: Label) -> Box:
    return Box(label.x, label.y - HEIGHT / 2, label.x + len(label.text) * CHARACTER, label.y + HEIGHT / 2)


def test_a_lone_mark_has_its_name_at_its_right() -> None:
    (label,) = place([(100.0, 100.0, "openvino-cpu", "#1")], AREA)
    assert (label.text, label.x, label.y, label.leader) == ("openvino-cpu", 113.0, 100.0, False)


def test_a_name_stays_inside() -> None:
    (label,) = place([(555.0, 20.0, "openvino-cpu", "#1")], AREA)
    assert box(label).overlap(AREA) > 0.99 * len(label.text) * CHARACTER * HEIGHT


def test_names_of_close_marks_do_not_lie_on_each_other() -> None:
    marks = [(200.0 + 9 * index, 100.0 + 3 * (index % 3), f"a-row-name-{index}", f"#{index}") for index in range(10)]
    labels = place(marks, AREA)
    boxes = [box(label) for label in labels]
    covered = [one.overlap(other) for index, one in enumerate(boxes) for other in boxes[index + 1 :]]
    assert max(covered) <= HEIGHT * CHARACTER
    assert all(label.text in (long, brief) for label, (_, _, long, brief) in zip(labels, marks, strict=True))


@given(st.lists(st.tuples(st.floats(60, 560), st.floats(14, 350)), max_size=12))
def test_each_mark_has_a_label(points: list[tuple[float, float]]) -> None:
    assert len(place([(x, y, "name", "#") for x, y in points], AREA)) == len(points)
