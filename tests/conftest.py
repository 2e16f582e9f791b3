"""Shape annotations are checked in tests, and only there. A small real population is built once."""

import os

from tests import typechecking

if (
    "PYTEST_XDIST_WORKER" in os.environ
):  # one thread a worker: two pools on the same cores wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")

typechecking.install()

pytest_plugins = ["tests.population"]
