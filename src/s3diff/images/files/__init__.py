"""Picture files: bytes to pictures and back."""
