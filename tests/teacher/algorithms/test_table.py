import subprocess
import sys
from typing import get_args

import pytest

from configs.errors import UserError
from configs.load import load_config
from configs.schema import Rl
from teacher.algorithms.table import ALGORITHMS


def test_every_algorithm_of_the_schema_is_in_the_table_and_has_a_section():
    names = get_args(Rl.model_fields["algorithm"].annotation)
    assert set(ALGORITHMS) == set(names)
    assert set(names) <= set(Rl.model_fields)
    assert all((a.update is None) != (a.train_round is None) for a in ALGORITHMS.values())


def test_what_an_algorithm_is_can_be_asked_without_importing_trl():
    code = "import sys, teacher.algorithms.table; print([name for name in ('trl', 'datasets') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("override", "names"),
    [
        ("rl.epochs=3", "'rl.rest_em.epochs' or 'rl.dpo.epochs'"),
        ("rl.batch_size=3", "'rl.rest_em.batch_size' or 'rl.dpo.batch_size'"),
        ("rl.kl=0.1", "'rl.grpo.kl' or 'rl.dpo.beta'"),
        ("rl.dpo.beta=0", "greater than 0"),
    ],
)
def test_settings_that_moved_into_an_algorithms_section_are_refused_with_their_new_names(tmp_path, override, names):
    (tmp_path / "config.yaml").write_text("rl: {rounds: 1}\n")
    with pytest.raises(UserError, match=names):
        load_config(tmp_path / "config.yaml", [override])
