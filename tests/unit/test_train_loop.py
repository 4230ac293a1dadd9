"""The training loop: it learns, repeats itself to the byte, resumes, and says what is wrong."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from training_runs import blobs, network, objective_of, run, two_ports

from edgekit.core.recipe import DataSource
from edgekit.core.samples import samples_from_arrays
from edgekit.core.training import DistillationOptions, TrainingOptions
from edgekit.errors import MissingPackage, StepError, UsageError
from edgekit.train import loop as loop_module
from edgekit.train.data import TrainingData, training_data, training_data_of
from edgekit.train.judging import Judge
from edgekit.train.loop import learning_rate, train
from edgekit.train.losses import LabelLoss, Objective
from edgekit.train.teaching import Teacher

ANY = DataSource(path="in memory")


def options(**changes):
    return TrainingOptions(**{"data": (ANY,), "epochs": 4, "batch_size": 32, "learning_rate": 3e-2,
                              "threads": 1, **changes})


def bytes_of(module):
    return b"".join(v.numpy().tobytes() for v in module.state_dict().values())


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_network_learns_what_labels_say_and_two_runs_give_the_same_bytes(optimizer):
    first, second = network(), network()
    done = run(first, options(optimizer=optimizer))
    again = run(second, options(optimizer=optimizer))
    assert done.initial < 0.6
    assert done.score > 0.95
    assert done.metric == "accuracy"
    assert bytes_of(first) == bytes_of(second)
    assert done == again


def test_another_seed_gives_other_weights():
    first, second = network(), network()
    run(first, options())
    run(second, options(seed=1))
    assert bytes_of(first) != bytes_of(second)


def test_a_run_that_is_interrupted_after_any_step_ends_in_the_same_bytes(tmp_path):
    whole, parted = network(), network()
    done = run(whole, options(momentum=0.8), checkpoint=tmp_path / "whole")

    class Stop(Exception):
        pass

    for last in (3, 9, 10, 17):

        def stop(step, steps, last=last):
            if step == last:
                raise Stop

        parted = network()  # a new process would have the weights that training began with
        with pytest.raises(Stop):
            run(parted, options(momentum=0.8), checkpoint=tmp_path / "parted", keep_every_s=0.0,
                before_step=stop)
    parted = network()
    assert run(parted, options(momentum=0.8), checkpoint=tmp_path / "parted") == done
    assert bytes_of(parted) == bytes_of(whole)


def test_a_killed_process_leaves_a_whole_checkpoint_and_the_next_one_goes_on(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from training_runs import *; "
        "run(network(), OPTIONS, checkpoint=Path(sys.argv[1]), keep_every_s=0.0, "
        "after_step=lambda step, steps: time.sleep(0.05))"
    )
    support = str(Path(__file__).resolve().parents[1] / "support")
    root = str(Path(__file__).resolve().parents[2])
    path = tmp_path / "state"
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(path)], env={"PYTHONPATH": f"{root}:{support}", "PATH": ""}
    )
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and child.poll() is None and not path.is_file():
            time.sleep(0.02)
        time.sleep(0.2)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    from training_runs import OPTIONS

    assert path.is_file()
    resumed, whole = network(), network()
    seen = []
    run(resumed, OPTIONS, checkpoint=path, before_step=lambda step, steps: seen.append(step))
    run(whole, OPTIONS)
    assert seen[0] > 0
    assert bytes_of(resumed) == bytes_of(whole)


def test_weights_of_the_best_epoch_are_kept_and_training_stops_when_nothing_gets_better():
    module = network()
    run(module, options())
    good = bytes_of(module)
    wild = options(learning_rate=3.0, schedule="constant", epochs=30, patience=3, optimizer="sgd")
    done = run(module, wild)
    assert done.stopped
    assert done.best == 0 or done.epochs[done.best - 1].metric == done.score
    assert len(done.epochs) == done.best + 3
    if done.best == 0:
        assert bytes_of(module) == good


def test_a_student_learns_from_a_teacher_alone_and_agrees_with_it():
    teacher, student = network(), network(seed=5)
    run(teacher, options())
    wanted = Objective(labels=None, teacher=Teacher(module=teacher))
    inputs, _ = blobs()
    data = training_data_of({"x": inputs}, options=options(epochs=8))
    judge = Judge(objective=wanted, data=data, metric="agreement", output="scores")
    done = train(student, wanted, data, options(epochs=8), judge=judge)
    assert done.initial < 0.7
    assert done.score > 0.95


@pytest.mark.parametrize("form", ["logits", "probabilities"])
def test_soft_targets_of_logits_and_of_their_probabilities_are_the_same_distance(form):
    torch.manual_seed(0)
    ours, theirs = torch.randn(8, 5), torch.randn(8, 5)
    apart = []
    for student, taught in ((ours, theirs), (ours.softmax(1), theirs.softmax(1))):
        is_logits = student is ours
        found = Objective(
            labels=None,
            teacher=Teacher(module=torch.nn.Identity(), call=lambda m, i, t=taught: {"scores": t}),
            distillation=DistillationOptions(soft="soft-targets", temperature=3.0),
            forms={"scores": "logits" if is_logits else "probabilities"},
        )
        apart.append(float(found({"scores": student}, {}, None, None, {})))
    t = 3.0
    log_p, log_q = (theirs / t).log_softmax(1), (ours / t).log_softmax(1)
    by_hand = t * t * float((log_p.exp() * (log_p - log_q)).sum(1).mean())
    assert apart == pytest.approx([by_hand, by_hand], rel=1e-5)


def test_cross_entropy_of_probabilities_is_that_of_their_logits():
    torch.manual_seed(0)
    logits, labels = torch.randn(8, 5), torch.arange(8) % 5
    of = LabelLoss(output="y", kind="cross-entropy", smoothing=0.1)
    from_probabilities = LabelLoss(output="y", kind="cross-entropy", form="probabilities", smoothing=0.1)
    assert float(of(logits, labels)) == pytest.approx(float(from_probabilities(logits.softmax(1), labels)))


def test_features_of_named_layers_are_learned_too():
    teacher, student = network(), network(seed=7)
    wanted = Objective(labels=None, teacher=Teacher(module=teacher, layers=("body.0",)),
                       distillation=DistillationOptions(features=("body.0",), feature_weight=10.0))
    inputs, _ = blobs()
    data = training_data_of({"x": inputs}, options=options())
    apart = lambda: float((student.body[0].weight - teacher.body[0].weight).detach().norm())  # noqa: E731
    before = apart()
    train(student, wanted, data, options(weight_decay=0.0))
    assert apart() < 0.6 * before


def test_several_inputs_and_outputs_are_called_by_name():
    module = two_ports()
    inputs, labels = blobs()
    apart = {"left": inputs[:, :1], "right": inputs[:, 1:]}
    data = training_data_of(apart, labels, options=options(epochs=6))
    wanted = objective_of(data, output="scores")
    judge = Judge(objective=wanted, data=data, metric="accuracy", output="scores")
    assert train(module, wanted, data, options(epochs=6), judge=judge).score > 0.9


def test_sources_are_mixed_by_their_shares_and_unlabelled_samples_have_no_label_loss():
    inputs, labels = blobs()
    data = TrainingData(
        parts=(samples_from_arrays({"x": inputs[:64]}, labels[:64]), samples_from_arrays({"x": inputs[64:]})),
        sizes=(8, 24), validation=(), seed=0,
    )
    batch = data.batch(3)
    assert batch.labelled.tolist() == [True] * 8 + [False] * 24
    assert len(batch.labels) == 8
    assert len(batch.inputs["x"]) == 32
    assert data.steps_per_epoch == max(64 // 8, (len(inputs) - 64) // 24)
    teacher = network()
    both = Objective(labels=LabelLoss(output="scores", kind="cross-entropy"), teacher=Teacher(module=teacher),
                     distillation=DistillationOptions(label_weight=0.5))
    train(network(seed=3), both, data, options(epochs=1))


def test_sources_from_files_are_opened_split_and_never_overlap(tmp_path):
    inputs, labels = blobs()
    np.savez(tmp_path / "a.npz", x=inputs[:200], labels=labels[:200])
    np.savez(tmp_path / "b.npz", x=inputs[200:])
    from training_runs import SIGNATURE

    asked = options(data=(DataSource(path=str(tmp_path / "a.npz")), DataSource(path=str(tmp_path / "b.npz"))),
                    shares=(0.25, 0.75), held_out=0.2)
    data = training_data(asked, SIGNATURE, need_labels=True)
    assert data.sizes == (8, 24)
    assert [v.count for v in data.validation] == [40]
    held = set(data.validation[0].order.tolist())
    assert not held & set(data.parts[0].order.tolist())
    assert len(held) + data.parts[0].count == 200


def test_the_augmentation_of_the_user_is_called_with_a_generator_of_its_own(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("def shift(inputs, labels, rng):\n"
                    "    noise = rng.normal(0, .1, (len(labels), 1)).astype('f4')\n"
                    "    return {'x': inputs['x'] + noise}, labels\n")
    first, second, plain = network(), network(), network()
    run(first, options(augmentation=f"{file}:shift"))
    run(second, options(augmentation=f"{file}:shift"))
    run(plain, options())
    assert bytes_of(first) == bytes_of(second) != bytes_of(plain)
    with pytest.raises(UsageError, match="did you mean 'shift'"):
        run(network(), options(augmentation=f"{file}:shfit"))


@pytest.mark.parametrize(("body", "problem"), [
    ("return {'x': inputs['x'][:, :1]}, labels", r"float32\[32, 2\] became float32\[32, 1\]"),
    ("return {'x': inputs['x'] * float('nan')}, labels", "holds NaN"),
    ("return inputs, labels[:3]", "labels"),
    ("raise RuntimeError('mine')", "RuntimeError: mine"),
    ("return inputs", "augmentation failed"),
])
def test_an_augmentation_that_spoils_a_batch_is_named(tmp_path, body, problem):
    file = tmp_path / "mine.py"
    file.write_text(f"def change(inputs, labels, rng):\n    {body}\n")
    with pytest.raises(UsageError) as caught:
        run(network(), options(augmentation=f"{file}:change"))
    import re

    assert re.search(problem, str(caught.value))


def test_a_loss_that_turns_nan_says_where_and_keeps_the_last_good_checkpoint(tmp_path):
    path = tmp_path / "state"
    module = network()
    kept = []

    def spoil(step, steps):
        if step == 15:
            kept.append(path.read_bytes())
            with torch.no_grad():
                module.body[0].weight.fill_(float("nan"))

    with pytest.raises(StepError) as caught:
        run(module, options(), checkpoint=path, before_step=spoil)
    text = str(caught.value)
    assert "loss became nan at step 16 (epoch 2)" in text
    assert str(path) in text
    assert "lower learning_rate (it is 0.03)" in text
    assert path.read_bytes() == kept[0]


def test_a_schedule_longer_than_the_data_says_how_long_the_data_is():
    with pytest.raises(UsageError, match=r"longer than the data: 100 steps, but 4 epoch.s. of 14 batches"):
        run(network(), options(steps=100))


def test_more_samples_a_batch_than_there_are_is_refused():
    with pytest.raises(UsageError) as caught:
        run(network(), options(batch_size=4096))
    assert "batch_size: got 4096, there are 461 samples" in str(caught.value)


@pytest.mark.parametrize(("labels", "problem"), [
    (lambda y: y + 1, "label 2 is out of range: the output 'scores' has 2 scores, labels go from 0 to 1"),
    (lambda y: y - 1, "label -1 is out of range"),
    (lambda y: y + 0.5, "not whole"),
])
def test_labels_out_of_range_are_found_before_the_first_step(labels, problem):
    with pytest.raises(UsageError) as caught:
        run(network(), options(loss="cross-entropy"), labels=labels)
    assert problem in str(caught.value)


def test_without_labels_and_without_a_teacher_there_is_nothing_to_learn():
    with pytest.raises(UsageError, match="nothing to learn from"):
        Objective(labels=None)


def test_a_missing_torch_names_the_extra(monkeypatch):
    def missing(module, needed_for=""):
        raise MissingPackage("torch", extra="torch", needed_for=needed_for)

    monkeypatch.setattr(loop_module, "require", missing)
    with pytest.raises(MissingPackage, match="torch"):
        run(network(), options())


def test_a_checkpoint_that_is_damaged_or_of_another_network_is_refused(tmp_path):
    path = tmp_path / "state"
    run(two := network(width=8), options(epochs=1), checkpoint=path)
    with pytest.raises(UsageError, match="another network or other options"):
        run(network(), options(epochs=1), checkpoint=path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UsageError, match="cannot be read"):
        run(two, options(epochs=1), checkpoint=path)


def test_the_rate_warms_up_and_falls_along_a_cosine():
    asked = options(learning_rate=1.0, warmup=0.1)
    rates = [learning_rate(asked, step, 101) for step in range(101)]
    assert rates[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)])
    assert rates[10] == 1.0
    assert rates[55] == pytest.approx(0.505, abs=1e-9)
    assert rates[100] == pytest.approx(0.01)
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_every_option_out_of_range_is_named_at_once():
    with pytest.raises(UsageError) as caught:
        TrainingOptions(data=(), epochs=-1, learning_rate=-1, held_out=0, patience=2, augmentation="x")
    assert len(caught.value.problems) == 5
