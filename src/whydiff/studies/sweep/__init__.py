"""Shape dependence: which ops change their bits with batch, length or layout, why, and what makes them stop."""
