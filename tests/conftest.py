"""Every test runs without network; a model or file that is not on this machine is an error, not a download."""

import os

# Read when huggingface_hub and datasets are first imported, so they are set before any test is collected.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["WANDB_SILENT"] = "true"
# The tests' models are so small that a second thread costs more than it brings.
os.environ.setdefault("OMP_NUM_THREADS", "1")
