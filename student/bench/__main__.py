"""`python -m student.bench`: the bench on a machine that holds only this package."""

from student.bench.run import main

main()
