"""The evaluation tasks by name.

Every task is a function

    run(predictor, documents, tokenizer, config, lengths, seed) -> dict

    predictor  batch -> batches.Prediction(nll, top): nll f32[B, T], the negative log-likelihood in nats of each target,
               and top bool[B, T], whether no logit is above the target's. A batch is a dict of numpy arrays [B, T] in
               natural order: tokens, targets, positions, segments (int32; segment 0 is padding) and weights (f32, 1 on
               real targets). B is what there is to read, at most `batches.rows_at(T)`; the predictor pads it
               to few shapes (longctx.evals.predictor).
    documents  a sequence of held-out documents with `.text` in bytes.
    tokenizer  longctx.data.tokenizers: encode, encode_with_spans, bos, eos, pad.
    config     longctx.config.EvalConfig.
    lengths    context lengths in tokens.
    seed       the same seed gives the same numbers.

It returns a small dict that JSON can hold, with the unit of its numbers in it; a number that could not be measured is
None and says why.
"""

from longctx.evals.tasks import by_position, context_gain, passkey

EVALS = {"by_position": by_position.run, "context_gain": context_gain.run, "passkey": passkey.run}
