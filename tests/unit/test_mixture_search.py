"""The search for the cheapest mixture: what it finds, what it gives back, what it cannot reach."""

from __future__ import annotations

import numpy as np
import pytest
from quantize_models import classifier, unequal_classifier
from simulations import simulation

from edgekit.core.model import Signature, TensorSpec
from edgekit.core.recipe import Budgets, DataSource
from edgekit.measure.standing import keeps
from edgekit.quantize.mixture import find_mixtures, is_search_call
from edgekit.quantize.search_samples import read_search_samples


def searched(of, **budgets):
    return find_mixtures(of, meets=lambda standing: keeps(standing, Budgets(**budgets)))[0]


def test_the_nodes_around_an_uneven_tensor_stay_in_float_and_no_others():
    found = searched(simulation(unequal_classifier()), min_sqnr_db=25.0)
    assert found.met
    assert set(found.kept) == {"stem", "depthwise"}
    assert 0 < found.macs_share < 1


def test_no_kept_node_could_be_given_back():
    of = simulation(classifier())
    plain = searched(of, min_sqnr_db=0.0).standing.sqnr_db
    limit = plain + 1.5
    found = searched(of, min_sqnr_db=limit)
    assert found.met
    assert found.kept
    for name in found.kept:
        fewer = set(found.kept) - {name}
        noise = ((of.answer(fewer) - of.reference) ** 2).sum()
        assert 10 * np.log10((of.reference**2).sum() / noise) < limit


def test_a_network_within_its_budgets_is_left_alone():
    found = searched(simulation(classifier()), min_sqnr_db=20.0)
    assert (found.met, found.kept, found.evaluations) == (True, {}, 1)


def test_a_budget_out_of_reach_gives_the_best_mixture_that_still_has_integers():
    of = simulation(classifier())
    found = searched(of, min_sqnr_db=150.0)
    assert not found.met
    assert set(found.kept) < set(of.nodes)
    assert found.standing.sqnr_db > searched(of, min_sqnr_db=0.0).standing.sqnr_db


def test_the_same_search_finds_the_same():
    first, second = (searched(simulation(unequal_classifier()), min_sqnr_db=25.0) for _ in range(2))
    assert first == second


@pytest.mark.parametrize("most", [3, 100])
def test_search_and_judging_share_no_sample(tmp_path, most):
    np.savez(tmp_path / "s.npz", x=np.arange(20, dtype=np.float32).reshape(20, 1), labels=np.arange(20))
    spec = TensorSpec(name="x", dtype="float32", shape=(1, 1))
    signature = Signature(inputs=(spec,), outputs=())
    data = DataSource(path=str(tmp_path / "s.npz"))
    found = read_search_samples(data, signature, need_labels=True, most=most, wanted=is_search_call)
    values = [float(inputs["x"][0, 0]) for inputs in found.inputs]
    assert values == list(found.labels)
    assert all(value % 2 == 0 for value in values)
    assert len(values) == min(most, 10)
