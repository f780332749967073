"""Where real models and data lie: the folder LLM_PRUNE_TEST_DATA names, by default beside the project."""

import os
from pathlib import Path

DATA = Path(os.environ.get("LLM_PRUNE_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
STORIES = DATA / "stories260K"
