"""How likely a language model finds the response: the mean log-probability of its tokens, a measure of fluency."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from alol.base.errors import ParameterError
from alol.compute.batching import Batch, chunks
from alol.compute.ends import end_ids
from alol.compute.logprob import response_logp
from alol.config import model_names
from alol.config.sections import Launch
from alol.data.schema import PROMPT_MARKS
from alol.models import policies, templates
from alol.models.tokens import Encoder
from alol.rewards.components import Origin
from alol.rewards.network import device
from alol.rewards.options import Likelihood


class LikelihoodReward:
    """The component of kind `likelihood`: (1/n) Σ ln p(y_t | x, y_<t) over the response's n tokens, its end the last.

    The mean, not the sum, so that a long response costs no more than a short one. Its exponential, `probability`, is
    the inverse of the perplexity.
    """

    def __init__(self, where: str, options: Likelihood, folder: Path, launch: Launch) -> None:
        if options.model is None:
            raise ParameterError(f"{where}.model", "is not set; name a language model")
        model_names.check_sha256(options.model, options.sha256, f"{where}.sha256")
        self._where, self._options, self._device = where, options, device(launch)
        model = policies.base_model(options.model, options.revision, quantized=False)
        policies.check_context(model, options.max_prompt, options.max_response, f"{where}.max_response")
        kind = torch.bfloat16 if options.precision == "bf16" else torch.float32
        self._model = model.requires_grad_(False).to(self._device, kind)
        tokenizer = policies.tokenizer_of(options.model, options.revision)
        templates.keep(options.template, tokenizer, f"{where}.template")
        self._encoder = Encoder(tokenizer, options, frozenset(end_ids(model, tokenizer)), where)

    def score(
        self, prompts: Sequence[str], responses: Sequence[str], contexts: Sequence[dict], origin: Origin
    ) -> np.ndarray:
        """float64 [N]: at most 0, or in [0, 1] as probabilities."""
        rows = [
            {
                "prompt_id": f"row {i} (counted from 0)",
                "prompt": prompt,
                "cuts": [0],
                "turns": context.get("turns"),
                "marks": context.get(PROMPT_MARKS),
            }
            for i, (prompt, context) in enumerate(zip(prompts, contexts, strict=True))
        ]
        read, said = self._encoder.prompts(rows), self._encoder.responses(responses)
        lengths = [len(x) + len(y) for x, y in zip(read, said, strict=True)]
        size, tokens = self._options.batch_size, self._options.batch_tokens
        means = np.zeros(len(rows))
        with tqdm(total=len(rows), desc=self._where, unit="text", leave=False, disable=len(rows) < 4 * size) as bar:
            for chosen in chunks(lengths, size, tokens):
                means[chosen] = self._means([read[i] for i in chosen], [said[i] for i in chosen])
                bar.update(len(chosen))
        return np.exp(means) if self._options.output == "probability" else means

    @torch.inference_mode()
    def _means(self, prompts: list[list[int]], responses: list[list[int]]) -> np.ndarray:
        """Of each response [B]."""
        batch = Batch(prompts, responses, self._encoder.tokenizer.pad_token_id, self._device)
        logp = response_logp(self._model, batch)  # [B, T], 0 on padding
        return (logp.double().sum(1) / batch.response_mask.sum(1)).cpu().numpy()
