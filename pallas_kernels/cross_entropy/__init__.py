"""Cross-entropy of a linear head as the pair (loss, lse), with no array of logits."""
