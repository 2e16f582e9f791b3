"""Shape annotations are checked in tests, and only there. A small real population is built once."""

import os
import shutil
import tempfile

from tests import typechecking

if (
    "PYTEST_XDIST_WORKER" in os.environ
):  # one thread a worker: two pools on the same cores wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")

typechecking.install()

pytest_plugins = ["tests.population"]

_CACHE = "WEIGHTFLOW_CACHE"
_made = None
if "PYTEST_XDIST_WORKER" not in os.environ and not os.environ.get(_CACHE):
    # decoded data of the tests do not stay in the user's cache; workers share this folder
    _made = os.environ[_CACHE] = tempfile.mkdtemp(prefix="weightflow-tests-")


def pytest_unconfigure():
    if _made is not None:
        shutil.rmtree(_made, ignore_errors=True)
