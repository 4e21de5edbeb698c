"""What a run keeps, in its folder or a bucket: checkpoints, metrics, results, tokenizer and prompts."""
