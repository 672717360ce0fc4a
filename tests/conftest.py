"What tests share"

import pytest
from attempts import Attempts
from warm import keep_onnx_operations

keep_onnx_operations()


@pytest.fixture(scope="session")
def attempt(tmp_path_factory):
    "A function that runs commands in processes of their own: `attempts.Attempts`"
    made = Attempts(cache=tmp_path_factory.mktemp("cache"))
    yield made
    made.close()
