"""Answers for hand-made probabilities, and label files good and bad."""

from __future__ import annotations

import numpy as np
import pytest

from ppcls_lite.config import check as config
from ppcls_lite.data import labels
from ppcls_lite.errors import ConfigError, UserError
from ppcls_lite.inference import paddlex
from ppcls_lite.inference.postprocess.attributes import (
    PersonAttribute,
    TableAttribute,
    VehicleAttribute,
)
from ppcls_lite.inference.postprocess.base import Postprocess, softmax
from ppcls_lite.inference.postprocess.classify import (
    MultiLabelThreshOutput,
    ScoreOutput,
    ThreshOutput,
    Topk,
)

ROWS = np.array([[0.1, 0.7, 0.2], [0.25, 0.25, 0.5]], np.float32)


def answers(postprocess: Postprocess, rows: np.ndarray = ROWS) -> list[dict]:
    return postprocess({"logits": rows})


def test_topk():
    assert answers(Topk(2, label_list=["a", "b", "c"])) == [
        {"class_ids": [1, 2], "scores": [0.7, 0.2], "label_names": ["b", "c"]},
        {"class_ids": [2, 0], "scores": [0.5, 0.25], "label_names": ["c", "a"]},
    ]


def test_topk_of_fewer_classes_and_without_names():
    found = answers(Topk(5))
    assert found[0] == {"class_ids": [1, 2, 0], "scores": [0.7, 0.2, 0.1], "label_names": []}


def test_topk_reads_its_label_file(tmp_path):
    file = tmp_path / "names.txt"
    file.write_text("0,red\n1,deep green\n2,blue\n", encoding="utf-8")
    topk = Topk(1, class_id_map_file=str(file), delimiter=",")
    assert topk.label_list == ["red", "deep green", "blue"]
    assert answers(topk)[0]["label_names"] == ["deep green"]


def test_names_that_do_not_fit_the_network_are_refused():
    topk = Topk(class_id_map_file="ppcls/utils/imagenet1k_label_list.txt")
    with pytest.raises(UserError, match=r"imagenet1k_label_list.txt names 1000 .* network has 3"):
        answers(topk)


def test_results_are_plain_numbers_for_json():
    for result in (answers(Topk(2))[0], answers(MultiLabelThreshOutput(0.2))[0]):
        assert {type(i) for i in result["class_ids"]} == {int}
        assert {type(s) for s in result["scores"]} == {float}


def test_distillation_is_topk_of_the_network_that_ships():
    tree = {"name": "DistillationPostProcess", "model_name": "Student", "func": "Topk", "topk": 2}
    names = {"label_list": ["a", "b", "c"]}
    assert answers(config.build({**tree, **names}, "postprocess")) == answers(Topk(2, **names))
    with pytest.raises(ConfigError, match="func"):
        config.build({**tree, "func": "ThreshOutput"}, "postprocess")


def test_multilabel_threshold():
    found = answers(MultiLabelThreshOutput(0.25, label_list=["a", "b", "c"]))
    assert found[0] == {"class_ids": [1], "scores": [0.7], "label_names": ["b"]}
    assert found[1]["label_names"] == ["a", "b", "c"]
    nothing = answers(MultiLabelThreshOutput(0.9))[0]
    assert nothing == {"class_ids": [], "scores": [], "label_names": []}


def test_thresh_output():
    thresh = ThreshOutput(0.9, "nobody", "someone")
    found = answers(thresh, np.array([[0.25, 0.75], [0.0625, 0.9375]]))
    assert found == [
        {"class_ids": [0], "scores": [0.25], "label_names": ["nobody"]},
        {"class_ids": [1], "scores": [0.9375], "label_names": ["someone"]},
    ]
    assert answers(thresh, np.array([[0.5, 0.9]]))[0]["class_ids"] == [1], (
        "the threshold itself counts"
    )
    with pytest.raises(UserError, match="ThreshOutput is for 2 outputs, the network has 3"):
        answers(thresh)


def test_score_output_rounds_raw_outputs():
    assert answers(ScoreOutput(2), np.array([[1.23456], [-7.0]])) == [
        {"scores": [1.23]},
        {"scores": [-7.0]},
    ]
    assert ScoreOutput.activation == "none"


def test_activations():
    assert {p.activation for p in (Topk, ThreshOutput)} == {"softmax"}
    several = (MultiLabelThreshOutput, PersonAttribute, VehicleAttribute, TableAttribute)
    assert {p.activation for p in several} == {"sigmoid"}


def person(**scores: float) -> dict:
    row = np.full(26, 0.1)
    for index, score in scores.items():
        row[int(index[1:])] = score
    return answers(PersonAttribute(), row[None])[0]


def test_person_attribute_in_words():
    found = person(
        _1=0.35, _3=0.9, _5=0.8, _11=0.95, _14=0.6, _16=0.7, _18=0.55, _21=0.9, _22=0.8, _25=0.7
    )
    assert found["attributes"] == [
        *("Female", "AgeOver60", "Back", "Glasses: True", "Hat: False"),
        *("HoldObjectsInFront: False", "ShoulderBag", "Upper: LongSleeve UpperLogo"),
        *("Lower:  Trousers", "Boots"),
    ]
    assert np.flatnonzero(found["output"]).tolist() == [1, 3, 5, 11, 14, 16, 21, 22, 25]


def test_person_attribute_where_nothing_is_sure():
    found = person(_2=0.3, _13=0.4, _20=0.2, _24=0.2, _18=0.7)
    assert found["attributes"] == [
        *("Male", "Age18-60", "Side", "Glasses: False", "Hat: False"),
        *("HoldObjectsInFront: True", "No bag", "Upper: ShortSleeve"),
        *("Lower:  Skirt&Dress", "No boots"),
    ]


def test_vehicle_attribute():
    row = np.full(19, 0.1)
    row[[0, 13]] = 0.75
    found = answers(VehicleAttribute(), row[None])[0]
    assert found["attributes"] == "Color: (yellow, prob: 0.75), Type: (hatchback, prob: 0.75)"
    assert np.flatnonzero(found["output"]).tolist() == [0, 13]
    unsure = answers(VehicleAttribute(color_threshold=0.8), row[None])[0]
    assert unsure["attributes"] == "Color unknown, Type: (hatchback, prob: 0.75)"
    assert np.flatnonzero(unsure["output"]).tolist() == [13]


def test_table_attribute_has_a_threshold_for_each_property():
    row = np.full((1, 6), 0.6)
    assert answers(TableAttribute(), row)[0] == {
        "attributes": [
            *("Scanned", "Little", "Black-and-White"),
            *("Clear", "Without-Obstacles", "Horizontal"),
        ],
        "output": [1] * 6,
    }
    found = answers(TableAttribute(obstruction_threshold=0.7), row)[0]
    assert found["attributes"][4] == "With-Obstacles"
    assert found["output"] == [1, 1, 1, 1, 0, 1]


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"name": "Topk", "topk": 0}, "between 1 and"),
        ({"name": "ThreshOutput", "threshold": 1.5}, "between 0 and 1"),
        ({"name": "Topk", "class_id_map_file": "missing.txt"}, "'missing.txt' does not exist"),
    ],
)
def test_yaml_mistakes(tree, message):
    with pytest.raises((ConfigError, UserError), match=message):
        config.build(tree, "postprocess")


# --- label files ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0 cat\n1 wild dog\n", ["cat", "wild dog"]),
        ("1 dog\r\n0 cat\r\n", ["cat", "dog"]),
        ("0\tcat\n1\tdog", ["cat", "dog"]),
        ("cat\nwild dog\n\n", ["cat", "wild dog"]),
        ("\ufeff猫\n犬\n", ["猫", "犬"]),
        ("0\n1\n2\n", ["0", "1", "2"]),
        ("0 0\n1 90\n2 180\n", ["0", "90", "180"]),
        ("3 wheels\nbus\n", ["3 wheels", "bus"]),
    ],
)
def test_label_file_forms(tmp_path, text, expected):
    file = tmp_path / "labels.txt"
    file.write_bytes(text.encode())
    assert labels.read_label_file(file) == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"labels.txt:1: the line is empty"),
        (b"cat\n\ndog\n", r"labels.txt:2: the line is empty"),
        (b"1 cat\n2 dog\n", r"id 0 is missing"),
        (b"0 cat\n0 dog\n", r"id 1 is missing"),
        ("Café".encode("latin-1"), r"not UTF-8"),
    ],
)
def test_bad_label_files(tmp_path, content, message):
    file = tmp_path / "labels.txt"
    file.write_bytes(content)
    with pytest.raises(UserError, match=message):
        labels.read_label_file(file)


def test_missing_label_file_names_the_bundled_ones():
    with pytest.raises(UserError, match=r"traffic_sign_label_list\.txt"):
        labels.find_label_file("ppcls/utils/other.txt")


def test_a_users_file_wins_over_a_bundled_one(tmp_path):
    file = tmp_path / "imagenet1k_label_list.txt"
    file.write_text("cat\n")
    assert labels.read_label_file(file) == ["cat"]


PULC = "ppcls/utils/PULC_label_list/"


@pytest.mark.parametrize(
    ("path", "count", "some"),
    [
        ("ppcls/utils/imagenet1k_label_list.txt", 1000, {0: "tench", 999: "toilet tissue"}),
        (PULC + "language_classification_label_list.txt", 10, {0: "arabic", 9: "latin"}),
        (PULC + "text_image_orientation_label_list.txt", 4, {2: "180"}),
        (PULC + "textline_orientation_label_list.txt", 2, {1: "180_degree"}),
        (PULC + "image_orientation_label_list.txt", 4, {3: "270°"}),
        (PULC + "traffic_sign_label_list.txt", 232, {0: "pl80", 231: "pw4"}),
        ("ppcls\\utils\\imagenet1k_label_list.txt", 1000, {}),
    ],
)
def test_bundled_lists_stand_in_for_official_paths(path, count, some):
    names = labels.read_label_file(path)
    assert len(names) == count
    assert {i: names[i] for i in some} == some


def test_traffic_signs_are_all_different():
    names = labels.read_label_file("traffic_sign_label_list.txt")
    assert len(set(names)) == 232


def test_a_temperature_is_that_of_the_logits_and_changes_no_answer() -> None:
    logits = np.random.default_rng(0).normal(0, 3, (20, 5))
    plain = Topk(topk=5)({"logits": softmax(logits)})
    tempered = Topk(topk=5, temperature=2.5)({"logits": softmax(logits)})
    for row, before, after in zip(softmax(logits / 2.5), plain, tempered):
        assert after["class_ids"] == before["class_ids"]
        np.testing.assert_allclose(after["scores"], np.sort(row)[::-1], atol=1e-5)


def test_below_the_threshold_nothing_is_answered_and_the_guess_is_kept() -> None:
    answer = Topk(topk=2, label_list=["ant", "bee"], reject_below=0.7)
    sure, unsure = answer({"logits": np.array([[0.2, 0.8], [0.6, 0.4]])})
    assert sure == {"class_ids": [1, 0], "scores": [0.8, 0.2], "label_names": ["bee", "ant"]}
    assert unsure["unknown"] and unsure["class_ids"] == unsure["label_names"] == []
    assert unsure["guess"] == {
        "class_ids": [0, 1], "scores": [0.6, 0.4], "label_names": ["ant", "bee"]
    }  # fmt: skip
    assert answer.rows(unsure) == [("", 0.6, "(unknown)")]
    assert len(answer.rows(sure)) == 2


def test_attributes_that_are_not_certain_enough_are_left_open() -> None:
    """Each has its own limit, for being there and for not being there."""
    answer = MultiLabelThreshOutput(label_list=["ant", "bee", "cat"], reject_below=[0.7, 0.7, 1.0])
    some, every, none = answer(
        {"logits": np.array([[0.8, 0.4, 0.9], [0.6, 0.4, 0.5], [0.1, 0.75, 1.0]])}
    )
    assert some["class_ids"] == [0] and "unknown" not in some
    assert some["unsure"] == {
        "class_ids": [1, 2], "scores": [0.4, 0.9], "label_names": ["bee", "cat"]
    }  # fmt: skip
    assert every["unknown"] and every["class_ids"] == [] and len(every["unsure"]["scores"]) == 3
    assert none == {"class_ids": [1, 2], "scores": [0.75, 1.0], "label_names": ["bee", "cat"]}
    assert answer.rows(some) == [
        (0, 0.8, "ant"), (1, 0.4, "(unsure) bee"), (2, 0.9, "(unsure) cat")
    ]  # fmt: skip
    assert answer.rows(every)[0] == (0, 0.6, "(unsure) ant")
    assert answer.is_right(some, "1,1,0") and answer.is_right(some, "0,0,0") is False
    with pytest.raises(UserError, match="a number for each of the 2 classes, found 3"):
        MultiLabelThreshOutput(reject_below=[0.7] * 3)({"logits": np.array([[0.2, 0.8]])})


def test_lists_say_what_is_right() -> None:
    topk = Topk(topk=2, label_list=["ant", "bee"])
    (found,) = topk({"logits": np.array([[0.2, 0.8]])})
    assert topk.is_right(found, "1") and topk.is_right(found, "bee")
    assert topk.is_right(found, "0") is False
    attributes = MultiLabelThreshOutput()
    (found,) = attributes({"logits": np.array([[0.2, 0.8, 0.9]])})
    assert attributes.is_right(found, "0,1,1") and attributes.is_right(found, "1,1,1") is False
    assert attributes.is_right(found, "bee") is None


def test_paddlex_is_not_told_a_file_that_rejects() -> None:
    resize = [{"ResizeImage": {"size": 8}}, {"NormalizeImage": {"order": ""}}]
    plain = {"Topk": {"topk": 1}}
    assert paddlex.written(resize, plain) is not None
    for key in ("temperature", "reject_below"):
        assert paddlex.written(resize, {"Topk": {"topk": 1, key: 0.5}}) is None
    several = {"label_list": ["a", "b"], "reject_below": [0.5, 0.6]}
    assert paddlex.written(resize, {"MultiLabelThreshOutput": several}) is None
