"""What can be set: one experiment, one YAML file, one `Config` of sections.

Keys are strict (a misspelt one is refused with the nearest valid name, see `configs/load.py`); the text under each
field is its documentation.
"""

from configs.schema.curation import Curation, Filters
from configs.schema.evaluation import Evaluation
from configs.schema.executor import Ray, Slurm
from configs.schema.experiment import Config
from configs.schema.reward import Reward
from configs.schema.rl import Rl
from configs.schema.run import Data, Lab, Run, Tracking
from configs.schema.section import Section
from configs.schema.serving import Serving
from configs.schema.student import Lora, Student
from configs.schema.teacher import Gates, Questions, Teacher

__all__ = [
    "Config", "Curation", "Data", "Evaluation", "Filters", "Gates", "Lab", "Lora", "Questions", "Ray", "Reward", "Rl",
    "Run", "Section", "Serving", "Slurm", "Student", "Teacher", "Tracking",
]  # fmt: skip
