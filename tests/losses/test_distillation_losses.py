"""The distillation losses of a recipe: golden values, by hand, extremes, missing labels."""

from __future__ import annotations

import json

import numpy as np
import paddle
import pytest

from ppcls_lite.config import registry
from ppcls_lite.errors import UserError
from ppcls_lite.losses.base import CombinedLoss
from ppcls_lite.losses.cross_entropy import CELoss, MultiLabelLoss
from ppcls_lite.losses.distillation_terms import (
    DistillationCELoss,
    DistillationDistanceLoss,
    DistillationDKDLoss,
    DistillationDMLLoss,
    DistillationGTCELoss,
    DistillationKLDivLoss,
    DistillationMultiLabelLoss,
)

PAIRED = {
    "dml": DistillationDMLLoss(),
    "dml_sum": DistillationDMLLoss(sum_across_class_dim=True),
    "dml_sigmoid": DistillationDMLLoss(act="sigmoid"),
    "ce": DistillationCELoss(),
    "ce_smoothed": DistillationCELoss(epsilon=0.1),
    "kl": DistillationKLDivLoss(),
    "dkd": DistillationDKDLoss(temperature=4.0, beta=8.0),
    "dkd_teacher": DistillationDKDLoss(use_target_as_gt=True),
    "gtce": DistillationGTCELoss(epsilon=0.1),
    "l1": DistillationDistanceLoss(mode="l1"),
    "l2": DistillationDistanceLoss(mode="l2"),
    "smooth_l1": DistillationDistanceLoss(mode="smooth_l1"),
}
NEED_NO_LABEL = [name for name in PAIRED if name not in ("dkd", "gtce")]


@pytest.fixture(scope="module")
def inputs(fixtures):
    arrays = np.load(fixtures / "loss_inputs.npz")
    return {name: paddle.to_tensor(arrays[name]) for name in arrays.files}


@pytest.fixture(scope="module")
def outputs(inputs):
    return {"Teacher": inputs["teacher"], "Student": inputs["student"]}


@pytest.fixture(scope="module")
def golden(fixtures):
    return json.loads((fixtures / "loss_values.json").read_text())


def single(terms) -> float:
    ((_, term),) = terms.items()
    return float(term)


def softmax(x, temperature: float = 1.0) -> np.ndarray:
    x = np.exp(np.asarray(x, np.float64) / temperature)
    return x / x.sum(axis=1, keepdims=True)


# --- values ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("loss", "term", "path"),
    [
        (
            DistillationDMLLoss(),
            "DMLLoss_Student_Teacher",
            ("DistillationDMLLoss", "DMLLoss_Student_Teacher_0"),
        ),
        (
            DistillationDMLLoss(sum_across_class_dim=True),
            "DMLLoss_Student_Teacher",
            ("DMLLoss_sum", "DMLLoss"),
        ),
        (
            DistillationKLDivLoss(),
            "KLDivLoss_Student_Teacher",
            ("KLDivLoss_T4", "loss_kldiv"),
        ),
        (DistillationDKDLoss(), "DKDLoss_Student_Teacher", ("DKDLoss",)),
        (DistillationGTCELoss(), "CELoss_Student", ("CELoss", "CELoss")),
        (DistillationGTCELoss(epsilon=0.1), "CELoss_Student", ("CELoss_eps0.1", "CELoss")),
    ],
)
def test_values_and_names_equal_golden(inputs, outputs, golden, loss, term, path):
    expected = golden
    for key in path:
        expected = expected[key]
    found = loss(outputs, {"label": inputs["label"]})
    assert list(found) == [term]
    assert float(found[term]) == pytest.approx(expected, rel=1e-5)


def test_ce_is_cross_entropy_with_the_teachers_probabilities(inputs, outputs):
    target, log_p = softmax(inputs["teacher"]), np.log(softmax(inputs["student"]))
    expected = -(target * log_p).sum(axis=1).mean()
    assert single(DistillationCELoss()(outputs, {})) == pytest.approx(expected, rel=1e-5)
    expected = -((0.9 * target + 0.01) * log_p).sum(axis=1).mean()
    assert single(DistillationCELoss(epsilon=0.1)(outputs, {})) == pytest.approx(expected, rel=1e-5)


def test_dml_of_sigmoids_and_of_probabilities(inputs, outputs):
    p, q = (1 / (1 + np.exp(-inputs[k].numpy().astype(np.float64))) for k in ("student", "teacher"))
    expected = (0.5 * (p * np.log(p / q) + q * np.log(q / p))).sum(axis=1).mean()
    found = single(DistillationDMLLoss(act="sigmoid")(outputs, {}))
    assert found == pytest.approx(expected, rel=1e-5)
    as_probabilities = {k: paddle.nn.functional.softmax(v) for k, v in outputs.items()}
    found = single(DistillationDMLLoss(act=None)(as_probabilities, {}))
    assert found == pytest.approx(single(DistillationDMLLoss()(outputs, {})), rel=1e-5)


def test_dml_weight_ratio_weighs_each_attribute(inputs, outputs):
    rng = np.random.default_rng(0)
    label = rng.integers(-1, 2, (6, 10)).astype(np.float32)
    ratio = np.tile(rng.random(10, np.float32), (6, 1))
    p, q = softmax(inputs["student"]), softmax(inputs["teacher"])
    factor = np.exp(np.where(label > 0.5, 1 - ratio, ratio)) * (label > -1)
    expected = (0.5 * (p * np.log(p / q) + q * np.log(q / p)) * factor).sum(axis=1).mean()
    batch = {"label": paddle.to_tensor(np.stack([label, ratio], axis=1))}
    found = single(DistillationDMLLoss(weight_ratio=True)(outputs, batch))
    assert found == pytest.approx(expected, rel=1e-4)
    with pytest.raises(UserError, match="label_ratio: true"):
        DistillationDMLLoss(weight_ratio=True)(outputs, {"label": inputs["label"]})


def test_dkd_is_the_two_parts_of_the_paper(inputs, outputs):
    label, temperature = inputs["label"].numpy().flatten(), 4.0
    rows = np.arange(6)
    p, q = (softmax(inputs[k], temperature) for k in ("student", "teacher"))

    def kl(a, b):
        return (a * np.log(a / b)).sum(axis=1)

    def binary(x):
        return np.stack([x[rows, label], 1 - x[rows, label]], axis=1)

    def others(x):
        rest = x[np.arange(10)[None] != label[:, None]].reshape(6, 9)
        return rest / rest.sum(axis=1, keepdims=True)

    expected = kl(binary(q), binary(p)) + 8 * kl(others(q), others(p))
    loss = DistillationDKDLoss(temperature=temperature, beta=8.0)
    found = single(loss(outputs, {"label": inputs["label"]}))
    assert found == pytest.approx(expected.mean() * temperature**2, rel=1e-4)


@pytest.mark.parametrize(
    ("mode", "distance"),
    [
        ("l1", lambda d: np.abs(d).mean()),
        ("l2", lambda d: (d**2).mean()),
        ("smooth_l1", lambda d: np.where(abs(d) < 1, d**2 / 2, abs(d) - 0.5).mean()),
    ],
)
def test_distance_of_named_features(mode, distance):
    paddle.seed(0)
    features = {k: paddle.randn([2, 4, 3, 3]) for k in ("Student", "Teacher")}
    outputs = {k: {"logits": paddle.zeros([2, 5]), "blocks5": v} for k, v in features.items()}
    loss = DistillationDistanceLoss(mode=mode, key="blocks5", weight=2.0)
    found = loss(outputs, {})
    assert list(found) == [f"DistanceLoss_{mode}_blocks5_Student_Teacher"]
    difference = features["Student"].numpy() - features["Teacher"].numpy()
    assert single(found) == pytest.approx(2 * distance(difference), rel=1e-5)
    assert not loss.parameters()


def test_multilabel_of_named_networks_equals_the_plain_one():
    label = paddle.to_tensor([[1.0, 0.0, -1.0], [0.0, 1.0, 1.0]])
    batch = {"label": paddle.stack([label, paddle.full([2, 3], 0.3)], axis=1)}
    logits = paddle.to_tensor([[0.5, -1.0, 2.0], [3.0, 0.1, -0.2]])
    options = {"size_sum": True, "weight_ratio": True, "epsilon": 0.1, "weight": 1.5}
    found = DistillationMultiLabelLoss(**options)({"Student": {"logits": logits}}, batch)
    assert list(found) == ["MultiLabelLoss_Student"]
    assert single(found) == pytest.approx(single(MultiLabelLoss(**options)(logits, batch)))


# --- several networks, outputs and weights --------------------------------------------------


def test_mutual_learning_names_every_term_and_adds_them_up(inputs, outputs):
    loss = CombinedLoss(
        [
            DistillationGTCELoss(model_names=["Student", "Teacher"]),
            DistillationDMLLoss(weight=0.5, model_name_pairs=[["Student", "Teacher"]]),
        ]
    )
    found = loss(outputs, {"label": inputs["label"]})
    names = ["CELoss_Student", "CELoss_Teacher", "DMLLoss_Student_Teacher"]
    assert list(found) == [*names, "loss"]
    assert float(found["loss"]) == pytest.approx(sum(float(found[n]) for n in names))


def test_both_networks_get_gradients_and_key_chooses_the_output(inputs):
    student, teacher = (inputs[k].detach() for k in ("student", "teacher"))
    for tensor in (student, teacher):
        tensor.stop_gradient = False
    outputs = {
        "Student": {"logits": student * 0, "aux": student},
        "Teacher": {"logits": teacher * 0, "aux": teacher},
    }
    loss = single(DistillationDMLLoss(key="aux")(outputs, {}))
    assert loss == pytest.approx(2.6635566, rel=1e-5)
    DistillationDMLLoss(key="aux")(outputs, {})["DMLLoss_Student_Teacher"].backward()
    assert float(student.grad.abs().sum()) > 0 and float(teacher.grad.abs().sum()) > 0
    assert single(DistillationDMLLoss()(outputs, {})) == 0.0


@pytest.mark.parametrize("name", PAIRED)
def test_weight_multiplies_and_a_dict_of_outputs_is_the_same(inputs, outputs, name):
    loss, batch = PAIRED[name], {"label": inputs["label"]}
    expected = single(loss(outputs, batch))
    as_dicts = {k: {"logits": v, "blocks5": v} for k, v in outputs.items()}
    assert single(loss(as_dicts, batch)) == expected
    inner = loss.loss if name == "gtce" else loss
    inner.weight = 3.0
    try:
        assert single(loss(outputs, batch)) == pytest.approx(3 * expected, rel=1e-6)
    finally:
        inner.weight = 1.0


# --- confident networks and half precision --------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("name", PAIRED)
def test_logits_of_a_hundred_give_finite_values_and_gradients(name, dtype):
    signs = paddle.to_tensor(np.where(np.eye(4, 10) > 0, 100.0, -100.0).astype("float32"))
    label = paddle.to_tensor([0, 1, 5, 6])
    for student, teacher in ((signs, signs), (signs, -signs), (signs, signs.roll(1, 1))):
        student = student.astype(dtype)
        student.stop_gradient = False
        outputs = {"Student": student, "Teacher": teacher.astype(dtype)}
        (value,) = PAIRED[name](outputs, {"label": label}).values()
        value.backward()
        assert np.isfinite(float(value)) and float(value) >= -1e-4
        assert value.dtype == paddle.float32
        assert np.isfinite(student.grad.astype("float32").numpy()).all()


# --- images without label -------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gtce", "dkd"])
def test_label_losses_average_over_the_labelled_images(inputs, outputs, name):
    label = inputs["label"].flatten().clone()
    label[1], label[4] = -1, -1
    rows = paddle.to_tensor([0, 2, 3, 5])
    some = {k: v[rows] for k, v in outputs.items()}
    expected = single(PAIRED[name](some, {"label": label[rows]}))
    assert single(PAIRED[name](outputs, {"label": label})) == pytest.approx(expected, rel=1e-6)
    assert single(PAIRED[name](outputs, {"label": label[:, None]})) == pytest.approx(expected)


@pytest.mark.parametrize("name", ["gtce", "dkd"])
def test_without_any_label_they_are_zero_with_zero_gradient(inputs, name):
    student = inputs["student"].detach()
    student.stop_gradient = False
    outputs = {"Student": student, "Teacher": inputs["teacher"]}
    (value,) = PAIRED[name](outputs, {"label": paddle.full([6], -1, "int64")}).values()
    value.backward()
    assert float(value) == 0.0
    assert (student.grad.numpy() == 0).all()


@pytest.mark.parametrize("name", NEED_NO_LABEL)
def test_the_others_take_no_notice_of_labels(inputs, outputs, name):
    expected = single(PAIRED[name](outputs, {"label": inputs["label"]}))
    assert single(PAIRED[name](outputs, {"label": paddle.full([6], -1, "int64")})) == expected


def test_celoss_itself_leaves_unlabelled_images_out(inputs):
    label = inputs["label"].flatten().clone()
    label[0] = -1
    for loss in (CELoss(), CELoss(epsilon=0.1), CELoss(class_weight=[0.5] * 5 + [2.0] * 5)):
        expected = single(loss(inputs["student"][1:], {"label": label[1:]}))
        found = single(loss(inputs["student"], {"label": label}))
        assert found == pytest.approx(expected, rel=1e-6)


# --- the adapter ----------------------------------------------------------------------------


def test_adapter_has_parameters_that_learn_to_match():
    paddle.seed(1)
    loss = DistillationDistanceLoss(key="f", channels=[3, 5])
    assert [tuple(p.shape) for p in loss.parameters()] == [(5, 3, 1, 1), (5,)]
    assert set(loss.state_dict()) == {"adapter.weight", "adapter.bias"}
    source = paddle.randn([8, 3, 4, 4])
    target = paddle.nn.Conv2D(3, 5, 1)(source).detach()
    outputs = {"Student": {"f": source}, "Teacher": {"f": target}}
    optimizer = paddle.optimizer.SGD(0.5, parameters=loss.parameters())
    values = []
    for _ in range(100):
        (value,) = loss(outputs, {}).values()
        values.append(float(value))
        value.backward()
        optimizer.step()
        optimizer.clear_grad()
    assert values[-1] < 0.01 * values[0]


def test_adapter_of_flat_outputs():
    loss = DistillationDistanceLoss(channels=[3, 5])
    outputs = {"Student": paddle.randn([2, 3]), "Teacher": paddle.randn([2, 5])}
    assert np.isfinite(single(loss(outputs, {})))


# --- mistakes -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: DistillationDMLLoss(model_name_pairs=[["Student"]]), "pairs of two"),
        (lambda: DistillationDMLLoss(model_name_pairs=[]), "pairs of two"),
        (lambda: DistillationKLDivLoss(model_name_pairs=[["a", "b"]] * 2), "stands twice"),
        (lambda: DistillationGTCELoss(model_names=[]), "model_names"),
        (lambda: DistillationGTCELoss(model_names=["a", "a"]), "each once"),
        (lambda: DistillationCELoss(epsilon=1.0), "less than 1"),
        (lambda: DistillationDistanceLoss(channels=[3]), "two numbers"),
    ],
)
def test_refused_arguments(build, message):
    with pytest.raises(UserError, match=message):
        build()


@pytest.mark.parametrize(
    ("loss", "outputs", "message"),
    [
        (DistillationDMLLoss(), {"Student": 3}, "'Teacher', but there are 'Student'"),
        (DistillationDMLLoss(), 3, "there is one"),
        (DistillationDMLLoss(key="blocks5"), {"Student": {"logits": 3}, "Teacher": 3}, "patterns"),
        (DistillationDMLLoss(), {"Student": 3, "Teacher": 5}, "class_num"),
        (DistillationDistanceLoss(), {"Student": 3, "Teacher": 5}, r"channels: \[3, 5\]"),
        (DistillationDistanceLoss(channels=[3, 4]), {"Student": 3, "Teacher": 5}, r"\[3, 5\]"),
    ],
)
def test_outputs_that_do_not_fit_are_named(loss, outputs, message):
    def made(spec):
        if isinstance(spec, dict):
            return {name: made(value) for name, value in spec.items()}
        return paddle.zeros([2, spec])

    with pytest.raises(UserError, match=message):
        loss(made(outputs), {"label": paddle.zeros([2], "int64")})


def test_features_of_other_sizes_are_refused():
    outputs = {"Student": {"f": paddle.zeros([2, 3, 4, 4])}}
    outputs["Teacher"] = {"f": paddle.zeros([2, 3, 2, 2])}
    with pytest.raises(UserError, match="same height and width"):
        DistillationDistanceLoss(key="f")(outputs, {})


def test_all_are_registered():
    names = {n for n in registry.names("loss") if n.startswith("Distillation")}
    kinds = ("DML", "CE", "GTCE", "KLDiv", "DKD", "Distance", "MultiLabel", "Detection")
    assert names == {f"Distillation{kind}Loss" for kind in kinds}
