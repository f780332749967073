"""What an evaluation measures, as a value."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Evaluation:
    """What is measured of every model.

    Attributes:
        texts: files or hub data sets whose perplexity is measured, as `load_text` reads them.
        seq_len: tokens in a window of perplexity; LLM-Pruner takes 128.
        max_tokens: read only so many of each text, from its start.
        batch_size: windows, or requests of a task, in one forward pass at most; halved where memory runs out.
            null begins at 64 on a GPU, 8 on the CPU.
        tasks: names of lm-eval tasks; NAME:METRIC reports one metric of it, such as hellaswag:acc_norm.
        tasks_folder: YAML task files beside the stock ones.
        tasks_data: folder from which the paper's seven tasks are read instead of the hub: TASK/test.jsonl
            of arc_easy, arc_challenge and openbookqa, TASK/validation.jsonl of the others.
        limit: only the first items of each task.
        prompts: continued greedily by each model, shown side by side; their repetition is measured.
        max_new_tokens: where such a continuation ends.
        speed: time prefill and decoding.
        speed_batch_size: sequences at once when timing.
        speed_prompt_tokens: tokens of each prompt when timing.
        speed_new_tokens: tokens decoded after each when timing.
        speed_repeats: measurements of which the median is taken.
        dtype: of the weights; None for the one they were saved in.
        device: "auto" takes a GPU if there is one.
        trust_remote_code: run model code that lies beside the weights.
    """

    texts: tuple[str, ...] = ()
    seq_len: int = 128
    max_tokens: int | None = None
    batch_size: int | None = None
    tasks: tuple[str, ...] = ()
    tasks_folder: str | None = None
    tasks_data: str | None = None
    limit: int | None = None
    prompts: tuple[str, ...] = ()
    max_new_tokens: int = 64
    speed: bool = True
    speed_batch_size: int = 1
    speed_prompt_tokens: int = 128
    speed_new_tokens: int = 32
    speed_repeats: int = 5
    dtype: str | None = None
    device: str = "auto"
    trust_remote_code: bool = False
