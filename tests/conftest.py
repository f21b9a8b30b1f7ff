"""Strict by default: no silent promotion, no rank broadcasting, no warnings; 8 virtual devices on the CPU.

Programs are compiled without most optimisations, four times as fast, since most of the suite's time is compiling;
`RLX_TESTS=optimised python -m pytest` compiles them as a run does.

`pytest --method my_lab.mod.fn` runs the property suite on an estimator from anywhere, and nothing else.
"""

import importlib.metadata
import os
import sys
import tempfile

flags = ['--xla_force_host_platform_device_count=8']
if os.environ.get('RLX_TESTS') != 'optimised':
  flags += ['--xla_backend_optimization_level=0', '--xla_llvm_disable_expensive_passes=true']
  if tuple(map(int, importlib.metadata.version('jaxlib').split('.')[:2])) < (0, 11):      # later ones do not know it, and abort
    flags += ['--xla_cpu_use_fusion_emitters=false']
os.environ['XLA_FLAGS'] = ' '.join([os.environ.get('XLA_FLAGS', ''), *flags])
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
# workers, and the processes that tests start, share what they compile
os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', os.path.join(tempfile.gettempdir(), f'rlx-tests-{os.getuid()}'))
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0.2')

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update('jax_numpy_dtype_promotion', 'strict')
jax.config.update('jax_numpy_rank_promotion', 'raise')


def pytest_addoption(parser):
  parser.addoption('--method', action='append', default=[], metavar='my_lab.mod.fn',
                   help='run only the property suite, on this estimator (dotted name; may be given several times)')


def pytest_configure(config):
  if config.getoption('--method') and os.getcwd() not in sys.path:
    sys.path.insert(0, os.getcwd())


def pytest_ignore_collect(collection_path, config):
  if config.getoption('--method') and collection_path.is_file() and collection_path.name != 'test_properties.py':
    return True


@pytest.fixture(scope='module', autouse=True)
def few_programs():
  """Each compiled program is several memory maps of the process; past the kernel's limit (65,530) XLA dies."""
  yield
  try:
    with open('/proc/self/maps') as maps:
      many = sum(1 for _ in maps) > 20_000
  except OSError:
    many = False  # not Linux
  if many:
    jax.clear_caches()
