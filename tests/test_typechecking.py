"""Annotations of both packages are checked while the tests run."""

import jaxtyping
import pytest
import torch

from canon.io.files import sha256
from tests.typechecking import is_plain
from weightflow.evaluation.calibration import calibration_error


def test_types_are_checked():
    with pytest.raises(Exception, match="violates type hint"):
        sha256(3)


def test_axes_are_compared_over_the_arguments():
    confidence, counted = torch.rand(2, 5), torch.ones(2, 5, dtype=torch.bool)
    calibration_error(confidence, counted, counted)
    with pytest.raises(Exception, match="Type-check error"):
        calibration_error(confidence, counted[:, :4], counted)


def no_shape(count: "int") -> "list[str]": ...
def shape(x: "list[jaxtyping.Float[torch.Tensor, 'batch width']]") -> "int": ...
def for_type_checkers_alone(x: "Absent") -> "None": ...  # noqa: F821


def test_shapes_need_the_wrapper_that_compares_axes():
    assert is_plain(no_shape)
    assert not is_plain(shape)
    assert not is_plain(for_type_checkers_alone)
