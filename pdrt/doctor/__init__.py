"""What this machine has for pdrt, and what to do where something is missing."""
