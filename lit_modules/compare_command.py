"""`llm-prune compare`: a page on this machine where several models continue the same prompt side by side."""

from collections.abc import Sequence

import torch

from lit_modules.comparing import check_port, labelled, opened
from pruner.checkpoint import load_config


def compare(
    places: Sequence[str], host: str, port: int, *, device: str = "auto", trust_remote_code: bool = False
) -> None:
    """Load the models and serve the page until it is interrupted.

    Args:
        places: model folders, hub names or run folders, LABEL=PLACE to name one.
        host: whom to serve; only this machine's own users reach 127.0.0.1.
        port: of the page.
        device: of all models; "auto" for the first GPU, where there is one.
        trust_remote_code: run model code that lies beside the weights.

    Raises:
        ValueError: gradio is missing, a model is none, or the port is in use; nothing was loaded.
    """
    try:
        from lit_modules.compare_page import serve
    except ModuleNotFoundError as error:
        raise ValueError("the page needs gradio: pip install 'llm-prune[compare]'") from error
    check_port(host, port)
    models = labelled(places)
    for place in models.values():
        load_config(place, trust_remote_code=trust_remote_code)
    fastest = "cuda" if torch.cuda.is_available() else "cpu"
    target = fastest if device == "auto" else device
    serve([opened(label, place, target, trust_remote_code) for label, place in models.items()], host, port)
