"""What a meta-gradient and a step cost, beside peers and the machine's limits."""
