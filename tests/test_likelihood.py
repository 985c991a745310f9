"""Likelihoods and gradients of priors whose densities are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from basis_toy.prior import soft_blobs

from basis_cli.errors import InputError, UsageError
from basis_cli.evaluation import likelihood
from basis_cli.posterior import Sampling


def test_bits_per_dim_of_a_priors_own_samples_are_its_entropy(drawn_from):
    prior = soft_blobs((1, 8, 8), std=0.1)
    quick = Sampling("langevin", levels=3, steps=5)
    data = drawn_from(prior, 400)
    report = likelihood.evaluate_likelihood(data, [prior] * 2, pictures=400, pairs=4, sigma=0.1, sampling=quick)
    entropy = 0.5 * torch.logdet(2 * torch.pi * torch.e * prior.at(0.1).covariances[0]) / 64 / np.log(2)
    test = report["bits_per_dim"]["samples"]["test"]
    assert test["mean"] == pytest.approx(float(entropy) + np.log2(255), abs=4 * test["standard_error"])
    assert test["standard_error"] == pytest.approx(0.5**0.5 / 64**0.5 / np.log(2) / 400**0.5, rel=0.2)
    assert report["bits_per_dim"]["samples"]["test, no noise"]["mean"] > 0
    assert report["sigma"] == 0.1
    again = likelihood.evaluate_likelihood(data, [prior] * 2, pictures=400, pairs=0, sigma=0.1, sampling=quick)
    assert again["bits_per_dim"]["samples"]["test"] == test
    assert again["bits_per_dim"]["samples"]["separations"] is None


def test_two_data_sets_each_have_their_own_bits_per_dim(drawn_from):
    """Blobs of little and of much variance: each under its own prior, and the separations in the priors' order."""
    priors = [soft_blobs((1, 8, 8), std=std) for std in (0.05, 0.15)]
    data = [drawn_from(prior, 100) for prior in priors]
    quick = Sampling("langevin", levels=10, steps=10)
    report = likelihood.evaluate_likelihood(data, priors, pairs=20, sampling=quick)
    assert report["protocol"] == "one of each"
    bits = report["bits_per_dim"]
    assert list(bits) == ["samples (1)", "samples (2)"]
    low, high = (rows["test"]["mean"] for rows in bits.values())
    assert high - low > 0.3
    for rows in bits.values():
        assert rows["separations"]["mean"] == pytest.approx(rows["test"]["mean"], abs=0.3)


def test_two_priors_of_one_data_set_have_no_bits_per_dim(drawn_from):
    with pytest.raises(UsageError, match="a data set each"):
        likelihood.evaluate_likelihood(drawn_from(soft_blobs((1, 8, 8)), 4), [soft_blobs((1, 8, 8)) for _ in "ab"])


def test_bits_per_dim_are_at_the_level_that_was_sampled_to(drawn_from):
    data, prior = drawn_from(soft_blobs((1, 8, 8)), 20), soft_blobs((1, 8, 8))
    sampling = Sampling("langevin", levels=3, steps=2, sigma_min=0.1)
    assert likelihood.evaluate_likelihood(data, [prior] * 2, pairs=2, sampling=sampling)["sigma"] == pytest.approx(0.1)


class Scores:
    """A prior without a likelihood, and without a level 0."""

    shape, sigmas = (1, 8, 8), (0.5, 0.2)

    def at(self, sigma):
        if sigma == 0:
            raise InputError("no such level")
        return self

    def score(self, x):
        return -x


def test_a_likelihood_is_needed(drawn_from):
    with pytest.raises(UsageError, match="no likelihood"):
        likelihood.evaluate_likelihood(drawn_from(soft_blobs((1, 8, 8)), 4), [Scores()] * 2, pictures=4, pairs=0)


def test_gradients_of_a_priors_own_samples_are_its_precisions(drawn_from):
    """``E ||score||^2`` is the trace of the inverse covariance; in 64 dimensions the norm is nearly constant."""
    prior = soft_blobs((1, 8, 8), std=0.1)
    rows = likelihood.evaluate_gradients(drawn_from(prior, 400), prior, sigmas=(1.0, 0.1), pictures=400)
    for row in rows:
        trace = prior.at(row["sigma"]).precisions[0].trace() * row["sigma"] ** 2
        assert row["scaled_norm"] == pytest.approx(float(trace) ** 0.5, rel=0.02)
        assert 0 < row["standard_error"] < 0.02 * row["scaled_norm"]
