import numpy as np
import pytest
from sklearn import linear_model, tree

from ml.explain.sampling.surrogates import DecisionTree, Lasso, Ridge, r_squared
from ml.spec import SurrogateKind


def data(n=80, features=6, seed=0):
    random = np.random.default_rng(seed)
    samples = (random.random((n, features)) < 0.6).astype(float)
    values = samples @ np.array([2.0, -1.0, 0.5, 0.0, 0.0, 0.0][:features]) + samples[:, 0] * samples[:, 1] + 3
    return samples, values, random.random(n) + 0.01


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0, 50.0])
def test_ridge_is_that_of_scikit_learn(alpha):
    samples, values, weights = data()
    reference = linear_model.Ridge(alpha=alpha).fit(samples, values, sample_weight=weights)
    fit = Ridge(alpha, samples, weights)(values)
    assert fit.attributions == pytest.approx(reference.coef_, abs=1e-9)
    assert fit.surrogate.intercept == pytest.approx(reference.intercept_, abs=1e-9)
    assert fit.surrogate.r_squared == pytest.approx(reference.score(samples, values, weights), abs=1e-12)


def test_ridge_with_more_features_than_samples():
    random = np.random.default_rng(1)
    samples, values = (random.random((20, 50)) < 0.5).astype(float), random.random(20)
    reference = linear_model.Ridge(alpha=1).fit(samples, values, sample_weight=np.full(20, 0.7))
    fit = Ridge(1, samples, np.full(20, 0.7))(values)
    assert fit.attributions == pytest.approx(reference.coef_, abs=1e-9)
    assert np.isfinite(fit.standard_errors).all()


@pytest.mark.parametrize("alpha", [0.0, 1e-300, 1.0])
def test_ridge_of_degenerate_samples(alpha):
    fit = Ridge(alpha, np.ones((2, 3)), np.array([1.0, 1e-100]))(np.array([1.0, 1.0]))
    assert fit.attributions == pytest.approx(np.zeros(3))
    assert np.isfinite(fit.standard_errors).all()
    assert fit.surrogate.r_squared == 1.0


def sandwich(samples, values, weights, power):
    """The textbook's own: weighted least squares with the intercept as a column; residuals over (1 − leverage)^power.

    Standard errors [features]: HC2 for a power of a half, HC3 for 1.
    """
    x = np.column_stack([np.ones(len(samples)), samples]) * np.sqrt(weights)[:, None]
    y = values * np.sqrt(weights)
    bread = np.linalg.inv(x.T @ x)
    residuals = y - x @ (bread @ x.T @ y)
    leverage = np.einsum("nf,fg,ng->n", x, bread, x)
    covariance = bread @ (x.T * residuals**2 / (1 - leverage) ** (2 * power)) @ x @ bread
    return np.sqrt(np.diag(covariance))[1:]


@pytest.mark.parametrize(("n", "power"), [(80, 0.5 + 7 / 160), (5000, 0.5), (14, 0.75)])
def test_sandwich_without_penalty_is_between_hc2_and_hc3(n, power):
    """By how many coefficients there are for each sample: 7 here, with the intercept."""
    samples, values, weights = data(n)
    fit = Ridge(0, samples, weights)(values)
    assert fit.standard_errors == pytest.approx(sandwich(samples, values, weights, power), rel=2e-2 if n < 80 else 3e-3)


@pytest.mark.parametrize("n", [6, 9, 12, 20, 40])
def test_the_errors_of_a_fit_to_few_samples_are_those_of_other_draws(n):
    """With as many coefficients as samples, a fit passes through all of them, and its residuals show nothing."""
    found = []
    for seed in range(200):
        samples, values, _ = data(n, seed=seed)
        found.append(Ridge(0.1, samples, np.ones(n))(values))
    reported = np.sqrt(np.mean([each.standard_errors**2 for each in found]))
    spread = np.sqrt(np.array([each.attributions for each in found]).var(axis=0).mean())
    assert 0.6 < reported / spread < 2


def test_lasso_is_that_of_scikit_learn():
    samples, values, weights = data()
    reference = linear_model.Lasso(alpha=0.05).fit(samples, values, sample_weight=weights)
    fit = Lasso(0.05, samples, weights)(values)
    assert fit.attributions == pytest.approx(reference.coef_, abs=1e-12)
    assert fit.surrogate.r_squared == pytest.approx(reference.score(samples, values, weights), abs=1e-12)
    assert (fit.standard_errors[:2] > 0).all()
    assert fit.standard_errors.tolist() == Lasso(0.05, samples, weights)(values).standard_errors.tolist()


def test_lasso_without_penalty_is_least_squares():
    samples, values, weights = data()
    fit = Lasso(0, samples, weights)(values)
    assert fit.attributions == pytest.approx(Ridge(0, samples, weights)(values).attributions)
    assert fit.surrogate.kind is SurrogateKind.LASSO


def test_tree_is_that_of_scikit_learn_and_reads_as_written():
    samples, values, weights = data()
    reference = tree.DecisionTreeRegressor(max_depth=3, random_state=0).fit(samples, values, sample_weight=weights)
    fit = DecisionTree(3, samples, weights)(values)
    assert np.abs(fit.attributions) == pytest.approx(reference.feature_importances_)
    assert fit.attributions[0] > 0
    assert fit.attributions[1] < 0
    assert np.abs(fit.attributions).sum() == pytest.approx(1)

    def predict(sample):
        node = fit.surrogate.nodes[0]
        while node.feature is not None:
            node = fit.surrogate.nodes[node.present if sample[node.feature] else node.absent]
        assert (node.absent, node.present) == (None, None)
        return node.value

    assert [predict(sample) for sample in samples] == pytest.approx(reference.predict(samples).tolist())
    assert fit.surrogate.nodes[0].samples == len(samples)


@pytest.mark.parametrize("lightest", [1e-300, 1e-105, 1e-30, 1e-16, 1e-9])
@pytest.mark.parametrize("samples", [2, 3, 5, 7, 9, 40])
def test_a_tree_of_weights_that_hardly_compare_has_numbers(lightest, samples):
    """As narrow kernels make them: the whole prompt weighs 1, and others next to nothing."""
    for seed in range(20):
        random = np.random.default_rng(seed)
        present = (random.random((samples, 5)) < 0.5) * 1.0
        weights = np.geomspace(1, lightest, samples)
        fit = DecisionTree(3, present, weights, fixed=1)(present @ np.linspace(-1, 2, 5) - 7)
        assert np.abs(fit.attributions).sum() == pytest.approx(1) or (fit.attributions == 0).all()
        assert np.isfinite(fit.standard_errors).all()


def test_without_errors_they_are_unknown():
    samples, values, weights = data()
    for kind, parameter in ((Ridge, 1), (Lasso, 0.1), (DecisionTree, 2)):
        fit = kind(parameter, samples, weights)(values, errors=False)
        assert np.isinf(fit.standard_errors).all()


def test_r_squared_of_constant_values():
    ones, zeros = np.ones(3), np.zeros(3)
    assert r_squared(ones, ones, ones) == 1
    assert r_squared(ones, zeros, ones) == 0
