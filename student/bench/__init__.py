"""Speed of the engine beside PEFT runs and SEAL's recipe (`python -m student.bench`)."""
