"""The code of the per-layer form, as it runs before it is saved."""

import inspect
import linecache
from pathlib import Path

from pruner.modeling.per_layer import imported


def test_the_source_of_what_runs_can_be_read_though_its_file_is_gone():
    """transformers reads it to know whether a class's kind of attention can be chosen."""
    code = "from torch import nn\n\n\nclass Block(nn.Module):\n    pass\n"
    module = imported(code, "transformers.models.llama")
    assert not Path(module.__file__).exists()
    linecache.checkcache()
    assert inspect.getsource(module) == code
