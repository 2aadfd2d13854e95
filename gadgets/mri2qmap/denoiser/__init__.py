"""The image denoiser: network, classical pre-filters, application to volumes, checkpoints."""
