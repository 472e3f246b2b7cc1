"""What a process with GPUs has to see to."""
