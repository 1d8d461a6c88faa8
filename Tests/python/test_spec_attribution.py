"""Attribution: merges made here, with known answers; every number that has a definition recomputed from it.

Checkpoints are small and look like real ones: weights of 0.05, stored in bfloat16, adapters that change them by less than a
hundredth and share a direction.  Merges are formed in NumPy by the definitions of test_spec_replay.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import unmerge
from test_spec_replay import BF16, F16, F32, Arithmetic, lanes, largest, middle

SHAPES = ((96, 128), (128, 128), (128, 96), (128, 112), (112, 128), (96, 112))
STEP = 7e-4
Weights = Mapping[int, float]


class World:
    """A base and adapters; `factors[j][module]` is (B, A), delta = B A with entries of size `step`."""

    def __init__(
        self,
        seed: int = 0,
        k: int = 8,
        shapes: Sequence[tuple[int, int]] = SHAPES,
        store: Any = BF16,
        size: float = 0.05,
        step: float = STEP,
        related: float = 0.35,
    ) -> None:
        rng = np.random.default_rng(seed)
        self.shapes = {f"m{i}": s for i, s in enumerate(shapes)}
        self.base = {m: (size * rng.standard_normal(s)).astype(store) for m, s in self.shapes.items()}
        self.store = np.dtype(store)
        self.factors: list[dict[str, tuple[np.ndarray, np.ndarray]]] = [{} for _ in range(k)]
        for m, (d, n) in self.shapes.items():
            begin, common = rng.standard_normal((8, n)), rng.standard_normal((d, 1))
            for j in range(k):
                r = (4, 8, 6)[j % 3]
                a = begin[:r] + rng.standard_normal((r, n))
                b = rng.standard_normal((d, r)) / np.sqrt(1 + np.arange(r))
                b[:, :1] += related * common
                b *= step / np.sqrt(np.sum((b.T @ b) * (a @ a.T)) / (d * n))
                self.factors[j][m] = b.astype(F32), a.astype(F32)

    def delta(self, j: int, m: str) -> np.ndarray:
        b, a = self.factors[j][m]
        return (b.astype(float) @ a.astype(float)).astype(F32)

    def model(self, j: int, m: str, store: Any = None) -> np.ndarray:
        """The stored task model."""
        return (self.base[m].astype(F32) + self.delta(j, m)).astype(store or self.store)

    def operator(self) -> unmerge.Operator:
        op = unmerge.Operator()
        for m, s in self.shapes.items():
            op.add_module(m, *s)
        return op

    def atoms(self, which: Sequence[int], dense: Sequence[int] = ()) -> unmerge.Operator:
        """Adapters as factors; those in `dense` as stored task models."""
        op = self.operator()
        for j in which:
            op.add_column(f"a{j}")
            for m in self.shapes:
                if j in dense:
                    op.set_dense(m, f"a{j}", self.model(j, m), base=self.base[m])
                else:
                    op.set_lora(m, f"a{j}", *self.factors[j][m])
        return op

    def target(self, merged: Mapping[str, np.ndarray], base: Mapping[str, np.ndarray] | None = None) -> unmerge.Operator:
        op = self.operator()
        op.add_column("merged")
        for m, values in merged.items():
            op.set_dense(m, "merged", values, base=(base or self.base)[m])
        return op

    # ------------------------------------------------------------ merges, in NumPy

    def arithmetic(self, w: Weights, m: str) -> Arithmetic:
        return Arithmetic((self.store,) * 3, _Pair(self, w, m))  # type: ignore[arg-type]

    def linear(self, w: Weights) -> dict[str, np.ndarray]:
        out = {}
        for m in self.shapes:
            a = self.arithmetic(w, m)
            total = np.zeros_like(a.base)
            for model, c in zip(a.models, w.values()):
                total = (model.astype(np.longdouble) * np.longdouble(np.float32(c)) + total).astype(F32)
            out[m] = (total / lanes([np.float32(c) for c in w.values()])).astype(self.store)
        return out

    def task_arithmetic(self, w: Weights) -> dict[str, np.ndarray]:
        return self._merged(w, lambda a: a.combine(a.vectors, list(w.values()), None, False))

    def ties(self, w: Weights, density: float, normalize: bool = True) -> dict[str, np.ndarray]:
        return self._merged(
            w, lambda a: a.combine([largest(v, density) for v in a.vectors], list(w.values()), "sum", normalize)
        )

    def dare(self, w: Weights, density: float, seed: int = 0) -> dict[str, np.ndarray]:
        """Entries kept with probability density; what is kept is multiplied so that the sum of sizes is what it was."""
        rng = np.random.default_rng(seed)

        def dropped(a: Arithmetic) -> np.ndarray:
            kept = []
            for v in a.vectors:
                x = v * (rng.random(v.shape) < density)
                kept.append(a.R(x * a.R(np.float32(np.abs(v).sum() / np.abs(x).sum()))))
            return a.combine(kept, list(w.values()), None, False)

        return self._merged(w, dropped)

    def della(
        self, w: Weights, density: float, epsilon: float = 0, elected: str | None = None, normalize: bool = False, seed: int = 0
    ) -> dict[str, np.ndarray]:
        """Kept with density + epsilon (2 r - 1), r in [0, 1] the rank of the size in its row; scaled as `dare`; with `elected`
        only what has the sign of the sum counts."""
        rng = np.random.default_rng(seed)

        def dropped(a: Arithmetic) -> np.ndarray:
            kept = []
            for v in a.vectors:
                rank = np.argsort(np.argsort(np.abs(v), axis=1), axis=1) / (v.shape[1] - 1)
                x = v * (rng.random(v.shape) < density + epsilon * (2 * rank - 1))
                kept.append(a.R(x * a.R(np.float32(np.abs(v).sum() / np.abs(x).sum()))))
            return a.combine(kept, list(w.values()), elected, normalize)

        return self._merged(w, dropped)

    def breadcrumbs(self, w: Weights, density: float, gamma: float = 0.01) -> dict[str, np.ndarray]:
        return self._merged(
            w, lambda a: a.combine([middle(v, density, gamma) for v in a.vectors], list(w.values()), None, False)
        )

    def _merged(self, w: Weights, rule: Any) -> dict[str, np.ndarray]:
        found = {}
        for m in self.shapes:
            a = self.arithmetic(w, m)
            found[m] = a.stored(rule(a)).astype(self.store)
        return found

    def attribute(self, merged: Any, which: Sequence[int], dense: Sequence[int] = (), **options: Any) -> unmerge.Attribution:
        return unmerge.attribute((self.atoms(which, dense), self.target(merged)), **options)


class _Pair:
    """What Arithmetic looks at."""

    def __init__(self, world: World, w: Weights, m: str) -> None:
        self.base, self.models = world.base[m], [world.model(j, m) for j in w]


def named(r: unmerge.Attribution) -> set[str]:
    return {a.name for a in r.present}


def by_name(r: unmerge.Attribution) -> dict[str, Any]:
    return {a.name: a for a in r.atoms}


def methods(r: unmerge.Attribution) -> set[str | None]:
    return {r.method.name, *r.method.equivalent}


def close(r: unmerge.Attribution, truth: Weights, within: float) -> None:
    """Present are those that are in it, with their weights."""
    assert named(r) == {f"a{j}" for j in truth}
    for j, w in truth.items():
        assert by_name(r)[f"a{j}"].weight == pytest.approx(w, abs=within)


def well_formed(r: unmerge.Attribution) -> None:
    """What holds for every answer."""
    for a in r.atoms:
        assert 0 <= a.p_value <= 1
        assert a.p_value - 1e-12 <= a.q_value <= 1
        assert math.isfinite(a.weight)
        assert a.low <= a.weight <= a.high
        assert a.evidence >= 0
        assert a.scatter >= 0
        assert not a.present or a.q_value <= r.options["fdr"]
        assert math.isnan(a.share) or -1 <= a.share <= 1
    assert 0 <= r.unexplained <= 1
    assert 0 <= r.noise <= 1
    assert 0 <= r.proof.equal <= r.proof.compared <= r.entries
    assert 0 <= r.proof.chance <= 1
    assert not (r.proof.proved and not r.complete)
    assert r.analysed <= r.entries
    assert np.all((r.modules.unexplained >= 0) & (r.modules.unexplained <= 1))
    assert np.allclose([a.q_value for a in r.atoms], benjamini_hochberg(r), rtol=1e-12, atol=0)


def benjamini_hochberg(r: unmerge.Attribution) -> list[float]:
    """q_j = min over i with p_i >= p_j of p_i n / rank_i, over the atoms that can answer; 1 for the others."""
    tested = [a for a in r.atoms if not {"zero", "duplicate", "unseen"} & set(a.flags)]
    rank = {a.name: sum(b.p_value <= a.p_value for b in tested) for a in tested}
    return [
        min([1.0] + [b.p_value * len(tested) / rank[b.name] for b in tested if b.p_value >= a.p_value]) if a in tested else 1.0
        for a in r.atoms
    ]


@pytest.fixture(scope="module", params=[0, 1])
def world(request: pytest.FixtureRequest) -> World:
    """Ten adapters, of which the dictionary has eight."""
    return World(request.param, k=10)


KNOWN = range(8)

# ---------------------------------------------------------------- merges of known things


SUMS = [
    ("linear", {1: 0.5, 4: 0.3, 6: 0.2}),
    ("linear", {1: 0.6, 4: 0.4}),
    ("task_arithmetic", {1: 0.7, 4: 0.5, 6: -0.3}),
    ("task_arithmetic", {0: 1.0, 2: 1.0, 5: 0.4}),
]


@pytest.mark.parametrize(("method", "truth"), SUMS)
@pytest.mark.parametrize("dense", [(), (0, 1, 4, 5), tuple(KNOWN)], ids=["lora", "mixed", "dense"])
def test_sums(world: World, method: str, truth: Weights, dense: Sequence[int]) -> None:
    r = world.attribute(getattr(world, method)(truth), KNOWN, dense)
    well_formed(r)
    close(r, truth, 0.016)
    assert method in methods(r)
    assert r.weights_scale == "absolute"
    assert r.complete
    assert r.unexplained < 0.01
    assert r.method.parameters["density"] is None
    assert r.proof.share > 0.9
    assert r.proof.compared == r.entries


@pytest.mark.parametrize(("method", "truth"), SUMS)
def test_a_sum_is_proved(world: World, method: str, truth: Weights) -> None:
    r = world.attribute(getattr(world, method)(truth), KNOWN)
    assert r.proof.proved
    assert r.proof.equal == r.proof.compared
    assert r.rule is not None
    for name, values in unmerge.merge(world.atoms(KNOWN), world.target(world.base), r.rule).items():
        assert np.array_equal(values, getattr(world, method)(truth)[name].astype(F32))


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("truth", [{1: 0.6, 4: 0.4}, {1: 0.5, 2: 0.2, 4: 0.3}], ids=["two", "three"])
def test_ties(world: World, truth: Weights, normalize: bool) -> None:
    r = world.attribute(world.ties(truth, 0.5, normalize), KNOWN)
    well_formed(r)
    close(r, truth, 0.015)
    assert r.method.name == "ties"
    assert r.method.parameters["normalize"] == normalize
    assert r.method.parameters["density"] == pytest.approx(0.5, abs=0.06)
    assert r.weights_scale == ("ratio" if normalize else "absolute")
    if normalize:
        assert sum(a.weight for a in r.present) == pytest.approx(1, abs=0.01)
    assert r.complete
    assert r.proof.share > 0.9


@pytest.mark.parametrize("density", [0.3, 0.5])
def test_dare(density: float) -> None:
    world, truth = World(1, k=10, shapes=SHAPES[:4]), {1: 0.7, 4: 0.5}
    r = world.attribute(world.dare(truth, density), KNOWN)
    well_formed(r)
    close(r, truth, 0.02)
    assert r.method.name == "dare_linear"
    assert r.method.parameters["density"] == pytest.approx(density, abs=0.06)
    assert r.complete
    assert r.proof.proved
    assert r.proof.chance < 0.3
    assert all(a.share > 0.05 for a in r.present)


LARGE = {"shapes": ((256, 256),) * 4, "step": 2e-3}


@pytest.mark.parametrize("density", [0.4, 0.6])
@pytest.mark.parametrize("elected", [None, "sum"], ids=["linear", "ties"])
@pytest.mark.parametrize("epsilon", [0, 0.15], ids=["dare", "della"])
def test_masks_by_election_and_by_rank(
    epsilon: float, elected: str | None, density: float, request: pytest.FixtureRequest
) -> None:
    """An elected sign drops entries that the mask has kept, and DELLA keeps large ones: neither is the density."""
    if epsilon and elected and density == 0.4:
        request.applymarker(pytest.mark.xfail(reason="weights of DELLA at low density are 3 % too large", strict=True))
    world, truth = World(1, k=10, **LARGE), {1: 0.7, 4: 0.5, 6: 0.4}
    r = world.attribute(world.della(truth, density, epsilon, elected), KNOWN)
    well_formed(r)
    close(r, truth, 0.005)
    name = {(False, False): "dare_linear", (False, True): "dare_ties", (True, False): "della_linear", (True, True): "della"}
    assert r.method.name == name[bool(epsilon), bool(elected)]
    assert r.method.parameters["density"] == pytest.approx(density, abs=0.02)
    if epsilon:
        assert r.method.parameters["epsilon"] == pytest.approx(epsilon, abs=0.05)
    assert r.complete


def test_masks_and_a_divisor() -> None:
    world, truth = World(1, k=10, **LARGE), {1: 0.5, 4: 0.3, 6: 0.2}
    r = world.attribute(world.della(truth, 0.5, 0.15, "sum", True), KNOWN)
    well_formed(r)
    close(r, truth, 0.02)
    assert r.method.name == "della"
    assert r.weights_scale == "ratio"
    assert r.complete


@pytest.mark.xfail(reason="a trim from both sides of large updates is taken for random drops", strict=True)
def test_a_trim_from_both_sides() -> None:
    """It leaves little more than rounding, all the same it is no sum."""
    world, truth = World(1, k=10, **LARGE), {1: 0.6, 4: 0.4, 6: 0.3}
    r = world.attribute(world.breadcrumbs(truth, 0.7), KNOWN)
    well_formed(r)
    close(r, truth, 0.005)
    assert r.method.name == "breadcrumbs"
    assert r.method.parameters["density"] == pytest.approx(0.7, abs=0.02)
    assert r.complete


@pytest.mark.parametrize(
    "weights",
    [(0.5, 0.75, -0.34375), (0.53, 0.8, -0.35)],
    ids=["exact", "decimal"],
)
def test_intervals_contain_the_truth(weights: tuple[float, float, float]) -> None:
    """Nine in ten by name; eight in ten for 36 of them, changes being many units of the storage.  A tool that computes in
    bfloat16 rounds the weights too, unless they are exact there."""
    inside = []
    for seed in range(12):
        world = World(seed, k=8, shapes=SHAPES[:4], step=4e-3, size=0.02)
        truth = {(seed + i) % 8: w for i, w in zip((0, 3, 5), weights)}
        r = world.attribute(world.task_arithmetic(truth), KNOWN, replay=False)
        assert named(r) == {f"a{j}" for j in truth}
        inside += [by_name(r)[f"a{j}"].low <= w <= by_name(r)[f"a{j}"].high for j, w in truth.items()]
    assert np.mean(inside) >= 0.8


def test_intervals_contain_the_truth_on_a_coarse_lattice() -> None:
    inside = []
    for seed in range(12):
        world = World(seed, k=8, shapes=SHAPES[:4])
        truth = {seed % 8: 0.53, (seed + 3) % 8: 0.81, (seed + 5) % 8: -0.37}
        r = world.attribute(world.task_arithmetic(truth), KNOWN, replay=False)
        inside += [by_name(r)[f"a{j}"].low <= w <= by_name(r)[f"a{j}"].high for j, w in truth.items()]
    assert np.mean(inside) >= 0.8


# ---------------------------------------------------------------- something unknown inside


def merges(world: World, w: Weights) -> dict[str, Any]:
    scaled = {j: x / sum(w.values()) for j, x in w.items()}
    return {
        "linear": world.linear(scaled),
        "task_arithmetic": world.task_arithmetic(w),
        "ties": world.ties(scaled, 0.5),
        "dare": world.dare(w, 0.5),
    }


def test_an_unknown_part_is_missed(world: World) -> None:
    for method, merged in merges(world, {1: 0.7, 4: 0.5, 8: 0.6}).items():
        r = world.attribute(merged, KNOWN, replay=False)
        well_formed(r)
        assert named(r) == {"a1", "a4"}, method
        assert not r.complete, method
        assert "proved" not in r.flags
        assert r.unexplained > 0.15, method
        assert r.missing > 0.1


def test_nobody_is_in_a_merge_of_unknown_things(world: World) -> None:
    for dense in ((), KNOWN):
        for method, merged in merges(world, {8: 0.7, 9: 0.5}).items():
            r = world.attribute(merged, KNOWN, dense)
            well_formed(r)
            assert named(r) == set(), method
            assert not r.complete
            assert r.unexplained > 0.9
            assert r.rule is None
            assert r.proof.compared == 0
            assert min(a.q_value for a in r.atoms) > r.options["fdr"]


def test_p_values_of_absent_atoms_are_spread_out() -> None:
    """Entries dropped, something unknown inside or not: no pile at 1, few that are small."""
    p = []
    for seed in range(8):
        world = World(200 + seed, k=10, shapes=SHAPES[:4])
        for truth in ({8: 0.7, 9: 0.5}, {1: 0.7, 4: 0.5, 8: 0.6}):
            r = world.attribute(world.dare(truth, 0.5, seed), KNOWN, replay=False)
            p += [a.p_value for a in r.atoms if int(a.name[1:]) not in truth]
    assert np.mean(np.array(p) <= 0.05) <= 0.08
    assert 0.25 <= np.mean(np.array(p) <= 0.5) <= 0.75
    assert np.mean(np.array(p) > 0.95) <= 0.25


def test_a_stranger_in_place_of_an_atom_is_not_named() -> None:
    """In 24 merges of two known and one unknown fine-tune, at most one name is wrong, and none is missed."""
    wrong = right = 0
    for seed in range(24):
        world = World(100 + seed, k=9, shapes=SHAPES[:4])
        r = world.attribute(world.task_arithmetic({seed % 8: 0.6, (seed + 3) % 8: 0.5, 8: 0.7}), KNOWN, replay=False)
        wrong += len(named(r) - {f"a{seed % 8}", f"a{(seed + 3) % 8}"})
        right += len(named(r) & {f"a{seed % 8}", f"a{(seed + 3) % 8}"})
    assert right == 48
    assert wrong <= 1


# ---------------------------------------------------------------- numbers recomputed from their definitions


def dictionary(world: World, which: Sequence[int], dense: Sequence[int], m: str) -> list[np.ndarray]:
    base = world.base[m].astype(np.longdouble)
    return [
        world.model(j, m).astype(np.longdouble) - base
        if j in dense
        else world.factors[j][m][0].astype(np.longdouble) @ world.factors[j][m][1].astype(np.longdouble)
        for j in which
    ]


def least_squares(columns: Sequence[np.ndarray], y: np.ndarray) -> np.ndarray:
    """Normal equations in extended precision, solved by elimination."""
    n = len(columns)
    g = np.array([[np.sum(a * b) for b in columns] for a in columns])
    c = np.array([np.sum(a * y) for a in columns])
    for i in range(n):
        for k in range(i + 1, n):
            f = g[k, i] / g[i, i]
            g[k] -= f * g[i]
            c[k] -= f * c[i]
    w = np.zeros(n, np.longdouble)
    for i in reversed(range(n)):
        w[i] = (c[i] - g[i, i + 1 :] @ w[i + 1 :]) / g[i, i]
    return w


def rounding_energy(stored: np.ndarray) -> float:
    """One twelfth of the squared distance of neighbouring bfloat16 values."""
    x = np.abs(stored.astype(float))
    exponent = np.floor(np.log2(np.where(x == 0, 1, x)))
    return float(np.sum(np.where(x == 0, 2.0**-133, 2.0 ** (exponent - 7)) ** 2) / 12)


def whitened(remains: Mapping[str, np.ndarray], atoms: Mapping[str, Any], rounding: Mapping[str, float]) -> Any:
    """The minimum of sum_m k_m log det(R_m R_m' / k_m + s_m I) by generalised least squares again and again, and its G."""
    n = len(next(iter(atoms.values())))
    v = np.zeros(n)
    for _ in range(200):
        g, c = np.zeros((n, n)), np.zeros(n)
        for m, target in remains.items():
            k = target.shape[1]
            s = max(rounding[m], np.median(np.linalg.eigvalsh(target @ target.T)) / k, 1e-6 * np.mean(target**2))
            x = target - sum(a * b.astype(float) for a, b in zip(v, atoms[m]))
            w = np.linalg.inv(x @ x.T / k + s * np.eye(len(x)))
            rows = np.array([(w @ a.astype(float)).ravel() for a in atoms[m]])
            g += rows @ np.array([a.astype(float).ravel() for a in atoms[m]]).T
            c += rows @ target.ravel()
        v = np.linalg.solve(g, c)
    return v, g


@pytest.mark.parametrize("dense", [(), (1, 3), tuple(range(6))], ids=["lora", "mixed", "dense"])
@pytest.mark.parametrize("truth", [{1: 0.7, 4: 0.5}, {1: 0.7, 6: 0.5}, {6: 1.0}], ids=["known", "mixed", "unknown"])
def test_evidence_by_definition(truth: Weights, dense: Sequence[int]) -> None:
    """T_j = |w_j| ||d_j|| / ||R P_j||, w of least squares over the dictionary, P_j on the row space of atom j; of dense atoms
    |w_j| sqrt(G_jj / N), w and G of the whitened fit to R."""
    world, which = World(3, k=7, shapes=SHAPES[:4]), range(6)
    merged = world.task_arithmetic(truth)
    r = world.attribute(merged, which, dense, replay=False)
    well_formed(r)
    atoms = {m: dictionary(world, which, dense, m) for m in world.shapes}
    left = {m: merged[m].astype(np.longdouble) - world.base[m].astype(np.longdouble) for m in world.shapes}
    columns = [np.concatenate([atoms[m][i].ravel() for m in atoms]) for i in range(6)]
    w = least_squares(columns, np.concatenate([x.ravel() for x in left.values()]))
    norms = [np.sqrt(sum(np.sum(atoms[m][i] ** 2) for m in atoms)) for i in range(6)]
    remains = {m: (left[m] - sum(x * a for x, a in zip(w, atoms[m]))).astype(float) for m in atoms}
    more, g = whitened(remains, atoms, {m: rounding_energy(merged[m]) / merged[m].size for m in atoms})
    entries = sum(x.size for x in merged.values())
    for i, atom in enumerate(r.atoms):
        if not atom.present:
            assert atom.weight == pytest.approx(float(w[i]), abs=1e-5)
        if i in dense:
            assert atom.evidence == pytest.approx(abs(float(w[i]) + more[i]) * np.sqrt(g[i, i] / entries), rel=0.03, abs=3e-3)
            continue
        energy = 0.0
        for m in atoms:
            q, _ = np.linalg.qr(world.factors[i][m][1].astype(float).T)
            energy += np.sum((remains[m] @ q) ** 2)
        assert atom.evidence == pytest.approx(float(abs(w[i]) * norms[i]) / np.sqrt(energy), rel=1e-4, abs=1e-5)
    gram = np.array([[sum(np.sum(atoms[m][i] * atoms[m][k]) for m in atoms) for k in range(6)] for i in range(6)])
    cosines = (gram / np.outer(norms, norms)).astype(float)
    condition = np.linalg.cond(cosines)
    assert condition / 6 <= r.condition <= 6 * condition
    for i, atom in enumerate(r.atoms):
        others = np.delete(np.abs(cosines[i]), i)
        assert abs(atom.nearest_cosine) == pytest.approx(np.max(others), abs=1e-5)
        assert atom.nearest is not None
        assert atom.nearest_cosine == pytest.approx(cosines[i, int(atom.nearest[1:])], abs=1e-5)


@pytest.mark.parametrize("truth", [{1: 0.7, 4: 0.5}, {1: 0.7, 4: 0.5, 6: 0.6}], ids=["known", "mixed"])
def test_modules_by_definition(truth: Weights) -> None:
    """Least squares over the atoms present in each module alone, and what it leaves beyond rounding."""
    world, which, dense = World(4, k=7, shapes=SHAPES[:5]), range(6), (4,)
    merged = world.task_arithmetic(truth)
    r = world.attribute(merged, which, dense, replay=False)
    assert named(r) == {"a1", "a4"}
    for i, m in enumerate(world.shapes):
        atoms = dictionary(world, (1, 4), dense, m)
        d = merged[m].astype(np.longdouble) - world.base[m].astype(np.longdouble)
        w = least_squares(atoms, d)
        assert r.modules.weights[[1, 4], i] == pytest.approx(w.astype(float), abs=1e-5)
        left = float(np.sum((d - w[0] * atoms[0] - w[1] * atoms[1]) ** 2)) - rounding_energy(merged[m])
        assert r.modules.unexplained[i] == pytest.approx(max(left / float(np.sum(d**2)), 0), abs=1e-5)
    for j in (1, 4):
        assert by_name(r)[f"a{j}"].scatter == pytest.approx(np.std(r.modules.weights[j], ddof=1), rel=1e-6)
    energy = sum(float(np.sum((merged[m].astype(float) - world.base[m].astype(float)) ** 2)) for m in merged)
    assert r.noise >= 0.99 * sum(rounding_energy(x) for x in merged.values()) / energy


def test_p_values_of_absent_atoms_are_uniform() -> None:
    """160 merges of one or two fine-tunes that a dictionary of twelve lacks: one of its p-values each against the uniform
    distribution (Kolmogorov and Smirnov at 1 in 1000), all of them at 5 % and 1 %."""
    one, every = [], []
    for seed in range(160):
        world = World(1000 + seed, k=14, shapes=[(40, 48), (48, 40), (40, 40), (48, 48)], step=2e-3)
        left = range(12, 13 + seed % 2)
        r = world.attribute(world.task_arithmetic({j: 1 - 0.25 * (j - 12) for j in left}), range(12), replay=False)
        p = [a.p_value for a in r.atoms]
        one.append(p[seed % 12])
        every += p
    x = np.sort(one)
    steps = np.arange(len(x) + 1) / len(x)
    distance = max(np.max(steps[1:] - x), np.max(x - steps[:-1]))
    assert distance < 1.95 / math.sqrt(len(x))
    assert np.mean(np.array(every) < 0.05) < 0.08
    assert np.mean(np.array(every) < 0.01) < 0.02


def test_the_same_question_has_the_same_answer() -> None:
    """Whatever the number of threads and the order of the atoms."""
    world = World(5, k=7)
    merged = world.task_arithmetic({1: 0.7, 4: 0.5, 6: 0.6})

    def numbers(r: unmerge.Attribution) -> list[Any]:
        found = [(a.present, a.weight, a.low, a.high, a.p_value, a.evidence) for a in r.atoms]
        return [found, r.missing, r.unexplained, r.noise, r.modules.weights.tobytes(), r.modules.unexplained.tobytes()]

    answers = [numbers(world.attribute(merged, range(6), threads=t)) for t in (1, 2, 5)]
    assert answers[0] == answers[1] == answers[2]
    turned = by_name(world.attribute(merged, range(5, -1, -1)))
    for name, atom in by_name(world.attribute(merged, range(6))).items():
        assert turned[name].present == atom.present
        assert turned[name].evidence == pytest.approx(atom.evidence, rel=1e-4)
        assert turned[name].weight == pytest.approx(atom.weight, abs=1e-4)


@pytest.mark.parametrize("power", [20, -20, 40, -40])
def test_scale_does_not_matter(power: int) -> None:
    """A power of two multiplies every number: the same weights, evidence and proof."""
    s = 2.0**power
    one, other = World(6, k=6), World(6, k=6, size=0.05 * s, step=STEP * s)
    truth = {1: 0.5, 3: 0.3, 4: 0.2}
    a, b = (w.attribute(w.linear(truth), range(6)) for w in (one, other))
    well_formed(b)
    assert named(a) == named(b) == {"a1", "a3", "a4"}
    assert (a.complete, a.flags, a.proof.proved) == (b.complete, b.flags, b.proof.proved)
    for x, y in zip(a.atoms, b.atoms):
        assert y.weight == pytest.approx(x.weight, abs=1e-4)
        assert y.evidence == pytest.approx(x.evidence, rel=1e-3, abs=1e-4)


# ---------------------------------------------------------------- degenerate dictionaries


def extended(world: World, which: Sequence[int], extra: Mapping[str, Any]) -> unmerge.Operator:
    """The adapters, then more: by name a function that gives B, A and a scale for a module (None: not set there)."""
    op = world.atoms(which)
    for name, make in extra.items():
        op.add_column(name)
        for m in world.shapes:
            if (given := make(m)) is not None:
                op.set_lora(m, name, *given)
    return op


TRUTH = {1: 0.7, 4: 0.5, 6: -0.3}


@pytest.fixture(scope="module")
def ordinary() -> tuple[World, dict[str, np.ndarray]]:
    world = World(7, k=9, step=1.5e-3)
    return world, world.task_arithmetic(TRUTH)


def asked(given: tuple[World, dict[str, np.ndarray]], extra: Mapping[str, Any]) -> unmerge.Attribution:
    world, merged = given
    r = unmerge.attribute((extended(world, KNOWN, extra), world.target(merged)))
    well_formed(r)
    return r


@pytest.mark.parametrize("scale", [1.0, 2.0, -1.0, 1e-3], ids=["same", "double", "negative", "small"])
def test_the_same_adapter_twice(ordinary: Any, scale: float) -> None:
    """The later one is a duplicate and does not answer; the first answers as if it were alone."""
    r = asked(ordinary, {"copy": lambda m: (*ordinary[0].factors[1][m], scale)})
    close(r, TRUTH, 0.01)
    copy = by_name(r)["copy"]
    assert "duplicate" in copy.flags
    assert not copy.present
    assert (copy.p_value, copy.q_value) == (1, 1)
    assert "duplicate" not in by_name(r)["a1"].flags
    assert abs(copy.nearest_cosine) == pytest.approx(1, abs=1e-5)
    assert copy.nearest == "a1"
    assert r.complete


def test_two_nearly_equal_ones(ordinary: Any) -> None:
    """Which of two with a cosine of .999 it is may be said wrongly; that one of them is there, and their sum, may not."""
    world = ordinary[0]

    def near(m: str) -> Any:
        b, a = world.factors[1][m]
        rng = np.random.default_rng(len(m) + int(m[1:]))
        other = rng.standard_normal(b.shape).astype(F32)
        other *= np.float32(0.045) * np.linalg.norm(b @ a) / np.linalg.norm(other @ a)
        return b + other, a, 1.0

    r = asked(ordinary, {"near": near})
    found = by_name(r)
    assert 0.998 < found["near"].nearest_cosine < 0.9995
    for name in ("near", "a1"):
        assert "related" in found[name].flags
        assert "duplicate" not in found[name].flags
    assert named(r) - {"near", "a1"} == {"a4", "a6"}
    assert found["near"].present or found["a1"].present
    assert sum(found[x].weight for x in ("near", "a1") if found[x].present) == pytest.approx(0.7, abs=0.02)


def test_atoms_that_are_zero(ordinary: Any) -> None:
    """A zero B, and a rank of zero."""
    world = ordinary[0]
    zero = {
        "zero": lambda m: (0 * world.factors[0][m][0], world.factors[0][m][1], 1.0),
        "empty": lambda m: (np.zeros((world.shapes[m][0], 0), F32), np.zeros((0, world.shapes[m][1]), F32), 1.0),
        "scaled": lambda m: (*world.factors[0][m], 0.0),
    }
    r = asked(ordinary, zero)
    close(r, TRUTH, 0.01)
    for name in zero:
        atom = by_name(r)[name]
        assert atom.flags == ("zero",)
        assert (atom.present, atom.weight, atom.p_value, atom.evidence, atom.nearest) == (False, 0, 1, 0, None)


def test_nothing_but_zero_atoms(ordinary: Any) -> None:
    world, merged = ordinary
    op = world.operator()
    op.add_column("zero")
    for m, (d, n) in world.shapes.items():
        op.set_lora(m, "zero", np.zeros((d, 2), F32), np.ones((2, n), F32))
    r = unmerge.attribute((op, world.target(merged)))
    well_formed(r)
    assert (named(r), r.complete, r.atoms[0].flags) == (set(), False, ("zero",))
    assert r.unexplained > 0.9


def test_a_target_that_is_the_base(ordinary: Any) -> None:
    world = ordinary[0]
    r = world.attribute(world.base, KNOWN)
    well_formed(r)
    assert "unchanged" in r.flags
    assert named(r) == set()
    assert r.complete
    assert (r.unexplained, r.missing) == (0, 0)
    assert all(a.p_value == 1 and a.weight == 0 for a in r.atoms)
    assert r.rule is None


def test_atoms_on_some_modules(ordinary: Any) -> None:
    """The target lacks the last module; one atom has nothing but that one, another the first two of the others."""
    world, merged = ordinary
    last = list(world.shapes)[-1]
    some = {
        "there": lambda m: (*world.factors[8][m], 1.0) if m == last else None,
        "nowhere": lambda m: None,
        "part": lambda m: (*world.factors[8][m], 1.0) if m in ("m0", "m1") else None,
    }
    target = world.operator()
    target.add_column("merged")
    for m in list(world.shapes)[:-1]:
        target.set_dense(m, "merged", merged[m], base=world.base[m])
    r = unmerge.attribute((extended(world, KNOWN, some), target))
    well_formed(r)
    close(r, TRUTH, 0.01)
    found = by_name(r)
    assert "unseen" in found["there"].flags
    assert "unseen" in found["nowhere"].flags
    assert "partial" in found["part"].flags
    assert not {"unseen", "partial"} & set(found["a1"].flags)
    for name in ("there", "nowhere"):
        assert (found[name].present, found[name].p_value, found[name].q_value) == (False, 1, 1)
    assert r.complete


def test_what_the_target_lacks_does_not_count() -> None:
    """The same answer as over the modules the target has."""
    world = World(7, k=9, step=1.5e-3)
    merged = world.task_arithmetic(TRUTH)
    few = World(7, k=9, shapes=SHAPES[:4], step=1.5e-3)
    few.base, few.factors = world.base, world.factors
    target = world.operator()
    target.add_column("merged")
    for m in few.shapes:
        target.set_dense(m, "merged", merged[m], base=world.base[m])
    a = unmerge.attribute((world.atoms(KNOWN), target), replay=False)
    b = unmerge.attribute((few.atoms(KNOWN), few.target({m: merged[m] for m in few.shapes})), replay=False)
    well_formed(a)
    close(a, TRUTH, 0.01)
    for x, y in zip(a.atoms, b.atoms):
        assert (x.weight, x.evidence, x.p_value, x.nearest_cosine) == (y.weight, y.evidence, y.p_value, y.nearest_cosine)
        assert (x.flags, x.low, x.high) == (y.flags, y.low, y.high)
    assert (a.missing, a.noise, a.condition) == (b.missing, b.noise, b.condition)
    op = world.operator()
    op.add_column("elsewhere")
    op.set_lora("m5", "elsewhere", *world.factors[1]["m5"])
    r = unmerge.attribute((op, target))
    well_formed(r)
    assert r.atoms[0].flags == ("unseen",)
    assert (named(r), r.complete) == (set(), False)
    assert r.unexplained > 0.9


def test_a_partial_atom_that_is_inside() -> None:
    world = World(8, k=9, step=1.5e-3)
    for m in ("m2", "m3", "m4"):
        b, a = world.factors[8][m]
        world.factors[8][m] = 0 * b, a
    merged = world.task_arithmetic({1: 0.7, 8: 0.6})
    op = extended(world, KNOWN, {"part": lambda m: None if m in ("m2", "m3", "m4") else (*world.factors[8][m], 1.0)})
    r = unmerge.attribute((op, world.target(merged)))
    well_formed(r)
    assert named(r) == {"a1", "part"}
    assert by_name(r)["part"].weight == pytest.approx(0.6, abs=0.01)
    assert "partial" in by_name(r)["part"].flags
    assert np.all(np.isnan(r.modules.weights[8, 2:5]))
    assert r.complete


def test_the_wrong_base(ordinary: Any) -> None:
    world, merged = ordinary
    other = World(99, k=1).base
    r = unmerge.attribute((world.atoms(KNOWN), world.target(merged, other)))
    well_formed(r)
    assert "wrong_base" in r.flags
    assert not r.complete
    assert named(r) == set()


def test_another_architecture(ordinary: Any) -> None:
    world, merged = ordinary
    other = World(0, k=1, shapes=[(64, 64)] * len(SHAPES))
    with pytest.raises(ValueError, match="m0"):
        unmerge.attribute((world.atoms(KNOWN), other.target(other.base)))
    models = {f"a{j}": {f"{m}.weight": world.model(j, m) for m in world.shapes} for j in range(2)}
    base = {f"{m}.weight": x for m, x in world.base.items()}
    with pytest.raises(ValueError, match="m0"):
        unmerge.attribute(base=base, atoms=models, target={f"{m}.weight": x for m, x in other.base.items()})
    with pytest.raises(ValueError, match="no tensor in common|common"):
        unmerge.attribute(base=base, atoms=models, target={f"other.{m}": x for m, x in merged.items()})


# ---------------------------------------------------------------- few and many


def test_every_atom_is_in_the_merge() -> None:
    world = World(9, k=6, step=1.5e-3)
    truth = {0: 0.5, 1: 0.4, 2: -0.3, 3: 0.6, 4: 0.45, 5: 0.25}
    r = world.attribute(world.task_arithmetic(truth), range(6))
    well_formed(r)
    close(r, truth, 0.01)
    assert r.complete


class Full(World):
    """Fine-tunes that change everything: deltas of full rank, stored as task models."""

    def delta(self, j: int, m: str) -> np.ndarray:
        rng = np.random.default_rng([j, int(m[1:])])
        return (1.5e-3 * rng.standard_normal(self.shapes[m])).astype(F32)


full_rank = pytest.mark.xfail(reason="a sum without low rank is taken for dropped entries", strict=True)


def test_full_fine_tunes() -> None:
    world, truth = Full(3, k=9, shapes=SHAPES[:3]), {1: 0.7, 4: 0.5}
    r = world.attribute(world.task_arithmetic(truth), KNOWN, KNOWN)
    well_formed(r)
    close(r, truth, 0.005)
    assert r.complete
    assert r.method.name == "task_arithmetic"
    assert r.proof.equal == r.proof.compared


def test_full_fine_tunes_and_a_stranger() -> None:
    world = Full(3, k=10, shapes=SHAPES[:3])
    r = world.attribute(world.task_arithmetic({1: 0.7, 4: 0.5, 8: 0.6}), KNOWN, KNOWN, replay=False)
    well_formed(r)
    assert named(r) == {"a1", "a4"}
    assert not r.complete
    r = world.attribute(world.task_arithmetic({8: 0.7, 9: 0.6}), KNOWN, KNOWN, replay=False)
    well_formed(r)
    assert named(r) == set()
    assert not r.complete


class Small(World):
    """a0 to a4 move every weight by about a unit in its last place, all others are adapters and many times larger."""

    def delta(self, j: int, m: str) -> np.ndarray:
        if j > 4:
            return super().delta(j, m)
        rng = np.random.default_rng([j, int(m[1:])])
        return (2e-4 * rng.standard_normal(self.shapes[m])).astype(F32)


def test_small_full_fine_tunes_beside_large_strangers() -> None:
    world, dense = Small(4, k=10, shapes=((256, 256),) * 4, step=2e-3), range(5)
    r = world.attribute(world.task_arithmetic({1: 0.4, 8: 0.6, 9: 0.6}), KNOWN, dense, replay=False)
    well_formed(r)
    close(r, {1: 0.4}, 0.02)
    assert not r.complete
    r = world.attribute(world.task_arithmetic({8: 0.6, 9: 0.6}), KNOWN, dense, replay=False)
    assert named(r) == set()


def test_updates_as_small_as_their_rounding() -> None:
    """With w = 0.4 a unit is rounded to nothing, with w = 0.7 to a unit; least squares is off by more than 0.05."""
    world, truth = Small(4, k=10, shapes=((256, 256),) * 4), {1: 0.4, 3: 0.7}
    r = world.attribute(world.task_arithmetic(truth), KNOWN, range(5))
    well_formed(r)
    close(r, truth, 0.005)
    assert r.method.name == "task_arithmetic"
    assert r.complete
    assert r.proof.proved


def test_dropped_entries_of_full_fine_tunes() -> None:
    world, truth = Small(4, k=10, shapes=((256, 256),) * 4), {1: 0.6, 3: 0.5}
    r = world.attribute(world.dare(truth, 0.5), KNOWN, range(5))
    well_formed(r)
    assert named(r) == {"a1", "a3"}
    assert r.method.name == "dare_linear"
    assert r.complete


@pytest.mark.parametrize("options", [pytest.param({}, marks=full_rank, id="many"), pytest.param({"rows": 16}, id="rows")])
def test_more_ranks_than_half_the_rows(options: dict[str, int]) -> None:
    """Four adapters in modules of forty rows; or few rows analysed."""
    world = World(1, k=8, shapes=SHAPES[:2] if options else [(40, 48), (48, 40), (40, 40), (48, 48)], step=2e-3)
    truth = {1: 0.7, 4: 0.5} if options else {0: 0.7, 1: 0.7, 2: 0.7, 3: 0.7}
    r = world.attribute(world.task_arithmetic(truth), KNOWN, **options)
    well_formed(r)
    close(r, truth, 0.01)
    assert r.complete
    assert r.method.name == "task_arithmetic"
    assert r.proof.proved


def test_a_proof_is_of_the_right_recipe() -> None:
    world, truth = Full(3, k=10, shapes=SHAPES[:4]), {1: 0.6, 4: 0.4}
    r = world.attribute(world.dare(truth, 0.5), KNOWN, KNOWN)
    well_formed(r)
    assert not r.proof.proved or named(r) == {"a1", "a4"}
    if r.proof.proved:
        close(r, truth, 0.02)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("weight", [1.0, 0.6])
def test_a_merge_of_one(n: int, weight: float) -> None:
    world = World(10, k=9, step=1.5e-3)
    r = world.attribute(world.task_arithmetic({0: weight}), range(n))
    well_formed(r)
    close(r, {0: weight}, 0.005)
    assert r.complete
    assert ("few_atoms" in r.flags) == (n < 4)
    assert r.proof.proved
    if weight != 1:
        assert r.proof.equal == r.proof.compared


def test_a_task_model_by_itself() -> None:
    """No merge at all: the linear merge of one, bit for bit."""
    world = World(10, k=9, step=1.5e-3)
    r = world.attribute({m: world.model(0, m) for m in world.shapes}, range(4))
    well_formed(r)
    close(r, {0: 1.0}, 0.005)
    assert r.complete
    assert "linear" in methods(r)
    assert r.proof.equal == r.proof.compared


def test_what_predicts_everything_is_the_recipe() -> None:
    """1 * (t - b), rounded, is not t - b: task arithmetic with a weight of 1 is not the task model in 1 % of the values."""
    world = World(10, k=9, step=1.5e-3)
    r = world.attribute(world.task_arithmetic({0: 1.0}), range(4))
    assert r.method.name == "task_arithmetic"
    assert r.proof.equal == r.proof.compared


@pytest.mark.parametrize("n", [1, 2, 3])
def test_few_atoms_and_a_stranger(n: int) -> None:
    """A dictionary too small to know how related its fine-tunes are still names nobody who is not there."""
    for seed in range(4):
        world = World(20 + seed, k=6)
        r = world.attribute(world.task_arithmetic({4: 0.7, 5: 0.5}), range(n))
        well_formed(r)
        assert "few_atoms" in r.flags
        assert named(r) == set()
        assert not r.complete
        r = world.attribute(world.task_arithmetic({0: 0.7, 5: 0.5}), range(n))
        assert named(r) == {"a0"}
        assert not r.complete


@pytest.mark.parametrize("shape", [(128, 128), (96, 160), (160, 96)])
def test_a_single_module(shape: tuple[int, int]) -> None:
    world = World(11, k=8, shapes=[shape], step=1.5e-3)
    r = world.attribute(world.task_arithmetic({2: 0.7, 5: 0.4}), KNOWN)
    well_formed(r)
    close(r, {2: 0.7, 5: 0.4}, 0.01)
    assert "few_modules" in r.flags
    assert r.complete
    assert all(a.scatter == 0 for a in r.present)


def test_rows_and_columns() -> None:
    """One-row and one-column modules beside others, and alone."""
    shapes = [(96, 128), (1, 128), (128, 1), (128, 96), (1, 1), (96, 96)]
    world = World(12, k=8, shapes=shapes, step=1.5e-3)
    truth = {2: 0.7, 5: 0.4}
    for dense in ((), KNOWN):
        r = world.attribute(world.task_arithmetic(truth), KNOWN, dense)
        well_formed(r)
        close(r, truth, 0.015)
        assert r.complete
    thin = World(13, k=8, shapes=[(1, 512), (512, 1), (1, 640), (640, 1)], step=1.5e-3)
    r = thin.attribute(thin.task_arithmetic(truth), KNOWN, KNOWN)
    well_formed(r)
    close(r, truth, 0.03)


@pytest.mark.parametrize("store", [F16, F32], ids=["f16", "f32"])
@pytest.mark.parametrize("dense", [(), KNOWN], ids=["lora", "dense"])
def test_finer_storage(store: Any, dense: Sequence[int]) -> None:
    """In float32 a task model is what its tool's product rounded to: only stored ones can be predicted to the last bit."""
    world = World(14, k=9, store=store)
    truth = {1: 0.7, 4: 0.5, 6: -0.3}
    r = world.attribute(world.task_arithmetic(truth), KNOWN, dense)
    well_formed(r)
    close(r, truth, 0.003)
    assert r.complete
    assert r.unexplained < 0.003
    assert "task_arithmetic" in methods(r)
    assert r.proof.share > 0.9
    if dense:
        assert r.proof.equal == r.proof.compared
    r = world.attribute(world.task_arithmetic({1: 0.7, 4: 0.5, 8: 0.6}), KNOWN, dense)
    well_formed(r)
    assert named(r) == {"a1", "a4"}
    assert not r.complete
    assert r.unexplained > 0.2


def test_an_adapter_as_target() -> None:
    """PEFT's cat: factors side by side, the weights in one of them."""
    world = World(15, k=9)

    def cat(w: Weights) -> unmerge.Operator:
        op = world.operator()
        op.add_column("merged")
        for m in world.shapes:
            b = np.hstack([np.float32(c) * world.factors[j][m][0] for j, c in w.items()])
            op.set_lora(m, "merged", b, np.vstack([world.factors[j][m][1] for j in w]))
        return op

    r = unmerge.attribute((world.atoms(KNOWN), cat({1: 0.7, 4: 0.4})))
    well_formed(r)
    close(r, {1: 0.7, 4: 0.4}, 1e-3)
    assert r.complete
    assert "adapter_cat" in methods(r)
    assert r.proof.compared == 0
    assert r.unexplained < 1e-3
    r = unmerge.attribute((world.atoms(KNOWN), cat({1: 0.7, 4: 0.4, 8: 0.5})))
    assert named(r) == {"a1", "a4"}
    assert not r.complete
    r = unmerge.attribute((world.atoms(KNOWN), cat({8: 0.5})))
    assert named(r) == set()
    assert not r.complete


@pytest.mark.parametrize("scale", [1e6, 1e-6])
def test_huge_and_tiny(scale: float) -> None:
    world = World(16, k=8, size=0.05 * scale, step=1.5e-3 * scale)
    r = world.attribute(world.task_arithmetic({1: 0.7, 4: 0.5}), KNOWN)
    well_formed(r)
    close(r, {1: 0.7, 4: 0.5}, 0.01)
    assert r.complete


def test_atoms_of_very_different_size() -> None:
    """One atom 1000 times smaller than the others is neither named nor in the way; one 1000 times larger is found."""
    world = World(17, k=9, step=1.5e-3)
    merged = world.task_arithmetic({1: 0.7, 4: 0.5})
    r = unmerge.attribute(
        (
            extended(
                world,
                KNOWN,
                {"small": lambda m: (*world.factors[8][m], 1e-3), "large": lambda m: (*world.factors[8][m], 1e3)},
            ),
            world.target(merged),
        )
    )
    well_formed(r)
    close(r, {1: 0.7, 4: 0.5}, 0.01)
    op = world.atoms([0, 2, 3, 5, 6, 7])
    op.add_column("large")
    for m in world.shapes:
        op.set_lora(m, "large", *world.factors[1][m], 1e3)
    r = unmerge.attribute((op, world.target(world.task_arithmetic({1: 0.7}))))
    assert named(r) == {"large"}
    assert by_name(r)["large"].weight == pytest.approx(0.7e-3, rel=0.02)
