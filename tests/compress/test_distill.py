"""The loss with a teacher: each formula against numbers computed another way, hooks, adapters, and what it refuses."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from accel.compress.distill import DistillationLoss
from accel.compress.loss_settings import LossTerm
from accel.compress.training.feature_layers import attention_distance, feature_distance
from accel.errors import DataFault, ModelFault, PassFault, UsageError

Array = NDArray[np.float64]


class Net(nn.Module):
    """Three convolutions and a linear layer; ``stride`` of the second decides the size of its maps."""

    def __init__(self, width: int = 4, classes: int = 5, stride: int = 2, channels: int = 3) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, width, 3, 1, 1, bias=False)
        self.bn = nn.BatchNorm2d(width)
        self.body = nn.Sequential(nn.Conv2d(width, 2 * width, 3, stride, 1), nn.ReLU(), nn.Conv2d(2 * width, width, 1))
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(torch.relu(self.bn(self.stem(x))))
        out: Tensor = self.head(self.drop(x.mean((2, 3))))
        return out


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def images() -> Tensor:
    return torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def labels() -> Tensor:
    return torch.tensor([0, 4, 2, 2, 1, 3])


def net(seed: int, **settings: int) -> Net:
    torch.manual_seed(seed)
    made = Net(**settings).eval()
    with torch.no_grad():
        made.head.weight.mul_(8)  # scores that differ enough to matter
    return made


def number(value: Tensor) -> float:
    return float(value.detach())


class Given(nn.Module):
    """A net that gives what it holds, whatever comes in."""

    def __init__(self, scores: Tensor) -> None:
        super().__init__()
        self.scores = nn.Parameter(scores)

    def forward(self, x: Tensor) -> Tensor:
        return self.scores


def softmax(scores: Array) -> Array:
    powers = np.exp(scores - scores.max(1, keepdims=True))
    found: Array = powers / powers.sum(1, keepdims=True)
    return found


def kl(wanted: Array, found: Array) -> float:
    return float((wanted * np.log(wanted / found)).sum() / len(wanted))


def value(term: LossTerm, student: Array, teacher: Array, labels: Tensor | None = None, smoothing: float = 0.0) -> float:
    loss = DistillationLoss(
        [term], nn.Identity(), Given(torch.tensor(teacher)) if term.needs_teacher else None, label_smoothing=smoothing
    )
    return number(loss(torch.zeros(1), torch.tensor(student), labels))


@pytest.fixture
def pair() -> tuple[Array, Array]:
    drawn = np.random.default_rng(0)
    return drawn.normal(0, 3, (7, 5)), drawn.normal(0, 3, (7, 5))


SEVEN = torch.tensor([0, 4, 2, 2, 1, 3, 0])


# -- formulas -----------------------------------------------------------------------------------------------------------


def test_logits_is_the_softened_divergence_times_the_square_of_the_temperature(pair: tuple[Array, Array]) -> None:
    student, teacher = pair
    expected = 9 * kl(softmax(teacher / 3), softmax(student / 3))
    assert value(LossTerm("logits", temperature=3.0), student, teacher) == pytest.approx(expected, rel=1e-6)


def test_logits_at_a_high_temperature_matches_centred_logits(pair: tuple[Array, Array]) -> None:
    """Hinton et al., section 2.1: in the limit it is the squared distance of centred logits over 2 n classes."""
    student, teacher = (scores - scores.mean(1, keepdims=True) for scores in pair)
    expected = ((student - teacher) ** 2).sum(1).mean() / (2 * 5)
    assert value(LossTerm("logits", temperature=500.0), student, teacher) == pytest.approx(expected, rel=0.02)


def test_standardize_takes_mean_and_deviation_away(pair: tuple[Array, Array]) -> None:
    student, teacher = pair
    s, t = ((x - x.mean(1, keepdims=True)) / x.std(1, ddof=1, keepdims=True) for x in pair)
    term = LossTerm("logits", temperature=2.0, standardize=True)
    assert value(term, student, teacher) == pytest.approx(4 * kl(softmax(t / 2), softmax(s / 2)), rel=1e-4)
    assert value(term, 3 * teacher - 2, teacher) == pytest.approx(0, abs=1e-5)  # shift and scale do not count


def test_standardize_has_a_finite_slope_where_all_scores_are_equal() -> None:
    student = torch.zeros(2, 5, requires_grad=True)
    loss = DistillationLoss([LossTerm("logits", standardize=True)], nn.Identity(), Given(torch.randn(2, 5)))
    loss(torch.zeros(1), student, None).backward()
    assert student.grad is not None
    assert torch.isfinite(student.grad).all()
    assert student.grad.abs().max() > 0


@pytest.mark.parametrize("standardize", [False, True])
def test_dkd_is_the_authors_sum_of_two_divergences(pair: tuple[Array, Array], standardize: bool) -> None:
    """Computed as in the paper's equations 1 to 6, with probabilities."""
    student, teacher = pair
    term = LossTerm("dkd", temperature=4.0, alpha=1.5, beta=3.0, standardize=standardize)
    if standardize:
        pair = tuple((x - x.mean(1, keepdims=True)) / x.std(1, ddof=1, keepdims=True) for x in pair)
    binary, others = [], []
    for scores in pair:
        shares = softmax(scores / 4)
        own = shares[np.arange(7), SEVEN.numpy()]
        binary.append(np.stack([own, 1 - own], 1))
        rest = np.stack([np.delete(row, label) for row, label in zip(shares, SEVEN.numpy(), strict=True)])
        others.append(rest / rest.sum(1, keepdims=True))
    expected = 16 * (1.5 * kl(binary[1], binary[0]) + 3.0 * kl(others[1], others[0]))
    assert value(term, student, teacher, SEVEN) == pytest.approx(expected, rel=1e-4)


def test_dkd_with_the_teachers_confidence_for_beta_is_the_classical_loss(pair: tuple[Array, Array]) -> None:
    """The paper's equation 5: KD = TCKD + (1 - p_target) NCKD, sample by sample."""
    student, teacher = pair
    for row in range(7):
        s, t, label = student[row : row + 1], teacher[row : row + 1], SEVEN[row : row + 1]
        doubt = 1 - softmax(t / 4)[0, int(label)]
        term = LossTerm("dkd", temperature=4.0, alpha=1.0, beta=float(doubt))
        assert value(term, s, t, label) == pytest.approx(value(LossTerm("logits", temperature=4.0), s, t), rel=1e-5)


def test_dkd_stays_finite_for_a_net_that_is_very_sure() -> None:
    """The authors' log of a softmax is minus infinity here."""
    scores = torch.tensor([[400.0, -400.0, 0.0], [-400.0, 400.0, 0.0]], requires_grad=True)
    loss = DistillationLoss([LossTerm("dkd", temperature=1.0)], nn.Identity(), Given(torch.randn(2, 3)))
    total = loss(torch.zeros(1), scores, torch.tensor([0, 0]))
    total.backward()
    assert torch.isfinite(total)
    assert scores.grad is not None
    assert torch.isfinite(scores.grad).all()


def test_task_is_cross_entropy_with_smoothing_and_mixed_labels(pair: tuple[Array, Array]) -> None:
    student, teacher = pair
    logs = np.log(softmax(student))
    hard = -logs[np.arange(7), SEVEN.numpy()].mean()
    assert value(LossTerm("task"), student, teacher, SEVEN) == pytest.approx(hard, rel=1e-5)
    smooth = 0.9 * hard + 0.1 * -logs.mean()
    assert value(LossTerm("task"), student, teacher, SEVEN, smoothing=0.1) == pytest.approx(smooth, rel=1e-5)
    shares = softmax(teacher)
    mixed = -(shares * logs).sum(1).mean()
    assert value(LossTerm("task"), student, teacher, torch.tensor(shares)) == pytest.approx(mixed, rel=1e-5)


def test_feature_is_the_mean_squared_difference_after_averaging_to_the_smaller_size() -> None:
    drawn = np.random.default_rng(0)
    big, small = drawn.normal(size=(2, 3, 8, 6)), drawn.normal(size=(2, 3, 4, 3))
    averaged = big.reshape(2, 3, 4, 2, 3, 2).mean((3, 5))
    expected = ((averaged - small) ** 2).mean()
    assert float(feature_distance(torch.tensor(big), torch.tensor(small))) == pytest.approx(expected)
    assert float(feature_distance(torch.tensor(small), torch.tensor(big))) == pytest.approx(expected)
    odd = torch.tensor(drawn.normal(size=(2, 3, 5, 5)))  # no multiple of the other: adaptive windows
    assert torch.isfinite(feature_distance(torch.tensor(small), odd))


def test_attention_compares_normalized_maps_of_squared_activations() -> None:
    drawn = np.random.default_rng(0)
    student, teacher = drawn.normal(size=(2, 3, 4, 5)), drawn.normal(size=(2, 8, 4, 5))

    def map_of(x: Array) -> Array:
        flat = (x**2).mean(1).reshape(len(x), -1)
        found: Array = flat / np.sqrt((flat**2).sum(1, keepdims=True))
        return found

    expected = ((map_of(student) - map_of(teacher)) ** 2).mean()
    assert float(attention_distance(torch.tensor(student), torch.tensor(teacher))) == pytest.approx(expected)
    tokens, wide = drawn.normal(size=(2, 7, 3)), drawn.normal(size=(2, 7, 9))
    expected = ((map_of(tokens.swapaxes(1, 2)) - map_of(wide.swapaxes(1, 2))) ** 2).mean()
    assert float(attention_distance(torch.tensor(tokens), torch.tensor(wide))) == pytest.approx(expected)


TEACHING = [
    LossTerm("logits"),
    LossTerm("logits", standardize=True),
    LossTerm("dkd"),
    LossTerm("feature", student_layer="body.0"),
    LossTerm("attention", student_layer="stem"),
]


@pytest.mark.parametrize("term", TEACHING, ids=lambda term: f"{term.type}{'+' if term.standardize else ''}")
def test_it_is_zero_where_the_student_is_the_teacher_and_positive_elsewhere(
    term: LossTerm, images: Tensor, labels: Tensor
) -> None:
    teacher = net(0)
    with DistillationLoss([term], teacher, teacher, example=images) as loss:
        assert number(loss(images, teacher(images), labels)) == pytest.approx(0, abs=1e-6)
    other = net(1)
    with DistillationLoss([term], other, teacher, example=images) as loss:
        assert number(loss(images, other(images), labels)) > 1e-5


def test_terms_are_weighted_and_told_one_by_one(images: Tensor, labels: Tensor) -> None:
    terms = [
        LossTerm("task", weight=0.5),
        LossTerm("logits", weight=2.0),
        LossTerm("attention", weight=50, student_layer="stem"),
    ]
    student, teacher = net(1), net(0)
    with DistillationLoss(terms, student, teacher, example=images) as loss:
        total = loss(images, student(images), labels)
        parts = list(loss.parts.values())
    assert list(loss.parts) == ["0 task", "1 logits", "2 attention"]
    assert number(total) == pytest.approx(float(0.5 * parts[0] + 2 * parts[1] + 50 * parts[2]), rel=1e-6)
    assert not any(part.requires_grad for part in parts)


# -- the teacher, the student and their layers --------------------------------------------------------------------------


def test_the_teacher_given_is_never_changed(images: Tensor, labels: Tensor) -> None:
    student, teacher = net(1), net(0)
    teacher.train()
    before = copy.deepcopy(teacher.state_dict())
    loss = DistillationLoss([LossTerm("feature", student_layer="stem"), LossTerm("logits")], student, teacher, example=images)
    loss.train()
    optimizer = torch.optim.SGD([*student.parameters(), *loss.parameters()], 0.1)
    for _ in range(3):
        loss(images, student(images), labels).backward()
        optimizer.step()
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())
    assert all(part.training for part in teacher.modules())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in teacher.parameters())
    assert not any(part._forward_hooks for part in teacher.modules())


def test_the_teacher_answers_in_evaluation_mode(images: Tensor) -> None:
    teacher = net(0)
    with torch.no_grad():
        wanted = teacher(images)
    teacher.train()  # its dropout would make the two answers differ
    loss = DistillationLoss([LossTerm("logits")], net(1), teacher)
    assert number(loss(images, wanted, None)) == pytest.approx(0, abs=1e-6)


def test_the_student_is_as_it_was_after_construction_and_close(images: Tensor) -> None:
    student = net(1).train()
    student.drop.eval()  # a flag of its own, which must survive
    before, flags = copy.deepcopy(student.state_dict()), [part.training for part in student.modules()]
    teacher = net(0, width=6)
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    loss = DistillationLoss([LossTerm("feature", student_layer="body.0")], student, teacher, example=images)
    assert torch.equal(torch.rand(1), expected)  # adapters draw nothing from the loop's random numbers
    loss.close()
    assert all(torch.equal(tensor, before[name]) for name, tensor in student.state_dict().items())
    assert [part.training for part in student.modules()] == flags
    assert not any(part._forward_hooks for part in student.modules())


@pytest.mark.parametrize(("layer", "kind"), [("body.0", nn.Conv2d), ("drop", nn.Linear)])
def test_an_adapter_joins_different_widths_and_learns(layer: str, kind: type[nn.Module], images: Tensor) -> None:
    student, teacher = net(1, width=4), net(0, width=6)
    with DistillationLoss([LossTerm("feature", student_layer=layer)], student, teacher, example=images) as loss:
        assert [type(part) for part in loss.adapters.values()] == [kind]
        assert set(loss.state_dict()) == {"adapters.0.weight", "adapters.0.bias"}  # nothing of the teacher
        optimizer = torch.optim.SGD(loss.parameters(), 0.5)
        first = last = 0.0
        for step in range(30):
            optimizer.zero_grad()
            total = loss(images, student(images), None)
            total.backward()
            optimizer.step()
            first, last = (number(total) if step == 0 else first), number(total)
        assert all(parameter.grad is not None and parameter.grad.abs().max() > 0 for parameter in loss.parameters())
        assert student.stem.weight.grad is not None
    assert last < first


def test_equal_widths_need_no_adapter(images: Tensor) -> None:
    loss = DistillationLoss([LossTerm("feature", student_layer="stem")], net(1), net(0), example=images)
    assert list(loss.parameters()) == []


def test_adapters_depend_on_the_seed_alone(images: Tensor) -> None:
    def made(seed: int) -> Tensor:
        term = LossTerm("feature", student_layer="stem")
        student, teacher = net(1, width=4), net(0, width=6)
        torch.manual_seed(drawn.pop())  # processes whose random numbers stand elsewhere
        adapters = DistillationLoss([term], student, teacher, example=images, seed=seed).adapters
        weight: Tensor = adapters.get_parameter("0.weight")
        return weight

    drawn = [5, 6, 7]
    first = made(0)
    assert torch.equal(first, made(0))
    assert not torch.equal(first, made(1))


def test_layers_of_different_size_and_name_are_compared(images: Tensor) -> None:
    student, teacher = net(1, stride=2), net(0, stride=1, width=6)
    terms = [
        LossTerm("feature", student_layer="body", teacher_layer="body.0"),
        LossTerm("attention", student_layer="body", teacher_layer="stem"),
    ]
    with DistillationLoss(terms, student, teacher, example=images) as loss:
        total = loss(images, student(images), None)
    assert torch.isfinite(total)
    assert total > 0


class Rectified(nn.Module):
    def __init__(self, inplace: bool) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.rectifier = nn.ReLU(inplace=inplace)
        self.head = nn.Linear(3, 5)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.rectifier(self.norm(x)).mean((2, 3)))
        return out


@pytest.mark.parametrize("student", [False, True])
@pytest.mark.parametrize("teacher", [False, True])
def test_a_layer_gives_what_it_gives_though_the_next_one_writes_over_it(student: bool, teacher: bool, images: Tensor) -> None:
    nets = [Rectified(inplace).eval() for inplace in (student, teacher)]
    with torch.no_grad():
        nets[1].norm.get_parameter("bias").add_(1)
    with DistillationLoss([LossTerm("feature", student_layer="norm")], nets[0], nets[1], example=images) as loss:
        assert number(loss(images, nets[0](images))) == pytest.approx(1, rel=1e-5)


def test_a_teacher_that_views_its_maps_answers_a_student_in_channels_last(images: Tensor) -> None:
    class Viewing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)
            self.head = nn.Linear(4 * 36, 5)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.head(self.conv(x).view(len(x), -1))
            return out

    student, teacher = net(1), Viewing()
    with DistillationLoss([LossTerm("logits")], student, teacher, example=images) as loss:
        plain = number(loss(images, student(images)))
        other = images.contiguous(memory_format=torch.channels_last)
        assert number(loss(other, student(other))) == pytest.approx(plain, rel=1e-4)


def test_a_copy_of_the_student_runs_without_disturbing_the_loss(images: Tensor, labels: Tensor) -> None:
    student = net(1)
    with DistillationLoss([LossTerm("feature", student_layer="stem")], student, net(0), example=images) as loss:
        average = copy.deepcopy(student)
        outputs = student(images)
        average(torch.zeros_like(images))  # an average of the weights being judged, between forward and loss
        undisturbed = number(loss(images, outputs, labels))
        assert undisturbed == number(loss(images, student(images), labels))
        with pytest.raises(UsageError, match=r"student layer 'stem' did not run .* not of a copy"):
            loss(images, average(images), labels)


def test_the_loss_needs_a_forward_pass_for_each_call_and_none_after_close(images: Tensor, labels: Tensor) -> None:
    student = net(1)
    loss = DistillationLoss([LossTerm("attention", student_layer="stem")], student, net(0), example=images)
    outputs = student(images)
    loss(images, outputs, labels)
    with pytest.raises(UsageError, match="did not run before the loss was asked"):
        loss(images, outputs, labels)
    loss.close()
    outputs = student(images)
    with pytest.raises(UsageError, match=r"before close\(\)"):
        loss(images, outputs, labels)


def test_mixed_precision_gives_a_full_precision_loss(images: Tensor, labels: Tensor) -> None:
    student, teacher = net(1), net(0, width=6)
    terms = [
        LossTerm("task"),
        LossTerm("dkd"),
        LossTerm("logits"),
        LossTerm("feature", student_layer="stem"),
        LossTerm("attention", student_layer="stem"),
    ]
    with DistillationLoss(terms, student, teacher, example=images) as loss:
        exact = number(loss(images, student(images), labels))
        with torch.autocast("cpu", torch.bfloat16):
            outputs = student(images)
            assert outputs.dtype == torch.bfloat16
            total = loss(images, outputs, labels)
        assert total.dtype == torch.float32
        total.backward()
        assert number(total) == pytest.approx(exact, rel=0.05)
    assert student.stem.weight.grad is not None
    assert torch.isfinite(student.stem.weight.grad).all()


def test_a_student_that_torch_export_made_has_logits_but_no_layers(images: Tensor) -> None:
    """What quantization-aware training trains: its ``eval()`` raises, and its modules hold tensors only."""
    teacher = net(0)
    student = torch.export.export(net(1), (images,)).module()
    loss = DistillationLoss([LossTerm("logits")], student, teacher, images)
    loss(images, student(images)).backward()
    assert all(value.grad is not None for name, value in student.named_parameters() if name.startswith("head"))
    with pytest.raises(UsageError, match=r"layer 'stem' of the student does not run .* compare its logits"):
        DistillationLoss([LossTerm("feature", student_layer="stem")], student, teacher, images)


def test_a_net_may_give_a_tuple_or_a_mapping_with_the_scores_first(images: Tensor, labels: Tensor) -> None:
    loss = DistillationLoss([LossTerm("logits"), LossTerm("task")], net(1), net(0))
    scores = net(1)(images)
    plain = number(loss(images, scores, labels))
    assert number(loss(images, (scores, torch.zeros(1)), labels)) == plain
    assert number(loss([images], {"logits": scores}, labels)) == plain
    with pytest.raises(ModelFault, match="the student's output is a str"):
        loss(images, "scores", labels)


def test_positions_count_like_samples(images: Tensor) -> None:
    student, teacher = torch.randn(2, 5, 3, 3), torch.randn(2, 5, 3, 3)
    loss = DistillationLoss([LossTerm("logits")], nn.Identity(), Given(teacher))
    flat = DistillationLoss([LossTerm("logits")], nn.Identity(), Given(teacher.movedim(1, -1).reshape(-1, 5)))
    assert number(loss(images, student)) == pytest.approx(number(flat(images, student.movedim(1, -1).reshape(-1, 5))))


def test_distillation_in_a_loop_of_ones_own_makes_the_student_agree(images: Tensor) -> None:
    student, teacher = net(3, width=4), net(0, width=6)
    data = torch.randn(96, 3, 8, 8, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        wanted = teacher(data).argmax(1)
        before = float((student(data).argmax(1) == wanted).float().mean())
    terms = [LossTerm("logits", temperature=2.0), LossTerm("feature", weight=0.1, student_layer="body")]
    with DistillationLoss(terms, student, teacher, example=data[:4]) as loss:
        optimizer = torch.optim.Adam([*student.parameters(), *loss.parameters()], 0.01)
        for step in range(60):
            batch = data[(step % 3) * 32 :][:32]
            optimizer.zero_grad()
            loss(batch, student(batch)).backward()
            optimizer.step()
    with torch.no_grad():
        after = float((student(data).argmax(1) == wanted).float().mean())
    assert after > before + 0.2


# -- what is refused ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("with_example", [True, False])
@pytest.mark.parametrize("kind", ["logits", "dkd"])
def test_outputs_of_another_shape_are_refused_before_any_step(
    kind: str, with_example: bool, images: Tensor, labels: Tensor
) -> None:
    """Fault 37."""
    student, teacher = net(1, classes=5), net(0, classes=7)
    term = LossTerm(kind)  # type: ignore[arg-type]
    with pytest.raises(PassFault, match=r"shape \(6, 5\), the teacher of \(6, 7\); .* same classes"):
        DistillationLoss([term], student, teacher, images if with_example else None)(images, student(images), labels)


def test_layers_may_be_compared_where_outputs_differ(images: Tensor) -> None:
    student, teacher = net(1, classes=5), net(0, classes=7)
    with DistillationLoss([LossTerm("feature", student_layer="stem")], student, teacher, example=images) as loss:
        assert torch.isfinite(loss(images, student(images)))


def test_a_single_output_holds_no_classes_to_compare(images: Tensor) -> None:
    with pytest.raises(PassFault, match="no scores of two or more classes"):
        DistillationLoss([LossTerm("logits")], net(1, classes=1), net(0, classes=1), images)


@pytest.mark.parametrize(
    ("term", "whose"),
    [
        (LossTerm("feature", student_layer="body.00", teacher_layer="stem"), "student"),
        (LossTerm("attention", student_layer="stem", teacher_layer="body.00"), "teacher"),
    ],
)
def test_a_layer_that_is_not_there_is_named_with_the_nearest(term: LossTerm, whose: str, images: Tensor) -> None:
    with pytest.raises(UsageError, match=rf"{whose}_layer: the {whose} has no layer 'body.00'; did you mean 'body.0'\?"):
        DistillationLoss([term], net(1), net(0), images)


def test_a_layer_that_never_runs_is_refused(images: Tensor) -> None:
    student = net(1)
    student.unused = nn.Linear(2, 2)
    with pytest.raises(UsageError, match="layer 'unused' of the student does not run"):
        DistillationLoss([LossTerm("feature", student_layer="unused", teacher_layer="stem")], student, net(0), images)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("with_example", [True, False])
def test_a_teacher_that_gives_no_numbers_is_refused(bad: float, with_example: bool, images: Tensor) -> None:
    teacher = net(0)
    with torch.no_grad():
        teacher.head.bias[2] = bad
    with pytest.raises(ModelFault, match=r"the teacher gives (NaN|Inf) for the training inputs"):
        DistillationLoss([LossTerm("logits")], net(1), teacher, images if with_example else None)(images, net(1)(images))


def test_a_teacher_that_cannot_take_the_inputs_is_refused(images: Tensor) -> None:
    with pytest.raises(PassFault, match=r"the teacher cannot take the training inputs, of shape \(6, 3, 8, 8\): .*channels"):
        DistillationLoss([LossTerm("logits")], net(1), net(0, channels=1), images)


@pytest.mark.parametrize(
    ("term", "says"),
    [
        (LossTerm("feature", student_layer="stem", teacher_layer="head"), r"gives \(6, 4, 8, 8\), the teacher's \(6, 5\)"),
        (LossTerm("attention", student_layer="head"), "attention needs positions"),
    ],
)
def test_layers_that_cannot_be_compared_are_refused(term: LossTerm, says: str, images: Tensor) -> None:
    with pytest.raises(PassFault, match=r"losses\[0\].*" + says):
        DistillationLoss([term], net(1), net(0), images)


def test_tokens_of_different_number_are_refused() -> None:
    class Tokens(nn.Module):
        def __init__(self, count: int) -> None:
            super().__init__()
            self.count = count
            self.inner = nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.inner(x[:, : self.count])
            return out

    with pytest.raises(PassFault, match="numbers of tokens differ"):
        DistillationLoss([LossTerm("feature", student_layer="inner")], Tokens(4), Tokens(5), torch.randn(2, 6, 3))


@pytest.mark.parametrize("term", [LossTerm("task"), LossTerm("dkd")], ids=lambda term: term.type)
def test_labels_that_are_missing_or_no_class_are_refused(term: LossTerm, images: Tensor, labels: Tensor) -> None:
    loss = DistillationLoss([term], net(1), net(0) if term.needs_teacher else None)
    outputs = net(1)(images)
    with pytest.raises(DataFault, match="no labels"):
        loss(images, outputs, None)
    with pytest.raises(DataFault, match="label 5 is no class of the model, which has 5"):
        loss(images, outputs, labels + 1)


def test_dkd_refuses_mixed_labels(images: Tensor) -> None:
    loss = DistillationLoss([LossTerm("dkd")], net(1), net(0))
    with pytest.raises(UsageError, match="turn mixup and cutmix off"):
        loss(images, net(1)(images), torch.full((6, 5), 0.2))


@pytest.mark.parametrize(
    ("terms", "teacher", "example", "says"),
    [
        ([], True, True, "the list is empty"),
        ([LossTerm("task"), LossTerm("logits")], False, True, "logits learn from a teacher, and there is none"),
        ([LossTerm("task")], True, True, "no term of losses asks it"),
        ([LossTerm("feature", student_layer="stem")], True, False, "pass example=images"),
    ],
)
def test_incomplete_arguments_are_refused(
    terms: list[LossTerm], teacher: bool, example: bool, says: str, images: Tensor
) -> None:
    with pytest.raises(UsageError, match=says):
        DistillationLoss(terms, net(1), net(0) if teacher else None, images if example else None)
