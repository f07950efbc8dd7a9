"""How noisy a gain is: intervals, reliability, and which student to run next."""
