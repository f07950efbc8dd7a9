"""How much of the reward is signal, before RL is paid for."""
