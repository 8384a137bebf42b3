"""Operations with an implementation that is faster on a CPU than torch's own."""
