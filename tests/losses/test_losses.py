"""Values against the golden ones of PaddleClas 2.6, against hand computation, and at extremes."""

from __future__ import annotations

import json

import numpy as np
import paddle
import pytest

from ppcls_lite.errors import UserError
from ppcls_lite.losses import distillation
from ppcls_lite.losses.base import CombinedLoss
from ppcls_lite.losses.cross_entropy import CELoss, MultiLabelLoss


@pytest.fixture(scope="module")
def inputs(fixtures):
    arrays = np.load(fixtures / "loss_inputs.npz")
    return {name: paddle.to_tensor(arrays[name]) for name in arrays.files}


@pytest.fixture(scope="module")
def golden(fixtures):
    return json.loads((fixtures / "loss_values.json").read_text())


def value(loss, logits, label) -> float:
    ((_, term),) = loss(logits, {"label": label}).items()
    return float(term)


def log_softmax(x: np.ndarray) -> np.ndarray:
    x = x.astype(np.float64)
    return x - np.log(np.exp(x).sum(axis=1, keepdims=True))


# --- CELoss ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "label", "epsilon"),
    [
        ("CELoss", "label", None),
        ("CELoss_eps0.1", "label", 0.1),
        ("CELoss_softlabel_eps0.1", "soft_label", 0.1),
    ],
)
def test_celoss_equals_golden(inputs, golden, name, label, epsilon):
    found = value(CELoss(epsilon=epsilon), inputs["student"], inputs[label])
    assert found == pytest.approx(golden[name]["CELoss"], rel=1e-6)


def test_celoss_takes_soft_labels_as_given(inputs):
    logits, soft = inputs["student"], inputs["soft_label"]
    expected = -(soft.numpy() * log_softmax(logits.numpy())).sum(axis=1).mean()
    assert value(CELoss(), logits, soft) == pytest.approx(expected, rel=1e-6)


def test_celoss_of_mixed_labels_is_the_mixture_of_losses(inputs):
    logits, label = inputs["student"], inputs["label"].flatten()
    one_hot = paddle.nn.functional.one_hot(label, 10)
    mixed = 0.3 * one_hot + 0.7 * one_hot.flip(0)
    for epsilon in (None, 0.1):
        loss = CELoss(epsilon=epsilon)
        parts = 0.3 * value(loss, logits, label) + 0.7 * value(loss, logits, label.flip(0))
        assert value(loss, logits, mixed) == pytest.approx(parts, rel=1e-6)


def test_celoss_label_shapes_and_output_dict_agree(inputs):
    logits, label = inputs["student"], inputs["label"]
    expected = value(CELoss(), logits, label)
    assert value(CELoss(), logits, label.flatten()) == expected
    assert value(CELoss(), logits, label.astype("int32")) == expected
    assert value(CELoss(), {"logits": logits}, label) == expected
    assert value(CELoss(weight=2.5), logits, label) == pytest.approx(2.5 * expected)


def test_celoss_of_one_class_and_integer_column_is_hard():
    assert value(CELoss(), paddle.zeros([3, 1]), paddle.zeros([3, 1], dtype="int64")) == 0.0


def test_celoss_class_weights_are_a_weighted_mean(inputs):
    logits, label = inputs["student"], inputs["label"].flatten()
    weights = np.linspace(0.5, 2.0, 10)
    each = -log_softmax(logits.numpy())[np.arange(6), label.numpy()]
    of_image = weights[label.numpy()]
    expected = (each * of_image).sum() / of_image.sum()
    loss = CELoss(class_weight=weights.tolist(), class_num=10)
    assert value(loss, logits, label) == pytest.approx(expected, rel=1e-6)
    assert not loss.state_dict(), "class weights must not enter checkpoints"


def test_celoss_class_weights_of_one_change_nothing(inputs):
    logits = inputs["student"]
    for label in (inputs["label"], inputs["soft_label"]):
        plain = value(CELoss(epsilon=0.1), logits, label)
        weighted = value(CELoss(epsilon=0.1, class_weight=[1.0] * 10), logits, label)
        assert weighted == pytest.approx(plain, rel=1e-6)


def test_celoss_batch_of_ignored_classes_is_zero_not_nan():
    loss = CELoss(class_weight=[0.0, 1.0])
    assert value(loss, paddle.ones([4, 2]), paddle.zeros([4], dtype="int64")) == 0.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"class_weight": [1.0, 2.0], "class_num": 3}, "each of the 3 classes, found 2"),
        ({"class_weight": [0.0, 0.0]}, "all are 0"),
        ({"epsilon": 1.0}, "less than 1"),
    ],
)
def test_celoss_refuses(arguments, message):
    with pytest.raises(UserError, match=message):
        CELoss(**arguments)


@pytest.mark.parametrize("shape", [[6, 3], [6, 2, 10]])
def test_celoss_refuses_labels_of_another_shape(inputs, shape):
    with pytest.raises(UserError, match="MultiLabelLoss"):
        CELoss()(inputs["student"], {"label": paddle.zeros(shape)})


def test_celoss_is_computed_in_float32(inputs):
    half = inputs["student"].astype("float16")
    term = CELoss()(half, {"label": inputs["label"]})["CELoss"]
    assert term.dtype == paddle.float32
    expected = value(CELoss(), half.astype("float32"), inputs["label"])
    assert float(term) == expected


def test_celoss_is_exact_for_confident_wrong_networks():
    logits = paddle.to_tensor([[200.0, 0.0, -200.0]], stop_gradient=False)
    loss = CELoss(epsilon=0.3)(logits, {"label": paddle.to_tensor([2])})["CELoss"]
    loss.backward()
    assert float(loss) == pytest.approx(0.8 * 400 + 0.1 * 200)
    np.testing.assert_allclose(logits.grad.numpy(), [[0.9, -0.1, -0.8]], atol=1e-6)


# --- MultiLabelLoss -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def attributes():
    rng = np.random.default_rng(3)
    logits = rng.standard_normal((4, 5)).astype(np.float32)
    label = rng.integers(0, 2, (4, 5)).astype(np.float32)
    ratio = rng.uniform(0.1, 0.9, 5).astype(np.float32)
    stacked = np.stack([label, np.broadcast_to(ratio, (4, 5))], axis=1)  # (N, 2, C)
    return logits, label, ratio, stacked


def binary_cross_entropy(logits: np.ndarray, target: np.ndarray) -> np.ndarray:
    p = 1 / (1 + np.exp(-logits.astype(np.float64)))
    return -(target * np.log(p) + (1 - target) * np.log(1 - p))


@pytest.mark.parametrize("size_sum", [False, True])
@pytest.mark.parametrize("weight_ratio", [False, True])
@pytest.mark.parametrize("epsilon", [None, 0.2])
def test_multilabel_equals_the_formula(attributes, size_sum, weight_ratio, epsilon):
    logits, label, ratio, stacked = attributes
    target = label if epsilon is None else (1 - epsilon) * label + epsilon / 5
    cost = binary_cross_entropy(logits, target)
    if weight_ratio:
        cost = cost * np.exp(label * (1 - ratio) + (1 - label) * ratio)
    expected = cost.sum(axis=1).mean() if size_sum else cost.mean()
    loss = MultiLabelLoss(2.0, epsilon, size_sum, weight_ratio)
    found = value(loss, paddle.to_tensor(logits), paddle.to_tensor(stacked))
    assert found == pytest.approx(2 * expected, rel=1e-5)


def test_multilabel_label_shapes_agree(attributes):
    logits, label, _, stacked = attributes
    logits = paddle.to_tensor(logits)
    found = [
        value(MultiLabelLoss(), logits, paddle.to_tensor(x))
        for x in (label, label[:, None], stacked)
    ]
    assert found[0] == found[1] == found[2]


def test_multilabel_ignores_unknown_attributes(attributes):
    logits, label, _, _ = attributes
    label = label.copy()
    label[:, 2] = -1
    cost = binary_cross_entropy(logits, label)
    cost[:, 2] = 0
    found = value(MultiLabelLoss(size_sum=True), paddle.to_tensor(logits), paddle.to_tensor(label))
    assert found == pytest.approx(cost.sum(axis=1).mean(), rel=1e-5)


def test_multilabel_says_what_is_missing(attributes):
    logits, label = paddle.to_tensor(attributes[0]), paddle.to_tensor(attributes[1])
    with pytest.raises(UserError, match="label_ratio: true"):
        MultiLabelLoss(weight_ratio=True)(logits, {"label": label})
    with pytest.raises(UserError, match="5 attributes, the network 4"):
        MultiLabelLoss()(logits[:, :4], {"label": label})
    with pytest.raises(UserError, match="MultiLabelDataset"):
        MultiLabelLoss()(logits, {"label": label[:, 0]})


# --- CombinedLoss ---------------------------------------------------------------------------


def test_combined_adds_weighted_terms_and_keeps_all_names(inputs):
    batch = {"label": inputs["label"]}
    single = value(CELoss(), inputs["student"], inputs["label"])
    smooth = value(CELoss(epsilon=0.1), inputs["student"], inputs["label"])
    terms = CombinedLoss([CELoss(0.5), CELoss(2.0, epsilon=0.1)])(inputs["student"], batch)
    assert list(terms) == ["CELoss", "CELoss_1", "loss"]
    assert float(terms["CELoss"]) == pytest.approx(0.5 * single)
    assert float(terms["loss"]) == pytest.approx(0.5 * single + 2 * smooth)


def test_combined_of_one_term_has_a_gradient(inputs):
    logits = inputs["student"].clone()
    logits.stop_gradient = False
    terms = CombinedLoss([CELoss(3.0)])(logits, {"label": inputs["label"]})
    terms["loss"].backward()
    p = np.exp(log_softmax(logits.numpy()))
    p[np.arange(6), inputs["label"].numpy().reshape(-1)] -= 1
    np.testing.assert_allclose(logits.grad.numpy(), 3 * p / 6, atol=1e-6)


def test_combined_refuses_nothing():
    with pytest.raises(UserError, match="at least one loss"):
        CombinedLoss([])


# --- distillation ---------------------------------------------------------------------------


def test_distillation_equals_golden(inputs, golden):
    student, teacher = inputs["student"], inputs["teacher"]
    found = {
        "DMLLoss": distillation.dml_loss(student, teacher),
        "DMLLoss_sum": distillation.dml_loss(student, teacher, sum_across_class_dim=True),
        "KLDivLoss_T4": distillation.kl_div_loss(student, teacher),
        "DKDLoss": distillation.dkd_loss(student, teacher, inputs["label"]),
    }
    expected = {
        "DMLLoss": golden["DMLLoss"]["DMLLoss"],
        "DMLLoss_sum": golden["DMLLoss_sum"]["DMLLoss"],
        "KLDivLoss_T4": golden["KLDivLoss_T4"]["loss_kldiv"],
        "DKDLoss": golden["DKDLoss"],
    }
    assert {k: float(v) for k, v in found.items()} == pytest.approx(expected, rel=2e-6)


PAIR_LOSSES = [
    distillation.dml_loss,
    distillation.kl_div_loss,
    lambda s, t: distillation.dkd_loss(s, t, paddle.zeros([2, 1], dtype="int64")),
]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("loss", PAIR_LOSSES)
def test_distillation_is_finite_for_confident_networks(loss, dtype):
    student = paddle.to_tensor([[100.0, -100.0, 0.0], [-100.0, 100.0, 0.0]], dtype=dtype)
    teacher = paddle.to_tensor([[-100.0, 100.0, 0.0], [-100.0, -100.0, 100.0]], dtype=dtype)
    student.stop_gradient = False
    found = loss(student, teacher)
    found.backward()
    assert np.isfinite(float(found))
    assert float(found) > 10
    assert np.isfinite(student.grad.astype("float32").numpy()).all()


@pytest.mark.parametrize("loss", PAIR_LOSSES)
def test_distillation_of_equal_logits_is_zero(loss):
    logits = paddle.to_tensor([[100.0, -100.0, 3.0], [0.0, 1.0, 2.0]])
    assert float(loss(logits, logits + 5.0)) == pytest.approx(0.0, abs=1e-5)


def test_dkd_parts_add_up_to_plain_distillation():
    """KL = target term + (1 - p_true of the teacher) * other term, equation 6 of the paper."""
    rng = np.random.default_rng(0)
    s, t = (paddle.to_tensor(rng.standard_normal((1, 5)).astype(np.float32)) for _ in range(2))
    label = paddle.to_tensor([[2]])
    target = float(distillation.dkd_loss(s, t, label, beta=0.0))
    other = float(distillation.dkd_loss(s, t, label, alpha=0.0))
    p_true = float(paddle.nn.functional.softmax(t)[0, 2])
    plain = float(distillation.kl_div_loss(s, t, temperature=1.0))
    assert target + (1 - p_true) * other == pytest.approx(plain, rel=1e-5)
