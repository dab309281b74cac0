"""Samplers: order, shards, steps, resume, multi-scale sizes."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from ppcls_lite.data.samplers import (
    ClassBalancedSampler,
    DistributedBatchSampler,
    MultiScaleSampler,
    MultiSizeBatchSampler,
    RepeatedAugSampler,
    SampleKey,
)
from ppcls_lite.errors import UserError


def indices(sampler, epoch=0, start_step=0):
    return [[key.index for key in batch] for batch in sampler.batches(epoch, start_step)]


def test_order_depends_on_seed_and_epoch_only():
    first = DistributedBatchSampler(4, shuffle=True, seed=1).bind(10)
    same = DistributedBatchSampler(4, shuffle=True, seed=1).bind(10)
    other = DistributedBatchSampler(4, shuffle=True, seed=2).bind(10)
    list(same.batches(0))  # what was read before does not matter
    assert indices(first, 3) == indices(same, 3)
    assert indices(first, 3) != indices(first, 4)
    assert indices(first, 3) != indices(other, 3)
    assert sorted(i for batch in indices(first, 3) for i in batch) == list(range(10))


def test_keys_carry_epoch_and_index():
    sampler = DistributedBatchSampler(2).bind(3)
    assert list(sampler.batches(7)) == [[SampleKey(0, 7), SampleKey(1, 7)], [SampleKey(2, 7)]]


@pytest.mark.parametrize("drop_last, steps", [(False, 4), (True, 3)])
def test_drop_last(drop_last, steps):
    sampler = DistributedBatchSampler(3, drop_last=drop_last).bind(11)
    assert len(sampler) == len(indices(sampler)) == steps


def test_resume_in_the_middle_of_an_epoch():
    sampler = DistributedBatchSampler(3, shuffle=True, seed=5).bind(20)
    assert indices(sampler, 2, start_step=4) == indices(sampler, 2)[4:]
    assert indices(sampler, 2, start_step=len(sampler)) == []


def test_epochs_of_so_many_steps_follow_one_another_through_the_data():
    plain = DistributedBatchSampler(3, shuffle=True, seed=5).bind(13)  # 5 steps
    passes = [list(plain.numbered(epoch)) for epoch in range(1, 5)]
    whole = [batch for one in passes for batch in one]
    for steps in (3, 5, 12):
        stretched = DistributedBatchSampler(3, shuffle=True, seed=5).bind(13)
        stretched.stretch(steps, 17)
        assert len(stretched) == steps
        epochs = [list(stretched.numbered(e)) for e in range(1, -(-17 // steps) + 1)]
        assert [batch for epoch in epochs for batch in epoch] == whole[:17]
        assert all(len(epoch) == steps for epoch in epochs[:-1])
        assert list(stretched.numbered(2, 2)) == epochs[1][2:]
        assert list(stretched.numbered(len(epochs), steps)) == []


def test_two_ranks_see_together_what_one_rank_sees():
    one = indices(DistributedBatchSampler(8, shuffle=True, seed=3).bind(32), 1)
    ranks = [
        indices(DistributedBatchSampler(4, shuffle=True, seed=3).bind(32, 2, rank), 1)
        for rank in range(2)
    ]
    assert [a + b for a, b in zip(*ranks)] == one


@pytest.mark.parametrize(
    "length, ranks, batch_size", [(10, 4, 2), (3, 4, 2), (17, 3, 5), (1, 2, 1)]
)
def test_training_gives_every_rank_equally_many(length, ranks, batch_size):
    samplers = [
        DistributedBatchSampler(batch_size, shuffle=True).bind(length, ranks, r)
        for r in range(ranks)
    ]
    shapes = [[len(batch) for batch in indices(s)] for s in samplers]
    assert all(shape == shapes[0] for shape in shapes)
    assert all(len(s) == len(shapes[0]) for s in samplers)
    seen = {i for s in samplers for batch in indices(s) for i in batch}
    assert seen == set(range(length))


@pytest.mark.parametrize(
    "length, ranks, batch_size", [(10, 4, 2), (3, 4, 2), (17, 3, 5), (1, 2, 1)]
)
def test_evaluation_counts_every_sample_once(length, ranks, batch_size):
    samplers = [
        DistributedBatchSampler(batch_size).bind(length, ranks, r, evaluation=True)
        for r in range(ranks)
    ]
    seen = [i for s in samplers for batch in indices(s) for i in batch]
    assert sorted(seen) == list(range(length))
    assert all(len(s) == len(indices(s)) for s in samplers)
    assert all(batch for s in samplers for batch in indices(s))


def test_nothing_to_draw_from():
    with pytest.raises(UserError, match="empty"):
        DistributedBatchSampler(4).bind(0)
    with pytest.raises(UserError, match="drop_last: True leaves no batch: 3 images"):
        DistributedBatchSampler(4, drop_last=True).bind(3)


SCALES = [160, 192, 224, 288, 320]


def test_multi_scale_batch_follows_the_scale():
    sampler = MultiScaleSampler(SCALES, first_bs=500).bind(50_000)
    sizes = {(keys[0].size, len(keys)) for keys in list(sampler.batches(0))[:-1]}
    # int(160 * 160 * 500 / side ** 2), as in the reference toolkit
    expected = {160: 500, 192: 347, 224: 255, 288: 154, 320: 125}
    assert sizes == {((side, side), n) for side, n in expected.items()}


def test_multi_scale_steps_and_sizes_are_the_same_on_all_ranks():
    samplers = [MultiScaleSampler(SCALES, 50, seed=9).bind(3001, 3, rank) for rank in range(3)]
    assert len({len(s) for s in samplers}) == 1
    for epoch in (0, 1):
        shapes = [[(len(b), b[0].size) for b in s.batches(epoch)] for s in samplers]
        assert shapes[0] == shapes[1] == shapes[2]
        assert len(shapes[0]) == len(samplers[0])
    seen = {k.index for s in samplers for batch in s.batches(1) for k in batch}
    assert seen == set(range(3001))


def test_multi_scale_rounds_sides_and_takes_width_height_pairs():
    sampler = MultiScaleSampler([[100, 70]], first_bs=4, divided_factor=32).bind(40)
    assert next(sampler.batches(0))[0].size == (64, 96)
    assert len(next(sampler.batches(0))) == 100 * 70 * 4 // (64 * 96)


def test_multi_scale_drop_last_and_evaluation():
    sampler = MultiScaleSampler([32, 64], 8, drop_last=True, seed=1).bind(100)
    full = {(32, 32): 8, (64, 64): 2}
    assert all(len(b) == full[b[0].size] for b in sampler.batches(0))
    sampler = MultiScaleSampler([40, 64], 8, is_training=False).bind(20, evaluation=True)
    assert indices(sampler) == [list(range(8)), list(range(8, 16)), list(range(16, 20))]
    assert next(sampler.batches(0))[0].size == (40, 40)


@pytest.mark.parametrize("scales", [[16], [[64, 64, 3]], []])
def test_multi_scale_bad_scales(scales):
    with pytest.raises(UserError, match="scales"):
        MultiScaleSampler(scales, 8)


def test_a_million_samples_are_quick():
    sampler = DistributedBatchSampler(512, shuffle=True, seed=0).bind(1_281_167, 4, 1)
    batch = next(sampler.batches(3, start_step=600))
    assert len(batch) == len({key.index for key in batch}) == 512


def test_multi_size_batches_keep_their_number_of_images():
    arguments = ([64, [128, 96]], 3)
    sampler = MultiSizeBatchSampler(*arguments, seed=2).bind(50)
    keys = list(sampler.batches(1))
    assert [len(batch) for batch in keys] == [3] * 16 + [2]
    assert all(len({key.size for key in batch}) == 1 for batch in keys)
    sizes = [batch[0].size for batch in keys]
    assert set(sizes) == {(64, 64), (96, 128)}  # height, width
    other = MultiSizeBatchSampler(*arguments, seed=2).bind(100, 2, 1)
    assert [batch[0].size for batch in other.batches(1)] == sizes  # alike on every rank
    assert "changes the images' size" in sampler.changes_score()
    assert MultiSizeBatchSampler([64], 3).changes_score() is None


@pytest.mark.parametrize("sizes", [[], [100], [[64, 32, 32]], [[64, 40]]])
def test_sizes_that_do_not_fit_the_stride(sizes):
    with pytest.raises(UserError, match="multiples of divided_factor = 32"):
        MultiSizeBatchSampler(sizes, 2)


def balanced(labels: np.ndarray, balance: float = 1.0, **more: int) -> ClassBalancedSampler:
    sampler = ClassBalancedSampler(batch_size=5, balance=balance, **more)
    sampler.see(SimpleNamespace(labels=labels))
    return sampler.bind(len(labels))


def drawn(sampler: ClassBalancedSampler, epoch: int = 1) -> np.ndarray:
    return np.array([key.index for batch in sampler.batches(epoch) for key in batch])


def test_rare_classes_come_as_often_as_others() -> None:
    labels = np.array([0] * 900 + [1] * 90 + [2] * 10)
    counts = np.bincount(labels[drawn(balanced(labels))])
    assert counts.sum() == 1000 and all(abs(counts - 333) < 60)
    order = drawn(balanced(labels, 0.0))
    assert abs(np.bincount(labels[order]) - [900, 90, 10]).max() < 40
    times = np.bincount(drawn(balanced(labels))[:900], minlength=1000)
    assert times[:900].max() == 1  # none of the frequent class twice
    rare = np.bincount(drawn(balanced(labels)), minlength=1000)[990:]
    assert rare.max() - rare.min() <= 1


def test_a_balanced_epoch_is_a_function_of_seed_and_epoch() -> None:
    labels = np.array([0] * 20 + [1] * 5)
    first = drawn(balanced(labels), 3)
    assert np.array_equal(first, drawn(balanced(labels), 3))
    assert not np.array_equal(first, drawn(balanced(labels), 4))
    assert not np.array_equal(first, drawn(balanced(labels, seed=1), 3))
    with pytest.raises(UserError, match="one class for each image"):
        balanced(np.zeros((4, 2), np.float32))


@pytest.mark.parametrize("ranks", [1, 3])
def test_repeated_augmentation(ranks):
    """Each image of a step comes three times, to different ranks, and a resume goes on."""
    made = [RepeatedAugSampler(12 // ranks, seed=4).bind(50, ranks, rank) for rank in range(ranks)]
    epochs = [list(zip(*(sampler.batches(2) for sampler in made)))]
    steps = [[key for part in step for key in part] for step in epochs[0]]
    assert [len(step) for step in steps] == [12, 12, 12, 12, 2 if ranks == 1 else 3]
    for step in steps[:-1]:
        pairs = sorted((key.index, key.copy) for key in step)
        assert pairs == sorted((i, copy) for i in {i for i, _ in pairs} for copy in range(3))
    if ranks == 3:  # every rank sees every image of a step once
        parts = [{key.index for key in part} for part in epochs[0][0]]
        assert parts[0] == parts[1] == parts[2] and len(parts[0]) == 4
    seen = {key.index for step in steps for key in step}
    assert len(seen) == 17 and seen != {k.index for batch in made[0].batches(3) for k in batch}
    assert list(made[0].batches(2, 3)) == list(made[0].batches(2))[3:]
    one = RepeatedAugSampler(12, seed=4).bind(50)
    assert [sorted(batch) for batch in one.batches(2)][:4] == [sorted(s) for s in steps[:4]]
    assert "leaves others out" in made[0].changes_score()
