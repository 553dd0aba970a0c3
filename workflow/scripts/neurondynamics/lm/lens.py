"""The logit lens: the tokens that a vector in the residual stream promotes."""

from __future__ import annotations

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from neurondynamics.lm.anatomy import dissect


@torch.inference_mode()
def decode_vectors(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    vectors: np.ndarray,
    tokens: int,
) -> list[list[str]]:
    """Return the `tokens` most promoted tokens of each vector, (n, d_model).

    The vector passes the final norm and the unembedding (nostalgebraist's logit lens).
    """
    anatomy = dissect(model)
    weight = anatomy.unembedding.weight
    residual = torch.as_tensor(vectors, dtype=weight.dtype, device=weight.device)
    logits = anatomy.unembedding(anatomy.final_norm(residual))  # (n, vocabulary)
    best = logits.topk(tokens).indices.tolist()
    return [tokenizer.batch_decode([[token] for token in row]) for row in best]
