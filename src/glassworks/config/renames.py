"""Other names of keys: the one table behind the remedy of an unknown key and behind `glassworks migrate`.

A key is given with its section where that is the same for every model.
"""

RENAMED: dict[str, tuple[str, ...]] = {
    "optimization.clip_norm": ("clip_grad", "grad_clip", "gradient_clip_val", "gradient_clipping", "max_grad_norm"),
    "optimization.eps": ("adam_epsilon", "epsilon"),
    "optimization.learning_rate": ("learningRate", "lr", "max_lr", "peak_lr"),
    "optimization.optimizer": ("optim", "optimiser"),
    "optimization.warmup_steps": ("num_warmup_steps", "warmup_iters"),
    "optimization.weight_decay": ("wd",),
    "training.batch_size": ("batch", "bs", "global_batch_size", "train_batch_size"),
    "training.compile": ("torch_compile",),
    "training.passes": ("epochs", "max_epochs", "num_epochs", "num_train_epochs"),
    "training.selection.patience": ("early_stopping_patience",),
    "training.steps": ("iterations", "iters", "max_iters", "max_steps", "num_steps", "total_steps", "train_steps"),
    "training.validate_every": ("eval_every", "eval_interval", "eval_steps"),
    "execution.checkpoint_every": ("save_every", "save_interval", "save_steps"),
    "execution.loader_workers": ("dataloader_num_workers", "num_workers", "workers"),
    "depth": ("layers", "n_layer", "n_layers", "num_hidden_layers", "num_layers"),
    "dropout": ("drop_rate", "hidden_dropout_prob"),
    "heads": ("n_head", "n_heads", "num_attention_heads", "num_heads"),
    "max_tokens": ("block_size", "context_length", "max_length", "max_seq_len", "max_seq_length", "sequence_length"),
    "vocab_size": ("vocabulary_size", "vocab"),
    "width": ("d_model", "dim", "embed_dim", "hidden_size", "n_embd"),
}
"""Names of the same setting with the same values. `glassworks migrate` writes our key in place of one of these."""

RELATED: dict[str, tuple[str, ...]] = {
    "optimization.betas": ("adam_beta1", "adam_beta2", "beta1", "beta2"),
    "optimization.schedule": ("lr_schedule", "lr_scheduler", "lr_scheduler_type", "scheduler"),
    "optimization.warmup_steps": ("warmup", "warmup_ratio", "warmup_epochs"),
    "optimization.weight_decay": ("l2",),
    "training.batch_size": ("per_device_train_batch_size",),
    "training.ema_decay": ("ema",),
    "training.micro_batches": ("accumulate_grad_batches", "grad_accum", "gradient_accumulation_steps"),
    "training.precision": ("amp", "bf16", "dtype", "fp16", "mixed_precision"),
    "training.selection.patience": ("early_stopping",),
    "training.validate_every": ("val_check_interval",),
}
"""Names of settings with other values or units, which only a person can carry over. An error names our key."""
