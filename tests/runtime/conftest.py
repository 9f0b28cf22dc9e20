import pytest

from support.runtime import Runtime


@pytest.fixture
def runtime():
    under_test = Runtime()
    yield under_test
    under_test.close()


@pytest.fixture
def bundle(runtime):
    return runtime.bundle()
