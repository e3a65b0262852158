"""BERTScore by the package ``bert-score``, which is imported at first use."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Sequence
from typing import Any

from medcap.errors import UserError

MODEL = "microsoft/deberta-xlarge-mnli"
_INSTALL = "BERTScore needs the package bert-score: pip install 'medcap[captions]'"


def check_installed() -> None:
    """Check that the package is there, without importing it.

    Raises:
        UserError: if it is not.
    """
    if importlib.util.find_spec("bert_score") is None:
        raise UserError(_INSTALL)


def bert_scores(
    captions: Sequence[str], references: Sequence[str], model: str = MODEL, num_layers: int | None = None
) -> list[tuple[float, float, float]]:
    """Compare texts by the cosine similarities of their words' embeddings (Zhang et al., 2020, arXiv:1904.09675).

    Args:
        captions: n texts.
        references: one for each; the inverse document frequencies of words are those of these n texts.
        model: name on the hub, or a folder.
        num_layers: the layer whose output is compared; None for the one that the package has tuned for the model.

    Returns:
        Precision, recall and F of each pair, not rescaled; 0 where one of the texts is blank.

    Raises:
        UserError: if the package is not installed or the model cannot be loaded.
    """
    check_installed()
    import torch
    from bert_score import BERTScorer  # pyright: ignore[reportMissingImports] - of the extra captions

    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        scorer = BERTScorer(model, num_layers=num_layers, idf=True, nthreads=0, device=device)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"BERTScore's model {model} cannot be loaded ({reason}): hf download {model} where there is a network"
        ) from error
    # DeBERTa's files state no longest text, and tokenizers refuses the placeholder for "none" as too large a number.
    longest = scorer._model.config.max_position_embeddings
    scorer._tokenizer.model_max_length = min(scorer._tokenizer.model_max_length, longest)
    scorer.compute_idf([text for text in references if text.strip()])
    # The package takes a blank text for 0 too, but asks the tokenizer for what transformers 5 has no more.
    pairs = list(zip(captions, references, strict=True))
    full = [index for index, pair in enumerate(pairs) if all(text.strip() for text in pair)]
    scores = [(0.0, 0.0, 0.0)] * len(pairs)
    if full:
        scored = scorer.score([captions[index] for index in full], [references[index] for index in full])
        for index, p, r, f in zip(full, *scored, strict=True):
            scores[index] = (_finite(p), _finite(r), _finite(f))
    return scores


def _finite(value: Any) -> float:
    """Return a score; 0 where no word has a weight, as in a text of words that all references have."""
    return 0.0 if math.isnan(value) else float(value)
