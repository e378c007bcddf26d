"""The linear head: the solver against scikit-learn, and what is chosen by itself."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import softmax
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from visiontool.errors import DataError
from visiontool.training.head import HeadOptions, Solution, gaussian, solve
from visiontool.training.head.features import Features
from visiontool.training.head.logistic import Balancing, Space, fit
from visiontool.training.head.select import STRENGTHS, HeldOut

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """As `solve` has it: what is compared here is small, and BLAS's threads are slow where others use the cores."""
    with threadpool_limits(1, user_api="blas"):
        yield


def blobs(counts: list[int], width: int, *, distance: float, seed: int = 0, views: int = 1) -> tuple[Floats, Ints]:
    """Embeddings (N, V, D) around a mean of each class, views 0.3 apart, and class ids."""
    random = np.random.default_rng(seed)
    means = random.normal(size=(len(counts), width)) * distance / np.sqrt(2 * width)
    class_ids = np.repeat(np.arange(len(counts)), counts)
    pictures = means[class_ids] + random.normal(size=(len(class_ids), width))
    others = pictures[:, None] + 0.3 * random.normal(size=(len(class_ids), views - 1, width))
    return np.concatenate([pictures[:, None], others], axis=1).astype(np.float32) + 5, class_ids


def solved(embeddings: Floats, class_ids: Ints, **options: Any) -> Solution:
    wanted = HeadOptions(**{name: options.pop(name) for name in HeadOptions._fields if name in options})
    classes, groups = int(class_ids.max()) + 1, np.arange(len(class_ids))
    return solve(embeddings, class_ids, classes, groups, options=wanted, **options)


def predicted(solution: Solution, embeddings: Floats) -> Ints:
    return solution.head.logits(embeddings[:, 0]).argmax(axis=1)


def balanced_accuracy(solution: Solution, embeddings: Floats, class_ids: Ints) -> float:
    right = predicted(solution, embeddings) == class_ids
    return float(np.mean([right[class_ids == class_id].mean() for class_id in np.unique(class_ids)]))


class TestLogistic:
    @pytest.mark.parametrize(("counts", "strength", "views"), [
        ([15, 20, 25], 100.0, 1), ([15, 20, 25], 0.3, 2), ([15, 20], 0.5, 1),
    ])  # fmt: skip
    def test_is_scikit_learns_solution(
        self, monkeypatch: pytest.MonkeyPatch, counts: list[int], strength: float, views: int
    ) -> None:
        embeddings, class_ids = blobs(counts, 6, distance=3, views=views)
        x, ids = embeddings.reshape(-1, 6).astype(np.float64), np.repeat(class_ids, views)
        weights = np.random.default_rng(0).uniform(0.1, 1, len(x)) if views > 1 else np.ones(len(x))
        monkeypatch.setattr("visiontool.training.head.logistic._BLOCK", 30)  # many rows, a few at a time
        ours = fit(x, ids, weights, strength, len(counts), tolerance=1e-9)
        inverse = (1 if len(counts) > 2 else 2) / strength  # with two classes it has the difference of ours
        theirs = LogisticRegression(C=inverse, tol=1e-9, max_iter=10_000).fit(x, ids, weights)
        got = ours.weight if len(counts) > 2 else ours.weight[1:] - ours.weight[:1]
        assert got == pytest.approx(theirs.coef_, abs=2e-5)

    def test_the_prior_is_left_out_of_the_logits(self) -> None:
        # Nothing to tell the classes apart by: adjusted logits are equal, others are those of the shares.
        x, class_ids = np.zeros((40, 1)), np.repeat([0, 1], [30, 10])
        log_prior = np.log([0.75, 0.25])
        plain = fit(x, class_ids, np.ones(40), 1.0, 2).bias
        adjusted = fit(x, class_ids, np.ones(40), 1.0, 2, log_prior=log_prior).bias
        assert plain[0] - plain[1] == pytest.approx(np.log(3), abs=1e-4)
        assert adjusted[0] - adjusted[1] == pytest.approx(0, abs=1e-4)


class TestGaussian:
    @pytest.mark.parametrize(("count", "width"), [(30, 6), (8, 40)])
    def test_is_scikit_learns_solution(self, monkeypatch: pytest.MonkeyPatch, count: int, width: int) -> None:
        monkeypatch.setattr(gaussian, "_ROWS", 7)
        embeddings, class_ids = blobs([count, count * 2, count], width, distance=3)
        x, space = embeddings[:, 0], Space.of(embeddings[:, 0])
        weights = np.ones(len(x))
        for shrinkage in (0.9, 0.1):
            statistics = gaussian.Statistics.of(space.project(embeddings)[0], class_ids, weights, 3)
            (ours,) = statistics.heads([shrinkage], width, is_balanced=False)
            theirs = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage).fit(x.astype(np.float64), class_ids)
            logits = space.unfold(ours).logits(x)
            assert softmax(logits, axis=1) == pytest.approx(theirs.predict_proba(x.astype(np.float64)), abs=1e-5)

    def test_classes_without_spread_are_told_apart_by_their_means(self) -> None:
        x = np.eye(3, 5, dtype=np.float32)
        (head,) = gaussian.Statistics.of(x, np.arange(3), np.ones(3), 3).heads([0.3], 5, is_balanced=True)
        assert head.logits(x).argmax(axis=1).tolist() == [0, 1, 2]
        assert np.abs(head.logits(x)).max() < 100


class TestSpace:
    @pytest.mark.parametrize(("count", "width", "rank"), [(40, 7, 7), (8, 30, 7)])
    def test_a_solution_in_it_is_that_of_scaled_embeddings(self, count: int, width: int, rank: int) -> None:
        embeddings, class_ids = blobs([count // 2] * 2, width, distance=3)
        space = Space.of(embeddings[:, 0])
        features = space.project(embeddings)
        assert features.shape == (1, count, rank)
        assert np.sum(features[0] ** 2, axis=1).mean() == pytest.approx(1, abs=1e-5)
        ours = space.unfold(fit(features[0], class_ids, np.ones(count), 0.1, 2, tolerance=1e-9))
        scaled = (embeddings[:, 0].astype(np.float64) - space.mean) / space.scale
        theirs = fit(scaled, class_ids, np.ones(count), 0.1, 2, tolerance=1e-9)
        assert ours.logits(embeddings[:, 0]) == pytest.approx(theirs.logits(scaled), abs=1e-4)


class TestHeldOut:
    def test_five_rounds_judge_each_picture_once_without_its_group(self) -> None:
        class_ids, groups = np.repeat([0, 1], 40), np.arange(80) // 2
        held_out = HeldOut.of(class_ids, groups, Balancing("none", np.array([40, 40])), 0)
        assert held_out.count == 5
        assert held_out.judged.tolist() == list(range(80))
        for number, training in enumerate(held_out.training()):
            assert not set(groups[training]) & set(groups[held_out.rounds == number])

    @pytest.mark.parametrize(("sizes", "rounds", "judged"), [([500] * 4, 1, 400), ([10, 10, 1], 5, 20)])
    def test_of_many_a_fifth_is_judged_and_never_a_classs_only_picture(
        self, sizes: list[int], rounds: int, judged: int
    ) -> None:
        class_ids = np.repeat(np.arange(len(sizes)), sizes)
        held_out = HeldOut.of(class_ids, np.arange(len(class_ids)), Balancing("none", np.array(sizes)), 0)
        assert (held_out.count, len(held_out.judged)) == (rounds, judged)
        if 1 in sizes:
            assert len(class_ids) - 1 not in held_out.judged


class TestChoices:
    def test_the_strength_is_the_one_with_the_least_held_out_loss(self) -> None:
        solution = solved(*blobs([60, 60], 40, distance=3), kind="logistic")
        nll = [step.nll for step in solution.path]
        assert solution.chosen == int(np.argmin(nll))
        assert 0 < solution.chosen < len(nll) - 1
        strengths = [step.strength for step in solution.path]
        assert strengths == sorted(strengths, reverse=True)
        assert strengths[0] == pytest.approx(STRENGTHS[0])

    def test_views_that_look_like_another_class_are_left_out(self) -> None:
        embeddings, class_ids = blobs([60, 60], 10, distance=6, views=2)
        embeddings[:, 1] = embeddings[::-1, 0]  # as if each class were the other's mirror
        solution = solved(embeddings, class_ids, kind="logistic")
        assert not solution.all_views
        assert any("plain view" in note for note in solution.notes)
        assert balanced_accuracy(solution, embeddings, class_ids) > 0.95

    def test_the_views_of_a_picture_weigh_as_much_as_one(self) -> None:
        embeddings, class_ids = blobs([15, 15], 6, distance=2)
        once, thrice = (solved(np.repeat(embeddings, copies, axis=1), class_ids, kind="logistic") for copies in (1, 3))
        assert thrice.all_views
        assert thrice.path[thrice.chosen].strength == once.path[once.chosen].strength
        assert thrice.head.weight == pytest.approx(once.head.weight, abs=1e-4)

    def test_the_head_and_its_features_are_those_with_the_least_held_out_loss(self) -> None:
        embeddings, class_ids = blobs([20] * 5, 30, distance=3)
        stage = np.eye(5, dtype=np.float32)[class_ids][:, None] + embeddings[..., :5] / 50  # which says it all
        outputs = np.concatenate([embeddings, stage], axis=2)
        solution = solved(outputs, class_ids, widths=(30, 5))
        assert (solution.kind, solution.head.features) == ("lda", Features((30, 5), "power"))
        losses = [candidate.brier for candidate in solution.candidates]
        assert losses == sorted(losses)
        assert {each.kind for each in solution.candidates} == {"lda", "logistic"}
        assert solution.notes[0].startswith(
            "head: linear discriminant analysis on the power-transformed outputs of 2 stages, Brier score 0."
        )
        assert predicted(solution, outputs).tolist() == class_ids.tolist()

    @pytest.mark.parametrize("kind", ["logistic", "lda", "means"])
    def test_what_is_asked_for_is_not_chosen(self, kind: str) -> None:
        embeddings, class_ids = blobs([12] * 3, 20, distance=4)
        solution = solved(embeddings, class_ids, widths=(15, 5), kind=kind, transform="power", stages=2)
        assert (solution.kind, solution.head.features) == (kind, Features((15, 5), "power"))
        assert balanced_accuracy(solution, embeddings, class_ids) > 0.9


class TestBalance:
    def test_auto_raises_balanced_accuracy_at_20_to_1(self) -> None:
        embeddings, class_ids = blobs([100, 5, 100, 5], 10, distance=3)
        fresh, fresh_ids = blobs([300] * 4, 10, distance=3)
        ways = {balance: solved(embeddings, class_ids, balance=balance) for balance in ("auto", "none")}
        accuracy = {balance: balanced_accuracy(way, fresh, fresh_ids) for balance, way in ways.items()}
        assert accuracy["auto"] > accuracy["none"] + 0.05
        assert ways["auto"].balance == "logit-adjust"
        assert "the largest class has 100 pictures to train on and the smallest 5" in ways["auto"].notes[1]
        assert not any("logits are adjusted" in note for note in ways["none"].notes)
        notes = solved(*blobs([30, 1], 10, distance=3), balance="weights").notes
        assert any(note.startswith("--balance weights does not change class means") for note in notes)


def all_judged(class_ids: Ints) -> HeldOut:
    count = len(class_ids)
    return HeldOut(class_ids, np.zeros(count, np.int64), np.arange(count), np.ones(count))


class TestCalibration:
    def test_finds_the_temperature_that_logits_were_spoiled_with(self) -> None:
        random = np.random.default_rng(0)
        honest = random.normal(size=(4000, 4)) * 2
        class_ids = (honest + random.gumbel(size=honest.shape)).argmax(axis=1)  # drawn from softmax(honest)
        for spoiled_by in (0.3, 3.0):
            temperature = all_judged(class_ids).temperature(honest * spoiled_by)
            assert temperature == pytest.approx(spoiled_by, rel=0.1)

    def test_all_right_is_no_reason_to_be_certain(self) -> None:
        class_ids = np.arange(50) % 2
        logits = np.eye(2)[class_ids] * 3.0
        certain = 1 / (1 + np.exp(-3.0 / all_judged(class_ids).temperature(logits)))
        assert 0.97 < certain < 0.995  # about one in fifty may be wrong


class TestRobustness:
    @pytest.mark.parametrize(
        "spoil",
        [
            pytest.param(lambda e: e * 0 + 3, id="nothing but a constant"),
            pytest.param(lambda e: np.repeat(e, 20, axis=2), id="features that say the same, more than rows"),
            pytest.param(lambda e: e * 1e15, id="huge"),
        ],
    )
    def test_odd_embeddings_give_a_finite_head(self, spoil: Callable[[Floats], Floats]) -> None:
        embeddings, class_ids = blobs([12, 12, 12], 5, distance=4, views=2)
        solution = solved(spoil(embeddings).astype(np.float32), class_ids)
        assert np.isfinite(solution.head.weight).all()
        assert np.isfinite(solution.head.bias).all()
        assert 0.05 <= solution.head.temperature <= 20

    def test_one_picture_a_class_cannot_be_judged(self) -> None:
        embeddings, class_ids = blobs([1, 1, 1], 5, distance=20, views=2)
        solution = solved(embeddings, class_ids)
        assert predicted(solution, embeddings).tolist() == [0, 1, 2]
        assert (solution.path, solution.chosen, solution.head.temperature) == ((), -1, 1.0)
        assert any("too few pictures" in note for note in solution.notes)

    def test_a_class_of_one_picture_among_others_is_learned(self) -> None:
        embeddings, class_ids = blobs([9, 9, 1], 5, distance=20)
        solution = solved(embeddings, class_ids)
        assert predicted(solution, embeddings).tolist() == class_ids.tolist()
        assert any(note.startswith("1 of 3 classes") for note in solution.notes)

    def test_a_class_without_a_picture_is_refused(self) -> None:
        embeddings, class_ids = blobs([5, 5], 3, distance=3)
        with pytest.raises(DataError, match="1 of 3 classes have no picture to train on, e.g. class 2"):
            solve(embeddings, class_ids, 3, np.arange(10))

    def test_a_seed_gives_the_same_to_the_last_bit(self) -> None:
        embeddings, class_ids = blobs([12, 12], 6, distance=2, views=2)
        one, same, other = (solved(embeddings, class_ids, seed=seed) for seed in (3, 3, 4))
        assert one.head.weight.tobytes() == same.head.weight.tobytes()
        assert one.path == same.path
        assert one.path != other.path

    def test_progress_ends_with_all(self) -> None:
        calls: list[tuple[int, int]] = []
        solved(*blobs([9, 9], 4, distance=2, views=2), progress=lambda done, total: calls.append((done, total)))
        assert [done for done, _ in calls] == list(range(1, len(calls) + 1))
        assert all(done < total for done, total in calls[:-1])
        assert calls[-1] == (len(calls), len(calls))
