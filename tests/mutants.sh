# What each mutant is tried on: the chapters' own assertions first, since they are quick; then the tests of these modules
for chapter in 05_evaluation 13_pruning 17_compaction 20_slimming; do
    ../.venv/bin/nbdev-test nbs/$chapter.ipynb --n-workers 0 || exit 1
done
../.venv/bin/pytest -n 0 -x -q tests/test_evaluation.py tests/test_mutants.py tests/test_compaction.py
