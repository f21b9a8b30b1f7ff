"""What every estimator promises (`rlx/testing.py`), for each file of `rlx/estimators` or for `--method my_lab.mod.fn`."""

import functools
import pkgutil

import pytest

from rlx import config, estimators, testing

study = functools.cache(testing.study)   # a method is compiled once


def pytest_generate_tests(metafunc):
  if 'method' in metafunc.fixturenames:
    methods = metafunc.config.getoption('--method') or config.names('estimator')
    for name in methods:
      try:
        config.resolve('estimator', name)
      except config.ConfigError as e:
        raise pytest.UsageError(str(e)) from e
    metafunc.parametrize('method', methods)


@pytest.mark.parametrize('check', testing.PROPERTIES, ids=lambda f: f.__name__)
def test_property(method, check):
  one = study(method)
  if one.chance and check in testing.SAME_DRAW:
    pytest.skip('it draws at random, and another batch is another draw')
  check(one)


def test_every_file_is_a_method():
  assert sorted(m.name for m in pkgutil.iter_modules(estimators.__path__)) == config.names('estimator')
