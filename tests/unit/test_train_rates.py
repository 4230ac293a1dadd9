"""The schedule that nobody named: its length, and its learning rate."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from training_runs import OPTIONS, Named, blobs, network

from edgekit.errors import InternalError
from edgekit.train.data import TrainingData, training_data_of
from edgekit.train.judging import Judge
from edgekit.train.losses import Objective
from edgekit.train.rates import long_enough, with_rate
from edgekit.train.teaching import Teacher

UNNAMED = replace(OPTIONS, learning_rate=0.0, epochs=20)


def data() -> TrainingData:
    """The blobs without their classes, a tenth held out."""
    return training_data_of({"x": blobs()[0]}, None, options=UNNAMED)


def chosen(student: Named, teacher: Named, **more: Any) -> float:
    """The rate that distillation from `teacher` gets."""
    objective = Objective(labels=None, teacher=Teacher(module=teacher))
    judge = Judge(objective=objective, data=data(), metric="loss", output="scores")
    return with_rate(student, objective, data(), UNNAMED, judge=judge, **more).learning_rate


def test_a_network_near_its_teacher_gets_a_low_rate_and_one_far_away_a_high_one() -> None:
    teacher = Named(nn.Linear(2, 2))
    near, far = copy.deepcopy(teacher), copy.deepcopy(teacher)
    with torch.no_grad():
        for parameter in near.parameters():
            parameter += 1e-3
        for parameter in far.parameters():
            parameter += 1.0
    assert chosen(near, teacher) < 1e-3 < chosen(far, teacher)


def test_choosing_a_rate_leaves_the_weights_alone_and_gives_the_same_again() -> None:
    student = network(seed=7)
    before = copy.deepcopy(student.state_dict())
    assert chosen(student, network()) == chosen(student, network())
    after = student.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_a_run_that_is_resumed_does_not_choose_again(tmp_path: Path) -> None:
    place = tmp_path / "checkpoint"
    first = chosen(network(seed=7), network(), checkpoint=place)

    def forward(_: Any) -> Any:
        raise InternalError("trained again")

    idle = network(seed=7)
    idle.forward = forward  # type: ignore[method-assign]
    assert chosen(idle, network(), checkpoint=place) == first
    with pytest.raises(InternalError):
        chosen(idle, network())


def test_a_rate_that_is_named_stays_and_so_does_one_without_samples_held_out() -> None:
    objective = Objective(labels=None, teacher=Teacher(module=network()))
    judge = Judge(objective=objective, data=data(), metric="loss", output="scores")
    named = replace(UNNAMED, learning_rate=0.3)
    assert with_rate(network(), objective, data(), named, judge=judge) is named
    assert with_rate(network(), objective, data(), UNNAMED, judge=None).rate == 1e-3


def test_a_schedule_that_is_not_named_has_a_thousand_steps() -> None:
    options = replace(OPTIONS, epochs=0)
    assert long_enough(options, data()).epochs * data().steps_per_epoch >= 1000
    assert long_enough(OPTIONS, data()) is OPTIONS
