"""How rewards change the teacher: ReST-EM, DPO, GRPO."""
