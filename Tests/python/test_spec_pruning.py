"""Pruning: what is pruned, exactly how much, and the signatures of what goes wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import unmerge
from unmerge import pruning

from test_spec_projections import average, sp


def network(seed: int = 0) -> dict[str, np.ndarray]:
    r = np.random.default_rng(seed)
    return {
        "a.weight": (r.standard_normal((20, 30)) * np.exp(r.standard_normal((20, 1)))).astype(np.float32),
        "a.bias": r.standard_normal(20).astype(np.float32),
        "conv": r.standard_normal((8, 4, 3, 3)),
        "b.weight": 0.1 * r.standard_normal((10, 20)),
    }


def rows(a: np.ndarray) -> list[np.ndarray]:
    return list(a.reshape(len(a), -1))


@pytest.mark.parametrize("grouping", list(pruning.GROUPINGS))
def test_groupings_meet_their_level(grouping: Any) -> None:
    net = network()
    copies = {name: a.copy() for name, a in net.items()}
    s = 0.7
    found = pruning.prune(net, sparsity=s, grouping=grouping)
    assert all(np.array_equal(net[name], a) for name, a in copies.items())
    assert found.weights["a.bias"] is net["a.bias"] and found.masks["a.bias"].all()
    layers = {name: a for name, a in found.weights.items() if a.ndim > 1}
    for name, a in layers.items():
        assert a.dtype == net[name].dtype and a.shape == net[name].shape
        assert np.array_equal(found.masks[name], a != 0)
    levels = {
        "filter": [average(rows(a)) for a in layers.values()],
        "layer": [sp(a) for a in layers.values()],
        "all": [average(list(layers.values()))],
        "vector": [sp(v) for a in layers.values() for v in rows(a)],
    }[grouping]
    assert min(levels) >= s - 1e-6
    if grouping != "vector":
        assert levels == pytest.approx([s] * len(levels), abs=1e-6)
    entries = sum(a.size for a in layers.values())
    assert found.entries == entries and found.kept == sum(map(np.count_nonzero, layers.values()))
    assert found.zeros == pytest.approx(1 - found.kept / entries) and 0 < found.zeros < 1 and found.zeros != s
    refit = pruning.prune(net, sparsity=s, grouping=grouping, refit=True)
    for name, a in layers.items():
        assert np.array_equal(refit.weights[name], np.where(a != 0, net[name], 0))


def test_grouping_is_the_projection_by_its_name() -> None:
    net = network()
    found = pruning.prune(net, sparsity=0.8)
    expected, _ = unmerge.group_sparse_projection(net["a.weight"].T, sparsity=0.8)
    assert np.array_equal(found.weights["a.weight"], expected.T)
    layers = [a for a in net.values() if a.ndim > 1]
    together, _ = unmerge.group_sparse_projection(layers, sparsity=0.8)
    found = pruning.prune(net, sparsity=0.8, grouping="all")
    assert np.array_equal(found.weights["conv"], together[1]) and list(found.reports) == [""]


def test_magnitude_keeps_exactly_as_many() -> None:
    net = network()
    for kept in (0, 1, 777, 1088):
        found = pruning.magnitude(net, keep=kept)
        assert found.kept == kept
        inside = np.concatenate([abs(a[m]).ravel() for a, m in zip(net.values(), found.masks.values()) if a.ndim > 1])
        outside = np.concatenate([abs(a[~m]).ravel() for a, m in zip(net.values(), found.masks.values()) if a.ndim > 1])
        assert not inside.size or not outside.size or inside.min() >= outside.max()
    assert pruning.magnitude(net, zeros=0.9).zeros == pytest.approx(0.9, abs=1e-3)
    each = pruning.magnitude(net, zeros=0.5, scope="layer")
    assert [int(m.sum()) for m in each.masks.values() if m.ndim > 1] == [300, 144, 100]
    exact = pruning.magnitude(net, keep={"a.weight": 3, "conv": 0, "b.weight": 200})
    assert [int(m.sum()) for m in exact.masks.values() if m.ndim > 1] == [3, 0, 200]
    ties = pruning.magnitude({"w": np.ones((2, 3))}, keep=2)
    assert ties.masks["w"].tolist() == [[True, True, False], [False] * 3]
    assert np.array_equal(pruning.apply_masks(net, exact.masks)["conv"], np.zeros((8, 4, 3, 3)))


def test_layer_collapse_is_told() -> None:
    """At an extreme level rows keep one entry each; the projection says so."""
    net = network(1)
    found = pruning.prune(net, sparsity=0.995)
    assert found.one_sparse == sum(np.count_nonzero(v) == 1 for n in ("a.weight", "conv", "b.weight") for v in rows(found.weights[n]))
    assert found.one_sparse >= 25 and set(found.collapsed) == {"a.weight", "conv", "b.weight"}
    assert pruning.prune(net, sparsity=0.5).collapsed == []
    # One layer of huge weights leaves the others nothing; dividing by the norms does not.
    uneven = {"large": 1e4 * network()["conv"], **{f"l{i}": network(i)["conv"] for i in range(4)}}
    assert pruning.prune(uneven, sparsity=0.9, grouping="all").one_sparse >= 3
    assert pruning.prune(uneven, sparsity=0.9, grouping="all", normalise="l2").one_sparse == 0


def test_constant_weights_are_flat() -> None:
    """Nothing but ties: the average is a staircase in the multiplier and is met all the same."""
    found = pruning.prune({"w": np.full((4, 9), 0.5)}, sparsity=0.6)
    (report,) = found.reports.values()
    assert report.discontinuity and average(rows(found.weights["w"])) == pytest.approx(0.6, abs=1e-13)


def test_induced_projects_on_schedule_and_ends_with_a_threshold() -> None:
    net = network(2)
    induced = pruning.InducedGSP(0.7, every=3, start=1)
    calls = [induced.step(net, epoch=i // 6) for i in range(12)]
    assert calls == [False] * 8 + [True, False, False, True]
    assert average(rows(net["a.weight"])) == pytest.approx(0.7, abs=1e-6) and induced.last is not None
    assert net["a.bias"].all()
    growing = pruning.InducedGSP(0.8, every=1, schedule="growing", epochs=20)
    levels = [growing.level(e) for e in range(21)]
    assert levels[0] == 0 and levels[10] == pytest.approx(1 - 20**-0.5) and max(levels) == 0.8
    assert all(a <= b for a, b in zip(levels, levels[1:]))
    end = induced.finish(net, zeros=0.9)
    assert end.zeros == pytest.approx(0.9, abs=1e-3)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: pruning.prune([np.ones((2, 2))], sparsity=0.5), "weights is a list, expected a mapping"),
        (lambda: pruning.prune(network(), sparsity=0.5, grouping="rows"), "grouping is 'rows'; it must be one of"),
        (lambda: pruning.prune(network(), sparsity=2), "options->sparsity is 2.0"),
        (lambda: pruning.magnitude(network()), "give either zeros or keep"),
        (lambda: pruning.magnitude(network(), zeros=1.1), r"zeros is 1.1; it must be in \[0, 1\]"),
        (lambda: pruning.magnitude(network(), keep=10**6), "keep is 1000000; it must be between 0 and 1088"),
        (lambda: pruning.magnitude({"w": np.array([[np.nan]])}, keep=1), r"weights\['w'\] has values that are not finite"),
        (lambda: pruning.InducedGSP(1.5), "sparsity is 1.5"),
        (lambda: pruning.InducedGSP(0.5, schedule="growing"), "schedule is 'growing'; it needs epochs"),
        (lambda: pruning.apply_masks({"w": np.ones((2, 2))}, {"w": np.ones(3, dtype=bool)}), "has the shape"),
    ],
)
def test_refusals(call: Any, sentence: str) -> None:
    with pytest.raises((ValueError, TypeError), match=sentence):
        call()
