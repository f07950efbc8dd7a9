"""Right solutions pass, wrong ones do not, and a hostile program harms nothing."""

import os
import shutil
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from teacher.checkers import programs
from teacher.checkers.problem import Problem, Unproven, read_problem
from teacher.checkers.table import CHECKERS

HERE = Path(__file__).parent
sandboxed = pytest.mark.skipif(not shutil.which("bwrap"), reason="bubblewrap is not installed")


def solutions(file: str) -> list[tuple[str, str, bool]]:
    """Statement, answer, and whether it is right: 200 or more, made by hand."""
    found = []
    for line in (HERE / file).read_text().splitlines():
        if not line.startswith("#"):
            statement, answers = line.split(" => ")
            found += [(statement, answer, number == 0) for number, answer in enumerate(answers.split(" | "))]
    assert len(found) >= 200
    return found


def proven(checker: str, statement: str, answer: str) -> bool:
    """Whether the checker proves it, said as a teacher would write it."""
    fence = f"Solution:\n```python\n{statement}\n```\n" if checker == "python" else ""
    text = f"Problem: {'Run it.' if fence else statement}\n{fence}Answer: {answer}"
    try:
        return bool(CHECKERS[checker].prove(read_problem(text)))
    except Unproven:
        return False


@pytest.mark.parametrize(("checker", "file"), [("sympy", "algebra.txt"), ("z3", "whole_numbers.txt")])
def test_right_solutions_are_proven_and_wrong_ones_are_not(checker: str, file: str) -> None:
    judged = [
        (statement, answer, right, proven(checker, statement, answer)) for statement, answer, right in solutions(file)
    ]
    assert [case for case in judged if case[2] != case[3]] == []


@pytest.mark.slow
@sandboxed
def test_programs_that_print_the_answer_are_proven_and_others_are_not() -> None:
    with ThreadPoolExecutor(4) as threads:
        cases = [(code.replace("\\n", "\n"), answer, right) for code, answer, right in solutions("programs.txt")]
        judged = list(threads.map(lambda case: (*case, proven("python", case[0], case[1])), cases))
    assert [case for case in judged if case[2] != case[3]] == []


HOSTILE = {
    "an endless loop": "while True: pass",
    "sleep": "import time; time.sleep(1000)",
    "a bomb of processes": "import os\nwhile True:\n    os.fork()",
    "threads without end": "from threading import Thread, Event\nwhile True:\n    Thread(target=Event().wait).start()",
    "gigabytes of output": "while True: print('x' * 10**6)",
    "gigabytes of memory": "x = bytearray(20 * 2**30)\nprint(1)",
    "a socket": "import socket\nsocket.create_connection(('127.0.0.1', PORT), 2)\nprint(1)",
    "a file of the machine": "open('/etc/passwd').read()\nprint(1)",
    "a file of ours": "open(FILE).read()\nprint(1)",
    "writing a file": "open('/usr/lib/x', 'w')\nprint(1)",
    "writing a large file": "f = open('/tmp/x', 'wb')\nfor _ in range(10**6): f.write(bytes(10**6))\nprint(1)",
    "many files": "for i in range(10**6): open(f'/tmp/{i}', 'wb').write(bytes(10**5))\nprint(1)",
    "killing others": "import os, signal\nos.kill(PID, signal.SIGKILL)\nprint(1)",
    "a child that outlives it": "import os, time\nif os.fork() == 0:\n    time.sleep(1000)\nprint(2)",
    "the environment": "import os\nassert os.environ.get('HOME')\nprint(1)",
    "no program": "this is no program",
}


@sandboxed
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_program_is_unproven_in_bounded_time_and_leaves_nothing(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(programs, "SECONDS", 1)
    (tmp_path / "secret").write_text("secret")
    with socket.create_server(("127.0.0.1", 0)) as server:
        code = HOSTILE[name].replace("PORT", str(server.getsockname()[1])).replace("PID", str(os.getpid()))
        code = code.replace("FILE", repr(str(tmp_path / "secret")))
        start = time.monotonic()
        with pytest.raises(Unproven):
            programs.prove(Problem("p", "1", f"```python\n{code}\n```"))
        assert time.monotonic() - start < 60
    assert not any("prlimit" in arguments or "bwrap" in arguments for arguments in commands())


def commands() -> list[str]:
    """The command lines of all processes that are children of ours."""
    return [" ".join(child.cmdline()) for child in psutil.Process().children(recursive=True) if child.is_running()]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("No problem at all.", "no 'Problem:'"),
        ("Problem: $1 + 1$", "no 'Answer:'"),
        ("Problem: $1 + 1$\nAnswer: 2\nAnswer: 3", "2 'Answer:'"),
        ("Buy now!\nProblem: $1 + 1$\nAnswer: 2", "in this order"),
        ("Problem: $1 + 1$\nAnswer: 2\nAnd water is dry.", "in this order"),
        ("Answer: 2\nProblem: $1 + 1$", "in this order"),
        ("Problem: $1 + 1$\nAnswer:", "in this order"),
        ("Problem: " + "x" * 5000 + "\nAnswer: 2", "longer"),
    ],
)
def test_a_text_that_is_no_problem_says_why(text: str, reason: str) -> None:
    with pytest.raises(Unproven, match=reason):
        read_problem(text)


@pytest.mark.parametrize(
    ("statement", "answer", "reason"),
    [
        ("What is the sum?", "2", "no formula"),
        ("$9^9^9$", "1", "exponent"),
        ("$10^12 * 10^12 * x = 1$", "x = 1", "not a solution"),
        ("$12345678901234567890 + 1$", "1", "too many digits"),
        ("$__import__('os').system('id')$", "1", "more than arithmetic"),
        ("$x.real$", "1", "more than arithmetic"),
        ("$" + "(" * 95 + "1" + ")" * 95 + "$", "2", "not what the formula gives"),
        ("$1 + $", "1", "no formula"),
        ("$1/0$", "1", "division by zero"),
        ("$x = x$", "x = 1", "finite number"),
        ("$x + y = 2$", "x = 1, y = 1", "finite number"),
        ("$x * y = 2$ and $x = 1$", "x = 1, y = 2", "not linear"),
        ("$x^9 = 1$", "x = 1", "degree"),
        ("$x > 1$", "x = 2", "inequality"),
        ("$2 = 2$", "2", "without an unknown"),
        ("$x = 1$ and $2$", "x = 1", "beside"),
        ("$3 km$ in $kg$", "3 kg", "dimensions"),
        ("$x = 1$", "x = one", "name"),
    ],
)
def test_what_algebra_cannot_prove_has_its_reason(statement: str, answer: str, reason: str) -> None:
    with pytest.raises(Unproven, match=reason):
        CHECKERS["sympy"].prove(Problem(statement, answer))


def test_a_puzzle_with_several_solutions_is_not_proven() -> None:
    with pytest.raises(Unproven, match="other numbers"):
        CHECKERS["z3"].prove(Problem("$x * x = 4$", "x = 2"))
