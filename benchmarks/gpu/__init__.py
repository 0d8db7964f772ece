"""Own kernels and networks on a GPU, beside cuDNN and torch.compile."""
