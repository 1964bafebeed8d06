"""The kernel as one value: what it refuses and in whose name, and which coordinates it keeps by a literal loop."""

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from probes import InputError, bandwidth_sweep, kernel_cka, nhsic, nhsic_dense, null_scores
from probes.answers import factor_answers
from probes.kernel import Kernel, kept_coordinates

STEPS, ANSWER = torch.arange(12.0).sin().reshape(3, 4), torch.arange(4.0).cos()

#: Every function that makes a kernel of its keywords, and the name that its refusals carry.
MAKERS = {
    "nhsic": lambda **o: nhsic(STEPS, ANSWER, **o),
    "nhsic_dense": lambda **o: nhsic_dense(STEPS, ANSWER, **o),
    "kernel_cka": lambda **o: kernel_cka(STEPS, ANSWER, **o),
    "null_scores": lambda **o: null_scores(STEPS, ANSWER[None], **o),
    "factor_answers": lambda **o: factor_answers(ANSWER, **o),
    "bandwidth_sweep": lambda sigma=50, **o: bandwidth_sweep(STEPS, ANSWER, sigmas=(sigma,), **o),
}


@pytest.mark.parametrize("name", list(MAKERS))
@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"sigma": 0.0}, "sigma > 0 and finite, received 0.0"),
        ({"sigma": math.inf}, "sigma > 0 and finite, received inf"),
        ({"sigma": "mean"}, "sigma > 0 and finite, or .median., or a positive multiple"),
        ({"eps": -1.0}, "eps > 0 and finite, received -1.0"),
        ({"eps": 1e-13}, "eps >= 1e-1[02], received 1e-13"),
        ({"tol": 0.0}, "tol > 0 and finite, received 0.0"),
        ({"drop_top": 3}, "drop_top from 0 to 2, leaving at least 2 of 4 coordinates, received 3"),
    ],
)
def test_every_function_refuses_alike_and_by_its_own_name(name, options, text):
    has = {
        "nhsic_dense": {"sigma", "eps", "drop_top"},
        "kernel_cka": {"sigma", "tol", "drop_top"},
        "null_scores": {"sigma", "eps", "drop_top"},
        "bandwidth_sweep": {"sigma", "eps", "drop_top"},
    }.get(name, {"sigma", "eps", "tol", "drop_top"})
    if set(options) <= has:
        with pytest.raises(InputError, match=rf"^{name}: expected {text}"):
            MAKERS[name](**options)
    else:
        with pytest.raises(TypeError, match="unexpected keyword"):
            MAKERS[name](**options)


def test_a_kernel_stays_as_it_was_checked():
    kernel = Kernel(sigma=2, eps=None)
    with pytest.raises(dataclasses.FrozenInstanceError):
        kernel.sigma = -1.0
    with pytest.raises(InputError, match="Kernel: expected sigma > 0"):
        dataclasses.replace(kernel, sigma=-1.0)
    assert kernel == Kernel(2.0, None, operation="another name")
    assert kernel != Kernel(2.0)
    assert hash(kernel) == hash(Kernel(2.0, None))


def test_width_and_ridge_are_numbers_whatever_the_options():
    assert (Kernel(7).width, Kernel("3*median").width) == (7.0, 1.0)
    assert (Kernel(eps=1e-3).ridge, Kernel(eps=None).ridge) == (1e-3, 1e-5)


@settings(derandomize=True, max_examples=100, deadline=None)
@given(st.lists(st.integers(-4, 4), min_size=2, max_size=9), st.integers(0, 7))
def test_kept_coordinates_by_a_loop(values, drop_top):
    drop_top = min(drop_top, len(values) - 2)
    left = list(range(len(values)))
    for _ in range(drop_top):
        left.remove(max(left, key=lambda i: (abs(values[i]), -i)))
    assert kept_coordinates(torch.tensor([values, values]).double(), drop_top).tolist() == [left, left]
