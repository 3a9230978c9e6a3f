"""Films in, a residual network and evidence about it out; plain PyTorch, no orchestration."""
