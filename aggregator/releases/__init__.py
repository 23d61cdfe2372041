"""One small file per contribution, the server's half: what the noisy sum means."""
