"""Models of code: one recipe per published system."""

from __future__ import annotations

from dataclasses import replace

from maquette.codecs.text import HOLE
from maquette.data.infilling import MARKS, infilled
from maquette.experiment import Experiment
from maquette.networks import presets
from maquette.recipes._causal import causal, tokenizer_of

# after 60 training seconds on the default data, one CPU thread
EXPECTED = {"bits/byte": (0.12, 0.25)}  # two runs, .168 and .172; pass@1 .407 and .360, by execution


def codex(
    data: str = "functions", depth: int = 3, vocab: int = 1024, context: int = 160, rate: float = 0.8, lines: float = 0.7
) -> Experiment:
    """Codex: a causal transformer of code that also fills holes, judged by running what it writes (Chen 2021; Bavarian 2022).

    Most of what it learns from is cut at two places and its middle told last; a line is then written from what stands before and
    after (`maquette sample RUN --prompt ... --suffix ...`). Programs are run only where that is allowed: `maquette eval RUN
    --allow-code-exec`.

    Args:
        data: code: functions with checks, `repairs` (broken ones that are mended, too) and `tested` (with tests behind), both of
            which want a context of 256, `stdlib`, or a folder or file of text.
        depth: the one dial: blocks; width grows with it.
        vocab: symbols of the tokenizer, the one that ends a text and the three of holes included; 0 reads bytes.
        context: symbols seen at once.
        rate: share of rows with a hole; 0 = it only continues texts.
        lines: share of these whose hole is of whole lines; the others are cut between any two characters.
    """
    for name, share in (("rate", rate), ("lines", lines)):
        if not 0 <= share <= 1:
            raise ValueError(f"{name} is a share, 0 .. 1, not {share}; nearest is {min(max(share, 0.0), 1.0):g}")
    if context <= 2 * MARKS:
        raise ValueError(f"context is {context}; a text with a hole needs more than {2 * MARKS} symbols")
    codec = tokenizer_of("codex", "bpe", vocab, context, HOLE)
    experiment = causal("codex", data, depth, codec, presets.small(), EXPECTED)
    return replace(experiment, data=infilled(experiment.data, codec, context, rate, lines))
