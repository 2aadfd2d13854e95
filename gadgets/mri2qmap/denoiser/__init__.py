"""The image denoiser: network, use on volumes, training."""
