"""The contract: what flows between the stages, and the rules it obeys. No I/O."""
