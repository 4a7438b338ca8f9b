"""What a program costs: floating-point operations, memory, communication."""
